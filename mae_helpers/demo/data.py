"""Fashion-MNIST as the demo uses it: the training and test splits, 28-px grey images enlarged to 56 px.

Fashion-MNIST: Xiao, Rasul, Vollgraf, arXiv 1708.07747, MIT licence (`LICENSE-fashion-mnist.txt` beside this file).
"""

import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mae_helpers.demo.model import IMAGE_SIZE

MEAN, STD = 0.286, 0.353  # of the training split's pixels, scaled to [0, 1]
FOLDERS = ("/usr/share/datasets/fashion-mnist", "data/FashionMNIST/raw")


def find_folder(folder: str | None = None) -> Path:
    """The folder with the four IDX files; FileNotFoundError names the places looked at and how to get them."""
    places = [Path(folder)] if folder else [Path(place) for place in FOLDERS]
    for place in places:
        if any(place.glob("train-images-idx3-ubyte*")):
            return place
    raise FileNotFoundError(
        f"no Fashion-MNIST (train-images-idx3-ubyte[.gz]) in {', '.join(map(str, places))}; install Debian's package "
        "dataset-fashion-mnist, or run torchvision.datasets.FashionMNIST('data', download=True)"
    )


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzipped or plain, into an array of the shape in its header."""
    path = path if path.exists() else path.with_name(path.name + ".gz")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def load_split(split: str, folder: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) and labels (n,) as bytes of the split `train` (60,000) or `t10k` (10,000)."""
    return tuple(read_idx(find_folder(folder) / f"{split}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))


def enlarge(images: np.ndarray) -> np.ndarray:
    """Grey images (n, 28, 28) -> (n, 56, 56) by Pillow's bicubic filter, as the book's own reader does it."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images])


def to_rgb(images: Tensor) -> Tensor:
    """Byte images (B, 56, 56) -> normalised float RGB (B, 3, 56, 56), three equal channels."""
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1).expand(-1, 3, -1, -1)


def random_crop_and_flip(images: Tensor, generator: torch.Generator, smallest: float = 0.8) -> Tensor:
    """Zoom every image (B, 3, H, W) into a random square of side `smallest`..1 and mirror half of them."""
    side, offset_x, offset_y, mirror = torch.rand(4, len(images), generator=generator).to(images.device)
    side = smallest + (1 - smallest) * side
    matrix = torch.zeros(len(images), 2, 3, device=images.device)
    matrix[:, 0, 0] = torch.where(mirror < 0.5, side, -side)
    matrix[:, 1, 1] = side
    matrix[:, 0, 2] = (1 - side) * (2 * offset_x - 1)
    matrix[:, 1, 2] = (1 - side) * (2 * offset_y - 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
