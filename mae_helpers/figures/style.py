"""One look for all figures: names and colours, curves, panels, axes, grids of images."""

import itertools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats

LOOKS = {  # of the lines of a figure, by the column that tells them apart: name, colour and marker
    "model": {
        "mae_pretrained": ("MAE, pretrained", "#0072B2", "o"),
        "mae_finetuned": ("MAE, fine-tuned", "#56B4E9", "o"),
        "vit_supervised": ("ViT, supervised", "#D55E00", "s"),
        "random": ("random weights", "#7F7F7F", "^"),
    },
    "ranking": {
        "cls_rollout": ("most attended by CLS (paper)", "#CC79A7", "o"),
        "patch_rollout": ("most attended by patches", "#009E73", "D"),
        "random": ("random patches", "#7F7F7F", "^"),
    },
    "pairing": {
        "by_name": ("paired by name", "#0072B2", "o"),
        "within_classes": ("random order within classes", "#E69F00", "s"),
        "all": ("random order over all images", "#7F7F7F", "^"),
    },
    "control": {
        "between_classes": ("between classes", "#0072B2", "o"),
        "shuffled_labels": ("classes with shuffled labels", "#E69F00", "s"),
        "split_half": ("random halves of one class", "#009E73", "D"),
    },
}
FURTHER = (  # looks of models that have no usual one, those that no other model of a profile has
    *(("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P"), ("#56B4E9", "X")),
    *(("#8C6D31", "*"), ("#000000", "<")),
)
USUAL = tuple(LOOKS["model"])
MODEL_NAMES = {model: name for model, (name, _, _) in LOOKS["model"].items()}
MODEL_COLOURS = {model: colour for model, (_, colour, _) in LOOKS["model"].items()}
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


def use_models(titles: Mapping[str, str]) -> None:
    """Give each model of a run, in its order, the name in `titles` and a look of its own: the usual ones keep theirs."""
    looks = LOOKS["model"]
    taken = {looks[model][1] for model in titles if model in USUAL}
    further = itertools.cycle(look for look in FURTHER if look[0] not in taken)
    for model, title in titles.items():
        look = looks[model][1:] if model in USUAL else next(further)
        looks[model] = (title, *look)
        MODEL_NAMES[model], MODEL_COLOURS[model] = title, look[0]


def use_style() -> None:
    """White, opaque, sober figures that also read on a dark page; in a notebook as SVG."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rc("figure", facecolor="white", dpi=110)
    mpl.rc("figure.constrained_layout", use=True)
    mpl.rc("savefig", facecolor="white")
    mpl.rc("axes", titlesize="medium", labelsize="medium")
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("legend", frameon=False)
    mpl.rc("lines", markersize=4)
    mpl.rc("grid", color="#E5E5E5")
    mpl.rc("svg", hashsalt="mae-helpers", fonttype="none")  # text stays text
    if "ipykernel" in sys.modules:
        set_matplotlib_formats("svg", metadata={"Date": None})  # sharp at any size; the same run draws the same bytes


def panels(count: int, columns: int, size: float = 2.4, **options: object) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of `columns`, and its axes in reading order."""
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size * columns, size * rows), squeeze=False, **options)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def curves(
    table: pd.DataFrame, x: str, y: str, ax: Axes, *, band: Sequence = (), hue: str = "model", **style: object
) -> Axes:
    """One column against another, a line for each value of `hue`, and the area between the columns `band`."""
    for value, rows in table.groupby(hue, sort=False):
        name, colour, marker = LOOKS[hue][value]
        places = rows[x].infer_objects()  # a column of numbers that came from a mixed one is numeric again
        ax.plot(places, rows[y], label=name, color=colour, marker=marker, **style)
        if band:
            ax.fill_between(places, *(rows[end] for end in band), color=colour, alpha=0.18, linewidth=0)
    return ax


def from_zero(ax: Axes, highest: float) -> Axes:
    """Let the y axis begin at 0 and hold the `highest` value, also those of panels that share it and were drawn before."""
    ax.set_ylim(0, max(ax.get_ylim()[1], 1.05 * highest))
    return ax


def layer_axis(ax: Axes, layers: pd.Series) -> Axes:
    """Mark the layers 1, 2, ... up to the last of `layers` on the x axis."""
    last = int(layers.max())
    ax.set(xlabel="layer", xticks=range(1, last + 1), xlim=(0.5, last + 0.5))
    ax.tick_params(axis="x", labelsize="small")
    return ax


def layer_curves(table: pd.DataFrame, y: str, label: str, ax: Axes, chance: float | None = None) -> Axes:
    """A measure against depth, a line a model with its interval where it has one, and the chance level."""
    ends = [f"{y.removesuffix('_percent')}_{end}" for end in ("low", "high")]
    curves(table, "layer", y, ax, band=ends if set(ends) <= set(table) else ())
    if chance is not None:
        ax.axhline(chance, color="black", lw=1, ls=":", label="chance")
        ax.set_ylim(0, 100)
    ax.set_ylabel(label)
    return layer_axis(ax, table["layer"])


def legend_below(figure: Figure, ax: Axes) -> None:
    """One legend for all panels, below them, from the lines of `ax`."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(labels) == 4 else 3, fontsize="small")


def outer_labels(axes: Sequence[Axes]) -> None:
    """Keep axis labels on the left and lower edge of a figure whose panels share their axes."""
    for ax in axes:
        ax.label_outer()


def image_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], names: Sequence[str] = (), size: float = 0.95
) -> Figure:
    """Rows of images (H, W, 3) in [0, 1], `size` inches each, one column a title and one row a name, where there are any."""
    figure, axes = panels(len(rows) * len(titles), len(titles), size)
    for ax, image in zip(axes, [image for row in rows for image in row], strict=True):
        ax.imshow(np.clip(image, 0, 1), interpolation="nearest")
        ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=8)
    for ax, name in zip(axes[:: len(titles)], names, strict=False):
        ax.set_ylabel(name, fontsize=8)
    sns.despine(figure, left=True, bottom=True)
    return figure
