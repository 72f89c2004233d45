"""What is done to an image before the model sees it: nothing, Gaussian blur (Table I), or occlusion (Fig. 5)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol
from zlib import crc32

import cv2
import numpy as np
import pandas as pd
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.progress import progress

BLUR = {  # Table I: kernel size and standard deviation in pixels of the model's input
    "I": (5, 1.0),
    "II": (5, 2.0),
    "III": (5, 4.0),
    "IV": (5, 9.0),
    "V": (7, 2.0),
    "VI": (7, 4.0),
    "VII": (7, 13.5),
    "VIII": (7, 15.0),
    "IX": (11, 2.0),
    "X": (11, 5.0),
}
OCCLUSION_PERCENT = tuple(range(0, 100, 10))  # Fig. 5
RANKINGS = ("cls_rollout", "patch_rollout", "random")
FILLS = ("mean_colour", "black", "image_mean", "blurred")
Change = Callable[[np.ndarray, str], np.ndarray]  # pixels (H, W, 3) in [0, 1] and the image's id -> pixels


class Perturbation(Protocol):
    """A change of images at one level. `guided` ones look at what the model makes of the clean images.

    `measures` names what is worth recording of a pass over such images (see `measures.py`). One that cannot share a
    process with another thread is changed `in_processes` of its own.
    """

    guided: ClassVar[bool]
    in_processes: ClassVar[bool]

    @property
    def name(self) -> str:
        """What it is called in file names and progress lines."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Which measures a pass records."""

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """The change of `images`, of which the model's measures on the `clean` ones are at hand."""


@dataclass(frozen=True)
class Clean:
    """No change at all: the level `clean`, and 0 %."""

    guided: ClassVar[bool] = False
    in_processes: ClassVar[bool] = False
    name: ClassVar[str] = "clean"
    measures: ClassVar[tuple[str, ...]] = ("prediction", "embedding", "heads", "cls_rollout", "patch_rollout")

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """The identity."""
        return lambda pixels, name: pixels


@dataclass(frozen=True)
class Unchanged:
    """Images as they are, for their accuracy alone: over all classes, and over those that the images are of."""

    guided: ClassVar[bool] = False
    in_processes: ClassVar[bool] = False
    name: ClassVar[str] = "unchanged"
    measures: ClassVar[tuple[str, ...]] = ("prediction", "own_prediction")

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """The identity."""
        return lambda pixels, name: pixels


@dataclass(frozen=True)
class GaussianBlur:
    """OpenCV's separable Gaussian of an odd `kernel_size` and `sigma`, in pixels; border reflect-101 (Table I)."""

    kernel_size: int
    sigma: float
    guided: ClassVar[bool] = False
    in_processes: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ("prediction", "embedding", "heads")

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"Gaussian blur: kernel size {self.kernel_size} must be odd and positive")
        if not self.sigma > 0:
            raise ValueError(f"Gaussian blur: sigma {self.sigma} must be above 0")

    @property
    def name(self) -> str:
        """Kernel size and sigma."""
        return f"gaussian_blur_{self.kernel_size}_{self.sigma:g}"

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """Blur in floating point, without rounding to bytes."""
        return lambda pixels, name: blur(pixels, self.kernel_size, self.sigma)


@dataclass(frozen=True)
class Occlusion:
    """Mask the `percent` of patches that rank highest for the model itself, or at random (Fig. 5).

    `ranking`: `cls_rollout` (CLS row of the attention rollout, the paper), `patch_rollout` (mean of its patch rows), or
    `random`. `fill`: `mean_colour` (0 after the model's normalisation, the paper), `black`, `image_mean` or `blurred`.
    """

    percent: float
    ranking: str = "cls_rollout"
    fill: str = "mean_colour"
    seed: int = 0
    guided: ClassVar[bool] = True
    in_processes: ClassVar[bool] = False

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
        return ("prediction", "embedding", "heads")[: 3 if self.ranking == "cls_rollout" else 2]

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """Mask each image by its own ranking; `clean` holds the rollouts, (images, patches)."""
        patches = clean["cls_rollout"].shape[1]
        if self.ranking == "random":
            orders = [
                np.random.default_rng([self.seed, crc32(name.encode())]).permutation(patches) for name in images.ids
            ]
        else:
            orders = [ranked(scores) for scores in clean[self.ranking]]
        by_id = dict(zip(images.ids, orders, strict=True))
        colour = np.float32(images.input.mean)
        return lambda pixels, name: occlude(pixels, by_id[name], self.percent, self.fill, colour)


def blur_levels(levels: Sequence[str] = tuple(BLUR)) -> dict[str, Perturbation]:
    """`clean` and the paper's blur levels; ValueError for none, or a level outside I to X."""
    unknown = [level for level in levels if level not in BLUR]
    if unknown or not len(levels):
        raise ValueError(f"blur levels {unknown} are unknown; use some of {', '.join(BLUR)}")
    return {"clean": Clean()} | {level: GaussianBlur(*BLUR[level]) for level in levels}


def occlusion_levels(
    ranking: str, percents: Sequence[float] = OCCLUSION_PERCENT, fill: str = "mean_colour", seed: int = 0
) -> dict[float, Perturbation]:
    """Occlusion by percentage; at 0 % it is the clean image."""
    levels = {percent: Occlusion(percent, ranking, fill, seed) for percent in percents}
    return {0: Clean()} | {percent: level for percent, level in levels.items() if percent != 0}


def blur(pixels: np.ndarray, kernel_size: int, sigma: float) -> np.ndarray:
    """Gaussian blur of an image (H, W, 3) in floating point, border reflect-101."""
    return cv2.GaussianBlur(pixels, (kernel_size, kernel_size), sigma, borderType=cv2.BORDER_REFLECT_101)


def ranked(scores: np.ndarray) -> np.ndarray:
    """Patches from the highest score to the lowest, ties by patch index."""
    return np.argsort(-np.asarray(scores), kind="stable")


def occlude(pixels: np.ndarray, order: np.ndarray, percent: float, fill: str, colour: np.ndarray) -> np.ndarray:
    """Mask the first round(percent / 100 * N) patches of `order` (N,) in an image (H, W, 3) on a square grid.

    `fill` is one of FILLS; `colour` (3,) is the model's mean colour, in [0, 1].
    """
    grid = round(len(order) ** 0.5)
    mask = np.zeros(len(order), bool)
    mask[order[: round(percent / 100 * len(order))]] = True
    side = pixels.shape[0] // grid
    masked = np.zeros((*pixels.shape[:2], 1), bool)  # pixels beyond the last whole patch stay as they are
    masked[: grid * side, : grid * side, 0] = np.kron(mask.reshape(grid, grid), np.ones((side, side), bool))
    if fill == "blurred":
        sigma = pixels.shape[0] / 14  # a patch of the paper's 14 x 14 grid: no detail survives it
        return np.where(masked, cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), pixels)
    colours = {"mean_colour": colour, "black": np.zeros(3), "image_mean": pixels.mean(axis=(0, 1))}
    return np.where(masked, colours[fill].astype(pixels.dtype), pixels)


def psnr(clean: np.ndarray, perturbed: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in dB (scikit-image); infinite where they are equal."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(clean, perturbed, data_range=1))


def ssim(clean: np.ndarray, perturbed: np.ndarray) -> float:
    """Structural similarity of images (H, W, 3) in [0, 1] (scikit-image: uniform window of 7, `data_range=1`)."""
    return float(structural_similarity(clean, perturbed, win_size=7, data_range=1, channel_axis=-1))


def pictures(
    images: ImageSet, levels: Mapping[object, Perturbation], clean: Mapping[str, np.ndarray] | None = None
) -> list[list[np.ndarray]]:
    """Every image under every level, a row an image, pixels (H, W, 3) in [0, 1]; `clean` as in `Perturbation.change`."""
    changed = [images.changed(level.change(images, clean or {})) for level in levels.values()]
    return [[one.pixels(row) for one in changed] for row in range(len(images))]


def quality_table(images: ImageSet, levels: Mapping[object, Perturbation]) -> pd.DataFrame:
    """PSNR and SSIM against the clean image, means over images: level, psnr_db, ssim."""
    changes = {level: perturbation.change(images, {}) for level, perturbation in levels.items()}
    rows = []
    for row in progress(range(len(images)), "PSNR and SSIM", len(images)):
        clean = images.pixels(row)
        for level, change in changes.items():
            changed = change(clean, images.ids[row])
            rows.append({"level": level, "psnr_db": psnr(clean, changed), "ssim": ssim(clean, changed)})
    return pd.DataFrame(rows).groupby("level", sort=False).mean().reset_index()
