"""Which Vision Transformer: built from a profile, refused where the book would misread it, compiled."""

import timm
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae_helpers.encoder.walk import LayerState, walk
from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import Model

KINDS = (VisionTransformer, VisionTransformerDistilled, Eva, Beit)  # timm's classes that `walk` knows
TOLERANCE = 1e-4  # of the largest head output: fused attention rounds otherwise than the map that we form
LOOK = 16  # patches that a block's attention is tried on


class CheckpointError(ValueError):
    """A model or its weights that cannot be used: the message names the file or model, what is wrong, and the remedy."""


def in_short(error: Exception) -> str:
    """The first line of another library's error."""
    return str(error).strip().partition("\n")[0][:200]


def architecture(model: Model) -> nn.Module:
    """The model that a profile describes, with random weights: timm's of that name, or one of its `arguments` alone.

    CheckpointError where it is none of timm's classes in `KINDS`.
    """
    what = model.model or "VisionTransformer"
    try:
        vit = timm.create_model(model.model, **model.arguments) if model.model else VisionTransformer(**model.arguments)
    except Exception as error:  # timm checks some arguments by assertions, others not at all
        kind = "" if isinstance(error, RuntimeError | TypeError | ValueError) else f"{type(error).__name__}: "
        raise CheckpointError(
            f"{what} with {shown(model.arguments)}: {kind}{in_short(error) or 'it cannot be built'}; correct `model` or "
            "`arguments`"
        ) from None
    if type(vit) not in KINDS:
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise CheckpointError(f"{what}: it is a {type(vit).__name__}; of timm's classes, {known} are understood")
    return vit


def patch_grid(vit: nn.Module) -> tuple[tuple[int, int], tuple[float, float]]:
    """How many patches stand in a column and in a row, and how many pixels of the input each spans, (height, width).

    A patch spans the input's side divided by the grid's, whatever lies between (a convolutional stem has patches of its own).
    """
    (height, width), (rows, columns) = vit.patch_embed.img_size, vit.patch_embed.grid_size
    return (rows, columns), (height / rows, width / columns)


def _misread(state: LayerState) -> str | None:
    """What is wrong with a layer whose heads' outputs, read before `attn.proj`, are not the A V of its own qkv."""
    outputs = state.head_outputs()  # [image, head, token, feature]
    alone = torch.eye(outputs.shape[2])  # each token attends to itself alone: what comes out is V
    expected = state.attention() @ state.by_head(state.computed_again(alone)[1])
    if not torch.isfinite(outputs).all():
        return "its head outputs are not finite; fetch or train its weights again"
    off, size = float((outputs - expected).abs().max()), float(expected.abs().max())
    if off <= TOLERANCE * size:
        return None
    return (
        f"its head outputs are not A V of its own Q, K and V: up to {off:.2g} apart, where A V is up to {size:.2g}; use "
        "a model with plain softmax attention"
    )


@torch.no_grad()
def check_heads(vit: nn.Module, what: str) -> None:
    """CheckpointError where a block's heads do not compute A V, as a few patches of noise show.

    Such are gated or differential attention: the map formed from their Q and K would not be the model's own. `vit` is in
    evaluation mode and on the CPU, `what` its name in the message.
    """
    noise = torch.randn(1, 3, *vit.patch_embed.img_size, generator=torch.Generator().manual_seed(0))
    states = walk(vit, noise, torch.arange(min(LOOK, vit.patch_embed.num_patches))[None])
    for layer, block in enumerate(vit.blocks, 1):
        try:
            trouble = _misread(next(states))
        except Exception as error:  # a block of another kind fails in its own way
            trouble = f"it cannot be read ({type(error).__name__}: {in_short(error)}); use one of timm's usual blocks"
        if trouble:
            kind = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
            raise CheckpointError(f"{what}: block {layer}, a {kind}: {trouble}")


def compile_blocks(model: nn.Module, backend: str = "inductor") -> nn.Module:
    """Compile what lies between the places where a block is read: its norms and its MLP, two thirds of the work."""
    for block in model.blocks:
        for part in (block.norm1, block.norm2, block.mlp):
            part.compile(backend=backend)
    return model
