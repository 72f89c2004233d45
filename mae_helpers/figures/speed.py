"""Figures of the page on speed: ratios with their intervals beside the goals."""

import pandas as pd
from matplotlib.axes import Axes


def ratio_dots(table: pd.DataFrame, ax: Axes) -> Axes:
    """A line a row (name, ratio, low, high, goal, met): a ratio with its interval, and its goal as a bar."""
    rows = table[table["ratio"].notna()].iloc[::-1].reset_index(drop=True)
    met = rows["met"].astype(str) == "True"
    colours = met.map({True: "#0072B2", False: "#D55E00"})
    ax.hlines(rows.index, rows["low"], rows["high"], colors=colours)
    for there, label in ((met, "goal met"), (~met, "goal not met")):
        ax.scatter(rows["ratio"][there], rows.index[there], c=colours[there], label=label, zorder=3)
    goals = rows["goal"].str.split().str[1].astype(float)
    ax.scatter(goals, rows.index, marker="|", s=220, c="black", label="goal", zorder=2)
    ax.set_xscale("log", subs=[2, 5])
    for formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        formatter("{x:g}")
    ax.set(xlabel="ratio", yticks=rows.index, yticklabels=rows["name"], ylim=(-0.7, len(rows) - 0.3))
    return ax
