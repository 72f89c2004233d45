"""Figures of CKA: a panel for each pair of models, and curves of models beside one of them."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mae_helpers.figures.style import MODEL_NAMES, curves, layer_axis, panels


def _map(table: pd.DataFrame, row: str, column: str, token: str) -> pd.DataFrame:
    """CKA of each layer of the model `row`, downwards, with each of `column`; empty where one lacks the token."""
    rows = table[table["token"] == token]
    straight = rows[(rows["model_a"] == row) & (rows["model_b"] == column)]
    if len(straight):
        return straight.pivot(index="layer_a", columns="layer_b", values="cka")
    turned = rows[(rows["model_a"] == column) & (rows["model_b"] == row)]
    return turned.pivot(index="layer_b", columns="layer_a", values="cka")


def cka_panels(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """A map of CKA for each pair of models, layers downwards and to the right: CLS above the diagonal, mean patch below.

    Each model with itself stands on the diagonal, and is halved in the same way.
    """
    count, colours = len(models), mpl.colormaps["viridis"].with_extremes(bad="#DDDDDD")
    figure, axes = panels(count**2, count, min(2.4, 9 / count), layout="compressed")
    for place, ax in enumerate(axes):
        row, column = divmod(place, count)
        both = [_map(table, models[row], models[column], token) for token in ("cls", "mean_patch")]
        shown = both[0] if row < column else both[1]
        if row == column and not both[0].empty:
            shown = both[0].where(both[0].columns.to_numpy() > both[0].index.to_numpy()[:, None], both[1])
        ax.set(xticks=[], yticks=[], box_aspect=1)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        if shown.empty:
            ax.text(0.5, 0.5, "no CLS\ntoken", ha="center", va="center", transform=ax.transAxes, fontsize="xx-small")
        else:
            drawn = ax.imshow(shown.to_numpy(), vmin=0, vmax=1, cmap=colours, interpolation="nearest", aspect="auto")
            ends = [(0, size - 1) for size in shown.shape]
            if column == 0:
                ax.set_yticks(ends[0], [1, shown.shape[0]], fontsize="xx-small")
            if row == count - 1:
                ax.set_xticks(ends[1], [1, shown.shape[1]], fontsize="xx-small")
        names = [fill(MODEL_NAMES[models[place]], 14, break_on_hyphens=False) for place in (row, column)]
        if row == 0:
            ax.set_title(names[1], fontsize="small" if count < 6 else "xx-small")
        if column == 0:
            ax.set_ylabel(names[0], fontsize="small" if count < 6 else "xx-small")
    figure.colorbar(drawn, ax=axes, label="CKA", shrink=0.6)
    figure.supxlabel("layer (CLS token above the diagonal, mean patch token below it)", fontsize="small")
    return figure


def equal_layer_curves(table: pd.DataFrame, model: str, ax: Axes, title: str) -> Axes:
    """CKA of each layer of `model` with the same layer of every other model, dotted where images are shuffled."""
    among = (table["model_a"] == model) != (table["model_b"] == model)
    rows = table[among & (table["layer_a"] == table["layer_b"])]
    rows = rows.assign(model=rows["model_a"].where(rows["model_b"] == model, rows["model_b"]), layer=rows["layer_a"])
    shuffled = rows["control"] == "shuffled_images"
    curves(rows[~shuffled], "layer", "cka", ax)
    known = len(ax.lines)
    curves(rows[shuffled], "layer", "cka", ax, ls=":")
    for line in ax.lines[known:]:
        line.set_label("_")  # not in the legend
    ax.set(title=title, ylabel="CKA", ylim=(min(-0.1, rows["cka"].min() - 0.02), 1.02))
    return layer_axis(ax, rows["layer"])
