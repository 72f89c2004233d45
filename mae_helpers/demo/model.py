"""The demo's architecture: a ViT with ViT-B's depth and heads on 56-px images, and the MAE decoder around it."""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from mae_helpers.encoder.walk import embed

IMAGE_SIZE, PATCH_SIZE, WIDTH, DEPTH, HEADS = 56, 4, 192, 12, 12
GRID = IMAGE_SIZE // PATCH_SIZE


def sine_cosine_positions(width: int) -> Tensor:
    """Fixed 2-D sine-cosine positions of the patch grid behind a zero row for the CLS token: (1, 197, width)."""
    patches = build_sincos2d_pos_embed([GRID, GRID], dim=width, interleave_sin_cos=False)
    return torch.cat([torch.zeros(1, width), patches]).unsqueeze(0)


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
    vit.pos_embed = nn.Parameter(sine_cosine_positions(WIDTH), requires_grad=False)
    return vit


def patchify(images: Tensor) -> Tensor:
    """Cut images (B, 3, 56, 56) into patches (B, 196, 48), pixels in row, column, channel order (MAE, Sec. 3)."""
    batch = images.shape[0]
    grid = images.reshape(batch, 3, GRID, PATCH_SIZE, GRID, PATCH_SIZE)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, GRID * GRID, -1)


def unpatchify(patches: Tensor) -> Tensor:
    """Put patches (B, 196, 48) back together into images (B, 3, 56, 56); the inverse of `patchify`."""
    batch = patches.shape[0]
    grid = patches.reshape(batch, GRID, GRID, PATCH_SIZE, PATCH_SIZE, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, IMAGE_SIZE, IMAGE_SIZE)


class Decoder(nn.Module):
    """A light MAE decoder: project, put mask tokens where patches are missing, one block, predict pixels."""

    def __init__(self, width: int = 96, depth: int = 1, heads: int = 3):
        super().__init__()
        self.embed = nn.Linear(WIDTH, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sine_cosine_positions(width), requires_grad=False)
        self.blocks = nn.Sequential(*[Block(width, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, PATCH_SIZE**2 * 3)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Predict every patch's normalised pixels: tokens (B, 1 + N_v, 192), visible (B, N_v) -> (B, 196, 48)."""
        tokens = self.embed(tokens)
        index = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        patches = self.mask_token.to(tokens.dtype).expand(len(tokens), GRID * GRID, -1).scatter(1, index, tokens[:, 1:])
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.pos_embed
        return self.predict(self.norm(self.blocks(tokens)))[:, 1:]


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
        tokens = embed(self.encoder, images, visible)
        return self.decoder(self.encoder.norm(self.encoder.blocks(tokens)), visible)


class PatchDroppingClassifier(nn.Module):
    """A classifier trained on a subset of the patches, which costs less than training on all of them."""

    def __init__(self, stage: str, drop_path: float = 0.0):
        super().__init__()
        self.encoder = demo_vit(stage, drop_path)

    def forward(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Class scores (B, 10) from images (B, 3, 56, 56) and, where given, the patches (B, N_v) to keep."""
        encoder = self.encoder
        return encoder.forward_head(encoder.norm(encoder.blocks(embed(encoder, images, visible))))
