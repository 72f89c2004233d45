"""Rules for Section IV-B: what the classifier's accuracy under perturbation shows, as shares of the clean accuracy."""

from itertools import pairwise

import pandas as pd

from mae_helpers.verdicts.finding import BESIDE, CLASSIFIER, Finding, kept, levels, select, steps
from mae_helpers.verdicts.published import paper

NINE = ["snow", "frost", "fog", "brightness", "defocus_blur", "motion_blur", "contrast", "pixelate", "jpeg_compression"]
GUIDED = {"by": "occlusion_percent", "ranking": "cls_rollout"}  # the paper's own ranking in the table of Fig. 5


def blur_accuracy(table1: pd.DataFrame) -> Finding:
    """Table I: the accuracy that the worst level keeps."""
    top1 = levels(table1, "top1_percent", "X")
    share = kept(top1, top1.iloc[0])
    words = f"{top1['X']:.1f} % at level X, {top1.iloc[0]:.1f} % clean; "
    words += f"least at {share.idxmin()}: {share.min():.0%} of it kept"
    difference = f"{top1['X'] - paper('table1_blur', 'top1_percent', level='X'):+.1f} points at level X"
    return Finding(words, share.min() >= 0.85, share.min() >= 0.7, difference)


def blur_severity(table1: pd.DataFrame) -> Finding:
    """Table I: PSNR and SSIM from level to level, which no classifier has part in."""
    table1 = table1.drop(columns="clean_low", errors="ignore")
    db, ssim = (levels(table1, value, "I", "X").drop("clean") for value in ("psnr_db", "ssim"))
    rises = [f"{a} to {b}" for a, b in pairwise(db.index) if db[b] >= db[a] or ssim[b] >= ssim[a]]
    words = f"{db['I']:.2f} to {db['X']:.2f} dB, {ssim['I']:.3f} to {ssim['X']:.3f}; "
    words += f"rises: {', '.join(rises) or 'none'}"
    difference = f"{db['X'] - paper('table1_blur', 'psnr_db', level='X'):+.2f} dB at level X"
    return Finding(words, not rises, db.idxmin() == ssim.idxmin() == "X", difference)


def _occlusion_keeps(fig5: pd.DataFrame, percent: int, full: float, partly: float) -> Finding:
    top1 = levels(fig5, "top1_percent", 0, percent, **GUIDED)
    share = kept(top1, top1[0])[percent]
    words = f"{top1[percent]:.1f} %, {top1[0]:.1f} % clean ({share:.0%} of it kept)"
    published = paper("fig5_occlusion", "top1_percent", occlusion_percent=percent)
    return Finding(words, share >= full, share >= partly, f"{top1[percent] - published:+.1f} points")


def occlusion_half(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the accuracy kept at 50 %."""
    return _occlusion_keeps(fig5, 50, 0.9, 0.75)


def occlusion_ninety(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the accuracy kept at 90 %."""
    return _occlusion_keeps(fig5, 90, 0.6, 0.3)


def occlusion_knee(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the loss a step before and beyond 60 %."""
    before, after = steps(-levels(fig5, "top1_percent", **GUIDED))
    words = f"{before:.1f} points a step of 10 % up to 60 %, {after:.1f} beyond"
    return Finding(words, after >= 2 * before and after > 0, after > before)


def any_subset_serves(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: guided against random masking at 50 %, each as a share of its images' clean accuracy."""
    curves = [levels(fig5, "top1_percent", 0, 50, **GUIDED | {"ranking": name}) for name in ("cls_rollout", "random")]
    guided, random = (float(kept(curve, curve[0])[50]) for curve in curves)
    cost, least = 100 * (random - guided), min(random, guided)
    words = f"half masked: {guided:.0%} kept when guided, {random:.0%} at random"
    return Finding(words, cost <= 5 and least >= 0.75, cost <= 15 and least >= 0.5)


def corruptions_stable(table2: pd.DataFrame) -> Finding:
    """Table II: the mean accuracy over severities that each of the nine named corruptions keeps."""
    clean = select(table2)["clean_percent"].iloc[0]
    share = kept(levels(table2, "top1_percent", *NINE, by="corruption")[NINE], clean)
    enough, worst = int((share >= 0.8).sum()), share.idxmin().replace("_", " ")
    words = f"{enough} of {len(share)} keep 80 % of {clean:.1f} %; least: {worst}, {share.min():.0%}"
    return Finding(words, enough == len(share), enough >= 5)


def noise_is_steeper(table2: pd.DataFrame) -> Finding:
    """Table II: points lost from the first to the last severity, by group."""
    first, last = (levels(table2, "top1_percent", "noise", "blur", by="group", severity=at) for at in (1, 5))
    loss = (first - last).sort_index()
    noise, others = loss["noise"], loss.drop("noise")
    words = "points lost from severity 1 to 5: " + ", ".join(f"{name} {value:.1f}" for name, value in loss.items())
    return Finding(words, noise > others.max(), noise > others.mean())


def severity_is_gradual(table2: pd.DataFrame) -> Finding:
    """Table II: the mean over corruptions by severity."""
    mean = levels(table2, "top1_percent", 1, 2, 3, 4, 5, by="severity")
    falls, whole = -mean.diff().dropna(), mean.iloc[0] - mean.iloc[-1]
    words = "mean over corruptions: " + ", ".join(f"{value:.1f}" for value in mean) + " %"
    return Finding(words, bool((falls > 0).all() and falls.max() <= whole / 2), whole > 0)


def larger_shifts(shift: pd.DataFrame) -> Finding:
    """Sec. IV-B: accuracy on ImageNet-R and ImageNet-A."""
    top1 = levels(shift, "top1_percent", by="dataset")
    words = ", ".join(f"{name} {value:.1f} %" for name, value in top1.items())
    return Finding(words, bool((top1 < 50).all()) and len(top1) > 1, bool((top1 < 50).any()))


def more_robust_than_vit(table1: pd.DataFrame, fig5: pd.DataFrame, table2: pd.DataFrame) -> Finding:
    """Abstract: the mean share of the clean accuracy that MAE and ViT keep, under all three kinds of perturbation."""
    shares, clean = {}, []
    for model in (CLASSIFIER, BESIDE):
        blurred = levels(table1, "top1_percent", model=model)
        occluded, corrupted = levels(fig5, "top1_percent", model=model, **GUIDED), select(table2, model)
        shares[model] = {
            "blur": kept(blurred, blurred.iloc[0]).iloc[1:].mean(),
            "occlusion": kept(occluded, occluded.iloc[0]).iloc[1:].mean(),
            "corruptions": kept(corrupted["top1_percent"], corrupted["clean_percent"].iloc[0]).mean(),
        }
        clean.append(blurred.iloc[0])
    both = pd.DataFrame(shares)
    better = both[CLASSIFIER] > both[BESIDE]
    words = ", ".join(f"{kind} {mae:.0%} against {vit:.0%}" for kind, mae, vit in both.itertuples())
    note = f"clean accuracy: [classifier] {clean[0]:.1f} %, [beside] {clean[1]:.1f} %"
    return Finding(f"kept by [classifier] and by [beside]: {words}", better.all(), better.any(), note=note)
