"""What a masked autoencoder sees and what it makes of it: masked images and reconstructions, for looking at."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mae_helpers.encoder.decoder import patchify, unpatchify
from mae_helpers.encoder.passes import Batches
from mae_helpers.encoder.vit import patch_grid
from mae_helpers.encoder.walk import visible_patches, walk
from mae_helpers.profile.settings import Input


class Pictures(Batches, Protocol):
    """Images, and the normalisation by which they became what the model takes."""

    input: Input


def pixels(images: Tensor, mean: list[float], std: list[float]) -> np.ndarray:
    """Normalised images (B, 3, H, W) back to pixels in [0, 1], (B, H, W, 3)."""
    return (images.cpu().permute(0, 2, 3, 1) * torch.tensor(std) + torch.tensor(mean)).clip(0, 1).numpy()


def hide_patches(images: Tensor, visible: Tensor, patch_size: int) -> Tensor:
    """Normalised images (B, 3, H, W) with every patch but the `visible` ones (B, N_v) set to 0, the mean colour."""
    rows, columns = (side // patch_size for side in images.shape[2:])
    shown = torch.zeros(len(images), rows * columns, device=images.device).scatter(1, visible, 1.0)  # [image, patch]
    shown = shown.reshape(-1, 1, rows, columns).repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)
    return images * shown


@torch.no_grad()
def reconstruct(
    model: nn.Module, decoder: nn.Module | None, images: Pictures, ratio: float, seed: int = 0
) -> list[np.ndarray]:
    """Rows of pixels (B, H, W, 3): the images, their visible patches, and with a decoder the reconstructions.

    The decoder predicts each patch's normalised pixels; the patch's own mean and deviation are put back from the
    original, and visible patches are shown as they were.
    """
    if ratio == 0:
        raise ValueError("masking ratio 0: nothing is masked, so there is nothing to reconstruct; use a share above 0")
    device = next(model.parameters()).device
    ((_, ids, batch),) = images.batches(len(images))
    batch = batch.to(device)  # [image, channel, row, column]
    visible = visible_patches(ids, model.patch_embed.num_patches, ratio, seed).to(device)
    rows = [batch, hide_patches(batch, visible, round(patch_grid(model)[1][0]))]
    if decoder is not None:
        *_, last = walk(model, batch, visible)
        target = patchify(batch)  # [image, patch, pixel]
        scale = (target.var(-1, keepdim=True) + 1e-6).sqrt()
        predicted = decoder(model.norm(last.tokens), visible) * scale + target.mean(-1, keepdim=True)
        index = visible.unsqueeze(-1).expand(-1, -1, target.shape[-1])
        rows.append(unpatchify(predicted.scatter(1, index, target.gather(1, index))))
    return [pixels(row, images.input.mean, images.input.std) for row in rows]
