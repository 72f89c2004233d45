"""One image file as RGB pixels: which formats are read, how each becomes three bytes a pixel, and what is refused.

Pixels are as they are stored, as torchvision's and timm's loaders have them, with which these models are trained: no turn
by EXIF, transparency left away, the first picture of an animation.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import functional

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm"),
}
# Whatever the suffix says; others, such as EPS, start programs:
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
LARGEST = 89_478_485  # pixels: where Pillow begins to warn of files that unpack to fill the memory


class ImageError(ValueError):
    """Images that cannot be used: the message names the file or folder, the value and the remedy."""


def opened(file: Path | BytesIO) -> Image.Image:
    """An image file, its pixels not yet read; ValueError or OSError for what is no image, or too large to unpack."""
    if isinstance(file, Path) and not file.is_file():  # to open a named pipe would wait for ever
        raise ValueError("a folder, a broken link or a device, not a file")
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {LARGEST}; make it smaller")
    return image


def rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB. 16-bit grey is put in 256 steps (Pillow itself would cut it off at 255).

    ValueError where numbers have no known white: floating point, or whole numbers beyond 16 bits.
    """
    if image.mode == "F":
        raise ValueError("pixels in floating point; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError("whole numbers beyond 16 bits; save it with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("RGB")


def resize(image: Image.Image, shape: int | tuple[int, int], how: str) -> Image.Image:
    """`squash` an image straight to (height, width) (released code), or resize by 256/224 and `crop` its centre (MAE)."""
    height, width = np.broadcast_to(shape, 2).tolist()
    if how == "squash":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    side = round(max(height / image.height, width / image.width) * min(image.size) * 256 / 224)
    if side**2 * max(image.size) / min(image.size) > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels are too narrow to crop from; use squash")
    shorter = functional.resize(image, side, functional.InterpolationMode.BICUBIC)
    return functional.center_crop(shorter, [height, width])


def patch_grid(patches: int, shape: tuple[int, int]) -> tuple[int, int]:
    """How many of so many square patches stand in a column and in a row of an image of that shape."""
    rows = round((patches * shape[0] / shape[1]) ** 0.5)
    if not rows or patches % rows:
        raise ValueError(f"{patches} patches do not tile {shape[0]} x {shape[1]} pixels in squares")
    return rows, patches // rows


def read(
    open_it: Callable[[], Image.Image], path: Path, shape: tuple[int, int], how: str, remedy: str = "replace or remove"
) -> np.ndarray:
    """One image, (height, width, 3) float32 in [0, 1] in 256 steps; where it cannot be read, an ImageError names `path`."""
    try:
        return np.asarray(resize(rgb(open_it()), shape, how), np.float32) / 255
    except Exception as error:  # each format has errors of its own
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ImageError(f"{path}: not a readable image ({reason}); {remedy} the file") from None
