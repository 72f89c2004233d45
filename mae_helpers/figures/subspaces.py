"""Figures of class subspaces: principal angles and singular values by layer."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from mae_helpers.figures.style import class_colours, class_title, curves, from_zero, layer_axis


def angle_boxes(table: pd.DataFrame, ax: Axes, title: str, colour: str) -> Axes:
    """Fig. 4: the distribution of theta_1 over pairs, one box per layer."""
    sns.boxplot(table, x="layer", y="theta1_deg", ax=ax, color=colour, width=0.6, fliersize=2, linewidth=1)
    ax.set(title=title, xlabel="layer", ylabel=r"smallest principal angle $\theta_1$ (degrees)")
    return from_zero(ax, table["theta1_deg"].max())


def control_curves(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Median theta_1 by layer with its interquartile band: the classes and the two controls."""
    quartiles = table.groupby(["control", "layer"])["theta1_deg"].quantile([0.25, 0.5, 0.75]).unstack()
    curves(quartiles.reset_index(), "layer", 0.5, ax, band=(0.25, 0.75), hue="control")
    ax.set(title=title, ylabel=r"$\theta_1$ (degrees)")
    return layer_axis(from_zero(ax, quartiles[0.75].max()), table["layer"])


def k_curves(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Median theta_1 by layer, a line for each subspace dimension k."""
    medians = table.groupby(["k", "layer"], as_index=False)["theta1_deg"].median()
    each = medians.assign(k=medians["k"].astype(str))  # as names: evenly spaced colours, whatever the numbers
    sns.lineplot(each, x="layer", y="theta1_deg", hue="k", palette="viridis", marker="o", ax=ax)
    ax.set(title=title, ylabel=r"median $\theta_1$ (degrees)")
    from_zero(ax, 1.2 * medians["theta1_deg"].max())  # room for the legend
    ax.legend(title="k", loc="upper left", ncols=3, fontsize="small")
    return layer_axis(ax, table["layer"])


def singular_value_curves(table: pd.DataFrame, index: int, ax: Axes) -> Axes:
    """The `index`-th singular value by layer, a line a class, on a logarithmic axis."""
    chosen = table[table["index"] == index]
    chosen = chosen.assign(**{"class": chosen["class"].map(class_title)})
    colours = class_colours(list(dict.fromkeys(chosen["class"])))
    sns.lineplot(chosen, x="layer", y="singular_value", hue="class", palette=colours, ax=ax, marker="o", ms=3)
    ax.set(yscale="log", ylabel="singular value", title=f"Singular value no. {index} of {table['index'].max()}")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    return layer_axis(ax, table["layer"])
