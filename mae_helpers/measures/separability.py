"""How far classes come apart in a layer: t-SNE to look at (Figs. 1, 2), and three numbers in the original space."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import pairwise_distances, silhouette_samples
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mae_helpers.measures.accuracy import mean_and_interval


def check_perplexity(perplexity: float, points: int) -> None:
    """ValueError where t-SNE's perplexity is too large for the sample: at most (points - 1) / 3."""
    if points < 4:
        raise ValueError(
            f"{points} points are too few for t-SNE, which needs four or more; take more images or classes"
        )
    if not 1 <= perplexity <= (points - 1) / 3:
        raise ValueError(
            f"perplexity {perplexity} does not fit {points} points; use 1 to {(points - 1) // 3}, or more images"
        )


def tsne(points: np.ndarray, perplexity: float, *, standardise: bool, seed: int = 42) -> np.ndarray:
    """t-SNE of points (n, D) in the plane, (n, 2), from a PCA start (van der Maaten and Hinton, 2008; openTSNE).

    Raises ValueError where the perplexity is too large for the sample.
    """
    check_perplexity(perplexity, len(points))
    from openTSNE import TSNE  # takes seconds to import

    points = StandardScaler().fit_transform(points) if standardise else points
    threads = 1 if len(points) < 1000 else -1
    reducer = TSNE(perplexity=perplexity, initialization="pca", random_state=seed, n_jobs=threads)
    return np.asarray(reducer.fit(points.astype(np.float64)))


def knn_correct(distances: np.ndarray, labels: np.ndarray, groups: np.ndarray, neighbours: int = 10) -> np.ndarray:
    """Whether the nearest neighbours from OTHER groups (images) of each point vote for its class: (n,) of bool.

    distances (n, n), labels (n,), groups (n,). Of classes with as many votes, the one with the nearest neighbour wins.
    """
    others = np.where(groups[:, None] == groups[None, :], np.inf, distances)  # [point, other point]
    fewest = int(np.isfinite(others).sum(axis=1).min())
    if fewest < neighbours:
        raise ValueError(f"{neighbours} neighbours: a point has only {fewest} points of other images; use more images")
    nearest = np.argpartition(others, neighbours - 1, axis=1)[:, :neighbours]
    nearest = np.take_along_axis(nearest, np.take_along_axis(others, nearest, 1).argsort(1, kind="stable"), 1)
    codes, names = pd.factorize(labels)
    hits = codes[nearest][:, :, None] == np.arange(len(names))  # [point, neighbour, class]
    first = np.where(hits.any(axis=1), hits.argmax(axis=1), neighbours)
    return ((neighbours + 1) * hits.sum(axis=1) - first).argmax(axis=1) == codes


def knn_percent(distances: np.ndarray, labels: np.ndarray, groups: np.ndarray, neighbours: int = 10) -> float:
    """The share of points that `knn_correct` finds right, in percent."""
    return 100 * float(knn_correct(distances, labels, groups, neighbours).mean())


def probe_correct(points: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int = 5) -> np.ndarray:
    """Whether a linear probe (ridge classifier on standardised features), cross-validated by image, is right: (n,)."""
    probe = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=(1.0, 10.0, 100.0, 1000.0)))
    split, (codes, _) = StratifiedGroupKFold(folds, shuffle=True, random_state=0), pd.factorize(labels)
    return cross_val_predict(probe, points, codes, groups=groups, cv=split) == codes


def separability(points: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int = 5) -> dict[str, float]:
    """Silhouette, leave-one-image-out kNN and linear probe of points (n, D), and the chance level of the last two.

    All three have the ends of their 95 % interval beside, a bootstrap of the images: silhouette_low, knn_low, probe_low ...

    The silhouette is the mean (b - a) / max(a, b) over points: 1 apart, 0 touching or mixed, below 0 nearer to another class
    than to one's own. Ten neighbours vote, and no more than the smallest class has points of other images: beyond these,
    every vote would have to go to another class. What the images do not allow is missing (NaN): a silhouette of classes of
    one point each, a vote in a class of one image, a probe of classes with fewer images than `folds`; all three where there is one class.
    """
    points = np.asarray(points, np.float64)
    distances = pairwise_distances(points)
    names, counts = np.unique(labels, return_counts=True)
    points_of_images = [np.unique(groups[labels == name], return_counts=True)[1] for name in names]
    images = min(len(points) for points in points_of_images)
    several = len(names) > 1
    voting = min(10, *(int(points.sum() - points.max()) for points in points_of_images)) if several else 0
    apart = silhouette_samples(distances, labels, metric="precomputed") if 1 < len(names) < len(labels) else None
    votes = knn_correct(distances, labels, groups, voting) if voting else None
    probed = probe_correct(points, labels, groups, folds) if several and images >= folds else None
    return {
        **_over_images("silhouette", apart, groups),
        **_over_images("knn", votes, groups),
        "neighbours": voting,
        **_over_images("probe", probed, groups),
        "chance_percent": 100 * float(counts.max() / counts.sum()),
    }


def _over_images(name: str, values: np.ndarray | None, groups: np.ndarray) -> dict[str, float]:
    """The mean of a value a point with its 95 % interval, images drawn anew: name or name_percent, name_low, name_high."""
    key, unit = ("silhouette", 1.0) if name == "silhouette" else (f"{name}_percent", 100.0)
    keys = (key, f"{name}_low", f"{name}_high")
    found = [np.nan] * 3 if values is None else mean_and_interval(pd.Series(unit * values).groupby(groups).mean())
    return dict(zip(keys, found, strict=True))


def _points(features: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each layer's number from 1, its points (n, D), and the image that each is of, (n,)."""
    groups = np.repeat(np.arange(len(features)), 1 if features.ndim == 3 else features.shape[2])
    for layer in range(features.shape[1]):
        yield layer + 1, features[:, layer].reshape(len(groups), -1), groups


def by_layer(features: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """`separability` of every layer: features (images, layers, D) or (images, layers, N, D), labels (images,)."""
    return pd.DataFrame(
        {"layer": layer} | separability(points, labels[groups], groups) for layer, points, groups in _points(features)
    )


def embed_layers(features: np.ndarray, classes: np.ndarray, perplexity: float, *, standardise: bool) -> pd.DataFrame:
    """`tsne` of every layer, tidy: layer, image, class, x, y (NaN for less than four points, or equal ones), a row a point."""
    tables = []
    for layer, points, groups in _points(features):
        can = len(points) > 3 and np.ptp(points, axis=0).max() > 1e-5 * np.abs(points).max()  # else it is rounding
        plane = tsne(points, perplexity, standardise=standardise) if can else np.full((len(points), 2), np.nan)
        table = {"layer": layer, "image": groups, "class": classes[groups], "x": plane[:, 0], "y": plane[:, 1]}
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)
