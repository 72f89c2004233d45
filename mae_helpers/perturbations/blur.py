"""Gaussian blur, and the ten levels of Table I."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from mae_helpers.images.sets import Change, ImageSet
from mae_helpers.perturbations.levels import Clean, Perturbation

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


@dataclass(frozen=True)
class GaussianBlur(Perturbation):
    """OpenCV's separable Gaussian of an odd `kernel_size` and `sigma`, in pixels; border reflect-101 (Table I)."""

    kernel_size: int
    sigma: float
    measures: ClassVar[tuple[str, ...]] = ("prediction", "probability", "embedding", "heads")

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


def blur(pixels: np.ndarray, kernel_size: int, sigma: float) -> np.ndarray:
    """Gaussian blur of an image (H, W, 3) in floating point, border reflect-101; size 0 holds all of `sigma`."""
    return cv2.GaussianBlur(pixels, (kernel_size, kernel_size), sigma, borderType=cv2.BORDER_REFLECT_101)


def blur_levels(levels: Sequence[str] = tuple(BLUR)) -> dict[str, Perturbation]:
    """`clean` and the paper's blur levels; ValueError for none, or a level outside I to X."""
    unknown = [level for level in levels if level not in BLUR]
    if unknown or not len(levels):
        raise ValueError(f"blur levels {unknown} are unknown; use some of {', '.join(BLUR)}")
    return {"clean": Clean()} | {level: GaussianBlur(*BLUR[level]) for level in levels}
