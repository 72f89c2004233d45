"""Class subspaces and the principal angles between them (Sec. III-A3, Fig. 4), in float64 throughout."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy.linalg import eigh
from torch import Tensor

from mae_helpers.encoder.walk import LayerState, patch_tokens
from mae_helpers.profile.machine import doubled

SLABS = 4  # in which a Gram matrix is summed
NOTHING = 1e-6  # of the largest singular value: below it there is no direction, but rounding
SMALL = 0.01  # rad: angles below it are taken from their sines


class Moments:
    """X^T X, column sum and row count of X, the patch tokens (tokens, D) of each group of images, in every layer.

    `groups` maps a name to the rows of its images; an image may belong to several groups.
    """

    def __init__(self, groups: Mapping[str, Collection[int]]):
        self.groups = {name: set(rows) for name, rows in groups.items()}
        self.begin()

    def begin(self, images: int = 0, layers: int = 0) -> None:
        """Forget what was summed."""
        self.layers: dict[int, tuple[Tensor, Tensor, list[int]]] = {}  # of all groups, in one block a layer

    def add(self, state: LayerState, rows: range) -> None:
        """Add one layer of the images `rows` to the groups that hold them."""
        tokens = patch_tokens(state)  # [image, token, feature]
        number, width = len(self.groups), tokens.shape[-1]
        if state.layer not in self.layers:
            sums = [torch.zeros(number, *shape, dtype=torch.float64) for shape in ((width, width), (width,))]
            self.layers[state.layer] = *sums, [0] * number
        # [group, feature, feature], [group, feature], [group]
        grams, totals, counts = self.layers[state.layer]
        for index, members in enumerate(self.groups.values()):
            chosen = [position for position, row in enumerate(rows) if row in members]
            if chosen:
                block = doubled(tokens[chosen].flatten(0, 1))  # [token of any image, feature]
                _add_gram(grams[index], block)
                totals[index] += block.sum(0).cpu()
                counts[index] += len(block)

    def result(self) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray, int]]:
        """(X^T X, column sums, rows) by (group, layer)."""
        return {
            (name, layer): (_mirrored(grams[index].numpy()), totals[index].numpy(), counts[index])
            for layer, (grams, totals, counts) in sorted(self.layers.items())
            for index, name in enumerate(self.groups)
            if counts[index]
        }


def _add_gram(gram: Tensor, block: Tensor) -> None:
    """Add X^T X to (D, D) in place, on and above the diagonal: on the CPU slab by slab, 5/8 of the whole product.

    By PyTorch as the layers are: NumPy's threads and PyTorch's, busy in turn, would wait for each other's cores.
    """
    if block.device.type != "cpu":
        gram += (block.T @ block).cpu()
        return
    height = -(-len(gram) // SLABS)
    for begin in range(0, len(gram), height):
        gram[begin : begin + height, begin:].addmm_(block[:, begin : begin + height].T, block[:, begin:])


def _mirrored(gram: np.ndarray) -> np.ndarray:
    """The matrix itself, made symmetric from its upper triangle."""
    below = np.tri(len(gram), k=-1, dtype=bool)
    gram[below] = gram.T[below]
    return gram


def spectrum(
    gram: np.ndarray, total: np.ndarray, rows: int, *, centred: bool, top: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and right singular vectors (in columns) of X, largest first, from its moments; (D,), (D, D).

    They are the square roots of the eigenvalues, and the eigenvectors, of X^T X; with `centred`, the column mean of X
    is removed first: X^T X - n m m^T. With `top`, only so many of the largest, in a fraction of the time.
    """
    if centred:
        gram = gram - np.outer(total, total) / rows
    width = len(gram)
    subset = None if top is None else (width - min(top, width), width - 1)
    values, vectors = eigh(gram, subset_by_index=subset, driver="evr")
    return np.sqrt(np.clip(values[::-1], 0, None)), vectors[:, ::-1]


def principal_angles(bases: np.ndarray, first: Sequence[int], second: Sequence[int]) -> np.ndarray:
    """Principal angles in degrees, ascending, (pairs, k): of orthonormal columns (groups, D, k), the `first` and `second` ones.

    cos(theta) are the singular values of Q1^T Q2. Below 0.01 rad, where the cosine would lose digits, the angle is
    taken from the sines, the singular values of Q2 - Q1 Q1^T Q2, which keep small angles exact (Bjorck and Golub,
    1973); above, the cosine gives it to 1e-13 rad.
    """
    groups, width, k = bases.shape
    first, second = np.asarray(first), np.asarray(second)
    beside = bases.transpose(1, 0, 2).reshape(width, -1)  # one product of all with all, and no copies for the pairs
    cross = (beside.T @ beside).reshape(groups, k, groups, k)[first, :, second]  # [pair, k, k]
    angles = np.arccos(np.clip(np.linalg.svd(cross, compute_uv=False), 0, 1))  # [pair, k]
    near = angles[:, 0] < SMALL
    if near.any():
        rest = bases[second[near]] - bases[first[near]] @ cross[near]  # [near pair, feature, k]
        sines = np.linalg.svd(rest, compute_uv=False)[:, ::-1]
        angles[near] = np.where(angles[near] < SMALL, np.arcsin(np.clip(sines, 0, 1)), angles[near])
    return np.degrees(angles)


def check_k(k: int, width: int) -> None:
    """ValueError where two subspaces of k of `width` dimensions cannot be told apart."""
    if not 1 <= k <= width // 2:
        raise ValueError(f"k = {k}: two subspaces of {width} dimensions can be told apart for k from 1 to {width // 2}")


def angle_table(bases: dict[tuple[str, int], np.ndarray], pairs: Sequence[tuple[str, str]], k: int) -> pd.DataFrame:
    """theta_1, the smallest principal angle between top-k subspaces: layer, class_a, class_b, theta1_deg.

    `bases` holds right singular vectors (D, k or more) by (group, layer). ValueError where k does not fit D.
    """
    check_k(k, len(next(iter(bases.values()))))
    names, parts = sorted({name for pair in pairs for name in pair}), []
    first, second = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))
    for layer in sorted({layer for _, layer in bases}):
        each = np.stack([bases[name, layer][:, :k] for name in names])  # [group, feature, k]
        table = pd.DataFrame(pairs, columns=["class_a", "class_b"])
        parts.append(table.assign(layer=layer, theta1_deg=principal_angles(each, first, second)[:, 0]))
    return pd.concat(parts, ignore_index=True)


def control_groups(classes: np.ndarray, seed: int) -> dict[str, list[int]]:
    """Image rows of `dress`, its random `dress / half 1` and `dress / half 2`, and shuffled labels' `dress / shuffled`.

    So for each class; ValueError for fewer than two: angles are between them.
    """
    if len(set(classes)) < 2:
        raise ValueError(
            f"principal angles are between classes, and there is only {', '.join(set(classes))}; take two or more"
        )
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(classes)
    groups: dict[str, list[int]] = {}
    for name in dict.fromkeys(classes):
        rows = np.flatnonzero(classes == name)
        halves = np.array_split(generator.permutation(rows), 2)
        groups[name] = rows.tolist()
        groups |= {f"{name} / half {number}": half.tolist() for number, half in enumerate(halves, 1)}
        groups[f"{name} / shuffled"] = np.flatnonzero(shuffled == name).tolist()
    return groups


def control_pairs(classes: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Which groups each control compares: all pairs of classes, of shuffled classes, and a class's two halves."""
    return {
        "between_classes": list(combinations(classes, 2)),
        "split_half": [(f"{name} / half 1", f"{name} / half 2") for name in classes],
        "shuffled_labels": list(combinations([f"{name} / shuffled" for name in classes], 2)),
    }


def angles_and_values(
    moments: dict[tuple[str, int], tuple[np.ndarray, np.ndarray, int]], classes: Sequence[str], ks: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All of Fig. 4 from one pass: theta_1 for every control, k and centring; the classes' singular values (not centred).

    A control is left out where a group has no image, as the halves of a single one. ValueError where a group spans fewer
    directions than the largest k.
    Returns (control, k, centred, layer, class_a, class_b, theta1_deg) and (layer, class, index, singular_value).
    """
    there, angles, values = {name for name, _ in moments}, [], []
    for centred in (True, False):
        bases = {}
        for (name, layer), sums in moments.items():
            sizes, bases[name, layer] = spectrum(*sums, centred=centred, top=max(ks))
            rank = int((sizes > NOTHING * sizes[0]).sum())
            if rank < min(max(ks), len(sizes)):
                raise ValueError(
                    f"k = {max(ks)}: {name!r} spans only {rank} directions in layer {layer} ({sums[2]} tokens"
                    f"{', less their mean' if centred else ''}), and any others would be arbitrary; lower k and other_k, "
                    "or take more images"
                )
        for control, all_pairs in control_pairs(classes).items():
            pairs = [pair for pair in all_pairs if there.issuperset(pair)]
            for k in ks if pairs else ():
                angles.append(angle_table(bases, pairs, k).assign(control=control, k=k, centred=centred))
    for (name, layer), sums in moments.items():
        if name in classes:
            sizes = spectrum(*sums, centred=False)[0]
            place = {"index": np.arange(1, len(sizes) + 1), "layer": layer, "class": name}
            values.append(pd.DataFrame(place | {"singular_value": sizes}))
    return pd.concat(angles, ignore_index=True), pd.concat(values, ignore_index=True)
