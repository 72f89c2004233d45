"""How alike two representations of the same images are: debiased linear CKA between all layers of encoders."""

from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd

PART = 500  # images whose features and kernels are held at a time


def grams(features: np.ndarray) -> np.ndarray:
    """K = X X^T of each layer with its diagonal set to 0: features (n, layers, D) -> (layers, n, n) in float64.

    The first image's features are subtracted first. HSIC_1 is blind to that, and a layer that is the same for all images
    then gives exactly 0.
    """
    moved = (features - features[:1].astype(np.float64)).swapaxes(0, 1)  # [layer, image, feature]
    found = moved @ moved.swapaxes(1, 2)
    found[:, np.arange(len(features)), np.arange(len(features))] = 0
    return found


def hsic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """HSIC_1 of Song et al. (2012, Eq. 5) of each pair of layers, (L_x, n, n) and (L_y, n, n) -> (L_x, L_y), unbiased.

        HSIC_1 = [tr(K L) + (1^T K 1)(1^T L 1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1^T K L 1] / (n (n - 3)).

    K and L are of `grams`. ValueError below four images, where it has no meaning.
    """
    if (n := x.shape[1]) < 4:
        raise ValueError(f"{n} images: debiased CKA needs four or more")
    rows_x, rows_y = x.sum(2), y.sum(2)  # [layer, image]
    trace = x.reshape(len(x), -1) @ y.reshape(len(y), -1).T
    total = np.outer(rows_x.sum(1), rows_y.sum(1)) / ((n - 1) * (n - 2))
    return (trace + total - 2 / (n - 2) * rows_x @ rows_y.T) / (n * (n - 3))


def cka(cross: np.ndarray, own_x: np.ndarray, own_y: np.ndarray) -> np.ndarray:
    """CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) of each pair of layers, (L_x, L_y) (Kornblith et al. 2019).

    own_x (L_x,) and own_y (L_y,) are each layer's HSIC with itself. 1 for a representation and any rotation or scale of it,
    0 on average for independent ones; NaN for a layer that is the same for all images.
    """
    scale = np.sqrt(np.outer(np.maximum(own_x, 0), np.maximum(own_y, 0)))
    return np.divide(cross, scale, out=np.full(cross.shape, np.nan), where=scale > 0)


def random_parts(images: int, seed: int) -> list[np.ndarray]:
    """The rows of all images in random order, in as few parts as hold at most `PART` each, of about the same size."""
    return np.array_split(np.random.default_rng(seed).permutation(images), max(1, -(-images // PART)))


def cka_table(parts: Iterable[Mapping[str, Mapping[str, np.ndarray]]], seed: int = 0) -> pd.DataFrame:
    """CKA of all layers of each pair of models, itself included: model_a, model_b, token, control, layer_a, layer_b, cka.

    Each of `parts` has features (images, layers, D) by model and token, of the same images in the same order; HSIC is
    averaged over parts (Nguyen et al. 2021), so memory does not grow with their number. Where `control` is
    `shuffled_images`, the images of `model_b` stand in random order, by `seed`.
    """
    found: dict[tuple[str, str, str, str], list[np.ndarray]] = {}
    generator = np.random.default_rng(seed)
    for part in parts:
        for token in dict.fromkeys(token for tokens in part.values() for token in tokens):
            kernels = {model: grams(tokens[token]) for model, tokens in part.items() if token in tokens}
            order = generator.permutation(len(next(iter(kernels.values()))[0]))
            for a, b in combinations_with_replacement(kernels, 2):
                others = {"same_images": kernels[b], "shuffled_images": kernels[b][:, order][:, :, order]}
                for control, other in others.items():
                    found.setdefault((a, b, token, control), []).append(hsic(kernels[a], other))
    means = {key: np.mean(each, axis=0) for key, each in found.items()}
    rows = []
    for (a, b, token, control), cross in means.items():
        own_a, own_b = (np.diag(means[model, model, token, "same_images"]) for model in (a, b))
        for (row, column), value in np.ndenumerate(cka(cross, own_a, own_b)):
            rows.append((a, b, token, control, row + 1, column + 1, value))
    return pd.DataFrame(rows, columns=["model_a", "model_b", "token", "control", "layer_a", "layer_b", "cka"])
