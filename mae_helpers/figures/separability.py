"""Figures of class separability: t-SNE maps."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mae_helpers.figures.style import class_colours, class_title, panels

TOKEN_NAMES = {"cls": "CLS token", "mean_patch": "mean patch token", "patch": "patch tokens"}


def tsne_by_layer(table: pd.DataFrame, size: float = 14) -> Figure:
    """The t-SNE maps of one kind of token, a panel a layer, coloured by class, with one legend for all."""
    figure, axes = panels(table["layer"].nunique(), 4)
    for ax, (layer, points) in zip(axes, table.groupby("layer"), strict=True):
        colours = class_colours(list(dict.fromkeys(points["class"])))
        sns.scatterplot(points, x="x", y="y", hue="class", palette=colours, s=size, linewidth=0, ax=ax, rasterized=True)
        ax.set(xticks=[], yticks=[], xlabel="", ylabel="", title=f"Layer {layer}")
        ax.set_aspect("equal", adjustable="datalim")
        sns.despine(ax=ax, left=True, bottom=True)
    handles, labels = axes[0].get_legend_handles_labels()
    for ax in axes:
        ax.get_legend().remove()
    titles = [class_title(label) for label in labels]
    figure.legend(handles, titles, loc="outside lower center", ncols=min(len(labels), 5), markerscale=2)
    return figure
