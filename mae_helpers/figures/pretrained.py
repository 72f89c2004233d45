"""Figures of Section IV-A: t-SNE, separation, attention distance, principal angles, masking invariance."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mae_helpers.figures.style import MODEL_COLOURS, MODEL_NAMES, class_colours, class_title, layer_axis, panels

CONTROL_NAMES = {
    "between_classes": "between classes",
    "shuffled_labels": "classes with shuffled labels",
    "split_half": "random halves of one class",
}
CONTROL_COLOURS = {"between_classes": "#0072B2", "shuffled_labels": "#E69F00", "split_half": "#009E73"}
TOKEN_NAMES = {"cls": "CLS token", "mean_patch": "mean patch token", "patch": "patch tokens"}


def tsne_panel(points: pd.DataFrame, ax: Axes, size: float = 14) -> Axes:
    """One layer's t-SNE map: x, y, coloured by class."""
    colours = class_colours(list(dict.fromkeys(points["class"])))
    sns.scatterplot(points, x="x", y="y", hue="class", palette=colours, s=size, linewidth=0, ax=ax, rasterized=True)
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="", title=f"Layer {points['layer'].iloc[0]}")
    ax.set_aspect("equal", adjustable="datalim")
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def tsne_by_layer(table: pd.DataFrame, size: float = 14) -> Figure:
    """All layers' t-SNE maps of one kind of token, a panel a layer, with one legend for all."""
    figure, axes = panels(table["layer"].nunique(), 4)
    for ax, (_, points) in zip(axes, table.groupby("layer"), strict=True):
        tsne_panel(points, ax, size)
    handles, labels = axes[0].get_legend_handles_labels()
    for ax in axes:
        ax.get_legend().remove()
    titles = [class_title(label) for label in labels]
    figure.legend(handles, titles, loc="outside lower center", ncols=min(len(labels), 5), markerscale=2)
    return figure


def layer_curves(table: pd.DataFrame, y: str, label: str, ax: Axes, chance: float | None = None) -> Axes:
    """A measure against depth, a line a model, and the chance level where there is one."""
    for model, rows in table.groupby("model"):
        style = "--" if model == "random" else "-"
        ax.plot(rows["layer"], rows[y], style, marker="o", ms=4, color=MODEL_COLOURS[model], label=MODEL_NAMES[model])
    if chance is not None:
        ax.axhline(chance, color="black", lw=1, ls=":", label="chance")
    ax.set_ylabel(label)
    return layer_axis(ax, int(table["layer"].max()))


def attention_dots(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Fig. 3: a dot a head at its mean attention distance, and the distance of uniform attention as a line."""
    model = table["model"].iloc[0]
    ax.scatter(table["layer"], table["distance_px"], s=22, color=MODEL_COLOURS[model], alpha=0.75, linewidth=0)
    uniform = table["uniform_px"].iloc[0]
    ax.axhline(uniform, color="black", lw=1, ls=":", label="uniform attention")
    ax.legend(loc="lower right")
    top = max(1.18 * uniform, 1.05 * table["distance_px"].max(), ax.get_ylim()[1])
    ax.set(title=title, ylabel="mean attention distance (px)", ylim=(0, top))
    return layer_axis(ax, int(table["layer"].max()))


def angle_boxes(table: pd.DataFrame, ax: Axes, title: str, colour: str) -> Axes:
    """Fig. 4: the distribution of theta_1 over pairs, a box a layer."""
    sns.boxplot(table, x="layer", y="theta1_deg", ax=ax, color=colour, width=0.6, fliersize=2, linewidth=1)
    ax.set(title=title, xlabel="layer", ylabel=r"smallest principal angle $\theta_1$ (degrees)")
    ax.set_ylim(bottom=0)
    return ax


def control_curves(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Median theta_1 by layer with its interquartile band: the classes and the two controls."""
    for control, name in CONTROL_NAMES.items():
        rows = table[table["control"] == control]
        if rows.empty:
            continue  # with one image a class there are no halves
        by_layer = rows.groupby("layer")["theta1_deg"]
        low, middle, high = (by_layer.quantile(q) for q in (0.25, 0.5, 0.75))
        ax.plot(middle.index, middle, marker="o", ms=4, color=CONTROL_COLOURS[control], label=name)
        ax.fill_between(middle.index, low, high, color=CONTROL_COLOURS[control], alpha=0.18, linewidth=0)
    ax.set(title=title, ylabel=r"$\theta_1$ (degrees)")
    ax.set_ylim(bottom=0)
    return layer_axis(ax, int(table["layer"].max()))


def k_curves(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Median theta_1 by layer, a line for each subspace dimension k."""
    medians = table.groupby(["k", "layer"], as_index=False)["theta1_deg"].median()
    each = medians.assign(k=medians["k"].astype(str))  # as names: evenly spaced colours, whatever the numbers
    sns.lineplot(each, x="layer", y="theta1_deg", hue="k", palette="viridis", marker="o", ms=4, ax=ax)
    ax.set(title=title, ylabel=r"median $\theta_1$ (degrees)")
    ax.set_ylim(0, 1.25 * ax.get_ylim()[1])  # room for the legend
    ax.legend(title="k", loc="upper left", ncols=3, fontsize="small")
    return layer_axis(ax, int(table["layer"].max()))


def singular_value_curves(table: pd.DataFrame, index: int, ax: Axes) -> Axes:
    """The `index`-th singular value by layer, a line a class, on a logarithmic axis."""
    chosen = table[table["index"] == index]
    chosen = chosen.assign(**{"class": chosen["class"].map(class_title)})
    colours = class_colours(list(dict.fromkeys(chosen["class"])))
    sns.lineplot(chosen, x="layer", y="singular_value", hue="class", palette=colours, ax=ax, marker="o", ms=3)
    ax.set(yscale="log", ylabel="singular value", title=f"Singular value no. {index} of {table['index'].max()}")
    for axis in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        axis("{x:g}")
    return layer_axis(ax, int(table["layer"].max()))


def cosine_histogram(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """Densities of cosines within one image's masks and between images, from `robustness.cosine_counts`."""
    colours = {"within": "#0072B2", "between": "#E69F00"}
    names = {"within": "two masks of one image", "between": "two images"}
    for pair, name in names.items():
        rows = table[table["pair"] == pair]
        width = rows["cosine_to"] - rows["cosine_from"]
        style = {"color": colours[pair], "alpha": 0.65, "linewidth": 0, "align": "edge"}
        ax.bar(rows["cosine_from"], rows["density"], width, label=name, **style)
    low = table["cosine_from"].min()
    ax.set(title=title, xlabel="cosine of mean patch embeddings", ylabel="density", xlim=(max(-1, low - 0.02), 1.005))
    return ax


def norm_ranges(table: pd.DataFrame, ax: Axes, title: str) -> Axes:
    """The norms of each image's embeddings over its masks, a box an image."""
    order = table.groupby("image")["norm"].median().sort_values().index
    sns.boxplot(table, x="image", y="norm", order=order, color="#56B4E9", width=0.6, fliersize=2, linewidth=1, ax=ax)
    ax.set(title=title, xlabel="image (sorted by median norm)", ylabel="norm of the mean patch embedding")
    ax.set_xticks(range(len(order)), range(1, len(order) + 1) if len(order) <= 20 else [""] * len(order))
    return ax
