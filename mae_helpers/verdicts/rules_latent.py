"""Rules for Section IV-C: what the embeddings' directions and norms and the heads' features show."""

import pandas as pd

from mae_helpers.verdicts.finding import Finding, NotTestedError, levels, select, spearman, steps, thirds
from mae_helpers.verdicts.published import paper
from mae_helpers.verdicts.rules_classifier import GUIDED

BLUR, OCCLUSION = "gaussian_blur", "occlusion"
LEVELS = {BLUR: ("I", "IV", "VIII", "IX", "X"), OCCLUSION: (0, 30, 50, 60, 90)}  # that rules read


def by_level(table: pd.DataFrame, perturbation: str, value: str) -> pd.Series:
    """A column of the fine-tuned model by a perturbation's levels, which must have those that rules read."""
    return levels(table, value, *LEVELS[perturbation], perturbation=perturbation)


def retained_share(table: pd.DataFrame, perturbation: str) -> pd.Series:
    """Retained over clean common features, both summed over classes, layers and heads, by level."""
    return by_level(table, perturbation, "retained_count") / by_level(table, perturbation, "clean_count")


def _from_paper(cosine: pd.Series, perturbation: str, level: object) -> str:
    return f"{cosine[level] - paper('table3_cosine', 'mean_cosine', perturbation=perturbation, level=str(level)):+.3f}"


def blur_cosine(table3: pd.DataFrame) -> Finding:
    """Table III(a): the mean cosine at levels I to VIII."""
    cosine = by_level(table3, BLUR, "mean_cosine")["I":"VIII"]
    words = f"{cosine['I']:.3f} to {cosine['VIII']:.3f}, least {cosine.min():.3f} at {cosine.idxmin()}"
    difference = f"{_from_paper(cosine, BLUR, 'VIII')} at level VIII"
    return Finding(words, cosine.min() >= 0.85, cosine[:"IV"].min() >= 0.85, difference)


def blur_cosine_strongest(table3: pd.DataFrame) -> Finding:
    """Table III(a): the mean cosine at level X."""
    cosine = by_level(table3, BLUR, "mean_cosine")
    return Finding(f"{cosine['X']:.3f}", cosine["X"] >= 0.75, cosine["X"] >= 0.6, _from_paper(cosine, BLUR, "X"))


def occlusion_cosine(table3: pd.DataFrame) -> Finding:
    """Table III(b): the mean cosine up to 60 %, and at 90 %."""
    cosine = by_level(table3, OCCLUSION, "mean_cosine")
    words = f"{cosine[60]:.3f} at 60 %, {cosine[90]:.3f} at 90 %"
    difference = ", ".join(f"{_from_paper(cosine, OCCLUSION, percent)} at {percent} %" for percent in (60, 90))
    full = cosine.loc[:60].min() >= 0.8 and cosine[90] < cosine[60]
    return Finding(words, full, cosine.loc[:30].min() >= 0.8, difference)


def wrong_are_less_aligned(table3: pd.DataFrame) -> Finding:
    """Sec. IV-C: cosines of correctly and wrongly classified images, at the strongest level of either perturbation."""
    gaps, words = [], []
    for perturbation, level, name in ((BLUR, "X", "blur X"), (OCCLUSION, 90, "90 % occlusion")):
        right, wrong = (by_level(table3, perturbation, f"cosine_{kind}")[level] for kind in ("correct", "wrong"))
        if pd.isna(right - wrong):
            raise NotTestedError(f"at {name} all images are classified alike, right or wrong")
        gaps.append(right - wrong)
        words.append(f"{right:.3f} and {wrong:.3f} at {name}")
    difference = f"{gaps[0] - 0.626:+.3f} in the gap at blur X"
    return Finding("; ".join(words), gaps[0] >= 0.2 and gaps[1] > 0, gaps[0] > 0, difference)


def alignment_follows_accuracy(table3: pd.DataFrame, table1: pd.DataFrame, fig5: pd.DataFrame) -> Finding:
    """Sec. IV-C: rank correlation of cosine and accuracy over the levels of either perturbation."""
    blur, occlusion = (by_level(table3, name, "mean_cosine") for name in (BLUR, OCCLUSION))
    blurred = levels(table1, "top1_percent", *blur.index)[blur.index]
    occluded = levels(fig5, "top1_percent", *occlusion.index, **GUIDED)[occlusion.index]
    first, second = spearman(blurred.set_axis(blur)), spearman(occluded.set_axis(occlusion))
    words = f"rank correlation {first:.2f} for blur, {second:.2f} for occlusion"
    return Finding(words, min(first, second) >= 0.8, max(first, second) >= 0.8)


def norms_hold(table3: pd.DataFrame) -> Finding:
    """Sec. IV-C: the mean change of the norm as a share of the clean norm, over the levels of either perturbation."""
    changes = (by_level(table3, name, "relative_norm_difference") for name in (BLUR, OCCLUSION))
    blur, occlusion = (float(change.drop(labels=[0, "clean"], errors="ignore").median()) for change in changes)
    words = f"{blur:.1%} of the norm for blur, {occlusion:.1%} for occlusion (medians over levels)"
    return Finding(words, max(blur, occlusion) <= 0.06, max(blur, occlusion) <= 0.15)


def blur_features(features: pd.DataFrame) -> Finding:
    """Fig. 6: the share of the common features retained at levels I to VIII, and at X."""
    share = retained_share(features, BLUR)
    moderate = share["I":"VIII"].min()
    words = f"{share['I']:.0%} retained at I, {share['VIII']:.0%} at VIII, {share['X']:.0%} at X"
    return Finding(words, moderate >= 0.8, moderate >= 0.6)


def occlusion_features(features: pd.DataFrame) -> Finding:
    """Fig. 7: the share of the common features retained at 50 % and 60 %."""
    share = retained_share(features, OCCLUSION)
    return Finding(f"{share[50]:.0%} retained at 50 %, {share[60]:.0%} at 60 %", share[50] >= 0.6, share[50] >= 0.4)


def deeper_layers_lose_more(features: pd.DataFrame) -> Finding:
    """Fig. 7: the share lost at 90 % in the first and in the last third of the layers."""
    rows = select(features, perturbation=OCCLUSION)
    rows = select(rows.assign(level=rows["level"].astype(float)), level=90)
    (clean, clean_last), (retained, retained_last) = (thirds(rows, f"{kind}_count") for kind in ("clean", "retained"))
    first, last = 1 - retained / clean, 1 - retained_last / clean_last
    words = f"lost at 90 %: {first:.0%} in the first third of the layers, {last:.0%} in the last"
    return Finding(words, last >= first + 0.1, last > first)


def drop_rises_at_strongest_blur(fig8: pd.DataFrame) -> Finding:
    """Fig. 8a: what level X adds to the mean drop, against what the levels before added."""
    drop = by_level(fig8, BLUR, "mean_drop")
    before, last = drop["IX"] - drop["I"], drop["X"] - drop["IX"]
    words = f"{drop['I']:.2f} at I, {drop['IX']:.2f} at IX, {drop['X']:.2f} at X"
    return Finding(words, last > 0 and last >= before, drop.idxmax() == "X")


def drop_rises_beyond_sixty(fig8: pd.DataFrame) -> Finding:
    """Fig. 8b: growth of the mean drop a step, before and beyond 60 %."""
    drop = by_level(fig8, OCCLUSION, "mean_drop")
    (before, after), steady = steps(drop), bool((drop.diff().dropna() > 0).all())
    words = f"{before:.2f} features a step of 10 % up to 60 %, {after:.2f} beyond; {'' if steady else 'not '}steady"
    return Finding(words, steady and after >= 1.5 * before, steady)
