"""The paper's claims as rules on the tables: what was said, what this run shows, and whether that supports it.

A rule returns one row: claim, where, paper, here, verdict, note. The verdict is `supported`, `partly` or
`not supported`. The rules know no profile: pixels are compared as shares of what uniform attention gives.
"""

import pandas as pd
from pandas.io.formats.style import Styler
from scipy.stats import spearmanr

SUPPORTED, PARTLY, NOT_SUPPORTED = "supported", "partly", "not supported"
CLUSTERS_AT = (7, 9)
PAPER_DISTANCE_PX, PAPER_IMAGE_PX, PAPER_UNIFORM_PX = (80, 120), 224, 116.5


def _row(claim: str, where: str, paper: str, here: str, verdict: str, note: str = "") -> dict[str, str]:
    return {"claim": claim, "where": where, "paper": paper, "here": here, "verdict": verdict, "note": note}


def _grade(full: bool, half: bool) -> str:
    return SUPPORTED if full else PARTLY if half else NOT_SUPPORTED


def _thirds(table: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Means of a column over the first, middle and last third of the layers."""
    edges = table["layer"].max() / 3
    means = table.groupby((table["layer"] - 1) // edges)[column].mean()
    return tuple(float(value) for value in means)


def classes_separate(table: pd.DataFrame, token: str) -> dict[str, str]:
    """Figs. 1, 2: kNN accuracy rises from the first to the last third of the layers, more than with random weights.

    Supported: by 5 points or more, and 5 more than for random weights; partly: any rise that exceeds the control's.
    """
    rows = table[table["token"] == token]
    first, _, last = _thirds(rows[rows["model"] == "mae_pretrained"], "knn_percent")
    control_first, _, control_last = _thirds(rows[rows["model"] == "random"], "knn_percent")
    rise, control = last - first, control_last - control_first
    names = {"cls": "CLS tokens", "mean_patch": "mean patch tokens", "patch": "patch tokens"}
    return _row(
        f"{names[token]} of different classes separate with depth",
        "Fig. 2" if token == "patch" else "Fig. 1",
        "overlap early, clusters from layers 7-9",
        f"kNN {first:.0f} % in the first third, {last:.0f} % in the last (random weights: {control_first:.0f}, "
        f"{control_last:.0f} %)",
        _grade(rise >= 5 and rise >= control + 5, rise > max(0.0, control)),
    )


def emergence(table: pd.DataFrame, token: str = "mean_patch") -> dict[str, str]:
    """Sec. IV-A1: the largest part of the rise in silhouette comes at layers 7-9.

    Supported: the steepest three-layer climb ends within layers 7-9; partly: within one layer of them.
    """
    rows = table[(table["token"] == token) & (table["model"] == "mae_pretrained")].sort_values("layer")
    climb = rows.set_index("layer")["silhouette"].diff(3).dropna()
    layer, value = int(climb.idxmax()), float(climb.max())
    low, high = (edge * rows["layer"].max() / 12 for edge in CLUSTERS_AT)
    return _row(
        "clusters emerge around layers 7-9",
        "Fig. 1, Sec. IV-A1",
        "layers 7-9",
        f"steepest climb of the silhouette: +{value:.2f} over the three layers that end at layer {layer}",
        _grade(low <= layer <= high and value > 0, low - 1 <= layer <= high + 1 and value > 0),
    )


def attention_is_global(table: pd.DataFrame) -> dict[str, str]:
    """Fig. 3 right: MAE's heads lie at 80-120 of 224 px, that is 68-103 % of uniform attention's distance, in all layers.

    Supported: 90 % of the heads do; partly: half of them.
    """
    rows = table[table["model"] == "mae_pretrained"]
    share = rows["distance_px"] / rows["uniform_px"]
    low, high = (edge / PAPER_UNIFORM_PX for edge in PAPER_DISTANCE_PX)
    inside = float(share.between(low, high).mean())
    return _row(
        "MAE attends globally in all heads and layers",
        "Fig. 3, right",
        "80-120 of 224 px",
        f"{100 * inside:.0f} % of heads between {low:.0%} and {high:.0%} of uniform attention's distance; "
        f"all between {share.min():.0%} and {share.max():.0%}",
        _grade(inside >= 0.9, inside >= 0.5),
        "uniform attention itself gives 100 %",
    )


def vit_starts_local(table: pd.DataFrame) -> dict[str, str]:
    """Fig. 3 left: a supervised ViT's first layers hold local heads, and MAE's do not.

    Supported: the most local tenth of the heads in the first quarter of the layers spans less than half of uniform
    attention's distance in ViT and more than in ViT in MAE; partly: one of the two.
    """
    early = table[table["layer"] <= table["layer"].max() // 4]
    share = early["distance_px"] / early["uniform_px"]
    local = share.groupby(early["model"]).quantile(0.1)
    vit, mae = float(local["vit_supervised"]), float(local["mae_pretrained"])
    return _row(
        "ViT's early heads are local, MAE's are not",
        "Fig. 3, left and right",
        "local heads in ViT only",
        f"most local tenth of early heads: ViT {vit:.0%}, MAE {mae:.0%} of uniform attention's distance",
        _grade(vit < 0.5 and mae > vit, vit < 0.5 or mae > vit),
    )


def angles_grow(table: pd.DataFrame) -> dict[str, str]:
    """Fig. 4: median and spread of theta_1 grow with depth. `table` holds one k, one centring, every control.

    Supported: rank correlation of the median with depth at least 0.8, spread larger in the last layer than in the
    first, and a larger rise than with random weights; partly: the median rises by more than with random weights.
    """
    between = table[table["control"] == "between_classes"]
    by_layer = between.groupby(["model", "layer"])["theta1_deg"]
    median, spread = by_layer.median(), by_layer.quantile(0.75) - by_layer.quantile(0.25)
    trained, control = median["mae_pretrained"], median["random"]
    rise, control_rise = trained.iloc[-1] - trained.iloc[0], control.iloc[-1] - control.iloc[0]
    correlation = float(spearmanr(trained.index, trained).statistic)
    wider = spread["mae_pretrained"].iloc[-1] > spread["mae_pretrained"].iloc[0]
    half = rise > max(0.0, control_rise)
    return _row(
        "principal angles between classes grow with depth, in median and spread",
        "Fig. 4",
        "both grow",
        f"median {trained.iloc[0]:.1f} to {trained.iloc[-1]:.1f} degrees (rank correlation {correlation:.2f}); "
        f"interquartile range {spread['mae_pretrained'].iloc[0]:.1f} to {spread['mae_pretrained'].iloc[-1]:.1f}; "
        f"random weights: median {control.iloc[0]:.1f} to {control.iloc[-1]:.1f}",
        _grade(half and correlation >= 0.8 and wider, half),
    )


def angles_are_about_classes(table: pd.DataFrame) -> dict[str, str]:
    """Sec. IV-A2: it is classes that diverge: theta_1 between classes exceeds both controls in the last layer.

    Supported: the median is 1.5 times the larger control's or more; partly: it is larger.
    """
    last = table[(table["model"] == "mae_pretrained") & (table["layer"] == table["layer"].max())]
    median = last.groupby("control")["theta1_deg"].median()
    classes, controls = float(median["between_classes"]), median.drop("between_classes")
    return _row(
        "the divergence is between classes, not just between images",
        "Sec. IV-A2",
        "class-specific (no control shown)",
        f"last layer, median: {classes:.1f} degrees between classes, {controls['split_half']:.1f} between halves of a "
        f"class, {controls['shuffled_labels']:.1f} with shuffled labels",
        _grade(classes >= 1.5 * controls.max(), classes > controls.max()),
    )


def singular_values_grow(table: pd.DataFrame) -> dict[str, str]:
    """Sec. IV-A2: singular values grow with depth: largest, and smallest as in the released code, mean over classes.

    Supported: both larger in the last layer than in the first with rank correlations of 0.8 or more; partly: one.
    """
    rows = table[table["model"] == "mae_pretrained"]
    grown, words = [], []
    for index, name in ((1, "largest"), (rows["index"].max(), "smallest")):
        mean = rows[rows["index"] == index].groupby("layer")["singular_value"].mean()
        correlation = float(spearmanr(mean.index, mean).statistic)
        grown.append(correlation >= 0.8 and mean.iloc[-1] > mean.iloc[0])
        words.append(f"{name} {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g} (rank correlation {correlation:.2f})")
    return _row(
        "singular values grow with depth", "Sec. IV-A2", "they grow", "; ".join(words), _grade(all(grown), any(grown))
    )


def masks_agree(cosines: pd.DataFrame, table: pd.DataFrame) -> dict[str, str]:
    """Sec. III-B2: embeddings of one image under different masks agree in direction and norm, those of images do not.

    `cosines` (pair, cosine) and `table` (masking_invariance) of the pretrained model. Supported: the lowest 5 % within
    exceed the median between images, and the norms' range within an image is at most a third of that between images'
    means; partly: the medians are in that order.
    """
    within, between = (cosines.loc[cosines["pair"] == pair, "cosine"] for pair in ("within", "between"))
    norms = table.groupby("image")["norm"].agg(["min", "max", "mean"])
    inside = float((norms["max"] - norms["min"]).median())
    across = float(norms["mean"].max() - norms["mean"].min())
    return _row(
        "embeddings are largely invariant to the random mask",
        "Sec. III-B2",
        "aligned in direction; norms 92.4-95.4 for one image",
        f"median cosine {within.median():.3f} within an image, {between.median():.3f} between images; a norm's range is "
        f"{inside:.2f} within an image (median) and {across:.2f} between images' means",
        _grade(within.quantile(0.05) > between.median() and inside <= across / 3, within.median() > between.median()),
    )


def show(*rows: dict[str, str]) -> Styler:
    """Claims as the table at a chapter's end: whole texts, no row numbers, no column that is empty throughout."""
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()].style.hide(axis="index").set_uuid("claims")
