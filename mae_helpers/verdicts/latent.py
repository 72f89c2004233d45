"""Rules for Section IV-C: what the embeddings' directions and norms and the heads' features show."""

import pandas as pd

from mae_helpers.verdicts.finding import Finding, NotTestedError, needed, rank_correlation, select, steps, thirds
from mae_helpers.verdicts.published import published


def levels(table: pd.DataFrame, perturbation: str, value: str) -> pd.Series:
    """A column of the fine-tuned model by level, in order, numbers where the levels are percentages."""
    rows = select(table, perturbation=perturbation).groupby("level", sort=False)[value].mean()
    if perturbation == "occlusion":
        rows.index = rows.index.astype(float).astype(int)
        return needed(rows.sort_index(), 0, 30, 50, 60, 90)
    return needed(rows, "I", "IV", "VIII", "IX", "X")


def retained_share(table: pd.DataFrame, perturbation: str) -> pd.Series:
    """Retained over clean common features, both summed over classes, layers and heads, by level."""
    rows = levels(table, perturbation, "retained_count"), levels(table, perturbation, "clean_count")
    return rows[0] / rows[1]


def paper_cosine(perturbation: str, level: str) -> float:
    """Table III's mean cosine as published."""
    rows = published("table3_cosine").set_index(["perturbation", "level"])
    return float(rows.loc[(perturbation, level), "mean_cosine"])


def blur_cosine(table3: pd.DataFrame) -> Finding:
    """Table III(a): the mean cosine at levels I to VIII."""
    cosine = levels(table3, "gaussian_blur", "mean_cosine")["I":"VIII"]
    words = f"{cosine['I']:.3f} to {cosine['VIII']:.3f}, least {cosine.min():.3f} at {cosine.idxmin()}"
    difference = f"{cosine['VIII'] - paper_cosine('gaussian_blur', 'VIII'):+.3f} at level VIII"
    return Finding(words, cosine.min() >= 0.85, cosine[:"IV"].min() >= 0.85, difference)


def blur_cosine_strongest(table3: pd.DataFrame) -> Finding:
    """Table III(a): the mean cosine at level X."""
    cosine = float(levels(table3, "gaussian_blur", "mean_cosine")["X"])
    return Finding(
        f"{cosine:.3f}", cosine >= 0.75, cosine >= 0.6, f"{cosine - paper_cosine('gaussian_blur', 'X'):+.3f}"
    )


def occlusion_cosine(table3: pd.DataFrame) -> Finding:
    """Table III(b): the mean cosine up to 60 %, and at 90 %."""
    cosine = levels(table3, "occlusion", "mean_cosine")
    words = f"{cosine[60]:.3f} at 60 %, {cosine[90]:.3f} at 90 %"
    difference = f"{cosine[60] - paper_cosine('occlusion', '60'):+.3f} at 60 %, {cosine[90] - paper_cosine('occlusion', '90'):+.3f} at 90 %"
    full = cosine.loc[:60].min() >= 0.8 and cosine[90] < cosine[60]
    return Finding(words, full, cosine.loc[:30].min() >= 0.8, difference)


def wrong_are_less_aligned(table3: pd.DataFrame) -> Finding:
    """Sec. IV-C: cosines of correctly and wrongly classified images, at the strongest level of either perturbation."""
    gaps, words = {}, []
    for perturbation, level, name in (("gaussian_blur", "X", "blur X"), ("occlusion", 90, "90 % occlusion")):
        right, wrong = (levels(table3, perturbation, f"cosine_{kind}")[level] for kind in ("correct", "wrong"))
        if pd.isna(right - wrong):
            raise NotTestedError(f"at {name} all images are classified alike, right or wrong")
        gaps[perturbation] = right - wrong
        words.append(f"{right:.3f} and {wrong:.3f} at {name}")
    full = gaps["gaussian_blur"] >= 0.2 and gaps["occlusion"] > 0
    difference = f"{gaps['gaussian_blur'] - 0.626:+.3f} in the gap at blur X"
    return Finding("; ".join(words), full, gaps["gaussian_blur"] > 0, difference)


def alignment_follows_accuracy(table3: pd.DataFrame, table1: pd.DataFrame, fig5: pd.DataFrame) -> Finding:
    """Sec. IV-C: rank correlation of cosine and accuracy over the levels of either perturbation."""
    blur = select(table1).set_index("level")["top1_percent"]
    occlusion = select(fig5, ranking="cls_rollout").set_index("occlusion_percent")["top1_percent"]
    found = []
    for perturbation, accuracy in (("gaussian_blur", blur), ("occlusion", occlusion)):
        cosine = levels(table3, perturbation, "mean_cosine")
        found.append(rank_correlation(needed(accuracy, *cosine.index)[cosine.index].set_axis(cosine.to_numpy())))
    words = f"rank correlation {found[0]:.2f} for blur, {found[1]:.2f} for occlusion"
    return Finding(words, min(found) >= 0.8, max(found) >= 0.8)


def norms_hold(table3: pd.DataFrame) -> Finding:
    """Sec. IV-C: the mean change of the norm as a share of the clean norm, over the levels of either perturbation."""
    change = [levels(table3, name, "relative_norm_difference") for name in ("gaussian_blur", "occlusion")]
    middle = [float(values.drop(labels=[0, "clean"], errors="ignore").median()) for values in change]
    words = f"{middle[0]:.1%} of the norm for blur, {middle[1]:.1%} for occlusion (medians over levels)"
    return Finding(words, max(middle) <= 0.06, max(middle) <= 0.15)


def blur_features(features: pd.DataFrame) -> Finding:
    """Fig. 6: the share of the common features retained at levels I to VIII, and at X."""
    share = retained_share(features, "gaussian_blur")
    moderate = share["I":"VIII"]
    words = f"{moderate['I']:.0%} retained at I, {moderate['VIII']:.0%} at VIII, {share['X']:.0%} at X"
    return Finding(words, moderate.min() >= 0.8, moderate.min() >= 0.6)


def occlusion_features(features: pd.DataFrame) -> Finding:
    """Fig. 7: the share of the common features retained at 50 % and 60 %."""
    share = retained_share(features, "occlusion")
    return Finding(f"{share[50]:.0%} retained at 50 %, {share[60]:.0%} at 60 %", share[50] >= 0.6, share[50] >= 0.4)


def deeper_layers_lose_more(features: pd.DataFrame) -> Finding:
    """Fig. 7: the share lost at 90 % in the first and in the last third of the layers."""
    rows = select(features, perturbation="occlusion")
    rows = select(rows.assign(level=rows["level"].astype(float)), level=90)
    (clean_first, _, clean_last), (first, _, last) = (thirds(rows, f"{kind}_count") for kind in ("clean", "retained"))
    lost = 1 - first / clean_first, 1 - last / clean_last
    words = f"lost at 90 %: {lost[0]:.0%} in the first third of the layers, {lost[1]:.0%} in the last"
    return Finding(words, lost[1] >= lost[0] + 0.1, lost[1] > lost[0])


def drop_rises_at_strongest_blur(fig8: pd.DataFrame) -> Finding:
    """Fig. 8a: what level X adds to the mean drop, against what the levels before added."""
    drop = levels(fig8, "gaussian_blur", "mean_drop")
    before, last = float(drop["IX"] - drop["I"]), float(drop["X"] - drop["IX"])
    words = f"{drop['I']:.2f} at I, {drop['IX']:.2f} at IX, {drop['X']:.2f} at X"
    return Finding(words, last > 0 and last >= before, drop.idxmax() == "X")


def drop_rises_beyond_sixty(fig8: pd.DataFrame) -> Finding:
    """Fig. 8b: growth of the mean drop a step, before and beyond 60 %."""
    drop = levels(fig8, "occlusion", "mean_drop")
    before, after = steps(drop)
    steady = bool((drop.diff().dropna() > 0).all())
    words = (
        f"{before:.2f} features a step of 10 % up to 60 %, {after:.2f} beyond; {'steady' if steady else 'not steady'}"
    )
    return Finding(words, steady and after >= 1.5 * before, steady)
