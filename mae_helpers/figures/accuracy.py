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


def published_curve(x: Sequence, y: Sequence[float], ax: Axes) -> Axes:
    """The paper's values in grey: another model and other data, wherever the profile is not the paper's."""
    ax.plot(x, y, ls="--", lw=1.2, marker="x", color="#999999", label="paper (MAE ViT-B, ImageNet)", zorder=1)
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
