"""How little a prediction or an embedding moves: accuracy, cosine and norm under masks and perturbations."""

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder.walk import mean_patch, visible_patches, walk
from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.progress import progress


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """cos(theta) = <a, b> / (‖a‖ ‖b‖) along the last axis (Eq. 1), in float64; ValueError for a zero vector."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    if np.any(norms == 0):
        raise ValueError("the cosine with a zero vector is undefined; the embedding of an image is all zeros")
    return (first * second).sum(-1) / norms


def pairwise_cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs i < j of vectors (n, D): (n (n - 1) / 2,)."""
    norms = np.linalg.norm(np.asarray(vectors, np.float64), axis=-1, keepdims=True)
    if np.any(norms == 0):
        raise ValueError("the cosine with a zero vector is undefined; the embedding of an image is all zeros")
    unit = vectors / norms
    return (unit @ unit.T)[np.triu_indices(len(unit), k=1)]


def masking_table(embeddings: np.ndarray, ids: list[str]) -> pd.DataFrame:
    """Mean patch embeddings under several masks, (images, masks, D) -> image, mask, norm, cosine_to_mean.

    `cosine_to_mean` compares each embedding with the mean over that image's masks.
    """
    embeddings = np.asarray(embeddings, np.float64)
    images, masks, _ = embeddings.shape
    return pd.DataFrame(
        {
            "image": np.repeat(ids, masks),
            "mask": np.tile(np.arange(1, masks + 1), images),
            "norm": np.linalg.norm(embeddings, axis=-1).ravel(),
            "cosine_to_mean": cosine(embeddings, embeddings.mean(axis=1, keepdims=True)).ravel(),
        }
    )


def within_and_between(embeddings: np.ndarray) -> pd.DataFrame:
    """Cosines between two masks of one image (`within`) and between two images, mask by mask (`between`).

    embeddings (images, masks, D) -> pair, cosine: one row a pair.
    """
    within = np.concatenate([pairwise_cosines(image) for image in embeddings])
    between = np.concatenate([pairwise_cosines(masked) for masked in np.swapaxes(embeddings, 0, 1)])
    kinds = np.repeat(["within", "between"], [len(within), len(between)])
    return pd.DataFrame({"pair": kinds, "cosine": np.concatenate([within, between])})


def cosine_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Cosines of `within_and_between` in short: pair, pairs (their number), cosine_p05 (lowest 5 %), cosine_median."""
    groups = pairs.groupby("pair")["cosine"]
    return pd.DataFrame(
        {"pairs": groups.size(), "cosine_p05": groups.quantile(0.05), "cosine_median": groups.median()}
    ).reset_index()


def cosine_counts(pairs: pd.DataFrame, bins: int = 100) -> pd.DataFrame:
    """Cosines of `within_and_between` as a histogram from -1 to 1: pair, cosine_from, cosine_to, pairs, density."""
    edges, parts = np.linspace(-1, 1, bins + 1), []
    for pair, rows in pairs.groupby("pair"):
        counts = np.histogram(np.clip(rows["cosine"], -1, 1), edges)[0]
        density = counts / (counts.sum() * np.diff(edges))
        columns = {"cosine_from": edges[:-1], "cosine_to": edges[1:], "pairs": counts, "density": density}
        parts.append(pd.DataFrame({"pair": pair} | columns)[counts > 0])
    return pd.concat(parts, ignore_index=True)


def masked_embeddings(
    model: VisionTransformer,
    images: ImageSet,
    masks: int,
    ratio: float,
    seed: int = 0,
    layer: int = -1,
    precision: str = "float32",
) -> np.ndarray:
    """Mean patch embeddings of each image under `masks` random masks: (images, masks, D), by default of the last layer."""
    if ratio == 0:
        raise ValueError("masking ratio 0: nothing is masked, so all masks are the same; use a share above 0")
    if masks < 2:
        raise ValueError(f"{masks} random masks: use 2 or more, so that they can be compared")
    device, found = model.pos_embed.device, []
    for row in progress(range(len(images)), "masks", len(images)):
        ids = [images.ids[row]]
        draws = [visible_patches(ids, model.patch_embed.num_patches, ratio, seed, draw) for draw in range(masks)]
        copies = images.tensor([row]).to(device).expand(masks, -1, -1, -1)
        states = walk(model, copies, torch.cat(draws).to(device), precision)
        found.append([mean_patch(state) for state in states][layer].float().cpu().numpy())
    return np.stack(found)


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


def accuracy_table(
    predictions: Mapping[str, Mapping[Hashable, np.ndarray]],
    sets: Mapping[str, ImageSet],
    seed: int = 0,
    paired: ImageSet | None = None,
) -> pd.DataFrame:
    """Accuracy of predicted classes (images,) by model and level: model, level, images, top1_percent, _low, _high.

    `sets` are the images that each model saw. The column paired_percent is the accuracy on the images of `paired` alone,
    by default those of the smallest set: the one to compare models by.
    """
    common = set((paired or min(sets.values(), key=len)).ids)
    among = {model: np.isin(seen.ids, list(common)) for model, seen in sets.items()}
    return pd.DataFrame(
        {"model": model, "level": level, "images": len(sets[model])}
        | top1_percent(predicted == sets[model].labels, seed)
        | {"paired_percent": 100 * float((predicted == sets[model].labels)[among[model]].mean())}
        for model, levels in predictions.items()
        for level, predicted in levels.items()
    )


def shift_table(
    found: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], sets: Mapping[str, ImageSet]
) -> pd.DataFrame:
    """Accuracy on other test sets by data set and model, in percent: over all classes, its mean over classes, over own ones.

    `found` has by data set and measure (`prediction`, `own_prediction`) each model's predicted classes, (images,).
    `subset_top1_percent` is the accuracy where only the classes that the set's images are of can be chosen.
    """
    rows = []
    for dataset, measures in found.items():
        labels = sets[dataset].labels
        for model, predicted in measures["prediction"].items():
            correct = pd.Series(predicted == labels)
            rows.append(
                {"model": model, "dataset": dataset, "images": len(labels), "top1_percent": 100 * correct.mean()}
                | {"class_mean_percent": 100 * correct.groupby(labels).mean().mean()}
                | {"subset_top1_percent": 100 * float((measures["own_prediction"][model] == labels).mean())}
            )
    columns = ["model", "dataset", "images", "top1_percent", "class_mean_percent", "subset_top1_percent"]
    return pd.DataFrame(rows, columns=columns)


def alignment(
    embeddings: Mapping[str, Mapping[Hashable, np.ndarray]],
    predictions: Mapping[str, Mapping[Hashable, np.ndarray]],
    sets: Mapping[str, ImageSet],
    clean: Hashable = "clean",
) -> pd.DataFrame:
    """How each image's embedding moved (Eq. 1): model, level, image, cosine, norms, correct.

    `embeddings` (images, D) by model and level, among them the level `clean` that all are compared with, of the images in `sets`; the
    `norm_difference` is the size of ‖z_pert‖ - ‖z_clean‖, and `relative_norm_difference` its share of ‖z_clean‖.
    """
    parts = []
    for model, levels in embeddings.items():
        start = levels[clean]
        norms = np.linalg.norm(start, axis=-1)
        for level, moved in levels.items():
            difference = np.abs(np.linalg.norm(moved, axis=-1) - norms)
            columns = {
                "model": model,
                "level": level,
                "image": sets[model].ids,
                "cosine": cosine(start, moved),
                "norm_difference": difference,
                "relative_norm_difference": difference / norms,
                "correct": predictions[model][level] == sets[model].labels,
            }
            parts.append(pd.DataFrame(columns))
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
