"""One look for all figures: names and colours of models, panels, axes, grids of images."""

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MODEL_NAMES = {
    "mae_pretrained": "MAE, pretrained",
    "mae_finetuned": "MAE, fine-tuned",
    "vit_supervised": "ViT, supervised",
    "random": "random weights",
}
MODEL_COLOURS = {
    "mae_pretrained": "#0072B2",
    "mae_finetuned": "#56B4E9",
    "vit_supervised": "#D55E00",
    "random": "#7F7F7F",
}
CLASS_COLOURS = sns.color_palette("colorblind", 10)


def use_style() -> None:
    """White, opaque, sober figures that also read on a dark page."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.labelsize": "medium",
            "legend.frameon": False,
            "svg.hashsalt": "mae-helpers",
            "grid.color": "#E5E5E5",
        }
    )


def panels(count: int, columns: int, size: float = 2.4, **options: object) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of `columns`, and its axes in reading order."""
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, size * rows), squeeze=False, **options)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def layer_axis(ax: Axes, layers: int) -> Axes:
    """Mark the layers 1, 2, ... on the x axis."""
    ax.set(xlabel="layer", xticks=range(1, layers + 1), xlim=(0.5, layers + 0.5))
    ax.tick_params(axis="x", labelsize="small")
    return ax


def outer_labels(axes: Sequence[Axes]) -> None:
    """Keep axis labels on the left and lower edge of a figure whose panels share their axes."""
    for ax in axes:
        ax.label_outer()


def image_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], size: float = 1.5, fontsize: float | str = "medium"
) -> Figure:
    """Rows of images (H, W, 3) in [0, 1], `size` inches each, one column a title."""
    figure, axes = panels(len(rows) * len(titles), len(titles), size)
    for ax, image in zip(axes, [image for row in rows for image in row], strict=True):
        ax.imshow(np.clip(image, 0, 1), interpolation="nearest")
        ax.set_axis_off()
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=fontsize)
    return figure
