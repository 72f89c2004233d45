"""Principal angles of all pairs of classes in all layers, against SciPy's function in a loop."""

from itertools import combinations

import numpy as np
import torch
from scipy.linalg import subspace_angles

from benchmarks.harness import Pair, Row, largest_difference
from mae_helpers.measures.subspaces import angle_table

Bases = dict[tuple[str, int], np.ndarray]


def made_up_bases(classes: int, layers: int, width: int, k: int) -> Bases:
    """Orthonormal bases (width, k) that share a part, more of it in the first layers: angles of all sizes."""
    generator = np.random.default_rng(0)
    bases = {}
    for layer in range(1, layers + 1):
        shared = generator.normal(size=(width, k))
        for number in range(classes):
            own = generator.normal(size=(width, k)) * layer / layers
            bases[f"class {number}", layer] = np.linalg.qr(shared + own)[0]
    return bases


def in_a_loop(bases: Bases, pairs: list[tuple[str, str]], layers: int) -> np.ndarray:
    """The smallest angle in degrees of every layer and pair."""
    return np.array(
        [
            np.degrees(subspace_angles(bases[first, layer], bases[second, layer])[-1])
            for layer in range(1, layers + 1)
            for first, second in pairs
        ]
    )


def pair(device: torch.device, classes: int = 10, layers: int = 12, width: int = 768, k: int = 10) -> Pair:
    """theta_1 of all pairs; both sides begin with the same orthonormal bases, and stay on the CPU."""
    bases = made_up_bases(classes, layers, width, k)
    names = [f"class {number}" for number in range(classes)]
    pairs = list(combinations(names, 2))
    return Pair(
        ours=lambda: {"angles": angle_table(bases, pairs, k)["theta1_deg"].to_numpy()},
        other=lambda: {"angles": in_a_loop(bases, pairs, layers)},
        difference=largest_difference,
        tolerance=1e-8,
        setting=f"{len(pairs)} pairs x {layers} layers, {width} features, k = {k}; tolerance in degrees",
    )


ROWS = [
    Row(
        name="angles",
        measured="all 45 pairs x 12 layers of principal angles",
        against="scipy.linalg.subspace_angles in a loop",
        goals={"cpu": ">= 8"},
        pair=pair,
    )
]
