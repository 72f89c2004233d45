"""Figures of Sections IV-B and IV-C: accuracy, rollout, corruptions, alignment and head features."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mae_helpers.figures.style import MODEL_COLOURS, MODEL_NAMES, class_title, panels

RANKING_NAMES = {
    "cls_rollout": "most attended by CLS (paper)",
    "patch_rollout": "most attended by patches",
    "random": "random patches",
}
RANKING_COLOURS = {"cls_rollout": "#CC79A7", "patch_rollout": "#009E73", "random": "#7F7F7F"}
NAMES = MODEL_NAMES | RANKING_NAMES
COLOURS = MODEL_COLOURS | RANKING_COLOURS
MARKERS = {"vit_supervised": "s", "random": "^", "patch_rollout": "D"}


def level_curves(
    table: pd.DataFrame,
    x: str,
    y: str,
    ax: Axes,
    *,
    band: tuple[str, str] | None = None,
    hue: str = "model",
    joined: bool = True,
) -> Axes:
    """A measure against the level of a perturbation, a line for each value of `hue`, with intervals where there are.

    Levels stand in the table's order; `band` names the columns with an interval's ends. Kinds that have no order are not
    `joined`: points with error bars.
    """
    for value, rows in table.groupby(hue, sort=False):
        style = {"color": COLOURS[value], "marker": MARKERS.get(value, "o"), "ms": 4}
        places = rows[x].infer_objects()  # a column of numbers that came from a mixed one is numeric again
        if not joined:
            error = np.abs(rows[list(band)].to_numpy().T - rows[y].to_numpy())
            side_by_side = np.arange(len(rows)) + 0.12 * (list(table[hue].unique()).index(value) - 0.5)
            ax.set_xticks(range(len(rows)), [str(place).replace("_", " ") for place in places])
            ax.errorbar(side_by_side, rows[y], error, label=NAMES[value], ls="", capsize=4, **style)
            continue
        ax.plot(places, rows[y], label=NAMES[value], **style)
        if band:
            ax.fill_between(places, rows[band[0]], rows[band[1]], color=COLOURS[value], alpha=0.18, linewidth=0)
    return ax


def published_curve(x: Sequence, y: Sequence[float], ax: Axes) -> Axes:
    """The paper's values in grey: another model and other data, wherever the profile is not the paper's."""
    ax.plot(x, y, ls="--", lw=1.2, marker="x", ms=4, color="#999999", label="paper (MAE ViT-B, ImageNet)", zorder=1)
    return ax


def against(table: pd.DataFrame, x: str, y: str, label: str, ax: Axes) -> Axes:
    """One measure against another, a point a level, joined in the order of x; names stand where there is room."""
    spans, named = np.ptp(table[[x, y]].to_numpy(float), axis=0), []
    for model, rows in table.groupby("model", sort=False):
        rows = rows.sort_values(x)
        marker = MARKERS.get(model, "o")
        ax.plot(rows[x], rows[y], marker=marker, ms=5, lw=0.8, color=MODEL_COLOURS[model], label=MODEL_NAMES[model])
        for row in rows.itertuples():
            place = (getattr(row, x), getattr(row, y))
            away = [np.abs(np.subtract(place, other)) / np.where(spans, spans, 1) for other in named]
            if any(width < 0.1 and height < 0.1 for width, height in away):
                continue
            named.append(place)
            text, style = str(getattr(row, label)), {"textcoords": "offset points", "color": MODEL_COLOURS[model]}
            ax.annotate(text, place, (3, 4), fontsize=8, **style)
    return ax


def rollout_overlays(pictures: Sequence[np.ndarray], scores: dict[str, np.ndarray], titles: Sequence[str]) -> Figure:
    """Images (H, W, 3) and below them their rollout scores (images, N) as heatmaps, a row a name in `scores`."""
    rows = 1 + len(scores)
    figure, axes = panels(rows * len(pictures), len(pictures), 1.35)
    side = pictures[0].shape[0]
    for place, ax in enumerate(axes):
        row, column = divmod(place, len(pictures))
        ax.imshow(np.clip(pictures[column], 0, 1), interpolation="nearest")
        if row:
            values = list(scores.values())[row - 1]
            grid = round(values.shape[1] ** 0.5)
            heat = values[column].reshape(grid, grid)
            ax.imshow(heat, cmap="inferno", alpha=0.65, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
        if column == 0:
            ax.set_ylabel(list(scores)[row - 1] if row else "image", fontsize=8)
        ax.set(xticks=[], yticks=[])
        if row == 0:
            ax.set_title(class_title(titles[column]), fontsize=8)
    return figure


def corruption_heatmap(table: pd.DataFrame, ax: Axes) -> Axes:
    """Accuracy of one model by corruption and severity."""
    wide = table.pivot_table(index="corruption", columns="severity", values="top1_percent", sort=False)
    wide.index = [name.replace("_", " ") for name in wide.index]
    sns.heatmap(
        wide, ax=ax, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f", cbar=False, annot_kws={"fontsize": 8}
    )
    ax.set(title=MODEL_NAMES[table["model"].iloc[0]], ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return ax


def cosine_split(per_image: pd.DataFrame, ax: Axes) -> Axes:
    """The cosines of correctly and of wrongly classified images, as densities over steps, with their medians."""
    colours = {True: "#0072B2", False: "#D55E00"}
    bins = np.linspace(min(0.0, per_image["cosine"].min()), 1, 41)
    for correct, name in ((True, "correct"), (False, "wrong")):
        values = per_image.loc[per_image["correct"] == correct, "cosine"]
        if len(values):
            label = f"{name} ({len(values)})"
            ax.hist(values, bins=bins, density=True, color=colours[correct], alpha=0.55, label=label)
            ax.axvline(values.median(), color=colours[correct], lw=1.5, ls="--")
    ax.set(xlabel="cosine with the clean embedding", ylabel="density")
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper left")
    return ax


def feature_heatmaps(table: pd.DataFrame, largest: int, xlabel: str) -> Figure:
    """Figs. 6, 7: a panel a layer, heads by levels, coloured by the features that stay common; `largest` is k.

    `table` has layer, head, level (in order) and retained_count; several classes are averaged.
    """
    layers = sorted(table["layer"].unique())
    figure, axes = panels(len(layers), 4, 2.5, sharex=True, sharey=True)
    levels = list(dict.fromkeys(table["level"]))
    for ax, layer in zip(axes, layers, strict=True):
        rows = table[table["layer"] == layer]
        wide = rows.pivot_table(index="head", columns="level", values="retained_count", sort=False).sort_index()[levels]
        picture = ax.imshow(wide, vmin=0, vmax=largest, cmap="viridis", aspect="auto")
        ax.set(xticks=range(len(levels)), yticks=range(0, len(wide), 3), yticklabels=wide.index[::3])
        ax.set_xticklabels(levels, rotation=90, fontsize=7)
        ax.set_title(f"Layer {layer}", fontsize=9)
        ax.grid(False)
    for place, ax in enumerate(axes):
        if place % 4 == 0:
            ax.set_ylabel("head")
    figure.colorbar(
        picture,
        ax=axes,
        label="common features (mean over classes)" if len(set(table["class"])) > 1 else "common features",
        shrink=0.6,
    )
    figure.supxlabel(xlabel)
    return figure


def verdict_bars(counts: pd.DataFrame, ax: Axes) -> Axes:
    """How many claims have which verdict, stacked, a bar a section; `counts` has sections by verdicts."""
    colours = {"supported": "#009E73", "partly": "#F0E442", "not supported": "#D55E00", "not tested here": "#BBBBBB"}
    counts.plot.barh(stacked=True, color=[colours[name] for name in counts.columns], ax=ax, width=0.65)
    for bars in ax.containers:
        ax.bar_label(bars, [f"{value:.0f}" if value else "" for value in bars.datavalues], label_type="center")
    ax.set(xlabel="claims", ylabel="")
    ax.invert_yaxis()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=len(counts.columns), title=None, fontsize=9)
    return ax
