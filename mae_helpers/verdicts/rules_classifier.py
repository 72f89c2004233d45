"""Rules for Section IV-B: what the classifier's accuracy under perturbation shows, as shares of the clean accuracy.

Shares are of what the accuracy on clean images is above chance: a classifier that guesses keeps nothing.
"""

from itertools import pairwise

import pandas as pd

from mae_helpers.measures.accuracy import top1_percent
from mae_helpers.verdicts.finding import (
    BESIDE,
    CLASSIFIER,
    Estimate,
    Finding,
    NotTestedError,
    accuracies,
    every,
    kept,
    needed,
    select,
    some,
)
from mae_helpers.verdicts.published import paper

NINE = ["snow", "frost", "fog", "brightness", "defocus_blur", "motion_blur", "contrast", "pixelate", "jpeg_compression"]
GUIDED = {"by": "occlusion_percent", "ranking": "cls_rollout"}  # the paper's own ranking in the table of Fig. 5


def chance(table: pd.DataFrame, model: str = CLASSIFIER) -> float:
    """The accuracy in percent of a guess among a model's classes."""
    return float(select(table, model)["chance_percent"].iloc[0])


def blur_accuracy(table1: pd.DataFrame) -> Finding:
    """Table I: the accuracy that the worst level keeps."""
    top1 = accuracies(table1, "level", "X")
    share = kept(top1, chance(table1))
    least, at = Estimate.of(share.min()), share[0].idxmin()
    words = f"{top1[0]['X']:.1f} % at level X, {top1[0]['clean']:.1f} % clean; least kept at {at}: {least:.0%}"
    difference = f"{top1[0]['X'] - paper('table1_blur', 'top1_percent', level='X'):+.1f} points at level X"
    return Finding(words, least.above(0.8), least.above(0.7), difference)


def blur_severity(table1: pd.DataFrame) -> Finding:
    """Table I: PSNR and SSIM from level to level, which no classifier has part in."""
    rows = select(table1.drop(columns="clean_low", errors="ignore")).set_index("level")
    quality = needed(rows, "I", "X").drop(index="clean", errors="ignore")
    db, ssim = quality["psnr_db"], quality["ssim"]
    rises = [f"{a} to {b}" for a, b in pairwise(db.index) if db[b] >= db[a] or ssim[b] >= ssim[a]]
    words = f"{db['I']:.2f} to {db['X']:.2f} dB, {ssim['I']:.3f} to {ssim['X']:.3f}; "
    words += f"rises: {', '.join(rises) or 'none'}"
    difference = f"{db['X'] - paper('table1_blur', 'psnr_db', level='X'):+.2f} dB at level X"
    return Finding(words, not rises, bool(db.idxmin() == ssim.idxmin() == "X"), difference)


def _occlusion_keeps(fig5: pd.DataFrame, percent: int, full: float, partly: float) -> Finding:
    top1 = accuracies(fig5, **GUIDED)
    share = Estimate.of(kept(needed(top1, percent), chance(fig5)).loc[percent])
    words = f"{top1[0][percent]:.1f} %, {top1[0]['clean']:.1f} % clean: {share:.0%} kept of what is above chance"
    published = paper("fig5_occlusion", "top1_percent", occlusion_percent=percent)
    difference = f"{top1[0][percent] - published:+.1f} points"
    return Finding(words, share.above(full), share.above(partly), difference)


def occlusion_half(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the accuracy kept at 50 %."""
    return _occlusion_keeps(fig5, 50, 0.9, 0.75)


def occlusion_ninety(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the accuracy kept at 90 %."""
    return _occlusion_keeps(fig5, 90, 0.5, 0.25)


def slopes(values: pd.DataFrame, knee: int = 60) -> tuple[pd.Series, pd.Series]:
    """Mean change a step of 10 up to `knee`, and beyond it, of rows by percent (see `resample`)."""
    last = needed(values, 0, knee).index[-1]
    if last <= knee:
        raise NotTestedError(f"this run has no level beyond {knee}")
    before, after = values.loc[knee] - values.loc[0], values.loc[last] - values.loc[knee]
    return 10 * before / knee, 10 * after / (last - knee)


def occlusion_knee(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the loss a step before and beyond 60 %."""
    top1 = accuracies(fig5, **GUIDED)
    before, after = slopes(-top1.drop(index="clean"))
    words = f"{Estimate.of(before):.1f} points lost in a step of 10 % up to 60 %, {Estimate.of(after):.1f} beyond"
    left = Estimate.of(kept(top1, chance(fig5)).loc[60])
    sharp, more = Estimate.of(after - 1.5 * before.clip(lower=0)), Estimate.of(after - before)
    note = f"at 60 %, {left:.0%} of what is above chance is left to lose"
    return Finding(words, sharp.above(0), more.above(0), note=note)


def _by_ranking(fig5: pd.DataFrame) -> list[pd.DataFrame]:
    """Shares kept by percentage, half of the patches among them, guided and at random, resampled alike."""
    names = enumerate(("cls_rollout", "random"))
    of = [accuracies(fig5, "occlusion_percent", 50, ranking=name, turn=turn) for turn, name in names]
    return [kept(top1, chance(fig5)) for top1 in of]


def any_subset_serves(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: with half of the patches masked, guided or at random, how much is kept, and what guiding costs."""
    shares = [share.loc[50] for share in _by_ranking(fig5)]
    (guided, random), cost = map(Estimate.of, shares), Estimate.of(100 * (shares[1] - shares[0]))
    words = f"half masked, {guided:.0%} kept when guided, {random:.0%} at random: guiding costs {cost:.0f} points"
    full, partly = (every(guided.above(a), random.above(a), cost.below(b)) for a, b in ((0.75, 10), (0.5, 20)))
    return Finding(words, full, partly)


def guided_costs_more(fig5: pd.DataFrame) -> Finding:
    """Sec. IV-B, "despite this adversarial masking strategy": what the most attended patches cost beyond as many random ones."""
    guided, random = _by_ranking(fig5)
    cost = 100 * (random - guided).drop(index=0, errors="ignore")
    at = cost[0].idxmin()
    half, least = Estimate.of(cost.loc[50]), Estimate.of(cost.loc[at])
    words = f"kept at random less kept when guided: {half:+.1f} points with half of the patches masked, least at {at:g} %: {least:+.1f}"
    return Finding(words, every(half.above(0), least.below(0) is not True), half.above(0))


def corruptions_stable(table2: pd.DataFrame) -> Finding:
    """Table II: the mean accuracy over severities that each of the nine named corruptions keeps."""
    share = kept(accuracies(table2, "corruption", *NINE), chance(table2)).loc[NINE]
    each = {name: Estimate.of(row) for name, row in share.iterrows()}
    worst = share[0].idxmin()
    enough = sum(one.above(0.75) is True for one in each.values())
    words = f"{enough} of {len(each)} keep 75 % beyond doubt; least: {worst.replace('_', ' ')}, {each[worst]:.0%}"
    return Finding(words, every(*(one.above(0.75) for one in each.values())), enough >= 5)


def noise_is_steeper(table2: pd.DataFrame) -> Finding:
    """Table II: points lost from the first to the last severity, by group."""
    first, last = (accuracies(table2, "group", "noise", "blur", severity=at).drop(index="clean") for at in (1, 5))
    loss = (first - last).sort_index()
    others = loss.drop(index="noise")
    most, mean = (Estimate.of(loss.loc["noise"] - other) for other in (others.max(), others.mean()))
    each = ", ".join(f"{name} {Estimate.of(row):.1f}" for name, row in loss.iterrows())
    words = f"points lost from severity 1 to 5: {each}"
    words += f"; noise less the most of the others {most:+.1f}, less their mean {mean:+.1f}"
    return Finding(words, most.above(0), mean.above(0))


def severity_is_gradual(table2: pd.DataFrame) -> Finding:
    """Table II: the mean over corruptions by severity."""
    mean = accuracies(table2, "severity", 1, 2, 3, 4, 5).drop(index="clean")
    falls, whole = -mean.diff().iloc[1:], mean.iloc[0] - mean.iloc[-1]
    words = "mean over corruptions: " + ", ".join(f"{value:.1f}" for value in mean[0]) + " %"
    least, most, total = map(Estimate.of, (falls.min(), falls.max(), whole))
    words += f"; steps of {least:.1f} to {most:.1f} points, {total:.1f} in all"
    full = every(least.above(0), Estimate.of(falls.max() - whole / 2).below(0))
    return Finding(words, full, total.above(0))


def larger_shifts(shift: pd.DataFrame, table1: pd.DataFrame) -> Finding:
    """Sec. IV-B: accuracy on ImageNet-R and ImageNet-A, of a classifier that is above chance on clean images."""
    select(table1)
    rows, below, words = select(shift), [], []
    for name, images, top1 in rows[["dataset", "images", "top1_percent"]].itertuples(index=False):
        found = top1_percent([1] * round(images * top1 / 100) + [0] * round(images - images * top1 / 100))
        below.append(Estimate(*found.values()).below(50))
        words.append(f"{name} {Estimate(*found.values()):.1f} %")
    return Finding(", ".join(words), every(*below, len(below) > 1), some(*below))


def more_robust_than_vit(table1: pd.DataFrame, fig5: pd.DataFrame, table2: pd.DataFrame) -> Finding:
    """Abstract: the mean share of the clean accuracy that MAE and ViT keep, under all three kinds of perturbation."""
    shares, clean = {}, []
    for model in (CLASSIFIER, BESIDE):
        kinds = {
            "blur": accuracies(table1, "level", model=model),
            "occlusion": accuracies(fig5, **GUIDED, model=model).drop(index=0, errors="ignore"),
            "corruptions": accuracies(table2, "corruption", model=model),
        }
        shares[model] = {kind: kept(top1, chance(table1, model)).mean() for kind, top1 in kinds.items()}
        clean.append(kinds["blur"][0]["clean"])
    lead = {kind: Estimate.of(100 * (mae - shares[BESIDE][kind])) for kind, mae in shares[CLASSIFIER].items()}
    words = "kept by [classifier] and by [beside], means over levels: " + ", ".join(
        f"{kind} {100 * shares[CLASSIFIER][kind][0]:.1f} % against {100 * shares[BESIDE][kind][0]:.1f} %, {points:+.1f} points"
        for kind, points in lead.items()
    )
    note = f"clean accuracy: [classifier] {clean[0]:.1f} %, [beside] {clean[1]:.1f} %"
    better = [points.above(0) for points in lead.values()]
    return Finding(words, every(*better), some(*better), note=note)
