"""Occlusion: the patches that a model itself ranks highest are masked (Fig. 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import numpy as np

from mae_helpers.images.pixels import patch_grid
from mae_helpers.images.sets import Change, ImageSet
from mae_helpers.perturbations.blur import blur
from mae_helpers.perturbations.levels import Clean, Perturbation

OCCLUSION_PERCENT = tuple(range(0, 100, 10))  # Fig. 5
RANKINGS = ("cls_rollout", "patch_rollout", "random")
FILLS = ("mean_colour", "black", "image_mean", "blurred")


@dataclass(frozen=True)
class Occlusion(Perturbation):
    """Mask the `percent` of patches that rank highest for the model itself, or at random (Fig. 5).

    `ranking`: `cls_rollout` (CLS row of the attention rollout, the paper), `patch_rollout` (mean of its patch rows), or
    `random`. `fill`: `mean_colour` (0 after the model's normalisation, the paper), `black`, `image_mean` or `blurred`.
    """

    percent: float
    ranking: str = "cls_rollout"
    fill: str = "mean_colour"
    seed: int = 0
    guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"occlusion of {self.percent} %: use a percentage from 0 to 100")
        for value, known, what in ((self.ranking, RANKINGS, "ranking"), (self.fill, FILLS, "fill")):
            if value not in known:
                raise ValueError(f"occlusion: {what} {value[:80]!r} is unknown; use one of {', '.join(known)}")

    @property
    def name(self) -> str:
        """Ranking and percentage."""
        return f"occlusion_{self.ranking}_{self.percent:g}"

    @property
    def measures(self) -> tuple[str, ...]:
        """Head features only for the paper's own ranking."""
        return ("prediction", "probability", "embedding", "heads")[: 4 if self.ranking == "cls_rollout" else 3]

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """Mask each image by its own ranking; `clean` holds the rollouts, (images, patches)."""
        if self.ranking == "random":
            patches = clean["cls_rollout"].shape[1]
            draws = [np.random.default_rng([self.seed, crc32(name.encode())]) for name in images.ids]
            orders = [draw.permutation(patches) for draw in draws]
        else:
            orders = [ranked(scores) for scores in clean[self.ranking]]
        by_id, colour = dict(zip(images.ids, orders, strict=True)), np.float32(images.input.mean)
        return lambda pixels, name: occlude(pixels, by_id[name], self.percent, self.fill, colour)


def ranked(scores: np.ndarray) -> np.ndarray:
    """Patches from the highest score to the lowest, ties by patch index."""
    return np.argsort(-np.asarray(scores), kind="stable")


def occlude(pixels: np.ndarray, order: np.ndarray, percent: float, fill: str, colour: np.ndarray) -> np.ndarray:
    """Mask the first round(percent / 100 * N) patches of `order` (N,) in an image (H, W, 3) of square patches.

    `fill` is one of FILLS; `colour` (3,) is the model's mean colour, in [0, 1].
    """
    rows, columns = patch_grid(len(order), pixels.shape[:2])
    mask = np.zeros(len(order), bool)
    mask[order[: round(percent / 100 * len(order))]] = True
    side = pixels.shape[0] // rows
    masked = np.zeros((*pixels.shape[:2], 1), bool)  # pixels beyond the last whole patch stay as they are
    placed = np.kron(mask.reshape(rows, columns), np.ones((side, side), bool))
    masked[: rows * side, : columns * side, 0] = placed
    if fill == "blurred":
        sigma = min(pixels.shape[:2]) / 14  # a patch of the paper's 14 x 14 grid: no detail survives it
        return np.where(masked, blur(pixels, 0, sigma), pixels)
    colours = {"mean_colour": colour, "black": np.zeros(3), "image_mean": pixels.mean(axis=(0, 1))}
    return np.where(masked, colours[fill].astype(pixels.dtype), pixels)


def occlusion_levels(
    ranking: str, percents: Sequence[float] = OCCLUSION_PERCENT, fill: str = "mean_colour", seed: int = 0
) -> dict[float, Perturbation]:
    """Occlusion by percentage; at 0 % it is the clean image."""
    levels: dict[float, Perturbation] = {0: Clean()}
    for percent in percents:
        levels.setdefault(percent, Occlusion(percent, ranking, fill, seed))
    return levels
