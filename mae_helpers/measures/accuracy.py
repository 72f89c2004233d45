"""How often a prediction is right, with 95 % bootstrap intervals over images (Tables I, II, Fig. 5)."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.stats import bootstrap


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


def top1_percent(correct: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Top-1 accuracy in percent and its 95 % percentile bootstrap over images: top1_percent, top1_low, top1_high."""
    names = ("top1_percent", "top1_low", "top1_high")
    return {name: 100 * value for name, value in zip(names, mean_and_interval(correct, seed), strict=True)}


def accuracy_table(predictions: ByLevel, sets: Sets, seed: int = 0) -> pd.DataFrame:
    """Accuracy of predicted classes (images,) by model and level: model, level, images, top1_percent, _low, _high."""
    return pd.DataFrame(
        {"model": model, "level": level, "images": len(predicted)} | top1_percent(predicted == sets[model].labels, seed)
        for model, levels in predictions.items()
        for level, predicted in levels.items()
    )


def beside_clean(table: pd.DataFrame, clean: pd.DataFrame, classes: Mapping[str, int]) -> pd.DataFrame:
    """A table by model with clean_percent and clean_low, the accuracy of the `clean` table, and chance_percent beside.

    Chance is one of so many `classes` that a model tells apart. What a classifier shows that is not above it on clean
    images by its 95 % interval, is nothing of the images.
    """
    known = clean.set_index("model").rename(columns={"top1_percent": "clean_percent", "top1_low": "clean_low"})
    chance = table["model"].map({model: 100 / count for model, count in classes.items()})
    both = table.merge(known[["clean_percent", "clean_low"]], left_on="model", right_index=True, how="left")
    return both.assign(chance_percent=chance)


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
