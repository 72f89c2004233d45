"""Rules for Section IV-C: what the embeddings' directions and norms and the heads' features show.

Where a claim is about what stays, it must stay better than in an untrained network. In one that gives nearly the same for
every image nothing changes, and this shows nothing: so changes are shares of the way to another image, or class, and of
such a share in an untrained network at most two thirds may be found here.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd

from mae_helpers.verdicts.finding import (
    CLASSIFIER,
    CONTROL,
    Estimate,
    Finding,
    NotTestedError,
    accuracies,
    beats,
    depth,
    every,
    in_order_of_depth,
    needed,
    over,
    rank_correlation,
    resample,
    select,
    some,
)
from mae_helpers.verdicts.published import paper
from mae_helpers.verdicts.rules_classifier import GUIDED, slopes

BLUR, OCCLUSION = "gaussian_blur", "occlusion"
LEVELS = {BLUR: ("I", "IV", "VIII", "IX", "X"), OCCLUSION: (0, 30, 50, 60, 90)}  # that rules read
AT_MOST = 2 / 3  # of what changes in an untrained network
NOTHING = 1e-6  # what images or classes differ by at the least, where changes are shares of that


def by_level(images: pd.DataFrame, perturbation: str, value: str, model: str = CLASSIFIER) -> pd.DataFrame:
    """Means of a column by a perturbation's levels, which must have those that rules read, resampled over images."""
    where = {"model": model, "perturbation": perturbation}
    return over(images, "image", value, "level", *LEVELS[perturbation], **where)


def _less(table: pd.DataFrame, *shares: Callable[[str], pd.Series]) -> tuple[bool | None, str]:
    """Whether a model's shares are AT_MOST those of an untrained network, and they in words; True, "" without one."""
    if not (table["model"] == CONTROL).any():
        return True, ""
    less = every(*(beats(table, lambda model, of=of: -of(model), AT_MOST, CLASSIFIER) for of in shares))
    return less, " and ".join(f"{Estimate.of(of(CLASSIFIER)):.1%}" for of in shares)


def _way(images: pd.DataFrame, perturbation: str, model: str) -> pd.DataFrame:
    """By level, how far embeddings turn on the way to those of other images: mean 1 - cosine over mean 1 - others."""
    images = images.assign(turned=1 - images["cosine"], apart=1 - images["others"])
    turned, apart = (by_level(images, perturbation, value, model) for value in ("turned", "apart"))
    return turned / apart.clip(lower=NOTHING)


def _stays(
    images: pd.DataFrame, perturbation: str, first: object, last: object, bound: float
) -> tuple[bool | None, str]:
    """Whether the cosine from one level to another stays above a bound, and turns less than an untrained network's."""
    least = by_level(images, perturbation, "cosine").loc[first:last].min()
    less, way = _less(images, lambda model: _way(images, perturbation, model).loc[first:last].max())
    return every(Estimate.of(least).above(bound), less), way and f"; turned by up to {way} of the way to another image"


def _from_paper(cosine: pd.DataFrame, perturbation: str, level: object) -> str:
    published = paper("table3_cosine", "mean_cosine", perturbation=perturbation, level=str(level))
    return f"{cosine[0][level] - published:+.3f}"


def blur_cosine(images: pd.DataFrame) -> Finding:
    """Table III(a): the mean cosine at levels I to VIII."""
    cosine = by_level(images, BLUR, "cosine").loc["I":"VIII"]
    words = f"cosine {cosine[0]['I']:.3f} at I, {cosine[0]['VIII']:.3f} at VIII, least {Estimate.of(cosine.min()):.3f}"
    difference = f"{_from_paper(cosine, BLUR, 'VIII')} at level VIII"
    (full, turned), (partly, _) = (_stays(images, BLUR, "I", last, 0.8) for last in ("VIII", "IV"))
    return Finding(words + turned, full, partly, difference)


def blur_cosine_strongest(images: pd.DataFrame) -> Finding:
    """Table III(a): the mean cosine at level X."""
    cosine = by_level(images, BLUR, "cosine")
    (full, turned), (partly, _) = (_stays(images, BLUR, "X", "X", bound) for bound in (0.7, 0.55))
    return Finding(f"{Estimate.of(cosine.loc['X']):.3f}{turned}", full, partly, _from_paper(cosine, BLUR, "X"))


def occlusion_cosine(images: pd.DataFrame) -> Finding:
    """Table III(b): the mean cosine up to 60 %, and at 90 %."""
    cosine = by_level(images, OCCLUSION, "cosine")
    words = f"{Estimate.of(cosine.loc[60]):.3f} at 60 %, {Estimate.of(cosine.loc[90]):.3f} at 90 %"
    difference = ", ".join(f"{_from_paper(cosine, OCCLUSION, percent)} at {percent} %" for percent in (60, 90))
    (full, turned), (partly, _) = (_stays(images, OCCLUSION, 10, last, 0.75) for last in (60, 30))
    falls = Estimate.of(cosine.loc[60] - cosine.loc[90]).above(0)
    return Finding(words + turned, every(full, falls), partly, difference)


def wrong_are_less_aligned(images: pd.DataFrame, table1: pd.DataFrame) -> Finding:
    """Sec. IV-C: cosines of correctly and wrongly classified images, at the strongest level of either perturbation."""
    select(table1)
    gaps, words = [], []
    for perturbation, level, name in ((BLUR, "X", "blur X"), (OCCLUSION, "90", "90 % occlusion")):
        rows = select(images.astype({"level": str, "correct": str}), perturbation=perturbation, level=level)
        split = [rows.loc[rows["correct"] == kind, ["cosine"]] for kind in ("True", "False")]
        if min(map(len, split)) == 0:
            raise NotTestedError(f"at {name} all images are classified alike, right or wrong")
        right, wrong = (Estimate.of(resample(part).loc["cosine"]) for part in split)
        gaps.append(right - wrong)
        words.append(f"{right.value:.3f} and {wrong.value:.3f} at {name}, a gap of {gaps[-1]:.3f}")
    difference = f"{gaps[0].value - 0.626:+.3f} in the gap at blur X"
    return Finding("; ".join(words), every(gaps[0].above(0.2), gaps[1].above(0)), gaps[0].above(0), difference)


def _follows(pairs: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Finding:
    """Rank correlations over levels, each of two tables of which the second has the levels of the first."""
    found = {name: Estimate.of(rank_correlation(one, other.loc[one.index])) for name, (one, other) in pairs.items()}
    words = "rank correlation " + ", ".join(f"{one:.2f} for {name}" for name, one in found.items())
    truths = [one.above(0.7) for one in found.values()]
    return Finding(words, every(*truths), some(*truths))


def alignment_follows_accuracy(images: pd.DataFrame, table1: pd.DataFrame) -> Finding:
    """Sec. IV-C: rank correlation of cosine and accuracy over the levels of either perturbation, on the same images."""
    select(table1)
    images = images.assign(correct=100.0 * (images["correct"].astype(str) == "True"))
    kinds, both = {"blur": BLUR, "occlusion": OCCLUSION}, ("cosine", "correct")
    return _follows({name: tuple(by_level(images, kind, of) for of in both) for name, kind in kinds.items()})


def norms_hold(images: pd.DataFrame) -> Finding:
    """Sec. IV-C: the mean change of the norm as a share of the clean norm, over the levels of either perturbation."""

    def change(kind: str, model: str = CLASSIFIER) -> pd.Series:
        return by_level(images, kind, "relative_norm_difference", model).drop(["clean", 0], errors="ignore").median()

    def way(kind: str, model: str) -> pd.Series:
        return change(kind, model) / by_level(images, kind, "norm_deviation", model).iloc[0].clip(lower=NOTHING)

    found = [Estimate.of(change(kind)) for kind in (BLUR, OCCLUSION)]
    less, ways = _less(images, *(partial(way, kind) for kind in (BLUR, OCCLUSION)))
    words = f"{found[0]:.1%} of the norm for blur, {found[1]:.1%} for occlusion (medians over levels)"
    words += ways and f"; {ways} of the spread of norms"
    full, partly = (every(less, *(one.below(bound) for one in found)) for bound in (0.1, 0.2))
    return Finding(words, full, partly)


def _clean(features: pd.DataFrame, perturbation: str, model: str = CLASSIFIER) -> pd.DataFrame:
    """The rows of a perturbation's first level: each level has the clean counts, too."""
    rows = select(features, model, perturbation=perturbation)
    return rows[rows["level"] == rows["level"].iloc[0]]


def retained(features: pd.DataFrame, perturbation: str, model: str = CLASSIFIER) -> pd.DataFrame:
    """Common features that a head retains by level, the clean ones as `clean`, resampled over classes."""
    rows, clean = select(features, model, perturbation=perturbation), _clean(features, perturbation, model)
    clean = clean.assign(level="clean", retained_count=clean["clean_count"])
    by = {"unit": "class", "value": "retained_count", "by": "level", "model": model}
    levels = over(rows[rows["level"] != "clean"], **by).drop(index="clean", errors="ignore")
    return pd.concat([over(clean, **by), needed(levels, *LEVELS[perturbation])])


def _share(features: pd.DataFrame, perturbation: str, model: str = CLASSIFIER) -> pd.DataFrame:
    counts = retained(features, perturbation, model)
    return counts / counts.loc["clean"]


def _quotient(features: pd.DataFrame, perturbation: str, first: object, last: object) -> tuple[bool | None, str]:
    """Whether Q, the features lost as a share of those that another class has not, is less than in an untrained network."""

    def quotient(model: str) -> pd.Series:
        other = over(_clean(features, perturbation, model), "class", "shared_count", "level", model=model).iloc[0]
        counts = retained(features, perturbation, model)
        return (counts.loc["clean"] - counts.loc[first:last].min()) / (counts.loc["clean"] - other).clip(lower=NOTHING)

    less, largest = _less(features, quotient)
    return less, largest and f"; up to {largest} of a class's own lost (Q)"


def blur_features(features: pd.DataFrame) -> Finding:
    """Fig. 6: the share of the common features retained at levels I to VIII, and at X."""
    share = _share(features, BLUR)
    words = f"{100 * share[0]['I']:.0f} % retained at I, {Estimate.of(share.loc['VIII']):.0%} at VIII, {100 * share[0]['X']:.0f} % at X"
    least, (less, quotient) = Estimate.of(share.loc["I":"VIII"].min()), _quotient(features, BLUR, "I", "VIII")
    full, partly = (every(less, least.above(bound)) for bound in (0.8, 0.6))
    return Finding(words + quotient, full, partly)


def occlusion_features(features: pd.DataFrame) -> Finding:
    """Fig. 7: the share of the common features retained at 50 % and 60 %."""
    share = _share(features, OCCLUSION)
    half, sixty = (Estimate.of(share.loc[percent]) for percent in (50, 60))
    less, quotient = _quotient(features, OCCLUSION, 10, 60)
    full, partly = (every(less, half.above(a), sixty.above(b)) for a, b in ((0.6, 0.5), (0.4, 0.4)))
    return Finding(f"{half:.0%} retained at 50 %, {sixty:.0%} at 60 %{quotient}", full, partly)


def _thirds(features: pd.DataFrame, perturbation: str, model: str = CLASSIFIER) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`retained` in the first and in the last third of the layers, resampled alike."""
    last = depth(features["layer"], 3)
    first = retained(features[features["layer"] <= last / 3], perturbation, model)
    return first, retained(features[features["layer"] > last - last / 3], perturbation, model)


def deeper_layers_lose_more(features: pd.DataFrame) -> Finding:
    """Fig. 7: the share of the clean count lost from 60 % to 90 % in the first and in the last third of the layers."""

    def lost(model: str = CLASSIFIER) -> list[pd.Series]:
        return [(part.loc[60] - part.loc[90]) / part.loc["clean"] for part in _thirds(features, OCCLUSION, model)]

    def excess(model: str) -> pd.Series:
        first, last = lost(model)
        return last - first

    first, last = map(Estimate.of, lost())
    words = f"lost from 60 % to 90 %: {first:.0%} in the first third of the layers, {last:.0%} in the last, "
    words += f"{Estimate.of(100 * excess(CLASSIFIER)):+.0f} points"
    more, found = beats(features, excess, 1.5, CLASSIFIER), Estimate.of(excess(CLASSIFIER))
    return Finding(words, every(more, found.above(0.1)), every(more, found.above(0)))


def shallow_layers_have_more(features: pd.DataFrame) -> Finding:
    """Sec. IV-C: common features a head in the first and the last third of the layers, clean and under perturbation."""

    def excess(kind: str, model: str = CLASSIFIER) -> pd.DataFrame:
        first, last = _thirds(features, kind, model)
        return (first - last) / (first + last)

    rank = in_order_of_depth(over(_clean(features, BLUR), "class", "clean_count", "layer", model=CLASSIFIER))
    first, last = (part.loc["clean"] for part in _thirds(features, BLUR))
    always = [Estimate.of(excess(kind).min()).above(0) for kind in (BLUR, OCCLUSION)]
    contrast = Estimate.of(excess(BLUR).loc["clean"])
    more = beats(features, lambda model: excess(BLUR, model).loc["clean"], 1.5, CLASSIFIER)
    clearly = every(contrast.above(0), more)
    words = f"{Estimate.of(first):.2f} a head in the first third of the layers, {Estimate.of(last):.2f} in the last, clean, "
    words += f"a contrast of {contrast:.2f} (rank correlation with depth {rank:.2f}); "
    words += "so at every level" if all(always) else "not surely so at every level"
    return Finding(words, every(clearly, *always, rank.below(-0.5)), clearly)


def retention_follows_accuracy(features: pd.DataFrame, table1: pd.DataFrame, fig5: pd.DataFrame) -> Finding:
    """Sec. IV-C, V: rank correlation of retained features and accuracy over the levels of either perturbation."""
    blurred, occluded = accuracies(table1, "level"), accuracies(fig5, **GUIDED)
    pairs = {"blur": (retained(features, BLUR), blurred), "occlusion": (retained(features, OCCLUSION), occluded)}
    return _follows(pairs)


def _drop(features: pd.DataFrame, perturbation: str, model: str = CLASSIFIER) -> pd.DataFrame:
    """Fig. 8: the mean drop of the common features by level."""
    counts = retained(features, perturbation, model)
    return counts.loc["clean"] - counts.drop(index="clean")


def drop_rises_at_strongest_blur(features: pd.DataFrame) -> Finding:
    """Fig. 8a: what level X adds to the mean drop, against what the levels before added."""

    def sharper(model: str = CLASSIFIER) -> pd.Series:
        drop = _drop(features, BLUR, model)
        return (drop.loc["X"] - drop.loc["IX"]) - (drop.loc["IX"] - drop.loc["I"])

    drop = _drop(features, BLUR)
    words = f"{drop[0]['I']:.2f} at I, {drop[0]['IX']:.2f} at IX, {Estimate.of(drop.loc['X']):.2f} at X; "
    words += f"the last step less all from I to IX: {Estimate.of(sharper()):+.2f}"
    sharp = every(Estimate.of(sharper()).above(0), beats(features, sharper, 1.5, CLASSIFIER))
    rises = Estimate.of(drop.loc["X"] - drop.drop(index="X").max()).above(0)
    return Finding(words, every(sharp, rises), rises)


def drop_rises_beyond_sixty(features: pd.DataFrame) -> Finding:
    """Fig. 8b: growth of the mean drop a step, before and beyond 60 %."""

    def knee(model: str = CLASSIFIER) -> pd.Series:
        before, after = slopes(_drop(features, OCCLUSION, model))
        return after - 1.5 * before

    before, after = map(Estimate.of, slopes(_drop(features, OCCLUSION)))
    steady = bool((_drop(features, OCCLUSION)[0].diff().dropna() > 0).all())
    words = f"{before:.2f} features a step of 10 % up to 60 %, {after:.2f} beyond; {'' if steady else 'not '}steady"
    sharp = every(Estimate.of(knee()).above(0), beats(features, knee, 1.5, CLASSIFIER))
    return Finding(words, every(steady, sharp), every(steady, before.above(0)))
