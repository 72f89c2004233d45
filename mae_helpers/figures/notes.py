"""Figures of the reproduction notes: pairings, levels that go the other way, classes apart, steps between levels."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mae_helpers.figures.style import CLASS_COLOURS, curve

PAIRING_NAMES = {
    "by_name": "paired by name",
    "within_classes": "random order within classes",
    "all": "random order over all images",
}
PAIRING_STYLES = {"by_name": ("#0072B2", "o"), "within_classes": ("#E69F00", "s"), "all": ("#7F7F7F", "^")}


def pairings(table: pd.DataFrame, ax: Axes) -> Axes:
    """Mean cosine by share of masked patches, a line a pairing."""
    for pairing, rows in table.groupby("pairing", sort=False):
        colour, marker = PAIRING_STYLES[pairing]
        curve(rows["level"], rows["mean_cosine"], ax, PAIRING_NAMES[pairing], colour, marker=marker)
    return ax


def released_pairings(table: pd.DataFrame, ax: Axes) -> Axes:
    """Table III(b), the mean of all released cosines, and that of the seven in place with their range."""
    places, (right, _), (mixed, marker) = table["occlusion_percent"], *list(PAIRING_STYLES.values())[:2]
    seven = [table[column] for column in ("mean_of_7_rightly_paired", "min_of_7", "max_of_7")]
    curve(places, seven[0], ax, "released: the 7 images in place", right, seven[1:])
    curve(places, table["released_mean_500"], ax, "released: mean of 500", mixed, marker=marker)
    return curve(places, table["table3b"], ax, "Table III(b)", "black", ls="--", lw=1.2, marker="x", ms=5)


def marked_curve(x: Sequence, y: Sequence[float], marked: Collection, ax: Axes, *, label: str, colour: str) -> Axes:
    """A curve over levels with a ring around the levels that are among `marked`."""
    curve(x, y, ax, label, colour)
    rings = pd.Series(list(y), list(x)).loc[lambda values: values.index.isin(list(marked))]
    ax.scatter(rings.index, rings, s=110, facecolor="none", edgecolor="#D55E00", zorder=3)
    return ax


def class_dots(table: pd.DataFrame, y: str, ax: Axes) -> Axes:
    """A dot a class, of one colour and place in each group of `images` and `by`, with the mean as a bar."""
    classes, names, ticks = list(dict.fromkeys(table["class"])), {"magnitude": "magnitude", "value": "signed"}, []
    colours = [CLASS_COLOURS[number % len(CLASS_COLOURS)] for number in range(len(classes))]
    offsets = np.linspace(-0.2, 0.2, len(classes)) if len(classes) > 1 else np.zeros(1)
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
    ax.bar(table["level"].astype(str), table["step"], color="#999999", width=0.7)
    ax.axhline(0, color="black", lw=0.8)
    ax.grid(False, axis="x")
    return ax
