"""Figures of the reproduction notes: released pairings, levels that go the other way, classes apart, steps between levels."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mae_helpers.figures.style import LOOKS, class_colours


def released_pairings(table: pd.DataFrame, ax: Axes) -> Axes:
    """Table III(b), the mean of all released cosines, and that of the seven in place with their range."""
    places, paired = table["occlusion_percent"], LOOKS["pairing"]
    for column, name, (_, colour, marker) in (
        ("mean_of_7_rightly_paired", "released: the 7 images in place", paired["by_name"]),
        ("released_mean_500", "released: mean of 500", paired["within_classes"]),
    ):
        ax.plot(places, table[column], label=name, color=colour, marker=marker)
    ax.fill_between(places, table["min_of_7"], table["max_of_7"], color=paired["by_name"][1], alpha=0.18, linewidth=0)
    ax.plot(places, table["table3b"], label="Table III(b)", color="black", ls="--", lw=1.2, marker="x", ms=5)
    return ax


def marked_curve(x: Sequence, y: Sequence[float], marked: Collection, ax: Axes, *, label: str, colour: str) -> Axes:
    """A curve over levels with a ring around the levels that are among `marked`."""
    ax.plot(x, y, label=label, color=colour, marker="o")
    rings = pd.Series(list(y), list(x)).loc[lambda values: values.index.isin(list(marked))]
    ax.scatter(rings.index, rings, s=110, facecolor="none", edgecolor="#D55E00", zorder=3)
    return ax


def class_dots(table: pd.DataFrame, y: str, ax: Axes) -> Axes:
    """A dot a class, of one colour and place in each group of `images` and `by`, with the mean as a bar."""
    colours, ticks = class_colours(list(dict.fromkeys(table["class"]))), []
    offsets = np.linspace(-0.2, 0.2, len(colours)) if len(colours) > 1 else np.zeros(1)
    for place, ((by, images), rows) in enumerate(table.groupby(["by", "images"], sort=False)):
        values = rows.set_index("class")[y].reindex(colours)
        ax.scatter(place + offsets, values, s=24, c=list(colours.values()), linewidth=0, zorder=2)
        ax.hlines(values.mean(), place - 0.32, place + 0.32, color="black", lw=1.5, zorder=3)
        ticks.append(f"{images}\n{'signed' if by == 'value' else by}")
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
