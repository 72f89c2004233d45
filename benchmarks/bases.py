"""Bases of class subspaces from accumulated Gram matrices, against stacking all tokens and a full SVD."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Pair, Row, largest_difference
from benchmarks.inputs import demo, demo_images
from mae_helpers.encoder.walk import visible_patches, walk
from mae_helpers.images.sets import ImageSet
from mae_helpers.measures.subspaces import Moments, principal_angles, spectrum

K, BATCH = 10, 50
Bases = dict[tuple[str, int], np.ndarray]


def tokens_of(model: torch.nn.Module, images: ImageSet, ratio: float) -> list[list[Tensor]]:
    """The tokens of every batch and third layer, CLS first: what both sides begin with."""
    found = []
    for _, ids, batch in images.batches(BATCH):
        visible = visible_patches(ids, model.patch_embed.num_patches, ratio, seed=0)
        found.append([state.tokens for state in walk(model, batch, visible) if state.layer % 3 == 0])
    return found


def from_moments(tokens: list[list[Tensor]], images: ImageSet) -> Bases:
    """As the book does: X^T X batch by batch, and the largest eigenvectors at the end."""
    moments = Moments({name: np.flatnonzero(images.classes == name).tolist() for name in images.names})
    for number, layers in enumerate(tokens):
        rows = range(number * BATCH, number * BATCH + len(layers[0]))
        for layer, each in enumerate(layers, 1):
            moments.add(SimpleNamespace(layer=layer, tokens=each, prefix=1), rows)
    return {key: spectrum(*sums, centred=True, top=K)[1] for key, sums in moments.result().items()}


def from_stacked(tokens: list[list[Tensor]], images: ImageSet) -> Bases:
    """All tokens of a class and layer in one matrix, its mean removed, and NumPy's SVD."""
    bases = {}
    for layer in range(1, len(tokens[0]) + 1):
        whole = torch.cat([layers[layer - 1] for layers in tokens]).numpy()[:, 1:].astype(np.float64)
        for name in images.names:
            stacked = np.concatenate(whole[images.classes == name])
            bases[name, layer] = np.linalg.svd(stacked - stacked.mean(0), full_matrices=False)[2][:K].T
    return bases


def apart(first: Bases, second: Bases) -> float:
    """The largest principal angle in degrees between any two bases of the same class and layer."""
    return max(float(between(first[key], second[key])[-1]) for key in first.keys() | second.keys())


def between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The principal angles in degrees of two bases, (k,)."""
    return principal_angles(np.stack([first, second]), [0], [1])[0]


def angles(bases: Bases) -> dict[str, np.ndarray]:
    """All angles in degrees between each class and the next, in each layer."""
    names = sorted({name for name, _ in bases})
    layers = sorted({layer for _, layer in bases})
    return {
        f"{first} {second} {layer}": between(bases[first, layer], bases[second, layer])
        for first, second in pairwise(names)
        for layer in layers
    }


def pair(device: torch.device, images: ImageSet | None = None, model: torch.nn.Module | None = None) -> Pair:
    """Top-k bases of every class and third layer of the demo, 75 % of the patches masked as in Section IV-A."""
    images = demo_images() if images is None else images
    tokens = tokens_of(demo() if model is None else model, images, 0.75)
    _, length, width = tokens[0][0].shape
    return Pair(
        ours=lambda: from_moments(tokens, images),
        other=lambda: from_stacked(tokens, images),
        difference=lambda ours, other: max(apart(ours, other), largest_difference(angles(ours), angles(other))),
        tolerance=1e-8,
        setting=f"{len(images.names)} classes x {len(tokens[0])} layers, {len(images)} images of {length - 1} visible "
        f"patches, {width} features, k = {K}; tolerance in degrees",
    )


ROWS = [
    Row(
        name="bases",
        measured="SVD bases through accumulated Gram matrices",
        against="stacking tokens and a full SVD",
        goals={"cpu": ">= 2"},
        pair=pair,
    )
]
