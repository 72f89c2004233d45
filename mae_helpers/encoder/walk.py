"""One batch through a Vision Transformer's blocks: seeded masking, and each layer's tokens, attention and head outputs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

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


def kept(places: Tensor, visible: Tensor | None, prefix: int, dim: int) -> Tensor:
    """Those of `places` (B or 1, ..., prefix + N, ...) along `dim` that are prefix tokens or `visible` (B, N_v), or all."""
    if visible is None:
        return places
    first = torch.arange(prefix, device=visible.device).expand(len(visible), -1)
    index = torch.cat([first, prefix + visible], dim=1)  # [image, kept place]
    shape = [len(visible)] + [1] * (places.ndim - 1)
    shape[dim] = index.shape[1]
    return places.take_along_dim(index.reshape(shape), dim)


def embed(model: nn.Module, images: Tensor, visible: Tensor | None = None) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The tokens (B, P + N_v, D) that enter the first block, and what each block is told of places beside them.

    images (B, 3, H, W); visible (B, N_v) are the patches to keep, in row-major order from 0, or None for all. The P prefix
    tokens (CLS, registers, distillation) are never masked; patches are, after they have got their positions (Sec. III-A1).
    Rotary positions (`Eva`) and relative position biases (`Beit`) are those of the places that stay visible.
    """
    prefix, blocks = model.num_prefix_tokens, [{} for _ in model.blocks]
    if isinstance(model, Beit):
        patches = model.patch_embed(images)  # [image, patch, feature]
        tokens = torch.cat([model.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        tokens = model.pos_drop(tokens if model.pos_embed is None else tokens + model.pos_embed)
        if model.rel_pos_bias is not None:
            bias = model.rel_pos_bias()[None]  # [1, head, query, key]
            blocks = [{"shared_rel_pos_bias": _pairs(bias, visible, prefix)} for _ in model.blocks]
    else:
        tokens = model._pos_embed(model.patch_embed(images))  # [image, token, feature]
    if isinstance(model, Eva):
        tokens, rotary = tokens
        if rotary is not None:
            by_block = rotary if model.rope_mixed else [rotary] * len(blocks)  # each [(head,) patch, (sine; cosine)]
            heads = (one.reshape(1, -1, *one.shape[-2:]) for one in by_block)  # [1, head or 1, patch, (sine; cosine)]
            blocks = [{"rope": kept(one, visible, 0, 2)} for one in heads]
    tokens = kept(tokens, visible, prefix, 1)
    return getattr(model, "norm_pre", nn.Identity())(tokens), blocks


def _pairs(bias: Tensor, visible: Tensor | None, prefix: int) -> Tensor:
    """The bias [1 or image, head, query, key] among the tokens that are there."""
    return kept(kept(bias, visible, prefix, 2), visible, prefix, 3)


@contextmanager
def _biased(attention: nn.Module, visible: Tensor | None, prefix: int) -> Iterator[None]:
    """A `Beit`'s attention with its own relative position bias among the tokens that are there."""
    if visible is None or getattr(attention, "relative_position_bias_table", None) is None:
        yield
        return
    bias = _pairs(attention._get_rel_pos_bias(), visible, prefix)
    attention._get_rel_pos_bias = lambda: bias
    try:
        yield
    finally:
        del attention._get_rel_pos_bias


class _Fused(TorchFunctionMode):
    """Keeps what fused attention was called with, while it is active: the queries and keys of a map that it never forms."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[tuple, dict]] = []

    def __torch_function__(
        self, function: Callable, _: object, inputs: tuple = (), named: dict | None = None
    ) -> object:
        if function is nn.functional.scaled_dot_product_attention:
            self.calls.append((inputs, named))
        return function(*inputs, **(named or {}))


def _map(
    query: Tensor, key: Tensor, _: Tensor, attn_mask: Tensor | None = None, scale: float | None = None, **__
) -> Tensor:
    """softmax(scale Q K^T + mask), in the order in which timm's attention forms it where it is not fused."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1)  # [image, head, query, key]


@dataclass(frozen=True)
class LayerState:
    """What one layer, counted from 1, did to a batch.

    `tokens` (B, P + N, D) is the residual stream after its block, before the final norm; its first `prefix` P are no
    patches, the very first is CLS where `has_cls`. `visible` (B, N) says which patches the others belong to, None meaning
    all. `told` is what its attention was called with, `merged_heads` what it computed before its projection.
    """

    layer: int
    tokens: Tensor
    visible: Tensor | None
    prefix: int
    has_cls: bool
    attn: nn.Module
    told: tuple[tuple, dict]
    merged_heads: Tensor  # [image, token, (head; feature)]
    fused: list[tuple[tuple, dict]]  # what fused attention was called with, once a call

    def attention(self) -> Tensor:
        """A = softmax(Q K^T / sqrt(d_h)), (B, heads, P + N, P + N) in float32; rows sum to 1. Formed once: do not change it.

        As the model's own attention forms it where it is not fused: with norms, positions and biases of Q and K.
        """
        return self._attention

    def mean_attention(self) -> Tensor:
        """The mean of A over heads, (B, P + N, P + N) in float32; formed once, as A is."""
        return self._mean_attention

    @cached_property
    def _attention(self) -> Tensor:
        if len(self.fused) == 1 and self.tokens.dtype == self.fused[0][0][0].dtype == torch.float32:
            return _map(*self.fused[0][0], **self.fused[0][1])
        return self.computed_again()[0]

    @torch.no_grad()
    def computed_again(self, replaced: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A, and what the heads give, (B, P + N, heads * d_h), with A or what it is `replaced` by; in float32, not fused.

        ValueError where the attention does not form exactly one map.
        """
        maps, merged = [], []

        def seen(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
            maps.append(inputs[0].float())
            return None if replaced is None else replaced.expand_as(output)

        fused, self.attn.fused_attn = self.attn.fused_attn, False
        (tokens, *others), named = self.told
        try:
            with (
                self.attn.attn_drop.register_forward_hook(seen),
                _merged_heads(self.attn, merged),
                _biased(self.attn, self.visible, self.prefix),
                torch.autocast(tokens.device.type, enabled=False),
            ):
                self.attn(tokens.float(), *others, **named)
        finally:
            self.attn.fused_attn = fused
        if len(maps) != 1:
            raise ValueError(f"it forms {len(maps)} attention maps")
        return maps[0], merged[0]

    @cached_property
    def _mean_attention(self) -> Tensor:
        return self.attention().mean(1)  # [image, query, key]

    def head_outputs(self) -> Tensor:
        """O = A V (Eq. 2) of every head, (B, heads, P + N, d_h) in float32, prefix tokens among the keys as in the model."""
        return self.by_head(self.merged_heads)

    def by_head(self, merged: Tensor) -> Tensor:
        """(B, P + N, heads * d_h) -> (B, heads, P + N, d_h) in float32."""
        return merged.float().unflatten(-1, (self.attn.num_heads, -1)).transpose(1, 2)  # [image, head, token, feature]


def _merged_heads(attention: nn.Module, into: list[Tensor]) -> RemovableHandle:
    """A hook that keeps what enters an attention's projection, or its norm (EVA-02) where it has one before that."""
    norm = getattr(attention, "norm", None)
    part = attention.proj if norm is None or isinstance(norm, nn.Identity) else norm
    return part.register_forward_pre_hook(lambda _, inputs: into.append(inputs[0]))


@torch.no_grad()
def walk(
    model: nn.Module, images: Tensor, visible: Tensor | None = None, precision: str = "float32"
) -> Iterator[LayerState]:
    """Take images (B, 3, H, W) through the encoder and yield the state after each block, one layer at a time.

    O is read before `attn.proj`, whether attention is fused or not; `precision` is that of the blocks (`Compute`).
    """
    prefix, has_cls = model.num_prefix_tokens, getattr(model, "cls_token", None) is not None
    with number_format(precision, images.device):
        tokens, arguments = embed(model, images, visible)
    for layer, (block, places) in enumerate(zip(model.blocks, arguments, strict=True), 1):
        told, merged = [], []
        with (
            block.attn.register_forward_pre_hook(lambda _, *told, into=told: into.append(told), with_kwargs=True),
            _merged_heads(block.attn, merged),
            number_format(precision, images.device),
            _biased(block.attn, visible, prefix),
            _Fused() as fused,
        ):
            tokens = block(tokens, **places)
        yield LayerState(layer, tokens, visible, prefix, has_cls, block.attn, told[0], merged[0], fused.calls)


def cls_token(state: LayerState) -> Tensor:
    """z_0: the CLS token, (B, D); ValueError where the model has none."""
    if not state.has_cls:
        raise ValueError("this model has no CLS token; use its patch tokens")
    return state.tokens[:, 0]


def patch_tokens(state: LayerState) -> Tensor:
    """z_1 .. z_N: the patch tokens, (B, N, D)."""
    return state.tokens[:, state.prefix :]


def mean_patch(state: LayerState) -> Tensor:
    """The mean patch embedding (Sec. III-A2): the average of the patch tokens, (B, D)."""
    return patch_tokens(state).mean(dim=1)


def token_kinds(model: nn.Module) -> dict[str, Callable[[LayerState], Tensor]]:
    """What is read of each layer of a model, by the name that tables give it; `cls` where the model has a CLS token."""
    kinds = {"cls": cls_token, "mean_patch": mean_patch, "patch": patch_tokens}
    return kinds if getattr(model, "cls_token", None) is not None else {name: kinds[name] for name in list(kinds)[1:]}


@torch.no_grad()
def class_scores(model: nn.Module, state: LayerState) -> Tensor:
    """What the model's own head, or the one fitted to it, gives after the last layer, before softmax: (B, classes)."""
    tokens, head = model.norm(state.tokens), getattr(model, "fitted_head", None)
    if head is None and model.num_classes == 0:
        raise ValueError("this model has no classifier: use one with `num_classes` above 0, or fit it a `head`")
    return model.forward_head(tokens) if head is None else head(tokens, state.prefix)  # [image, class]


def classify(model: nn.Module, state: LayerState, among: Sequence[int] | None = None) -> Tensor:
    """The class of the highest score, of all or `among` some: (B,)."""
    scores = class_scores(model, state)
    if among is None:
        return scores.argmax(dim=1)
    chosen = torch.as_tensor(among, device=scores.device)
    return chosen[scores[:, chosen].argmax(dim=1)]


def probability(model: nn.Module, state: LayerState) -> Tensor:
    """The highest of the softmax probabilities over all classes, which is that of the predicted one: (B,)."""
    return class_scores(model, state).float().softmax(dim=1).amax(dim=1)
