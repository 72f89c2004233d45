"""Figures of accuracy under perturbation, and of any measure against the level of one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from mae_helpers.figures.style import MODEL_COLOURS, MODEL_NAMES, curve

NAMES = MODEL_NAMES | {
    "cls_rollout": "most attended by CLS (paper)",
    "patch_rollout": "most attended by patches",
    "random": "random patches",
}
COLOURS = MODEL_COLOURS | {"cls_rollout": "#CC79A7", "patch_rollout": "#009E73"}
MARKERS = {"vit_supervised": "s", "random": "^", "patch_rollout": "D"}


def level_curves(
    table: pd.DataFrame, x: str, y: str, ax: Axes, *, band: Sequence[str] = (), hue: str = "model", joined: bool = True
) -> Axes:
    """A measure against the level of a perturbation, a line for each value of `hue`, with intervals where there are.

    `band` names the columns with an interval's ends. Kinds that have no order are not `joined`: points with error bars.
    """
    for number, (value, rows) in enumerate(table.groupby(hue, sort=False)):
        named, marker = (NAMES[value], COLOURS[value]), MARKERS.get(value, "o")
        levels = rows[x].infer_objects()  # a column of numbers that came from a mixed one is numeric again
        ends = [rows[end] for end in band]
        if joined:
            curve(levels, rows[y], ax, *named, ends, marker=marker)
            continue
        ax.set_xticks(range(len(rows)), [str(level).replace("_", " ") for level in levels])
        side_by_side, error = np.arange(len(rows)) + 0.12 * (number - 0.5), np.abs([end - rows[y] for end in ends])
        style = {"label": named[0], "color": named[1], "marker": marker, "ms": 4}
        ax.errorbar(side_by_side, rows[y], error, ls="", capsize=4, **style)
    return ax


def published_curve(x: Sequence, y: Sequence[float], ax: Axes) -> Axes:
    """The paper's values in grey: another model and other data, wherever the profile is not the paper's."""
    ax.plot(x, y, ls="--", lw=1.2, marker="x", ms=4, color="#999999", label="paper (MAE ViT-B, ImageNet)", zorder=1)
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
