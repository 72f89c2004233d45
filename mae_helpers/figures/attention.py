"""Figures of attention: distances of heads, and rollout over images."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mae_helpers.figures.style import MODEL_COLOURS, class_title, from_zero, image_grid, layer_axis


def attention_dots(table: pd.DataFrame, ax: Axes, title: str, claimed: Sequence[float]) -> Axes:
    """Fig. 3: a dot a head at its mean distance, that of uniform attention as a line, `claimed` shares of it as a band."""
    model, uniform = table["model"].iloc[0], table["uniform_px"].iloc[0]
    ax.scatter(table["layer"], table["distance_px"], s=22, color=MODEL_COLOURS[model], alpha=0.75, linewidth=0)
    ax.axhline(uniform, color="black", lw=1, ls=":", label="uniform attention")
    ax.axhspan(
        *(uniform * share for share in claimed), color="black", alpha=0.08, lw=0, label="the paper's range for MAE"
    )
    ax.set(title=title, ylabel="mean attention distance (px)")
    return layer_axis(from_zero(ax, max(1.12 * uniform, table["distance_px"].max())), table["layer"])


def rollout_maps(pictures: Sequence[np.ndarray], scores: Mapping[str, np.ndarray], titles: Sequence[str]) -> Figure:
    """Images (H, W, 3) and below them their rollout scores (images, N), a row a name in `scores`, each map on a scale of its own."""
    (height, width), columns = pictures[0].shape[:2], len(pictures)
    figure = image_grid([pictures] * (1 + len(scores)), [class_title(title) for title in titles], ["image", *scores])
    for row, values in enumerate(scores.values(), 1):
        axes, down = figure.axes[row * columns : (row + 1) * columns], round((values.shape[1] * height / width) ** 0.5)
        for ax, value in zip(axes, values, strict=True):
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            ax.imshow(value.reshape(down, -1), cmap="inferno", extent=extent)
    return figure
