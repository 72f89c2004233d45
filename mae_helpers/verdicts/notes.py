"""Checks behind the page of reproduction notes: pairings, published tables held against themselves, small samples."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import skimage.data
from PIL import Image
from scipy.stats import spearmanr
from sklearn.datasets import load_sample_image
from sklearn.metrics import pairwise_distances

from mae_helpers.images.sets import ImageSet, open_images
from mae_helpers.measures import features
from mae_helpers.measures.alignment import cosine
from mae_helpers.measures.separability import knn_percent
from mae_helpers.perturbations.blur import BLUR
from mae_helpers.perturbations.occlusion import ranked
from mae_helpers.profile.settings import Images, Input

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "china.jpg", "flower.jpg")  # of scikit-image, scikit-learn


def shuffled(groups: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random order of the rows in which each stays within its group: groups (n,) -> permutation (n,)."""
    order = np.arange(len(groups))
    for name in dict.fromkeys(groups.tolist()):
        rows = np.flatnonzero(groups == name)
        order[rows] = generator.permutation(rows)
    return order


def pairing_table(
    embeddings: Mapping[Hashable, np.ndarray], classes: np.ndarray, draws: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Cosines with the clean embeddings by pairing: pairing, level, mean_cosine, above_099, in_place (images, means).

    `embeddings` (images, D) by level, the first of them clean. Pairings: `by_name`, an image with itself, and the mean
    of `draws` random orders of the perturbed ones, `within_classes` and over `all` images.
    """
    if draws < 1:
        raise ValueError(f"{draws} random orders: use 1 or more")
    clean, generator, rows = next(iter(embeddings.values())), np.random.default_rng(seed), []
    groups = {"within_classes": np.asarray(classes), "all": np.zeros(len(clean), int)}
    drawn = {name: [shuffled(group, generator) for _ in range(draws)] for name, group in groups.items()}
    for pairing, orders in {"by_name": [np.arange(len(clean))], **drawn}.items():
        in_place = np.mean([(order == np.arange(len(clean))).sum() for order in orders])
        for level, moved in embeddings.items():
            values = np.stack([cosine(clean, moved[order]) for order in orders])  # [order, image]
            rows.append((pairing, level, values.mean(), (values > 0.99).sum(axis=1).mean(), in_place))
    return pd.DataFrame(rows, columns=["pairing", "level", "mean_cosine", "above_099", "in_place"])


def knn_by_layer(layers: np.ndarray, classes: np.ndarray, neighbours: int = 5) -> pd.DataFrame:
    """kNN accuracy of every layer: (images, layers, D) -> layer, knn_percent, chance_percent.

    A vote has no more neighbours than a class has other images; NaN where a class has a single one.
    """
    _, counts = np.unique(classes, return_counts=True)
    voting, each = min(neighbours, int(counts.min()) - 1), np.arange(len(classes))
    distances = (pairwise_distances(np.asarray(layer, np.float64)) for layer in layers.swapaxes(0, 1))
    percent = [knn_percent(layer, classes, each, voting) if voting else np.nan for layer in distances]
    chance = 100 * float(counts.max() / counts.sum())
    return pd.DataFrame({"layer": range(1, len(percent) + 1), "knn_percent": percent, "chance_percent": chance})


def kernel_spread(kernel_size: int, sigma: float) -> float:
    """The standard deviation in pixels of OpenCV's Gaussian kernel as it is cut off: sqrt(sum_x w_x x^2)."""
    offsets = np.arange(kernel_size) - (kernel_size - 1) / 2
    return float(np.sqrt(cv2.getGaussianKernel(kernel_size, sigma)[:, 0] @ offsets**2))


def kernel_table() -> pd.DataFrame:
    """Table I's ten settings: level, kernel_size, sigma, spread_px (see `kernel_spread`)."""
    rows = [(level, *setting, kernel_spread(*setting)) for level, setting in BLUR.items()]
    return pd.DataFrame(rows, columns=["level", "kernel_size", "sigma", "spread_px"])


def photographs(folder: str | None = None, size: int = 224) -> ImageSet:
    """The images of `folder`, flat or a folder a class, at `size` px; by default six that come with libraries."""
    if folder is None:
        arrays = [load_sample_image(name) if "." in name else getattr(skimage.data, name)() for name in PHOTOGRAPHS]
        pictures, unknown = list(map(Image.fromarray, arrays)), [np.full(len(arrays), none) for none in (-1, "")]
        return ImageSet.of_pictures(PHOTOGRAPHS, *unknown, pictures.__getitem__, Input(size=size))
    root = Path(folder).expanduser()
    nested = any(path.is_dir() for path in root.glob("*"))
    return open_images(Images(source="folders" if nested else "flat", folder=str(root)), Input(size=size))


def rises(levels: Sequence[Hashable], values: Sequence[float]) -> dict[Hashable, float]:
    """By how much each value that exceeds the one before it does so, by its level, in order."""
    steps = pd.Series(list(values), list(levels), dtype=float).diff()
    return steps[steps > 0].to_dict()


def share_table(table: pd.DataFrame, images: int) -> pd.DataFrame:
    """Each accuracy and the nearest share of `images`: nearest_count, nearest_percent, deviation (points), fits."""
    count = (table["top1_percent"] * images / 100).round().astype(int)
    nearest = 100 * count / images
    deviation = (table["top1_percent"] - nearest).abs()
    fits = deviation <= 0.05 + 1e-9
    return table.assign(nearest_count=count, nearest_percent=nearest, deviation=deviation, fits=fits)


def rise_table(table: pd.DataFrame, images: int) -> pd.DataFrame:
    """Corruptions whose accuracy rises with severity: corruption, from, to (severities), rise (points), images."""
    rows = []
    for name, chosen in table.groupby("corruption", sort=False):
        chosen = chosen.sort_values("severity")
        for severity, rise in rises(chosen["severity"], chosen["top1_percent"]).items():
            rows.append((name, severity - 1, severity, rise, round(rise * images / 100)))
    return pd.DataFrame(rows, columns=["corruption", "from", "to", "rise", "images"])


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The mean over images of Spearman's rank correlation of two patch scores, (images, N) each."""
    return float(np.mean([spearmanr(*pair).statistic for pair in zip(first, second, strict=True)]))


def shared_patches(first: np.ndarray, second: np.ndarray, percent: float) -> float:
    """The share of the top `percent` of patches that two scores (images, N) have in common, mean over images."""
    count = max(1, round(percent / 100 * first.shape[1]))
    pairs = zip(first, second, strict=True)
    return float(np.mean([len(np.intersect1d(ranked(a)[:count], ranked(b)[:count])) / count for a, b in pairs]))


def class_spread(
    heads: Mapping[str, np.ndarray], classes: np.ndarray, k: int, share: float, counts: Sequence[int], seed: int = 0
) -> pd.DataFrame:
    """Clean count and mean drop of every class: by, images, class, level, clean_count, mean_drop, low, high.

    `heads` are head features (images, layers, heads, d_h) by level, the first of them clean; `counts` say how many of
    a class's first images are used. Counts are means over layers and heads; low and high as in `features.mean_drop`.
    """
    rows = []
    for by in ("magnitude", "value"):
        active = {level: features.active(values, k, by) for level, values in heads.items()}
        clean = active.pop(next(iter(heads)))
        for count, name in product(counts, dict.fromkeys(classes.tolist())):
            chosen = np.flatnonzero(classes == name)[:count]
            kept = float(features.common(clean[chosen], share).sum(-1).mean())
            for level, moved in active.items():
                where = {"by": by, "images": count, "class": name, "clean_count": kept, "level": level}
                rows.append(where | features.mean_drop(clean[chosen], moved[chosen], classes[chosen], share, seed))
    return pd.DataFrame(rows)


def spread_summary(table: pd.DataFrame, y: str) -> pd.DataFrame:
    """Mean, smallest and largest of a column of `class_spread` at one level over classes, by `by` and `images`."""
    return table.groupby(["by", "images"], sort=False)[y].agg(["mean", "min", "max"])


def spread_ranges(table: pd.DataFrame, level: str) -> pd.DataFrame:
    """`class_spread` at one level in short: by, images, clean_count, drop as text, `mean (smallest to largest)`."""
    both = {name: spread_summary(table[table["level"] == level], name) for name in ("clean_count", "mean_drop")}
    texts = {name: ends.apply("{mean:.2f} ({min:.2f} to {max:.2f})".format_map, axis=1) for name, ends in both.items()}
    return pd.DataFrame(texts).rename(columns={"mean_drop": "drop"}).reset_index()


def mean_drops(counts: pd.DataFrame) -> pd.Series:
    """The mean over layers and heads of clean_count - retained_count, by perturbation and level, in the table's order."""
    lost = counts["clean_count"] - counts["retained_count"]
    return lost.groupby([counts["perturbation"], counts["level"]], sort=False).mean()


def step_table(drop: pd.DataFrame) -> pd.DataFrame:
    """Mean drops with the `step` from the level before, the first from no drop at all, within each perturbation."""
    return drop.assign(step=drop.groupby("perturbation")["mean_drop"].diff().fillna(drop["mean_drop"]))
