"""The light decoder of a masked autoencoder (MAE, Sec. 3), with which the bundled encoder was pre-trained."""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def sine_cosine_positions(width: int, grid: int) -> Tensor:
    """Fixed 2-D sine-cosine positions of a square patch grid behind a zero row for the CLS token: (1, 1 + N, width)."""
    patches = build_sincos2d_pos_embed([grid, grid], dim=width, interleave_sin_cos=False)
    return torch.cat([torch.zeros(1, width), patches]).unsqueeze(0)


def patchify(images: Tensor, grid: int = 14) -> Tensor:
    """Cut images (B, 3, H, H) into patches (B, grid^2, 3 (H / grid)^2), pixels in row, column, channel order."""
    batch, side = len(images), images.shape[-1] // grid
    pieces = images.reshape(batch, 3, grid, side, grid, side)  # [image, channel, patch row, row, patch column, column]
    return pieces.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid**2, -1)


def unpatchify(patches: Tensor, grid: int = 14) -> Tensor:
    """Put patches back together into images (B, 3, H, H); the inverse of `patchify`."""
    batch, side = len(patches), round((patches.shape[-1] / 3) ** 0.5)
    pieces = patches.reshape(batch, grid, grid, side, side, 3)  # [image, patch row, patch column, row, column, channel]
    return pieces.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, grid * side, grid * side)


class Decoder(nn.Module):
    """Project, put mask tokens where patches are missing, one block, predict each patch's normalised pixels."""

    def __init__(self, encoder_width: int = 192, width: int = 96, heads: int = 3, grid: int = 14, pixels: int = 48):
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sine_cosine_positions(width, grid), requires_grad=False)
        self.blocks = nn.Sequential(Block(width, heads, qkv_bias=True))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, pixels)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Every patch's pixels (B, N, pixels) from the tokens (B, 1 + N_v, D) of the `visible` ones (B, N_v)."""
        tokens = self.embed(tokens)  # [image, CLS and visible patch, width]
        index = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        masked = self.mask_token.to(tokens.dtype).expand(len(tokens), self.pos_embed.shape[1] - 1, -1)
        patches = masked.scatter(1, index, tokens[:, 1:])  # [image, patch, width]
        tokens = torch.cat([tokens[:, :1], patches], dim=1) + self.pos_embed
        return self.predict(self.norm(self.blocks(tokens)))[:, 1:]
