"""How alike two representations of the same images are: debiased linear CKA between all layers of two encoders."""

import numpy as np
import torch
from torch import Tensor

from mae_helpers.profile.machine import doubled

ROUNDING = 1e-11  # of the uncentred trace: what three sums that cancel leave in float64


class CrossHSIC:
    """HSIC_1 of Song et al. (2012, Eq. 5) with linear kernels, between every layer of one encoder and of another.

    With K = X X^T and L = Y Y^T, their diagonals set to 0, and n images,

        HSIC_1 = [tr(K L) + (1^T K 1)(1^T L 1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1^T K L 1] / (n (n - 3)).

    All three terms are sums over images of products of features, so they are gathered batch by batch in float64: memory
    grows with layers and widths, not with images, and the result does not depend on the batch size.
    """

    def __init__(self) -> None:
        self.count, self.sums = 0, None

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in a batch of the same images: x (B, L_x, D_x), y (B, L_y, D_y)."""
        x, y = doubled(x), doubled(y)  # [image, layer, feature]
        norm_x, norm_y = x.square().sum(-1), y.square().sum(-1)  # [image, layer]: the diagonals of K and L
        found = (
            torch.einsum("ixd,iye->xyde", x, y),  # X^T Y
            torch.einsum("ix,iy->xy", norm_x, norm_y),  # sum of K_ii L_ii
            torch.einsum("iy,ixd->xyd", norm_y, x),  # sum of L_ii x_i
            torch.einsum("ix,iye->xye", norm_x, y),  # sum of K_ii y_i
            x.sum(0),
            y.sum(0),
            norm_x.sum(0),
            norm_y.sum(0),
        )
        self.count += len(x)
        self.sums = found if self.sums is None else tuple(a.add_(b) for a, b in zip(self.sums, found, strict=True))

    def result(self) -> np.ndarray:
        """HSIC_1 of each pair of layers, (L_x, L_y); ValueError below four images, where it has no meaning."""
        n = self.count
        if n < 4:
            raise ValueError(f"{n} images: debiased CKA needs four or more")
        cross, diagonal, by_x, by_y, sum_x, sum_y, norm_x, norm_y = self.sums
        trace = cross.square().sum((-2, -1)) - diagonal  # tr(K L)
        total_x, total_y = sum_x.square().sum(-1) - norm_x, sum_y.square().sum(-1) - norm_y  # 1^T K 1, 1^T L 1
        rows = torch.einsum("xd,xyde,ye->xy", sum_x, cross, sum_y) + diagonal  # 1^T K L 1
        rows = rows - torch.einsum("xd,xyd->xy", sum_x, by_x) - torch.einsum("ye,xye->xy", sum_y, by_y)
        total = total_x[:, None] * total_y / ((n - 1) * (n - 2))
        found = trace + total - 2 * rows / (n - 2)
        found[found.abs() < ROUNDING * trace.abs()] = 0  # a layer that is the same for all images
        return (found / (n * (n - 3))).cpu().numpy()


def cka(cross: np.ndarray, own_x: np.ndarray, own_y: np.ndarray) -> np.ndarray:
    """CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) of each pair of layers, (L_x, L_y) (Kornblith et al. 2019).

    own_x (L_x,) and own_y (L_y,) are each layer's HSIC with itself. 1 for a representation and any rotation or scale of it,
    0 on average for independent ones; NaN for a layer that is the same for all images.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return cross / np.sqrt(np.outer(np.maximum(own_x, 0), np.maximum(own_y, 0)))
