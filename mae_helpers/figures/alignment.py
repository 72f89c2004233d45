"""Figures of directional alignment: one measure against another, and cosines of right and wrong predictions."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from mae_helpers.figures.style import MODEL_COLOURS, curves

HALO = [withStroke(linewidth=2, foreground="w")]  # around a name, so that no line runs through it


def against(table: pd.DataFrame, x: str, y: str, label: str, ax: Axes) -> Axes:
    """One measure against another, a point a level, joined in the order of x; names stand where there is room."""
    spans, named = np.ptp(table[[x, y]].to_numpy(float), axis=0), []
    for model, rows in table.groupby("model", sort=False):
        rows = rows.sort_values(x)
        curves(rows, x, y, ax, ms=5, lw=0.8)
        for *place, name in rows[[x, y, label]].itertuples(index=False):
            away = [np.abs(np.subtract(place, other)) / np.where(spans, spans, 1) for other in named]
            if not any((distance < 0.1).all() for distance in away):
                named.append(place)
                style = {"fontsize": 8, "color": MODEL_COLOURS[model], "path_effects": HALO}
                ax.annotate(str(name), place, (5, 5), textcoords="offset points", **style)
    return ax


def cosine_split(per_image: pd.DataFrame, ax: Axes) -> Axes:
    """The cosines of correctly and of wrongly classified images, as densities over steps, with their medians."""
    bins = np.linspace(min(0.0, per_image["cosine"].min()), 1, 41)
    for correct, name, colour in ((True, "correct", "#0072B2"), (False, "wrong", "#D55E00")):
        values = per_image.loc[per_image["correct"] == correct, "cosine"]
        if len(values):
            ax.hist(values, bins=bins, density=True, color=colour, alpha=0.55, label=f"{name} ({len(values)})")
            ax.axvline(values.median(), color=colour, lw=1.5, ls="--")
    ax.set(xlabel="cosine with the clean embedding", ylabel="density")
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper left")
    return ax
