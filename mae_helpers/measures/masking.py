"""How little the mean patch embedding depends on which patches are masked (Sec. III-B2)."""

import numpy as np
import pandas as pd
from torch import nn

from mae_helpers.encoder.passes import Batches, PerImage, one_pass
from mae_helpers.encoder.walk import mean_patch
from mae_helpers.measures.alignment import cosine, lengths
from mae_helpers.profile.machine import Compute


def masked_embeddings(
    model: nn.Module, images: Batches, masks: int, ratio: float, seed: int = 0, compute: Compute | None = None
) -> np.ndarray:
    """Mean patch embeddings of each image in the last layer, under `masks` random masks: (images, masks, D)."""
    if ratio == 0:
        raise ValueError("masking ratio 0: nothing is masked, so all masks are the same; use a share above 0")
    if masks < 2:
        raise ValueError(f"{masks} random masks: use 2 or more, so that they can be compared")
    statistics = {"mean_patch": PerImage(mean_patch, only=len(model.blocks))}
    how, parts = {"ratio": ratio, "seed": seed, "compute": compute or Compute()}, []
    for draw in range(masks):
        found = one_pass(model, images, statistics, draw=draw, label=f"mask {draw + 1} of {masks}", **how)
        parts.append(found["mean_patch"])
    return np.stack(parts, axis=1)  # [image, mask, feature]


def pairwise_cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosines of all pairs i < j of vectors (n, D): (n (n - 1) / 2,)."""
    unit = vectors / lengths(vectors)[:, None]
    return (unit @ unit.T)[np.triu_indices(len(unit), k=1)]


def masking_table(embeddings: np.ndarray, ids: list[str]) -> pd.DataFrame:
    """Mean patch embeddings (images, masks, D) -> image, mask, norm, cosine_to_mean: that with the image's own mean."""
    embeddings = np.asarray(embeddings, np.float64)
    images, masks, _ = embeddings.shape
    table = pd.DataFrame({"image": np.repeat(ids, masks), "mask": np.tile(np.arange(1, masks + 1), images)})
    table["norm"] = np.linalg.norm(embeddings, axis=-1).ravel()
    table["cosine_to_mean"] = cosine(embeddings, embeddings.mean(axis=1, keepdims=True)).ravel()
    return table


def within_and_between(embeddings: np.ndarray) -> pd.DataFrame:
    """Cosines of (images, masks, D), a row a pair: `within` an image, of two masks; `between` two, under one mask."""
    within = np.concatenate([pairwise_cosines(image) for image in embeddings])
    between = np.concatenate([pairwise_cosines(masked) for masked in np.swapaxes(embeddings, 0, 1)])
    kinds = np.repeat(["within", "between"], [len(within), len(between)])
    return pd.DataFrame({"pair": kinds, "cosine": np.concatenate([within, between])})


def cosine_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Cosines of `within_and_between` in short: pair, pairs (their number), cosine_p05 (lowest 5 %), cosine_median."""
    groups = pairs.groupby("pair")["cosine"]
    columns = {"pairs": groups.size(), "cosine_p05": groups.quantile(0.05), "cosine_median": groups.median()}
    return pd.DataFrame(columns).reset_index()


def cosine_counts(pairs: pd.DataFrame) -> pd.DataFrame:
    """Cosines of `within_and_between` as a histogram from -1 to 1: pair, cosine_from, cosine_to, pairs, density."""
    edges, parts = np.linspace(-1, 1, 101), []
    for pair, rows in pairs.groupby("pair"):
        counts = np.histogram(np.clip(rows["cosine"], -1, 1), edges)[0]
        density = counts / (counts.sum() * np.diff(edges))
        columns = {"cosine_from": edges[:-1], "cosine_to": edges[1:], "pairs": counts, "density": density}
        parts.append(pd.DataFrame({"pair": pair} | columns)[counts > 0])
    return pd.concat(parts, ignore_index=True)
