"""Rules for Section IV-A: what the pretrained encoder's tables show.

The rules know no profile: pixels are compared as shares of what uniform attention gives.
"""

import numpy as np
import pandas as pd

from mae_helpers.verdicts.finding import (
    BESIDE,
    CONTROL,
    ENCODER,
    Finding,
    NotTestedError,
    needed,
    select,
    spearman,
    thirds,
)

CLUSTERS_AT, PAPER_DISTANCE_PX, PAPER_UNIFORM_PX = (7, 9), (80, 120), 116.5


def classes_separate(table: pd.DataFrame, token: str) -> Finding:
    """Figs. 1, 2: kNN accuracy in the first and last third of the layers, pretrained and random weights."""
    means = (thirds(select(table, model, token=token), "knn_percent") for model in (ENCODER, CONTROL))
    (first, last), (random_first, random_last) = means
    rise, control = last - first, random_last - random_first
    if not np.isfinite(rise + control):
        raise NotTestedError("this run has no votes of neighbours: two images or more of each class are needed")
    words = f"kNN {first:.0f} % in the first third, {last:.0f} % in the last"
    words += f" (random weights: {random_first:.0f}, {random_last:.0f} %)"
    return Finding(words, rise >= 5 and rise >= control + 5, rise > max(0.0, control))


def emergence(table: pd.DataFrame) -> Finding:
    """Sec. IV-A1: where the mean patch tokens' silhouette climbs most over three layers."""
    rows = select(table, ENCODER, token="mean_patch").sort_values("layer")
    climb = rows.set_index("layer")["silhouette"].diff(3).dropna()
    if climb.empty:
        raise NotTestedError("this run has no silhouette: more than one image of a class, and four layers, are needed")
    layer, value, unit = int(climb.idxmax()), float(climb.max()), rows["layer"].max() / 12
    low, high = (edge * unit for edge in CLUSTERS_AT)
    words = f"steepest climb of the silhouette: +{value:.2f} over the three layers that end at layer {layer}"
    near = low - unit <= layer <= high + unit and value > 0
    return Finding(words, low <= layer <= high and value > 0, near)


def attention_is_global(table: pd.DataFrame, images: str = "first") -> Finding:
    """Fig. 3 right: the share of the pretrained model's heads within the paper's range."""
    rows = select(table, ENCODER, images=images)
    share = rows["distance_px"] / rows["uniform_px"]
    low, high = (edge / PAPER_UNIFORM_PX for edge in PAPER_DISTANCE_PX)
    inside = float(share.between(low, high).mean())
    words = f"{inside:.0%} of heads between {low:.0%} and {high:.0%} of uniform attention's distance; "
    words += f"all between {share.min():.0%} and {share.max():.0%}"
    return Finding(words, inside >= 0.9, inside >= 0.5, note="uniform attention itself gives 100 %")


def vit_starts_local(table: pd.DataFrame) -> Finding:
    """Fig. 3 left: the most local tenth of the heads in the first quarter of the layers, ViT and MAE."""
    early = table[table["layer"] <= table["layer"].max() // 4]
    rows = [select(early, model, images="first") for model in (BESIDE, ENCODER)]
    vit, mae = ((heads["distance_px"] / heads["uniform_px"]).quantile(0.1) for heads in rows)
    words = f"most local tenth of early heads: [beside] {vit:.0%}, [encoder] {mae:.0%} of uniform attention's distance"
    return Finding(words, vit < 0.5 < mae, vit < mae)


def angles_grow(table: pd.DataFrame) -> Finding:
    """Fig. 4: median and spread of theta_1 by layer, for the `main` choice of k and centring."""
    by_layer = table[table["main"] & (table["control"] == "between_classes")].groupby(["model", "layer"])["theta1_deg"]
    median, spread = by_layer.median(), by_layer.quantile(0.75) - by_layer.quantile(0.25)
    trained, control, width = median[ENCODER], median[CONTROL], spread[ENCODER]
    rise, correlation = trained.iloc[-1] - trained.iloc[0], spearman(trained)
    partly = rise > max(0.0, 1.5 * (control.iloc[-1] - control.iloc[0]))
    words = f"median {trained.iloc[0]:.1f} to {trained.iloc[-1]:.1f} degrees (rank correlation {correlation:.2f}); "
    words += f"interquartile range {width.iloc[0]:.1f} to {width.iloc[-1]:.1f}; "
    words += f"random weights: median {control.iloc[0]:.1f} to {control.iloc[-1]:.1f}"
    return Finding(words, partly and correlation >= 0.8 and width.iloc[-1] > width.iloc[0], partly)


def angles_are_about_classes(table: pd.DataFrame) -> Finding:
    """Sec. IV-A2: theta_1 in the last layer between classes, and under both controls."""
    last = select(table, ENCODER, main=True, layer=table["layer"].max())
    median = last.groupby("control")["theta1_deg"].median()
    controls = needed(median, "between_classes", "split_half", "shuffled_labels").drop("between_classes")
    classes = float(median["between_classes"])
    words = f"last layer, median: {classes:.1f} degrees between classes, {controls['split_half']:.1f} between halves "
    words += f"of a class, {controls['shuffled_labels']:.1f} with shuffled labels"
    return Finding(words, classes >= 1.5 * controls.max(), classes > controls.max())


def singular_values_grow(table: pd.DataFrame) -> Finding:
    """Sec. IV-A2: the largest singular value, and the smallest as in the released code, mean over classes."""
    rows, grown, words = select(table, ENCODER), [], []
    for index, name in ((1, "largest"), (rows["index"].max(), "smallest")):
        mean = rows[rows["index"] == index].groupby("layer")["singular_value"].mean()
        correlation = spearman(mean)
        grown.append(correlation >= 0.8 and mean.iloc[-1] > mean.iloc[0])
        words.append(f"{name} {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g} (rank correlation {correlation:.2f})")
    return Finding("; ".join(words), all(grown), any(grown))


def masks_agree(cosines: pd.DataFrame, table: pd.DataFrame) -> Finding:
    """Sec. III-B2: cosines and norms within an image's masks, against those between images."""
    pairs = select(cosines, ENCODER).set_index("pair")
    norms = select(table, ENCODER).groupby("image")["norm"]
    within, between = needed(pairs["cosine_median"], "within", "between")[["within", "between"]]
    inside, across = float((norms.max() - norms.min()).median()), float(norms.mean().max() - norms.mean().min())
    words = f"median cosine {within:.3f} within an image, {between:.3f} between images; a norm's range is {inside:.2f} "
    words += f"within an image (median) and {across:.2f} between images' means"
    control = cosines[cosines["model"] == CONTROL].set_index("pair")["cosine_median"]
    note = f"random weights: cosines {control['within']:.3f} and {control['between']:.3f}" if len(control) else ""
    full = pairs.loc["within", "cosine_p05"] > between and inside <= across / 3
    return Finding(words, full, within > between, note=note)
