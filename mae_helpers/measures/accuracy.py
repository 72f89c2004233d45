"""How often a prediction is right, with 95 % intervals over images (Tables I, II, Fig. 5)."""

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap


class Labelled(Protocol):
    """Images by their ids, and the index of each one's class."""

    ids: Sequence[str]
    labels: np.ndarray


ByLevel = Mapping[str, Mapping[Hashable, np.ndarray]]  # by model and level, (images, ...)
Sets = Mapping[str, Labelled]  # the images that each model saw


def mean_and_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """The mean of values (n,) and the ends of its 95 % percentile bootstrap; equal values are their own interval."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(np.unique(values)) == 1:
        return mean, mean, mean
    interval = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=seed).confidence_interval
    return mean, float(interval.low), float(interval.high)


def top1_percent(correct: np.ndarray) -> dict[str, float]:
    """Top-1 accuracy in percent and Wilson's 95 % interval of a proportion: top1_percent, top1_low, top1_high.

    With n images, a share p of them right and z = 1.96: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).
    It also holds near 0 and 100 %, where a bootstrap of few images has no width.
    """
    names = ("top1_percent", "top1_low", "top1_high")
    return dict(zip(names, _wilson(int(np.sum(correct)), len(correct)), strict=True))


@cache
def _wilson(right: int, images: int) -> tuple[float, ...]:
    found = binomtest(right, images)
    return tuple(100 * float(share) for share in (found.statistic, *found.proportion_ci(method="wilson")))


def accuracy_table(predictions: ByLevel, sets: Sets) -> pd.DataFrame:
    """Accuracy of predicted classes (images,) by model and level: model, level, images, top1_percent, _low, _high, right.

    `right` has a letter for each image, in their order, `R` or `W`: with it, curves are compared image by image.
    """
    return pd.DataFrame(
        {"model": model, "level": level, "images": len(predicted)}
        | top1_percent(predicted == sets[model].labels)
        | {"right": "".join(np.where(predicted == sets[model].labels, "R", "W"))}
        for model, levels in predictions.items()
        for level, predicted in levels.items()
    )


def beside_clean(table: pd.DataFrame, clean: pd.DataFrame, classes: Mapping[str, int]) -> pd.DataFrame:
    """A table by model with clean_percent, clean_low and clean_right of the `clean` table, and chance_percent beside.

    Chance is one of so many `classes` that a model tells apart. What a classifier shows that is not above it on clean
    images by its 95 % interval, is nothing of the images.
    """
    names = {"top1_percent": "clean_percent", "top1_low": "clean_low", "right": "clean_right"}
    known = clean.set_index("model")[list(names)].rename(columns=names)
    chance = table["model"].map({model: 100 / count for model, count in classes.items()})
    return table.merge(known, left_on="model", right_index=True, how="left").assign(chance_percent=chance)


def shift_table(predictions: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], sets: Sets) -> pd.DataFrame:
    """Accuracy on other test sets by data set and model, in percent: over all classes, its mean over classes, over own ones.

    `predictions` has by data set and measure (`prediction`, `own_prediction`) each model's predicted classes, (images,).
    `subset_top1_percent` is the accuracy where only the classes that the set's images are of can be chosen.
    """
    rows = []
    for dataset, measures in predictions.items():
        labels = sets[dataset].labels
        for model, predicted in measures["prediction"].items():
            correct, own = pd.Series(predicted == labels), measures["own_prediction"][model] == labels
            shares = (correct.mean(), correct.groupby(labels).mean().mean(), float(own.mean()))
            rows.append((model, dataset, len(labels), *(100 * share for share in shares)))
    columns = ["model", "dataset", "images", "top1_percent", "class_mean_percent", "subset_top1_percent"]
    return pd.DataFrame(rows, columns=columns)
