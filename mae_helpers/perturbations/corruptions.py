"""The 15 corruptions of ImageNet-C (Table II), made from clean images by the package `imagecorruptions`.

Files of the published ImageNet-C differ: they were made from other sizes and saved as JPEG.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import numpy as np
import pandas as pd

from mae_helpers.images.pixels import ImageError
from mae_helpers.images.sets import Change, ImageSet
from mae_helpers.perturbations.levels import Perturbation

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
SEVERITIES = (1, 2, 3, 4, 5)
OWN_SEED = ("impulse_noise", "glass_blur")  # these take a seed; the others draw from numpy's global state
SMALLEST = 32  # pixels: what the corruptions need


@dataclass(frozen=True)
class Corruption(Perturbation):
    """One of the 15 corruptions at a severity from 1 to 5."""

    corruption: str
    severity: int
    seed: int = 0
    in_processes: ClassVar[bool] = True  # numpy's global random state belongs to one thread at a time
    measures: ClassVar[tuple[str, ...]] = ("prediction", "embedding")

    def __post_init__(self) -> None:
        if self.corruption not in GROUP_OF:
            raise ValueError(f"corruption {self.corruption!r} is unknown; use one of {', '.join(GROUP_OF)}")
        if self.severity not in SEVERITIES or not isinstance(self.severity, int):
            raise ValueError(f"{self.corruption}: severity {self.severity} is unknown; use 1 to 5")

    @property
    def name(self) -> str:
        """Corruption and severity."""
        return f"{self.corruption}_{self.severity}"

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """Corrupt the bytes of an image; an image below 32 px is an ImageError."""
        if min(images.input.shape) < SMALLEST:
            raise ImageError(
                f"input.size is {images.input.size}: the corruptions need images of at least {SMALLEST} px; leave this "
                "chapter out, or use a model of larger images"
            )
        return lambda pixels, name: corrupt(pixels, name, self.corruption, self.severity, self.seed)


def corrupt(pixels: np.ndarray, name: str, corruption: str, severity: int, seed: int) -> np.ndarray:
    """One corrupted image (H, W, 3), float32 in [0, 1] in 256 steps.

    Drawn anew for each image `name`, corruption, severity and seed, so that neither order nor workers matter; numpy's
    global random state, which the package uses, is left as it was found.
    """
    import imagecorruptions  # with numba: only where a corruption is made

    own = crc32(f"{seed} {name} {corruption} {severity}".encode())
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(own)  # noqa: NPY002
    try:
        more = {"seed": own} if corruption in OWN_SEED else {}
        pixels = np.round(pixels * 255).astype(np.uint8)
        return imagecorruptions.corrupt(pixels, severity, corruption, **more).astype(np.float32) / 255
    finally:
        np.random.set_state(state)  # noqa: NPY002


def mean_corruption_error(table: pd.DataFrame) -> pd.Series:
    """Mean error in percent over corruptions, each a mean over severities, by model (not divided by AlexNet's)."""
    error = 100 - table.groupby(["model", "corruption"])["top1_percent"].mean()
    return error.groupby("model").mean()
