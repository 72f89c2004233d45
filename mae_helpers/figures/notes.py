"""Figures of the reproduction notes: pairings, levels that go the other way, classes apart, steps between levels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mae_helpers.figures.style import CLASS_COLOURS

PAIRING_NAMES = {
    "by_name": "paired by name",
    "within_classes": "random order within classes",
    "all": "random order over all images",
}
PAIRING_COLOURS = {"by_name": "#0072B2", "within_classes": "#E69F00", "all": "#7F7F7F"}
PAIRING_MARKERS = {"by_name": "o", "within_classes": "s", "all": "^"}


def pairing_curves(table: pd.DataFrame, ax: Axes) -> Axes:
    """Mean cosine by share of masked patches, a line a pairing."""
    for pairing, rows in table.groupby("pairing", sort=False):
        style = {"color": PAIRING_COLOURS[pairing], "marker": PAIRING_MARKERS[pairing], "ms": 4}
        ax.plot(rows["level"], rows["mean_cosine"], label=PAIRING_NAMES[pairing], **style)
    return ax


def released_pairings(table: pd.DataFrame, ax: Axes) -> Axes:
    """Table III(b), the mean of all released cosines, and that of the seven in place with their range."""
    places = table["occlusion_percent"]
    right, all_of_them = PAIRING_COLOURS["by_name"], PAIRING_COLOURS["within_classes"]
    seven = table["mean_of_7_rightly_paired"]
    ax.plot(places, seven, color=right, marker="o", ms=4, label="released: the 7 images in place")
    ax.fill_between(places, table["min_of_7"], table["max_of_7"], color=right, alpha=0.18, linewidth=0)
    ax.plot(places, table["released_mean_500"], color=all_of_them, marker="s", ms=4, label="released: mean of 500")
    ax.plot(places, table["table3b"], color="black", ls="--", lw=1.2, marker="x", ms=5, label="Table III(b)")
    return ax


def marked_curve(
    x: Sequence,
    y: Sequence[float],
    marked: Mapping[object, float],
    ax: Axes,
    *,
    label: str,
    colour: str,
    **style: object,
) -> Axes:
    """A curve over levels with a ring around the levels that are keys of `marked`."""
    places, values = list(x), list(y)
    ax.plot(places, values, color=colour, label=label, **({"marker": "o", "ms": 4} | style))
    ringed = [place for place, level in enumerate(places) if level in marked]
    heights = [values[place] for place in ringed]
    ax.scatter([places[place] for place in ringed], heights, s=110, facecolor="none", edgecolor="#D55E00", zorder=3)
    return ax


def class_dots(table: pd.DataFrame, y: str, ax: Axes) -> Axes:
    """A dot a class for each number of images and way to choose active features, with the mean over classes as a bar.

    A class has the same colour, and the same place beside the others, in every group of dots.
    """
    classes, names = list(dict.fromkeys(table["class"])), {"magnitude": "magnitude", "value": "signed"}
    colours = [CLASS_COLOURS[number % len(CLASS_COLOURS)] for number in range(len(classes))]
    offsets = np.linspace(-0.2, 0.2, len(classes)) if len(classes) > 1 else np.zeros(1)
    ticks = []
    for place, ((by, images), rows) in enumerate(table.groupby(["by", "images"], sort=False)):
        values = rows.set_index("class")[y].reindex(classes)
        ax.scatter(place + offsets, values, s=24, c=colours, linewidth=0, zorder=2)
        ax.hlines(values.mean(), place - 0.32, place + 0.32, color="black", lw=1.5, zorder=3)
        ticks.append(f"{images}\n{names[by]}")
    ax.set_xticks(range(len(ticks)), ticks, fontsize="small")
    ax.grid(False, axis="x")
    ax.set_ylim(bottom=0)
    return ax


def step_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """How much the mean drop grows from each level to the next, a bar a level."""
    ax.bar([str(level) for level in table["level"]], table["step"], color="#999999", width=0.7)
    ax.axhline(0, color="black", lw=0.8)
    ax.grid(False, axis="x")
    return ax
