"""One batch through a Vision Transformer's blocks: seeded masking, and each layer's tokens, attention and head outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from mae_helpers.profile.machine import number_format


def visible_count(patches: int, ratio: float) -> int:
    """How many of so many patches stay visible at a masking ratio: N_v = round((1 - ratio) * patches), at least one."""
    if not 0 <= ratio < 1:
        raise ValueError(f"masking ratio {ratio}: use a share from 0 (nothing masked) to below 1")
    return max(1, round((1 - ratio) * patches))


def visible_patches(ids: Sequence[str], patches: int, ratio: float, seed: int, draw: int = 0) -> Tensor | None:
    """The patches (B, N_v) that stay visible: the first N_v of a uniformly random permutation (MAE, Sec. 3); None for all.

    An image's permutation depends on its id, the seed and the draw alone, not on the batch.
    """
    if (count := visible_count(patches, ratio)) == patches:
        return None
    generators = (np.random.default_rng([seed, draw, crc32(name.encode())]) for name in ids)
    return torch.from_numpy(np.stack([generator.permutation(patches)[:count] for generator in generators]))


def embed(model: VisionTransformer, images: Tensor, visible: Tensor | None = None) -> Tensor:
    """The tokens (B, 1 + N_v, D) that enter the first block: CLS and patches with positions, masked afterwards (Sec. III-A1).

    images (B, 3, H, W); visible (B, N_v) are the patches to keep, in row-major order from 0, or None for all.
    """
    tokens = model._pos_embed(model.patch_embed(images))  # [image, token, feature]
    if visible is not None:
        prefix, patches = tokens[:, : model.num_prefix_tokens], tokens[:, model.num_prefix_tokens :]
        index = visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1])  # [image, visible patch, feature]
        tokens = torch.cat([prefix, patches.gather(1, index)], dim=1)
    return model.norm_pre(tokens)


@dataclass(frozen=True)
class LayerState:
    """What one layer, counted from 1, did to a batch.

    `tokens` (B, 1 + N, D) is the residual stream after its block, before the final norm; `visible` (B, N) says which
    patches they belong to, None meaning all. `qkv` and `merged_heads` are what its attention computed on the way.
    """

    layer: int
    tokens: Tensor
    visible: Tensor | None
    block: Block
    qkv: Tensor  # [image, token, (query, key or value; head; feature)]
    merged_heads: Tensor  # [image, token, (head; feature)]

    def attention(self) -> Tensor:
        """A = softmax(Q K^T / sqrt(d_h)), (B, heads, 1 + N, 1 + N) in float32; rows sum to 1. Formed once: do not change it."""
        return self._attention

    def mean_attention(self) -> Tensor:
        """The mean of A over heads, (B, 1 + N, 1 + N) in float32; formed once, as A is."""
        return self._mean_attention

    def query_key_value(self) -> Tensor:
        """Q, K and V as `attn.qkv` gives them, before any norm: (3, B, heads, 1 + N, d_h)."""
        batch, length, _ = self.qkv.shape
        return self.qkv.reshape(batch, length, 3, self.block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)

    @cached_property
    @torch.no_grad()  # norms of Q and K have weights
    def _attention(self) -> Tensor:
        attn = self.block.attn
        query, key, _ = self.query_key_value()  # each [image, head, token, feature]
        query, key = attn.q_norm(query), attn.k_norm(key)
        scores = (query * attn.scale).float() @ key.float().transpose(-2, -1)  # [image, head, query, key]
        return torch.softmax(scores, dim=-1)

    @cached_property
    def _mean_attention(self) -> Tensor:
        return self.attention().mean(1)  # [image, query, key]

    def head_outputs(self) -> Tensor:
        """O = A V (Eq. 2) of every head, (B, heads, 1 + N, d_h) in float32, CLS among the keys as in the model."""
        batch, length, _ = self.merged_heads.shape
        heads = self.merged_heads.float().reshape(batch, length, self.block.attn.num_heads, -1)
        return heads.transpose(1, 2)  # [image, head, token, feature]


@torch.no_grad()
def walk(
    model: VisionTransformer, images: Tensor, visible: Tensor | None = None, precision: str = "float32"
) -> Iterator[LayerState]:
    """Take images (B, 3, H, W) through the encoder and yield the state after each block, one layer at a time.

    Q, K and V are read behind `attn.qkv`, O before `attn.proj`, whether attention is fused or not; `precision` is that of
    the blocks (`Compute`).
    """
    with number_format(precision, images.device):
        tokens = embed(model, images, visible)
    for layer, block in enumerate(model.blocks, 1):
        seen: dict[str, Tensor] = {}
        hooks = (
            block.attn.qkv.register_forward_hook(lambda _, __, output, seen=seen: seen.update(qkv=output)),
            block.attn.proj.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.update(merged=inputs[0])),
        )
        try:
            with number_format(precision, images.device):
                tokens = block(tokens)
        finally:
            for hook in hooks:
                hook.remove()
        yield LayerState(layer, tokens, visible, block, seen["qkv"], seen["merged"])


def cls_token(state: LayerState) -> Tensor:
    """z_0: the CLS token, (B, D)."""
    return state.tokens[:, 0]


def patch_tokens(state: LayerState) -> Tensor:
    """z_1 .. z_N: the patch tokens, (B, N, D)."""
    return state.tokens[:, 1:]


def mean_patch(state: LayerState) -> Tensor:
    """The mean patch embedding (Sec. III-A2): the average of the patch tokens, (B, D)."""
    return patch_tokens(state).mean(dim=1)


def classify(model: VisionTransformer, state: LayerState, among: Sequence[int] | None = None) -> Tensor:
    """The class that the model's own head gives after its last layer, arg-max over all classes or `among` some: (B,)."""
    if model.num_classes == 0:
        raise ValueError("this model has no classifier: use mae_finetuned or vit_supervised, or any with num_classes")
    logits = model.forward_head(model.norm(state.tokens))  # [image, class]
    if among is None:
        return logits.argmax(dim=1)
    chosen = torch.as_tensor(among, device=logits.device)
    return chosen[logits[:, chosen].argmax(dim=1)]
