"""Figures of the demo's model card: training histories and accuracy by class."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from mae_helpers.figures.style import MODEL_COLOURS, MODEL_NAMES


def training_curve(table: pd.DataFrame, y: str, label: str, ax: Axes) -> Axes:
    """A column of a training history against epochs."""
    ax.plot(table["epoch"], table[y], marker="o")
    ax.set(xlabel="epochs", ylabel=label)
    ax.set_xlim(left=0)
    return ax


def class_bars(table: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy by class, a bar a model."""
    named = table.assign(model=table["model"].map(MODEL_NAMES))
    colours = {MODEL_NAMES[model]: MODEL_COLOURS[model] for model in table["model"].unique()}
    sns.barplot(named, y="class", x="top1_percent", hue="model", palette=colours, ax=ax)
    ax.set(xlabel="test accuracy (%)", ylabel="", xlim=(0, 100))
    sns.move_legend(ax, "lower center", bbox_to_anchor=(0.5, 1), ncols=2, title=None)
    return ax
