"""Figures of attention: distances of heads, and rollout over images."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mae_helpers.figures.style import MODEL_COLOURS, class_title, layer_axis, panels


def attention_dots(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Fig. 3: a dot a head at its mean attention distance, and the distance of uniform attention as a line."""
    model, uniform = table["model"].iloc[0], table["uniform_px"].iloc[0]
    ax.scatter(table["layer"], table["distance_px"], s=22, color=MODEL_COLOURS[model], alpha=0.75, linewidth=0)
    ax.axhline(uniform, color="black", lw=1, ls=":", label="uniform attention")
    ax.legend(loc="lower right")
    top = max(1.18 * uniform, 1.05 * table["distance_px"].max(), ax.get_ylim()[1])
    ax.set(title=title, ylabel="mean attention distance (px)", ylim=(0, top))
    return layer_axis(ax, table["layer"])


def rollout_overlays(pictures: Sequence[np.ndarray], scores: Mapping[str, np.ndarray], titles: Sequence[str]) -> Figure:
    """Images (H, W, 3) and below them their rollout scores (images, N) as heatmaps, a row a name in `scores`."""
    rows, side = {"image": None, **scores}, len(pictures[0])
    figure, axes = panels(len(rows) * len(pictures), len(pictures), 1.35)
    for ax, ((name, values), column) in zip(axes, product(rows.items(), range(len(pictures))), strict=True):
        ax.imshow(np.clip(pictures[column], 0, 1), interpolation="nearest")
        if values is None:
            ax.set_title(class_title(titles[column]), fontsize=8)
        else:
            grid = round(values.shape[1] ** 0.5)
            extent = (-0.5, side - 0.5, side - 0.5, -0.5)
            ax.imshow(values[column].reshape(grid, grid), cmap="inferno", alpha=0.65, extent=extent)
        if column == 0:
            ax.set_ylabel(name, fontsize=8)
        ax.set(xticks=[], yticks=[])
    return figure
