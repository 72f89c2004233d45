"""Rules for Section IV-B: what the classifier's accuracy under perturbation shows, as shares of the clean accuracy."""

from itertools import pairwise

import pandas as pd

from mae_helpers.verdicts.finding import Finding, kept_shares, needed, select, some_accuracy, steps
from mae_helpers.verdicts.published import published

STABLE = [
    "snow",
    "frost",
    "fog",
    "brightness",
    "defocus_blur",
    "motion_blur",
    "contrast",
    "pixelate",
    "jpeg_compression",
]


def guided(fig5: pd.DataFrame) -> pd.DataFrame:
    """The paper's own ranking, by percentage."""
    return fig5[fig5["ranking"] == "cls_rollout"].sort_values("occlusion_percent")


def blur_accuracy(table1: pd.DataFrame) -> Finding:
    """Table I: the accuracy that the worst level keeps."""
    kept, rows = kept_shares(table1, "level"), needed(select(table1).set_index("level")["top1_percent"], "X")
    paper = published("table1_blur").set_index("level").loc["X"]
    words = f"{rows.iloc[-1]:.1f} % at level {rows.index[-1]}, {rows.iloc[0]:.1f} % clean; "
    words += f"least at {kept.idxmin()}: {kept.min():.0%} of it kept"
    return Finding(
        words, kept.min() >= 0.85, kept.min() >= 0.7, f"{rows.iloc[-1] - paper['top1_percent']:+.1f} points at level X"
    )


def blur_severity(table1: pd.DataFrame) -> Finding:
    """Table I: PSNR and SSIM from level to level."""
    rows = needed(select(table1).set_index("level")[["psnr_db", "ssim"]].drop("clean"), "I", "X")
    rises = [f"{a} to {b}" for a, b in pairwise(rows.index) if (rows.loc[b] >= rows.loc[a]).any()]
    words = f"{rows['psnr_db'].iloc[0]:.2f} to {rows['psnr_db'].iloc[-1]:.2f} dB, "
    words += f"{rows['ssim'].iloc[0]:.3f} to {rows['ssim'].iloc[-1]:.3f}; rises: {', '.join(rises) or 'none'}"
    paper = published("table1_blur").set_index("level").loc["X", "psnr_db"]
    lowest = bool((rows.idxmin() == rows.index[-1]).all())
    return Finding(words, not rises, lowest, f"{rows['psnr_db'].iloc[-1] - paper:+.2f} dB at level X")


def _occlusion_keeps(fig5: pd.DataFrame, percent: int, full: float, partly: float) -> Finding:
    table = guided(fig5)
    kept = float(needed(kept_shares(table, "occlusion_percent"), percent)[percent])
    top1 = select(table).set_index("occlusion_percent")["top1_percent"]
    paper = published("fig5_occlusion").set_index("occlusion_percent").loc[percent, "top1_percent"]
    words = f"{top1[percent]:.1f} %, {top1[0]:.1f} % clean ({kept:.0%} of it kept)"
    return Finding(words, kept >= full, kept >= partly, f"{top1[percent] - paper:+.1f} points")


def occlusion_half(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the accuracy kept at 50 %."""
    return _occlusion_keeps(fig5, 50, 0.9, 0.75)


def occlusion_ninety(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the accuracy kept at 90 %."""
    return _occlusion_keeps(fig5, 90, 0.6, 0.3)


def occlusion_knee(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: the loss a step before and beyond 60 %."""
    before, after = steps(-select(guided(fig5)).set_index("occlusion_percent")["top1_percent"])
    words = f"{before:.1f} points a step of 10 % up to 60 %, {after:.1f} beyond"
    return Finding(words, after >= 2 * before and after > 0, after > before)


def any_subset_serves(fig5: pd.DataFrame) -> Finding:
    """Fig. 5: guided against random masking at 50 %, each as a share of its images' clean accuracy."""
    kept = {
        name: float(needed(kept_shares(rows, "occlusion_percent", value="paired_percent"), 50)[50])
        for name, rows in fig5.groupby("ranking")
    }
    cost = 100 * (kept["random"] - kept["cls_rollout"])
    words = f"half masked: {kept['cls_rollout']:.0%} kept when guided, {kept['random']:.0%} at random"
    least = min(kept["random"], kept["cls_rollout"])
    return Finding(words, cost <= 5 and least >= 0.75, cost <= 15 and least >= 0.5)


def corruptions_stable(table2: pd.DataFrame) -> Finding:
    """Table II: the mean accuracy over severities that each of the nine named corruptions keeps."""
    clean = some_accuracy(select(table2)["clean_percent"].iloc[0])
    kept = select(table2).groupby("corruption")["top1_percent"].mean()
    kept = needed(kept, *STABLE)[STABLE] / clean
    enough = int((kept >= 0.8).sum())
    words = f"{enough} of {len(kept)} keep 80 % of {clean:.1f} %; least: {kept.idxmin().replace('_', ' ')}, {kept.min():.0%}"
    return Finding(words, enough == len(kept), enough >= 5)


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
    better, words, models = [], [], ("mae_finetuned", "vit_supervised")
    kept = {
        "blur": [kept_shares(table1, "level", name, "paired_percent").iloc[1:].mean() for name in models],
        "occlusion": [
            kept_shares(guided(fig5), "occlusion_percent", name, "paired_percent").iloc[1:].mean() for name in models
        ],
        "corruptions": [
            (rows["top1_percent"] / some_accuracy(rows["clean_percent"].iloc[0])).mean()
            for rows in (select(table2, name) for name in models)
        ],
    }
    for kind, (mae, vit) in kept.items():
        better.append(bool(mae > vit))
        words.append(f"{kind} {mae:.0%} against {vit:.0%}")
    top1 = [float(select(table1, name)["paired_percent"].iloc[0]) for name in models]
    note = f"on the same images; clean accuracy: MAE {top1[0]:.1f} %, ViT {top1[1]:.1f} %"
    return Finding("kept by MAE and by ViT: " + ", ".join(words), all(better), any(better), note=note)
