"""Where attention goes: mean attention distance (Fig. 3) and attention rollout (Fig. 5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mae_helpers.encoder.walk import LayerState


def patch_distances(
    grid: int | tuple[int, int], patch_size: float | tuple[float, float], metric: str = "euclidean"
) -> Tensor:
    """Distances in pixels between the centres of the patches of a grid, (N, N) float32, N patches in row-major order.

    `grid` and `patch_size` are (rows, columns) and (height, width), or one number for both.
    `metric` is `euclidean` (the paper) or `cityblock` (the released code for SAM images).
    """
    if metric not in ("euclidean", "cityblock"):
        raise ValueError(f"metric {metric!r}: use euclidean or cityblock")
    steps = [
        torch.arange(int(count), dtype=torch.float64) * float(side)
        for count, side in zip(np.broadcast_to(grid, 2), np.broadcast_to(patch_size, 2), strict=True)
    ]
    centres = torch.cartesian_prod(*steps)  # [patch, row or column]
    difference = centres[:, None] - centres[None, :]  # [patch, other patch, row or column]
    length = difference.norm(dim=-1) if metric == "euclidean" else difference.abs().sum(-1)
    return length.float()


def uniform_distance(distances: Tensor, visible: int | None = None) -> float:
    """The mean attention distance of uniform attention, in pixels: the mean of all distances (116.5 for ViT-B).

    Of `visible` random patches, 1 or more, the expected one: a patch has itself, at distance 0, and `visible - 1` others.
    """
    patches = len(distances)
    visible = patches if visible is None else visible
    to_others = float(distances.double().sum()) / (patches * (patches - 1))
    return to_others * (visible - 1) / visible


def attention_distance(state: LayerState, distances: Tensor) -> Tensor:
    """Mean distance that attention spans, per image and head: mean_i sum_j A_ij d_ij, (B, heads) in pixels (Fig. 3).

    A is the attention among (visible) patches alone: rows and columns of CLS and other prefix tokens are dropped and each
    row normalised to sum 1. `distances` (N, N) are those of `patch_distances`.
    """
    patches = state.attention()[:, :, state.prefix :, state.prefix :]  # [image, head, query patch, key patch]
    distances = distances.to(patches)
    if state.visible is not None:
        distances = distances[state.visible[:, :, None], state.visible[:, None, :]][:, None]
    # [image, head, query patch]
    spans = torch.linalg.vecdot(patches, distances.expand_as(patches)) / patches.sum(-1)  # row by row keeps the digits
    return spans.mean(-1)


def distance_table(per_image: np.ndarray, **columns: object) -> pd.DataFrame:
    """The mean over images of distances (images, layers, heads), tidy: `columns`, layer, head, distance_px."""
    mean = per_image.mean(axis=0)  # [layer, head]
    layer, head = (index.ravel() + 1 for index in np.indices(mean.shape))
    return pd.DataFrame(columns | {"layer": layer, "head": head, "distance_px": mean.ravel()})


def rollout(layers: Sequence[Tensor], start: Tensor, prefix: int = 1) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020): start^T A_L ... A_1 with A_l = (A + I) / 2, rows summing to 1.

    `layers` have each layer's attention averaged over heads, (B, P + N, P + N), `start` (P + N,) the weights of the rows
    that are asked for, P = `prefix`. Taken as a vector from the last layer down, in O(layers * N^2). Returns the patch
    columns, (B, N).
    """
    weights = start.to(layers[0]).expand(len(layers[0]), 1, -1)  # [image, 1, key]
    for attention in reversed(layers):
        weights = (weights @ attention + weights) / 2
    return weights[:, 0, prefix:]


class Rollout:
    """The statistic of rollout scores of patches, (images, N).

    `rows` is `cls` (the paper: what reaches the CLS token) or `patches` (the mean over patch rows: what reaches a
    mean-pooled classifier, and what is taken in place of CLS where a model has none). One batch's head means lie in one block, which the next batch overwrites.
    """

    def __init__(self, rows: str, layers: int):
        self.rows, self.layers = rows, layers
        self.means: Tensor | None = None

    def begin(self, images: int) -> None:
        """Forget what was gathered."""
        self.images, self.scores = images, None

    def add(self, state: LayerState, rows: range) -> None:
        """Keep the layer's head mean; after the last layer, roll the batch out."""
        mean = state.mean_attention()  # [image, query, key]
        if self.means is None or len(mean) > self.means.shape[1]:
            self.means = mean.new_empty(self.layers, *mean.shape)
        means = self.means[:, : len(mean)]  # [layer, image, query, key]
        means[state.layer - 1] = mean
        if state.layer == self.layers:
            start = torch.zeros(mean.shape[-1])  # [query]
            chosen = slice(0, 1) if self.rows == "cls" and state.has_cls else slice(state.prefix, None)
            start[chosen] = 1 / len(start[chosen])
            scores = rollout(means.unbind(), start, state.prefix).cpu().numpy()
            if self.scores is None:
                self.scores = np.empty((self.images, scores.shape[1]), np.float32)
            self.scores[rows.start : rows.stop] = scores

    def result(self) -> np.ndarray:
        """Scores of all images, (images, N)."""
        return self.scores
