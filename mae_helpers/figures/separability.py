"""Figures of class separability: t-SNE maps."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mae_helpers.figures.style import class_colours, class_title, panels

TOKEN_NAMES = {"cls": "CLS token", "mean_patch": "mean patch token", "patch": "patch tokens"}


def tsne_by_layer(table: pd.DataFrame, size: float = 14) -> Figure:
    """The t-SNE maps of one kind of token, a panel a layer, coloured by class, one legend for all; or why there is none."""
    figure, axes = panels(table["layer"].nunique(), 4)
    for ax, (layer, points) in zip(axes, table.groupby("layer"), strict=True):
        colours = class_colours(list(dict.fromkeys(points["class"])))
        sns.scatterplot(points, x="x", y="y", hue="class", palette=colours, s=size, linewidth=0, ax=ax, rasterized=True)
        ax.set(xticks=[], yticks=[], xlabel="", ylabel="", title=f"Layer {layer}")
        sns.despine(ax=ax, top=False, right=False)  # a frame, which the map fills
        if points["x"].isna().all():
            ax.text(0.5, 0.5, "no map: points are alike\nor fewer than four", ha="center", transform=ax.transAxes)
    legends = [ax.get_legend() for ax in axes if ax.get_legend()]
    for legend in legends:
        legend.remove()
    for legend in legends[:1]:  # there is none without points
        titles = [class_title(text.get_text()) for text in legend.get_texts()]
        place = {"loc": "outside lower center", "ncols": min(len(titles), 5), "markerscale": 2}
        figure.legend(legend.legend_handles, titles, **place)
    return figure
