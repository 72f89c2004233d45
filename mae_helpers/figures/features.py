"""Figures of head features: how many stay common."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mae_helpers.figures.style import panels


def feature_heatmaps(table: pd.DataFrame, largest: int, xlabel: str) -> Figure:
    """Figs. 6, 7: a panel a layer, heads by levels, coloured by retained_count, mean over classes, of `largest`."""
    levels = list(dict.fromkeys(table["level"]))
    most = max(largest, table.groupby(["layer", "head", "level"])["retained_count"].mean().max())
    averaged = len(set(table["class"])) > 1
    edge, colours = (0, None) if averaged else (0.5, int(most) + 1)  # counts of one class are whole: a colour each
    style = {"cmap": plt.get_cmap("viridis", colours), "vmin": -edge, "vmax": most + edge, "aspect": "auto"}
    figure, axes = panels(table["layer"].nunique(), 4, 2.5, sharex=True, sharey=True)
    for ax, (layer, rows) in zip(axes, table.groupby("layer"), strict=True):
        wide = rows.pivot_table(index="head", columns="level", values="retained_count", sort=False).sort_index()[levels]
        picture = ax.imshow(wide, **style)
        ax.set(xticks=range(len(levels)), yticks=range(0, len(wide), 3), yticklabels=wide.index[::3])
        ax.set_xticklabels(["" if number % 2 else level for number, level in enumerate(levels)], fontsize=8)
        ax.set_title(f"Layer {layer}", fontsize=9)
        ax.grid(False)
    for ax in axes[::4]:
        ax.set_ylabel("head")
    label, whole = f"common features{' (mean over classes)' * averaged}", MaxNLocator("auto", integer=True)
    figure.colorbar(picture, ax=axes, label=label, ticks=whole, shrink=0.6)
    figure.supxlabel(xlabel)
    return figure
