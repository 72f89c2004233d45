"""Figures of masking invariance: cosines and norms over the masks of an image."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes


def cosine_histogram(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Densities of cosines within one image's masks and between images, over the bins of `table`."""
    for pair, name, colour in (("within", "two masks of one image", "#0072B2"), ("between", "two images", "#E69F00")):
        rows = table[table["pair"] == pair]
        start, width = rows["cosine_from"], rows["cosine_to"] - rows["cosine_from"]
        ax.bar(start, rows["density"], width, label=name, color=colour, alpha=0.65, linewidth=0, align="edge")
    low = min(ax.get_xlim()[0], max(-1, table["cosine_from"].min() - 0.02))  # panels share their axis
    ax.set(title=title, xlabel="cosine of mean patch embeddings", ylabel="density", xlim=(low, 1.005))
    return ax


def norm_ranges(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """The norms of each image's embeddings over its masks, one box per image."""
    order = table.groupby("image")["norm"].median().sort_values().index
    sns.boxplot(table, x="image", y="norm", order=order, color="#56B4E9", width=0.6, fliersize=2, linewidth=1, ax=ax)
    ax.set(title=title, xlabel="image (sorted by median norm)", ylabel="norm of the mean patch embedding")
    ax.set_xticks(range(len(order)), range(1, len(order) + 1) if len(order) <= 20 else [""] * len(order))
    return ax
