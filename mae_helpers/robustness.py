"""How little an embedding moves: cosine and norm across random masks of the same image (Sec. III-B2)."""

import numpy as np
import pandas as pd
import torch
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder import mean_patch, visible_patches, walk
from mae_helpers.images import ImageSet
from mae_helpers.progress import progress


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """cos(theta) = <a, b> / (|a| |b|) along the last axis (Eq. 1), in float64; ValueError for a zero vector."""
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


def masked_embeddings(
    model: VisionTransformer, images: ImageSet, masks: int, ratio: float, seed: int = 0, layer: int = -1
) -> np.ndarray:
    """Mean patch embeddings of each image under `masks` random masks: (images, masks, D), by default of the last layer."""
    if ratio == 0:
        raise ValueError("masking ratio 0: nothing is masked, so all masks are the same; use a share above 0")
    device, found = model.pos_embed.device, []
    for row in progress(range(len(images)), "masks", len(images)):
        ids = [images.ids[row]]
        draws = [visible_patches(ids, model.patch_embed.num_patches, ratio, seed, draw) for draw in range(masks)]
        copies = images.tensor([row]).to(device).expand(masks, -1, -1, -1)
        states = walk(model, copies, torch.cat(draws).to(device))
        found.append([mean_patch(state) for state in states][layer].float().cpu().numpy())
    return np.stack(found)
