"""Rules for Section IV-B: what the classifier's accuracy under perturbation shows, as shares of the clean accuracy."""

from itertools import pairwise

import pandas as pd

from mae_helpers.verdicts.finding import MAE, VIT, Finding, by_level, kept, needed, select, shares, steps
from mae_helpers.verdicts.published import paper

NINE = ["snow", "frost", "fog", "brightness", "defocus_blur", "motion_blur", "contrast", "pixelate", "jpeg_compression"]


def occluded(fig5: pd.DataFrame, ranking: str = "cls_rollout") -> pd.DataFrame:
    """The rows of a ranking, by default the paper's own, with percentages in order as their level."""
    rows = fig5[fig5["ranking"] == ranking]
    return rows.rename(columns={"occlusion_percent": "level"}).sort_values("level")


def blur_accuracy(table1: pd.DataFrame) -> Finding:
    """Table I: the accuracy that the worst level keeps."""
    top1, share = needed(by_level(table1), "X"), kept(table1)
    words = f"{top1.iloc[-1]:.1f} % at level {top1.index[-1]}, {top1.iloc[0]:.1f} % clean; "
    words += f"least at {share.idxmin()}: {share.min():.0%} of it kept"
    difference = f"{top1.iloc[-1] - paper('table1_blur', 'top1_percent', level='X'):+.1f} points at level X"
    return Finding(words, share.min() >= 0.85, share.min() >= 0.7, difference)


def blur_severity(table1: pd.DataFrame) -> Finding:
    """Table I: PSNR and SSIM from level to level."""
    rows = needed(select(table1).set_index("level")[["psnr_db", "ssim"]].drop("clean"), "I", "X")
    rises = [f"{a} to {b}" for a, b in pairwise(rows.index) if (rows.loc[b] >= rows.loc[a]).any()]
    (first_db, first_ssim), (last_db, last_ssim) = rows.iloc[0], rows.iloc[-1]
    words = f"{first_db:.2f} to {last_db:.2f} dB, {first_ssim:.3f} to {last_ssim:.3f}; "
    words += f"rises: {', '.join(rises) or 'none'}"
    difference = f"{last_db - paper('table1_blur', 'psnr_db', level='X'):+.2f} dB at level X"
    return Finding(words, not rises, bool((rows.idxmin() == rows.index[-1]).all()), difference)


def _occlusion_keeps(fig5: pd.DataFrame, percent: int, full: float, partly: float) -> Finding:
    table = occluded(fig5)
    top1, share = by_level(table), needed(kept(table), 0, percent)[percent]
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
    before, after = steps(-by_level(occluded(fig5)))
    words = f"{before:.1f} points a step of 10 % up to 60 %, {after:.1f} beyond"
    return Finding(words, after >= 2 * before and after > 0, after > before)


def any_subset_serves(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: guided against random masking at 50 %, each as a share of its images' clean accuracy."""
    rankings = (occluded(fig5, name) for name in ("cls_rollout", "random"))
    guided, random = (float(needed(kept(rows, "paired_percent"), 50)[50]) for rows in rankings)
    cost, least = 100 * (random - guided), min(random, guided)
    words = f"half masked: {guided:.0%} kept when guided, {random:.0%} at random"
    return Finding(words, cost <= 5 and least >= 0.75, cost <= 15 and least >= 0.5)


def corruptions_stable(table2: pd.DataFrame) -> Finding:
    """Table II: the mean accuracy over severities that each of the nine named corruptions keeps."""
    rows = select(table2)
    clean, means = rows["clean_percent"].iloc[0], rows.groupby("corruption")["top1_percent"].mean()
    share = shares(needed(means, *NINE)[NINE], clean)
    enough = int((share >= 0.8).sum())
    words = f"{enough} of {len(share)} keep 80 % of {clean:.1f} %; "
    words += f"least: {share.idxmin().replace('_', ' ')}, {share.min():.0%}"
    return Finding(words, enough == len(share), enough >= 5)


def noise_is_steeper(table2: pd.DataFrame) -> Finding:
    """Table II: points lost from the first to the last severity, by group."""
    by_group = select(table2).groupby(["group", "severity"])["top1_percent"].mean().unstack("severity")
    needed(by_group.iloc[0], 1, 5)
    loss = by_group.iloc[:, 0] - by_group.iloc[:, -1]
    others = needed(loss, "noise", "blur").drop("noise")
    words = "points lost from severity 1 to 5: " + ", ".join(f"{name} {value:.1f}" for name, value in loss.items())
    return Finding(words, loss["noise"] > others.max(), loss["noise"] > others.mean())


def severity_is_gradual(table2: pd.DataFrame) -> Finding:
    """Table II: the mean over corruptions by severity."""
    mean = needed(select(table2).groupby("severity")["top1_percent"].mean(), 1, 2, 3, 4, 5)
    falls, whole = -mean.diff().dropna(), mean.iloc[0] - mean.iloc[-1]
    words = "mean over corruptions: " + ", ".join(f"{value:.1f}" for value in mean) + " %"
    return Finding(words, bool((falls > 0).all() and falls.max() <= whole / 2), whole > 0)


def larger_shifts(shift: pd.DataFrame) -> Finding:
    """Sec. IV-B: accuracy on ImageNet-R and ImageNet-A."""
    top1 = select(shift).set_index("dataset")["top1_percent"]
    words = ", ".join(f"{name} {value:.1f} %" for name, value in top1.items())
    return Finding(words, bool((top1 < 50).all()) and len(top1) > 1, bool((top1 < 50).any()))


def more_robust_than_vit(table1: pd.DataFrame, fig5: pd.DataFrame, table2: pd.DataFrame) -> Finding:
    """Abstract: the mean share of the clean accuracy that MAE and ViT keep, under all three kinds of perturbation."""
    means, clean = [], []
    for model in (MAE, VIT):
        tables, corrupted = (table1, occluded(fig5)), select(table2, model)
        both = [kept(table, "paired_percent", model).iloc[1:].mean() for table in tables]
        means.append([*both, shares(corrupted["top1_percent"], corrupted["clean_percent"].iloc[0]).mean()])
        clean.append(by_level(table1, "paired_percent", model).iloc[0])
    sides = list(zip(("blur", "occlusion", "corruptions"), *means, strict=True))
    words = ", ".join(f"{kind} {mae:.0%} against {vit:.0%}" for kind, mae, vit in sides)
    better = [bool(mae > vit) for _, mae, vit in sides]
    note = f"on the same images; clean accuracy: MAE {clean[0]:.1f} %, ViT {clean[1]:.1f} %"
    return Finding(f"kept by MAE and by ViT: {words}", all(better), any(better), note=note)
