"""Active and common features of attention heads, and how many survive a perturbation (Figs. 6, 7, 8)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import bootstrap
from torch import Tensor

from mae_helpers.encoder.walk import LayerState


def head_features(state: LayerState) -> Tensor:
    """The mean over patch tokens of each head's output O = A V (Eq. 2): (B, heads, d_h). CLS stays among the keys."""
    return state.head_outputs()[:, :, state.prefix :].mean(dim=2)  # [image, head, feature]


def active(features: np.ndarray, k: int, by: str = "magnitude") -> np.ndarray:
    """Which of a head's features are active: the `k` largest of d_h, ties by index; (..., d_h) -> (..., d_h) of bool.

    `by` is `magnitude` (the paper) or `value` (signed, as in the released code).
    """
    width = features.shape[-1]
    if not 1 <= k <= width:
        raise ValueError(f"k = {k} active features: a head has {width}; use 1 to {width}")
    if by not in ("magnitude", "value"):
        raise ValueError(f"active features by {by!r}: use magnitude or value")
    size = np.abs(features) if by == "magnitude" else features
    largest = np.argsort(-size, axis=-1, kind="stable")[..., :k]
    among = np.zeros(features.shape, bool)
    np.put_along_axis(among, largest, True, axis=-1)
    return among


def common(active_features: np.ndarray, share: float) -> np.ndarray:
    """Which features are active in at least `share` of a class's images: (images, ...) of bool -> (...) of bool."""
    if not len(active_features):
        raise ValueError("common features of an empty class: give it at least one image")
    return _common(active_features.mean(axis=0), share)


def _common(frequency: np.ndarray, share: float) -> np.ndarray:
    if not 0 < share <= 1:
        raise ValueError(f"share {share} of a class's images: use a number above 0 and up to 1")
    return frequency >= share - 1e-9  # 30 of 50 is 60 %, whatever the last bit says


def retained(clean: np.ndarray, perturbed: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """C_clean and C_pert (Sec. III-B3) of one class: how many features are common, and how many of those remain so.

    Both arguments are active features (images, layers, heads, d_h); returns two arrays (layers, heads) of counts.
    """
    kept = common(clean, share)
    return kept.sum(-1), (kept & common(perturbed, share)).sum(-1)


def feature_table(
    clean: np.ndarray, levels: Mapping[object, np.ndarray], classes: np.ndarray, share: float
) -> pd.DataFrame:
    """Counts of every level, class, layer and head: level, class, layer, head, clean_count, retained_count, shared_count.

    `clean` and each of `levels` are active features (images, layers, heads, d_h), `classes` (images,) their classes.
    `shared_count` says how many of a class's common features are another class's as well, mean over these; NaN for one class.
    """
    layer, head = (index.ravel() + 1 for index in np.indices(clean.shape[1:3]))
    names = list(dict.fromkeys(classes.tolist()))
    among = np.stack([common(clean[classes == name], share) for name in names])  # [class, layer, head, feature]
    shared = (among * (among.sum(axis=0) - 1)).sum(-1) / (len(names) - 1 or np.nan)  # [class, layer, head]
    parts = []
    for level, perturbed in levels.items():
        for name, alike in zip(names, shared, strict=True):
            before, after = retained(clean[classes == name], perturbed[classes == name], share)  # [layer, head]
            counts = {"layer": layer, "head": head, "clean_count": before.ravel(), "retained_count": after.ravel()}
            counts |= {"shared_count": alike.ravel()}
            parts.append(pd.DataFrame(counts).assign(**{"level": level, "class": name}))
    return pd.concat(parts, ignore_index=True)


def mean_drop(
    clean: np.ndarray, perturbed: np.ndarray, classes: np.ndarray, share: float, seed: int = 0, resamples: int = 200
) -> dict[str, float]:
    """Fig. 8: the mean of C_clean - C_pert over layers, heads and classes: mean_drop, low, high.

    The interval is 1.96 bootstrap standard errors to either side, images drawn anew within each class, clean and perturbed
    together. (Percentiles would be off: a sample with repeated images has more common features.)
    """
    if not len(clean):
        raise ValueError("mean drop of no images: give it at least one of each class")
    pairs = [(clean[classes == name], perturbed[classes == name]) for name in dict.fromkeys(classes.tolist())]

    def drop(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        drops = []
        for (before, after), index in zip(pairs, drawn, strict=True):  # each index [resample, image]
            weights = np.stack([np.bincount(row, minlength=len(before)) for row in index]) / index.shape[1]
            # each [resample, feature of any layer and head]
            kept, left = (_common(weights @ part.reshape(len(part), -1), share) for part in (before, after))
            drops.append((kept & ~left).sum(-1) / np.prod(before.shape[1:-1]))
        return np.mean(drops, axis=0)

    rows = [np.arange(len(before)) for before, _ in pairs]
    here = float(drop(*(row[None] for row in rows))[0])
    if min(map(len, rows)) < 2 or here == 0:
        return {"mean_drop": here, "low": here, "high": here}
    error = 1.96 * float(bootstrap(rows, drop, n_resamples=resamples, method="percentile", rng=seed).standard_error)
    return {"mean_drop": here, "low": max(0.0, here - error), "high": here + error}
