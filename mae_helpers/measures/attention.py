"""Where attention goes: mean attention distance (Fig. 3) and attention rollout (Fig. 5)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from mae_helpers.encoder.passes import PerImage
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
    places = np.indices(np.broadcast_to(grid, 2)).reshape(2, -1).T  # [patch, row or column]
    centres = places * np.broadcast_to(patch_size, 2)
    return torch.from_numpy(cdist(centres, centres, metric)).float()


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


class Rollout(PerImage):
    """The statistic of rollout scores of patches, (images, N).

    `rows` is `cls` (the paper: what reaches the CLS token) or `patches` (the mean over patch rows: what reaches a
    mean-pooled classifier, and what is taken in place of CLS where a model has none). One batch's head means lie in one
    block, which the next batch overwrites.
    """

    def __init__(self, rows: str, layers: int):
        super().__init__(self._rolled_out, only=layers)
        self.rows, self.means = rows, None

    def add(self, state: LayerState, rows: range) -> None:
        """Keep the layer's head mean; after the last layer, roll the batch out."""
        mean = state.mean_attention()  # [image, query, key]
        if self.means is None or len(mean) > self.means.shape[1]:
            self.means = mean.new_empty(self.only, *mean.shape)  # [layer, image, query, key]
        self.means[state.layer - 1, : len(mean)] = mean
        super().add(state, rows)

    def _rolled_out(self, last: LayerState) -> Tensor:
        start = torch.zeros(self.means.shape[-1])  # [query]
        chosen = slice(0, 1) if self.rows == "cls" and last.has_cls else slice(last.prefix, None)
        start[chosen] = 1 / len(start[chosen])
        return rollout(self.means[:, : len(last.tokens)].unbind(), start, last.prefix)
