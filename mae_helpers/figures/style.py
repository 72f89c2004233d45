"""One look for all figures: names and colours, curves, panels, axes, grids of images."""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

_MODELS = {
    "mae_pretrained": ("MAE, pretrained", "#0072B2"),
    "mae_finetuned": ("MAE, fine-tuned", "#56B4E9"),
    "vit_supervised": ("ViT, supervised", "#D55E00"),
    "random": ("random weights", "#7F7F7F"),
}
MODEL_NAMES = {model: name for model, (name, _) in _MODELS.items()}
MODEL_COLOURS = {model: colour for model, (_, colour) in _MODELS.items()}
CLASS_COLOURS = sns.color_palette("colorblind", 10)


@cache
def _wordnet_titles() -> dict[str, str]:
    """The first name of each class of ImageNet-1K by its WordNet id, with the id where two classes share it."""
    from timm.data import ImageNetInfo  # brings torch, which no figure needs

    known = ImageNetInfo("imagenet-1k")
    first = {name: known.label_name_to_description(name).split(",")[0] for name in known.label_names()}
    times = Counter(first.values())
    return {name: title if times[title] == 1 else f"{title} ({name})" for name, title in first.items()}


def class_title(name: str) -> str:
    """A class in words: the first of WordNet's for an id of ImageNet-1K, any other name as it is."""
    return _wordnet_titles().get(name, name)


def class_colours(names: Sequence[str]) -> dict[str, tuple]:
    """A colour for each class: ten that are easy to tell apart, or as many hues as there are classes."""
    palette = CLASS_COLOURS if len(names) <= len(CLASS_COLOURS) else sns.husl_palette(len(names))
    return dict(zip(names, palette, strict=False))


def use_style() -> None:
    """White, opaque, sober figures that also read on a dark page; in a notebook as SVG."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rc("figure", facecolor="white", dpi=110)
    mpl.rc("figure.constrained_layout", use=True)
    mpl.rc("savefig", facecolor="white")
    mpl.rc("axes", titlesize="medium", labelsize="medium")
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("legend", frameon=False)
    mpl.rc("grid", color="#E5E5E5")
    mpl.rc("svg", hashsalt="mae-helpers")
    if "ipykernel" in sys.modules:
        set_matplotlib_formats("svg", metadata={"Date": None})  # sharp at any size; the same run draws the same bytes


def panels(count: int, columns: int, size: float = 2.4, **options: object) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of `columns`, and its axes in reading order."""
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, size * rows), squeeze=False, **options)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def curve(
    x: Sequence,
    y: Sequence,
    ax: Axes,
    label: str,
    colour: str,
    band: Sequence = (),
    alpha: float = 0.18,
    **style: object,
) -> Axes:
    """A line with markers, and the area between the ends of `band`."""
    ax.plot(x, y, color=colour, label=label, **{"marker": "o", "ms": 4} | style)
    if band:
        ax.fill_between(x, *band, color=colour, alpha=alpha, linewidth=0)
    return ax


def layer_axis(ax: Axes, layers: pd.Series) -> Axes:
    """Mark the layers 1, 2, ... up to the last of `layers` on the x axis."""
    last = int(layers.max())
    ax.set(xlabel="layer", xticks=range(1, last + 1), xlim=(0.5, last + 0.5))
    ax.tick_params(axis="x", labelsize="small")
    return ax


def layer_curves(table: pd.DataFrame, y: str, label: str, ax: Axes, chance: float | None = None) -> Axes:
    """A measure against depth, a line a model, and the chance level where there is one."""
    for model, rows in table.groupby("model"):
        line = "--" if model == "random" else "-"
        curve(rows["layer"], rows[y], ax, MODEL_NAMES[model], MODEL_COLOURS[model], ls=line)
    if chance is not None:
        ax.axhline(chance, color="black", lw=1, ls=":", label="chance")
    ax.set_ylabel(label)
    return layer_axis(ax, table["layer"])


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
