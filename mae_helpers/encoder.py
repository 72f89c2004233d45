"""Seeded masking, and one walk through a Vision Transformer's blocks that hands out each layer's state."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, cat


def embed(model: VisionTransformer, images: Tensor, visible: Tensor | None = None) -> Tensor:
    """The tokens that enter the first block: CLS and patches with positions, masked afterwards (Sec. III-A1).

    images (B, 3, H, W); visible (B, N_v) are the patches to keep, in row-major order from 0, or None for all.
    Returns (B, 1 + N_v, D). Positions are added before masking, and the CLS token is never masked.
    """
    tokens = model._pos_embed(model.patch_embed(images))
    if visible is not None:
        prefix, patches = tokens[:, : model.num_prefix_tokens], tokens[:, model.num_prefix_tokens :]
        index = visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
        tokens = cat([prefix, patches.gather(1, index)], dim=1)
    return model.norm_pre(tokens)
