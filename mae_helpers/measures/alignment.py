"""How far a perturbation turns and stretches an embedding (Eq. 1, Table III)."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from mae_helpers.measures.accuracy import ByLevel, Sets, mean_and_interval


def lengths(vectors: np.ndarray) -> np.ndarray:
    """‖a‖ along the last axis, in float64; ValueError for a zero vector, with which no cosine is defined."""
    norms = np.linalg.norm(np.asarray(vectors, np.float64), axis=-1)
    if np.any(norms == 0):
        raise ValueError("the cosine with a zero vector is undefined; the embedding of an image is all zeros")
    return norms


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """cos(theta) = <a, b> / (‖a‖ ‖b‖) along the last axis (Eq. 1), in float64; ValueError for a zero vector."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return (first * second).sum(-1) / (lengths(first) * lengths(second))


def alignment(embeddings: ByLevel, predictions: ByLevel, sets: Sets, clean: Hashable = "clean") -> pd.DataFrame:
    """How each image's embedding moved (Eq. 1): model, level, image, cosine, others, norms, correct.

    `embeddings` (images, D) by model and level, of the images in `sets`, are compared with those of the level `clean`; the
    `norm_difference` is the size of ‖z_pert‖ - ‖z_clean‖, and `relative_norm_difference` its share of ‖z_clean‖. Beside
    them stands what other images are like: `others`, the mean cosine of the image's clean embedding with theirs, and
    `norm_deviation`, the size of ‖z_clean‖ / mean - 1; both are missing (NaN) for a single image.
    """
    parts = []
    for model, levels in embeddings.items():
        start = levels[clean]  # [image, feature]
        norms = np.linalg.norm(start, axis=-1)
        several = len(norms) > 1
        unit = np.asarray(start, np.float64) / lengths(start)[:, None]
        others = (unit @ unit.sum(axis=0) - 1) / (len(unit) - 1) if several else np.nan
        for level, moved in levels.items():
            part = pd.DataFrame({"model": model, "level": level, "image": sets[model].ids})
            part["cosine"] = cosine(start, moved)
            part["norm_difference"] = np.abs(np.linalg.norm(moved, axis=-1) - norms)
            part["relative_norm_difference"] = part["norm_difference"] / norms
            part["others"], part["norm_deviation"] = others, np.abs(norms / norms.mean() - 1) if several else np.nan
            parts.append(part.assign(correct=predictions[model][level] == sets[model].labels))
    return pd.concat(parts, ignore_index=True)


def alignment_table(per_image: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Table III: means over images by model and level, the cosine also by correct and wrong prediction, and the accuracy.

    `cosine_low`, `cosine_high` are the 95 % percentile bootstrap of `mean_cosine` over images.
    """
    groups = per_image.groupby(["model", "level"], sort=False)
    table = groups.agg(
        images=("image", "size"),
        mean_cosine=("cosine", "mean"),
        norm_difference=("norm_difference", "mean"),
        relative_norm_difference=("relative_norm_difference", "mean"),
        top1_percent=("correct", lambda correct: 100 * correct.mean()),
    )
    for column, rows in (("cosine_correct", per_image["correct"]), ("cosine_wrong", ~per_image["correct"])):
        table[column] = per_image[rows].groupby(["model", "level"])["cosine"].mean()
    intervals = groups["cosine"].apply(lambda values: mean_and_interval(values, seed)[1:])
    table["cosine_low"], table["cosine_high"] = intervals.str[0], intervals.str[1]
    return table.reset_index()
