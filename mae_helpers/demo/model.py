"""The demo's architecture: a ViT with ViT-B's depth and heads on 56-px images, alone and as an autoencoder."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_helpers.encoder.decoder import Decoder, patchify, sine_cosine_positions
from mae_helpers.encoder.walk import embed

IMAGE_SIZE, PATCH_SIZE, WIDTH, DEPTH, HEADS = 56, 4, 192, 12, 12
GRID = IMAGE_SIZE // PATCH_SIZE


def demo_vit(stage: str, drop_path: float = 0.0) -> VisionTransformer:
    """The demo's encoder, randomly initialised: 12 layers x 12 heads of 16 features over 196 patches.

    `pretrain` has no head; every classifier pools the mean patch token into `fc_norm` and a 10-way head.
    """
    vit = VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=0 if stage == "pretrain" else 10,
        global_pool="token" if stage == "pretrain" else "avg",
        drop_path_rate=drop_path,
    )
    vit.pos_embed = nn.Parameter(sine_cosine_positions(WIDTH, GRID), requires_grad=False)
    return vit


def masked_loss(predicted: Tensor, images: Tensor, visible: Tensor) -> Tensor:
    """Mean squared error on masked patches against their own-mean, own-variance normalised pixels (MAE, Sec. 4.1)."""
    target = patchify(images)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    masked = torch.ones(target.shape[:2], device=target.device).scatter(1, visible, 0.0)
    return (((predicted.float() - target) ** 2).mean(-1) * masked).sum() / masked.sum()


class MaskedAutoencoder(nn.Module):
    """The pre-training model: the demo's encoder on the visible patches, and its decoder on all."""

    def __init__(self):
        super().__init__()
        self.encoder = demo_vit("pretrain")
        self.decoder = Decoder()

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """Predicted patches (B, 196, 48) from the visible ones of images (B, 3, 56, 56)."""
        tokens, _ = embed(self.encoder, images, visible)
        return self.decoder(self.encoder.norm(self.encoder.blocks(tokens)), visible)


class PatchDroppingClassifier(nn.Module):
    """A classifier trained on a subset of the patches, which costs less than training on all of them."""

    def __init__(self, stage: str, drop_path: float = 0.0):
        super().__init__()
        self.encoder = demo_vit(stage, drop_path)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Class scores (B, 10) from images (B, 3, 56, 56) and, where given, the patches (B, N_v) to keep."""
        encoder = self.encoder
        tokens, _ = embed(encoder, images, visible)
        return encoder.forward_head(encoder.norm(encoder.blocks(tokens)))
