"""The figure of the landing page: six of the book's figures in small, drawn from the tables of a run."""

from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mae_helpers.figures.alignment import against
from mae_helpers.figures.style import curves, layer_axis, layer_curves, panels
from mae_helpers.figures.subspaces import control_curves

ACCURACY = {"ylabel": "top-1 accuracy (%)", "ylim": (0, 100)}


def _separation(table: pd.DataFrame, ax: Axes, study: Mapping[str, str]) -> None:
    rows = table[table["token"] == "mean_patch"]
    layer_curves(rows, "knn_percent", "kNN accuracy (%)", ax, rows["chance_percent"].iloc[0])


def _distance(table: pd.DataFrame, ax: Axes, study: Mapping[str, str]) -> None:
    rows = table[(table["images"] == "first") & (table["model"] != "random")]
    shares = (100 * rows["distance_px"] / rows["uniform_px"]).groupby([rows["model"], rows["layer"]], sort=False)
    ends = shares.agg(["min", "median", "max"]).reset_index()
    curves(ends, "layer", "median", ax, band=("min", "max"), ms=3)
    ax.axhline(100, color="black", lw=1, ls=":", label="uniform attention")
    ax.set(ylabel="% of uniform", ylim=(0, None))
    layer_axis(ax, rows["layer"])


def _angles(table: pd.DataFrame, ax: Axes, study: Mapping[str, str]) -> None:
    control_curves(table[(table["model"] == study["encoder"]) & table["main"]], ax, "")
    ax.legend(fontsize="x-small")


def _blur(table: pd.DataFrame, ax: Axes, study: Mapping[str, str]) -> None:
    curves(table, "level", "top1_percent", ax, band=("top1_low", "top1_high"))
    ax.set(xlabel="blur level", **ACCURACY)
    ax.tick_params(axis="x", labelsize="x-small", rotation=45)


def _occlusion(table: pd.DataFrame, ax: Axes, study: Mapping[str, str]) -> None:
    rows = table[table["ranking"] == "cls_rollout"]
    curves(rows, "occlusion_percent", "top1_percent", ax, band=("top1_low", "top1_high"))
    ax.set(xlabel="masked patches (%)", **ACCURACY)


def _alignment(table: pd.DataFrame, ax: Axes, study: Mapping[str, str]) -> None:
    rows = table[(table["model"] == study["classifier"]) & (table["perturbation"] == "gaussian_blur")]
    against(rows, "mean_cosine", "top1_percent", "level", ax)
    ax.set(xlabel="mean cosine with clean", ylabel=ACCURACY["ylabel"])


# By table: what it shows, and how.
PANELS: dict[str, tuple[str, Callable[[pd.DataFrame, Axes, Mapping[str, str]], None]]] = {
    "fig1_fig2_separability": ("Classes by layer", _separation),
    "fig3_attention_distance": ("Attention distance", _distance),
    "fig4_principal_angles": ("Class subspaces", _angles),
    "table1_blur": ("Gaussian blur", _blur),
    "fig5_occlusion": ("Most attended masked", _occlusion),
    "table3_cosine": ("Direction under blur", _alignment),
}


def overview(tables: Mapping[str, pd.DataFrame], study: Mapping[str, str]) -> Figure:
    """A panel for each table of PANELS, empty where it is missing; `study` has the models that some show alone."""
    figure, axes = panels(len(PANELS), 3)
    figure.set_size_inches(10, 5.6)
    names = {}
    for letter, ax, (name, (title, draw)) in zip("abcdef", axes, PANELS.items(), strict=True):
        if name in tables:
            draw(tables[name], ax, study)
            if ax.get_legend() is None:  # one of its own is for lines with other names
                names |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        else:
            ax.text(0.5, 0.5, "not computed in this run", ha="center", transform=ax.transAxes)
            ax.set(xticks=[], yticks=[])
        ax.set_title(f"$\\bf{{{letter}}}$  {title}", loc="left", fontsize="medium")
    figure.legend(names.values(), names, loc="outside lower center", ncols=4, fontsize="small")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.12)
    return figure
