"""Figures of accuracy under perturbation: kinds of one, corruptions by severity, and the paper's values."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from mae_helpers.figures.style import LOOKS, MODEL_NAMES


def level_points(table: pd.DataFrame, x: str, y: str, ax: Axes, band: Sequence[str]) -> Axes:
    """A measure for each kind of perturbation, kinds that have no order: points a model, error bars between `band`."""
    models = table["model"].nunique()
    aside = 0.6 / max(5, models) * (np.arange(models) - (models - 1) / 2)
    for offset, (model, rows) in zip(aside, table.groupby("model", sort=False), strict=True):
        name, colour, marker = LOOKS["model"][model]
        places, error = np.arange(len(rows)) + offset, [np.abs(rows[end] - rows[y]) for end in band]
        ax.errorbar(places, rows[y], error, ls="", capsize=4, label=name, color=colour, marker=marker)
    ax.set_xticks(range(len(rows)), rows[x].str.replace("_", " "))
    return ax


def effect_points(table: pd.DataFrame, ax: Axes) -> Axes:
    """An effect by condition, downwards, with its interval: filled of the accuracy, hollow of its change from clean images."""
    conditions = list(dict.fromkeys(table["condition"]))
    for (of, rows), aside, face in zip(table.groupby("of"), (-0.12, 0.12), ("#0072B2", "white"), strict=True):
        places = rows["condition"].map(conditions.index) + aside
        error = [rows["points"] - rows["low"], rows["high"] - rows["points"]]
        style = {"fmt": "o", "ms": 6, "capsize": 3, "color": "#0072B2", "mfc": face, "label": of}
        ax.errorbar(rows["points"], places, xerr=error, **style)
    ax.axvline(0, color="black", lw=1, ls=":")
    ax.set(yticks=range(len(conditions)), yticklabels=conditions, ylim=(len(conditions) - 0.5, -0.5))
    return ax


def published_curve(x: Sequence, y: Sequence[float], ax: Axes, label: str = "paper (MAE ViT-B, ImageNet)") -> Axes:
    """The paper's values in grey: another model and other data, wherever the profile is not the paper's."""
    ax.plot(x, y, ls="--", lw=1.2, marker="x", color="#999999", label=label, zorder=1)
    return ax


def corruption_heatmap(table: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy of one model by corruption and severity."""
    wide = table.pivot_table(index="corruption", columns="severity", values="top1_percent", sort=False)
    wide.index = wide.index.str.replace("_", " ")
    style = {"cmap": "viridis", "annot": True, "fmt": ".0f", "cbar": False, "annot_kws": {"fontsize": 8}}
    sns.heatmap(wide, ax=ax, vmin=0, vmax=100, **style)
    ax.set(title=MODEL_NAMES[table["model"].iloc[0]], ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return ax
