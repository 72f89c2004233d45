"""How far perturbed images are from the clean ones: PSNR and SSIM."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mae_helpers.images.sets import ImageSet
from mae_helpers.perturbations.levels import Perturbation
from mae_helpers.profile.progress import progress


def psnr(clean: np.ndarray, perturbed: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images in [0, 1], in dB (scikit-image); infinite where they are equal."""
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(clean, perturbed, data_range=1))


def ssim(clean: np.ndarray, perturbed: np.ndarray) -> float:
    """Structural similarity of images (H, W, 3) in [0, 1] (scikit-image: uniform window of 7, `data_range=1`)."""
    return float(structural_similarity(clean, perturbed, win_size=7, data_range=1, channel_axis=-1))


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
