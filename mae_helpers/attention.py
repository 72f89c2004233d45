"""Where attention goes: mean attention distance (Fig. 3)."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mae_helpers.encoder import LayerState


def patch_distances(grid: int, patch_size: int, metric: str = "euclidean") -> Tensor:
    """Distances in pixels between the centres of the patches of a square grid, (grid^2, grid^2) float32.

    `metric` is `euclidean` (the paper) or `cityblock` (the released code for SAM images).
    """
    steps = torch.arange(grid, dtype=torch.float64) * patch_size
    centres = torch.cartesian_prod(steps, steps)
    if metric not in ("euclidean", "cityblock"):
        raise ValueError(f"metric {metric!r}: use euclidean or cityblock")
    difference = centres[:, None] - centres[None, :]
    length = difference.norm(dim=-1) if metric == "euclidean" else difference.abs().sum(-1)
    return length.float()


def uniform_distance(distances: Tensor, visible: int | None = None) -> float:
    """The mean attention distance of uniform attention, in pixels: the mean of all distances (116.5 for ViT-B).

    Where only `visible` random patches remain, the expected one: each patch has itself, at distance 0, and
    `visible - 1` others.
    """
    patches = len(distances)
    visible = visible or patches
    to_others = float(distances.double().sum()) / (patches * (patches - 1))
    return to_others * (visible - 1) / visible


def attention_distance(state: LayerState, distances: Tensor) -> Tensor:
    """Mean distance that attention spans, per image and head: mean_i sum_j A_ij d_ij, (B, heads) in pixels (Fig. 3).

    A is the attention among (visible) patches alone: the CLS row and column are dropped and each row normalised to
    sum 1. `distances` (N, N) are those of `patch_distances`.
    """
    patches = state.attention()[:, :, 1:, 1:]
    patches = patches / patches.sum(-1, keepdim=True)
    distances = distances.to(patches)
    if state.visible is None:
        return torch.einsum("bhij,ij->bh", patches, distances) / patches.shape[-1]
    among_visible = distances[state.visible[:, :, None], state.visible[:, None, :]]
    return torch.einsum("bhij,bij->bh", patches, among_visible) / patches.shape[-1]


def distance_table(per_image: np.ndarray, **columns: object) -> pd.DataFrame:
    """The mean over images of distances (images, layers, heads), tidy: `columns`, layer, head, distance_px."""
    mean = per_image.mean(axis=0)
    layer, head = np.meshgrid(*(np.arange(1, size + 1) for size in mean.shape), indexing="ij")
    table = pd.DataFrame({"layer": layer.ravel(), "head": head.ravel(), "distance_px": mean.ravel()})
    return pd.DataFrame(columns, index=table.index).join(table)
