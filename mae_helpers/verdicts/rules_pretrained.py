"""Rules for Section IV-A: what the pretrained encoder's tables show, beyond what random weights show.

The rules know no profile: pixels are compared as shares of what uniform attention gives.
"""

from functools import partial

import numpy as np
import pandas as pd

from mae_helpers.verdicts.finding import (
    BESIDE,
    CONTROL,
    ENCODER,
    Estimate,
    Finding,
    NotTestedError,
    beats,
    depth,
    every,
    in_order_of_depth,
    needed,
    over,
    redrawn,
    resample,
    select,
)

CLUSTERS_AT, PAPER_UNIFORM_PX = (7, 9), 116.5
GLOBAL = tuple(edge / PAPER_UNIFORM_PX for edge in (80, 120))  # the paper's pixels as shares of uniform attention's


def _estimates(table: pd.DataFrame, name: str, **where: object) -> pd.DataFrame:
    """A measure by layer with the ends of its interval: value, low, high."""
    rows = select(table, **where).set_index("layer").sort_index()
    value = name if name in rows else f"{name}_percent"
    return rows[[value, f"{name}_low", f"{name}_high"]].set_axis(["value", "low", "high"], axis=1)


def classes_separate(table: pd.DataFrame, token: str) -> Finding:
    """Figs. 1, 2: kNN accuracy by thirds of the layers, with trained and with random weights."""
    thirds = {}
    for model in (ENCODER, CONTROL):
        knn = _estimates(table, "knn", model=model, token=token)
        if not np.isfinite(knn["value"]).all():
            raise NotTestedError("this run has no votes of neighbours: two images or more of each class are needed")
        means = knn.groupby((knn.index - 1) // (depth(knn.index, 3) / 3)).mean()
        thirds[model] = [Estimate(*row) for row in means.itertuples(index=False)]
    (first, middle, last), (random_first, *_, random_last) = thirds[ENCODER], thirds[CONTROL]
    rise, control = last - first, random_last - random_first
    words = f"kNN accuracy by thirds of the layers: {first:.1f}, {middle:.1f}, {last:.1f} %; rise {rise:.1f} points"
    more, in_order = (rise - control).above(0), first.value < middle.value < last.value
    return Finding(words, every(rise.above(10), more, in_order), every(more, rise.above(0)))


def emergence(table: pd.DataFrame, token: str) -> Finding:
    """Sec. IV-A1: where the tokens' silhouette climbs most over three layers."""

    def climbs(model: str) -> dict[int, Estimate]:
        rows = _estimates(table, "silhouette", model=model, token=token).dropna()
        layers = [Estimate(*row) for row in rows.itertuples(index=False)]
        pairs = zip(rows.index[3:], layers[3:], layers, strict=False)
        return {int(layer): after - before for layer, after, before in pairs}

    found, control = climbs(ENCODER), climbs(CONTROL)
    if not found or not control:
        raise NotTestedError("this run has no silhouette: more than one image of a class, and four layers, are needed")
    (at, steepest), untrained = (max(by.items(), key=lambda item: item[1].value) for by in (found, control))
    unit = select(table, ENCODER)["layer"].max() / 12
    low, high = (edge * unit for edge in CLUSTERS_AT)
    words = f"steepest climb of the silhouette: {steepest:+.2f} over the three layers that end at layer {at}"
    more = every(steepest.above(0), (steepest - untrained[1]).above(0))
    return Finding(words, every(low <= at <= high, more), every(low - unit <= at <= high + unit, more))


def _shares(table: pd.DataFrame, model: str, images: str = "first") -> pd.DataFrame:
    """Each head's distance as a share of uniform attention's: heads by `share`, and their layer."""
    rows = select(table, model, images=images)
    return pd.DataFrame({"share": rows["distance_px"] / rows["uniform_px"], "layer": rows["layer"]})


def attention_is_global(table: pd.DataFrame, images: str = "first") -> Finding:
    """Fig. 3 right: the share of the pretrained model's heads within the paper's range, and how far they are from uniform."""

    def away(model: str) -> pd.Series:
        share = _shares(table, model, images)[["share"]]
        return resample((share - 1).abs().where(share.ge(GLOBAL[0]) & share.le(GLOBAL[1]), 0.0)).loc["share"]

    share = _shares(table, ENCODER, images)["share"]
    low, high = GLOBAL
    inside = float(share.between(low, high).mean())
    words = f"{100 * inside:.0f} % of heads between {100 * low:.0f} % and {100 * high:.0f} % of uniform attention's distance; "
    words += f"all between {100 * share.min():.0f} % and {100 * share.max():.0f} %; on average {Estimate.of(away(ENCODER)):.1%} away from it (0 for those outside)"
    selective = beats(table[table["images"] == images], away, 1.5, ENCODER)
    note = "uniform attention itself gives 100 %"
    return Finding(words, every(inside >= 0.9, selective), every(inside >= 0.5, selective), note=note)


def vit_starts_local(table: pd.DataFrame) -> Finding:
    """Fig. 3 left: the most local tenth of the heads in the first quarter of the layers, ViT and MAE."""
    early = table[table["layer"] <= depth(table["layer"], 4) // 4]
    tenths = (redrawn(_shares(early, model)[["share"]], partial(np.quantile, q=0.1)) for model in (BESIDE, ENCODER))
    vit, mae = (Estimate.of(100 * tenth.loc["share"]) for tenth in tenths)
    words = f"most local tenth of early heads, in percent of uniform attention's distance: [beside] {vit:.1f}, "
    words += f"[encoder] {mae:.1f}; [encoder] less [beside] {mae - vit:+.1f} points"
    return Finding(words, every(vit.below(50), mae.above(50)), (mae - vit).above(10))


def vit_expands(table: pd.DataFrame) -> Finding:
    """Sec. IV-A1, "while deeper layers gradually incorporate more global context": the supervised ViT's heads by depth."""
    shares = _shares(table, BESIDE)
    last = depth(shares["layer"], 3)
    heads = shares.assign(head=shares.groupby("layer").cumcount())
    rank = in_order_of_depth(resample(heads.pivot(index="head", columns="layer", values="share")))
    ends = shares[shares["layer"] <= last / 3], shares[shares["layer"] > last - last / 3]
    first, deep = (Estimate.of(100 * resample(part[["share"]]).loc["share"]) for part in ends)
    words = f"[beside]: means of {first:.0f} % of uniform attention's distance in the first third of the layers and {deep:.0f} % "
    words += f"in the last, {deep - first:+.0f} points (rank correlation of layers' means with depth {rank:.2f})"
    grows = (deep - first).above(10)
    return Finding(words, every(grows, rank.above(0.8)), grows)


def _angles(table: pd.DataFrame, model: str, control: str = "between_classes") -> pd.DataFrame:
    """Medians of theta_1 over pairs by layer, for the `main` choice of k and centring; pairs are drawn anew."""
    rows = select(table, model, main=True, control=control)
    return redrawn(rows.pivot_table(index=["class_a", "class_b"], columns="layer", values="theta1_deg"), np.median)


def angles_grow(table: pd.DataFrame) -> Finding:
    """Fig. 4: median and spread of theta_1 by layer, for the `main` choice of k and centring."""

    def rise(model: str) -> pd.Series:
        medians = _angles(table, model)
        return medians.iloc[-1] - medians.iloc[0]

    depth(table["layer"], 2)
    rows = select(table, ENCODER, main=True, control="between_classes").groupby("layer")["theta1_deg"]
    width, median = rows.quantile(0.75) - rows.quantile(0.25), rows.median()
    rank, found = in_order_of_depth(_angles(table, ENCODER)), Estimate.of(rise(ENCODER))
    words = f"median {median.iloc[0]:.1f} to {median.iloc[-1]:.1f} degrees, rise {found:.1f} "
    words += f"(rank correlation {rank:.2f}); interquartile range {width.iloc[0]:.1f} to {width.iloc[-1]:.1f}"
    more = every(found.above(0), beats(table, rise, 1.5, ENCODER))
    return Finding(words, every(more, rank.above(0.8), bool(width.iloc[-1] > width.iloc[0])), more)


def angles_are_about_classes(table: pd.DataFrame) -> Finding:
    """Sec. IV-A2: theta_1 in the last layer between classes, and under both controls."""

    def ratio(model: str) -> pd.Series:
        return last(model, "between_classes") / np.maximum(last(model, "split_half"), last(model, "shuffled_labels"))

    def last(model: str, control: str) -> pd.Series:
        return _angles(table, model, control).iloc[-1]

    medians = [last(ENCODER, kind)[0] for kind in ("between_classes", "split_half", "shuffled_labels")]
    words = "last layer, median: {:.1f} degrees between classes, {:.1f} between halves of a class, {:.1f} with shuffled labels"
    more, found = beats(table, ratio, 1.2, ENCODER), Estimate.of(ratio(ENCODER))
    words = words.format(*medians) + f"; {found:.2f} times the larger of these"
    return Finding(words, every(more, found.above(1.5)), every(more, found.above(1)))


def singular_values_grow(table: pd.DataFrame) -> Finding:
    """Sec. IV-A2: the largest singular value, and the smallest as in the released code, mean over classes."""
    depth(table["layer"], 2)
    truths, words = [], []
    for index, name in ((1, "largest"), (select(table, ENCODER)["index"].max(), "smallest")):
        rows = table[table["index"] == index]

        def growth(model: str, rows: pd.DataFrame = rows) -> pd.Series:
            by_layer = over(rows, "class", "singular_value", "layer", model=model)
            return by_layer.iloc[-1] / by_layer.iloc[0]

        means, found = over(rows, "class", "singular_value", "layer", model=ENCODER), Estimate.of(growth(ENCODER))
        rank = in_order_of_depth(means)
        more = every(found.above(1), beats(rows, growth, 1.25, ENCODER))
        truths.append(every(more, rank.above(0.8)))
        ends = f"{means[0].iloc[0]:.3g} to {means[0].iloc[-1]:.3g}"
        words.append(f"{name} {ends}, times {found:.2f}, rank correlation {rank:.2f}")
    return Finding("; ".join(words), every(*truths), any(truths))


def masks_agree(cosines: pd.DataFrame, table: pd.DataFrame) -> Finding:
    """Sec. III-B2: cosines and norms within an image's masks, against those between images."""

    def apart(model: str) -> pd.Series:
        """How much farther other images are than other masks of the same: (1 - between) / (1 - within)."""
        between = select(cosines, model, pair="between")["cosine_median"].item()
        turned = select(table, model).assign(turned=lambda rows: 1 - rows["cosine_to_mean"])
        return (1 - between) / resample(turned.groupby("image")[["turned"]].mean()).loc["turned"]

    pairs = select(cosines, ENCODER).set_index("pair")
    norms = select(table, ENCODER).groupby("image")["norm"]
    within, between = needed(pairs["cosine_median"], "within", "between")[["within", "between"]]
    inside, across = float((norms.max() - norms.min()).median()), float(norms.mean().max() - norms.mean().min())
    words = f"median cosine {within:.3f} within an image (lowest 5 %: {pairs['cosine_p05']['within']:.3f}), "
    words += f"{between:.3f} between images, {Estimate.of(apart(ENCODER)):.1f} times as far; a norm's range is {inside:.2f} within an image "
    words += f"(median) and {across:.2f} between images' means"
    more = every(bool(within > between), beats(table, apart, 1.5, ENCODER))
    full = every(more, bool(pairs.loc["within", "cosine_p05"] > between), inside <= across / 3)
    return Finding(words, full, more)
