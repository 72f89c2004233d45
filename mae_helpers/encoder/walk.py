"""Seeded masking, and one walk through a Vision Transformer's blocks that hands out each layer's state."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol
from zlib import crc32

import numpy as np
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.machine import Compute, is_out_of_memory, keep_freed_memory, number_format
from mae_helpers.profile.progress import progress

BLOCK = 256  # images whose measures lie in one array while they are gathered


def visible_count(patches: int, ratio: float) -> int:
    """How many of so many patches stay visible at a masking ratio: N_v = round((1 - ratio) * patches), at least one."""
    if not 0 <= ratio < 1:
        raise ValueError(f"masking ratio {ratio}: use a share from 0 (nothing masked) to below 1")
    return max(1, round((1 - ratio) * patches))


def visible_patches(ids: Sequence[str], patches: int, ratio: float, seed: int, draw: int = 0) -> Tensor | None:
    """The patches that stay visible in each image: the first N_v of a uniformly random permutation (MAE, Sec. 3).

    N_v is that of `visible_count`. An image's permutation depends on its id, the seed and the draw alone, so the
    batch size and the other images do not matter. Returns (B, N_v), or None where nothing is masked.
    """
    if (count := visible_count(patches, ratio)) == patches:
        return None
    generators = (np.random.default_rng([seed, draw, crc32(name.encode())]) for name in ids)
    return torch.from_numpy(np.stack([generator.permutation(patches)[:count] for generator in generators]))


def embed(model: VisionTransformer, images: Tensor, visible: Tensor | None = None) -> Tensor:
    """The tokens that enter the first block: CLS and patches with positions, masked afterwards (Sec. III-A1).

    images (B, 3, H, W); visible (B, N_v) are the patches to keep, in row-major order from 0, or None for all.
    Returns (B, 1 + N_v, D). Positions are added before masking, and the CLS token is never masked.
    """
    tokens = model._pos_embed(model.patch_embed(images))
    if visible is not None:
        prefix, patches = tokens[:, : model.num_prefix_tokens], tokens[:, model.num_prefix_tokens :]
        index = visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        tokens = torch.cat([prefix, patches.gather(1, index)], dim=1)
    return model.norm_pre(tokens)


@dataclass(frozen=True)
class LayerState:
    """What one layer did to a batch: its tokens now, its attention and head outputs when they are asked for.

    `tokens` (B, 1 + N, D) is the residual stream after block `layer`, counted from 1, before the final norm; `visible`
    (B, N) says which patches they belong to, None meaning all.
    """

    layer: int
    tokens: Tensor
    visible: Tensor | None
    block: Block
    qkv: Tensor
    merged_heads: Tensor

    def attention(self) -> Tensor:
        """A = softmax(Q K^T / sqrt(d_h)), (B, heads, 1 + N, 1 + N) in float32; each row sums to 1.

        Formed once, for all who ask: it is to be read, not changed.
        """
        return self._attention

    def mean_attention(self) -> Tensor:
        """The mean of A over heads, (B, 1 + N, 1 + N) in float32; formed once, as A is."""
        return self._mean_attention

    @cached_property
    def _attention(self) -> Tensor:
        attn = self.block.attn
        batch, length, _ = self.qkv.shape
        query, key, _ = self.qkv.reshape(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key = attn.q_norm(query), attn.k_norm(key)
        return torch.softmax((query * attn.scale).float() @ key.float().transpose(-2, -1), dim=-1)

    @cached_property
    def _mean_attention(self) -> Tensor:
        return self.attention().mean(1)

    def head_outputs(self) -> Tensor:
        """O = A V (Eq. 2) of every head, (B, heads, 1 + N, d_h) in float32, CLS among the keys as in the model."""
        batch, length, _ = self.merged_heads.shape
        return self.merged_heads.float().reshape(batch, length, self.block.attn.num_heads, -1).transpose(1, 2)


@torch.no_grad()
def walk(
    model: VisionTransformer, images: Tensor, visible: Tensor | None = None, precision: str = "float32"
) -> Iterator[LayerState]:
    """Take images (B, 3, H, W) through the encoder and yield the state after each block, one layer at a time.

    Works with timm's fused attention: Q and K are read behind `attn.qkv`, O before `attn.proj`, and the attention map
    is formed only by whoever calls `LayerState.attention`. `precision` is that of the blocks (`Compute`).
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
    logits = model.forward_head(model.norm(state.tokens))
    if among is None:
        return logits.argmax(dim=1)
    chosen = torch.as_tensor(among, device=logits.device)
    return chosen[logits[:, chosen].argmax(dim=1)]


class Statistic(Protocol):
    """Something computed during the one pass over the images: told every layer of every batch, asked once at the end."""

    def add(self, state: LayerState, rows: range) -> None:
        """Take in one layer of the images `rows`."""

    def result(self) -> np.ndarray:
        """What has been gathered."""

    def fresh(self) -> "Statistic":
        """The same statistic with nothing gathered: a pass begins with one, and begins again where memory ran out."""


class Gathered:
    """Rows of an array as batches bring them, copied into few blocks.

    Thousands of small arrays would lie scattered between the layers' large ones, and a view would keep its layer alive:
    either way memory would grow with every batch.
    """

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []
        self.filled = BLOCK  # rows of the last block

    def add(self, rows: np.ndarray) -> None:
        """Append rows (B, ...)."""
        while len(rows):
            if self.filled == BLOCK:
                self.blocks.append(np.empty((BLOCK, *rows.shape[1:]), rows.dtype))
                self.filled = 0
            now = rows[: BLOCK - self.filled]
            self.blocks[-1][self.filled : self.filled + len(now)] = now
            self.filled, rows = self.filled + len(now), rows[len(now) :]

    def whole(self) -> np.ndarray:
        """All rows so far."""
        return np.concatenate([*self.blocks[:-1], self.blocks[-1][: self.filled]])


class PerImage:
    """A measure of each image and layer: `measure(state) -> (B, ...)`, gathered as (images, layers, ...) float32.

    With `only`, the measure of that one layer, (images, ...).
    """

    def __init__(self, measure: Callable[[LayerState], Tensor], only: int | None = None):
        self.measure, self.only = measure, only
        self.layers: dict[int, Gathered] = {}

    def add(self, state: LayerState, rows: range) -> None:
        """Measure one layer of the images `rows`."""
        if self.only in (None, state.layer):
            self.layers.setdefault(state.layer, Gathered()).add(self.measure(state).float().cpu().numpy())

    def result(self) -> np.ndarray:
        """All measures, (images, layers, ...), or (images, ...) of the only layer."""
        layers = [gathered.whole() for _, gathered in sorted(self.layers.items())]
        return np.stack(layers, axis=1) if self.only is None else layers[0]

    def fresh(self) -> "PerImage":
        """The same measure with nothing gathered."""
        return PerImage(self.measure, self.only)


def one_pass(
    model: VisionTransformer,
    images: ImageSet,
    statistics: dict[str, Statistic],
    *,
    ratio: float = 0.0,
    seed: int = 0,
    draw: int = 0,
    batch_size: int | None = None,
    label: str = "encoder",
    compute: Compute | None = None,
) -> dict[str, np.ndarray]:
    """Walk all images through the encoder once, feeding every statistic; memory does not grow with their number.

    `ratio`, `seed` and `draw` choose the masks as in `visible_patches`. Where the device runs out of memory, the pass
    begins again with half as many images at a time. Returns each statistic's result by its name.
    """
    device, patches = model.pos_embed.device, model.patch_embed.num_patches
    compute = Compute(batch_size=batch_size) if compute is None else compute
    keep_freed_memory()
    while True:
        size, told = compute.size_on(device), {name: statistic.fresh() for name, statistic in statistics.items()}
        try:
            batches = images.batches(size, compute.workers)
            for rows, ids, batch in progress(batches, label, -(-len(images) // size)):
                visible = visible_patches(ids, patches, ratio, seed, draw)
                visible = None if visible is None else visible.to(device)
                for state in walk(model, batch.to(device), visible, compute.precision):
                    for statistic in told.values():
                        statistic.add(state, rows)
                    del state  # the next layer needs its memory
            return {name: statistic.result() for name, statistic in told.items()}
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            compute.halve(size)
            torch.cuda.empty_cache()
