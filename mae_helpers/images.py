"""Ordered image sets: the bundled demo, scikit-learn's digits, a folder a class, or one flat folder."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from timm.data import ImageNetInfo
from torch import Tensor
from torchvision.transforms import functional

from mae_helpers.profiles import Images, Input, Profile

DEMO_FILE = Path(__file__).parent / "demo" / "fashion_mnist_500.npz"
DEMO_SHA256 = "5d83645d798d263e8c599a66ecaabb42305a62d1c3e794a6800d125b8b1fa15b"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ImageError(ValueError):
    """Images that cannot be used: the message names the file or folder, the value and the remedy."""


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order, each with a stable id and a label; pixels are read when asked for.

    `labels` index the model's classes (-1 where there are none) and `classes` holds each image's class name.
    """

    ids: Sequence[str]
    labels: np.ndarray
    classes: np.ndarray
    read: Callable[[int], Image.Image]
    input: Input
    folder: Path | None = None  # the files' folder, where they are files; ids count from it
    change: Callable[[np.ndarray, str], np.ndarray] | None = None  # of pixels, by id: see perturbations.py
    stored: Mapping[str, np.ndarray] | None = None  # pixels by id, where they were read already
    source: Images | None = None  # the profile's entry that these come from

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int) -> Image.Image:
        """Image `row` as RGB at the model's input size; an unreadable file is an ImageError with its path."""
        try:
            image = self.read(row).convert("RGB")
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            path = self.folder / self.ids[row] if self.folder else self.ids[row]
            raise ImageError(f"{path}: not a readable image ({error}); replace or remove the file") from None
        return resize(image, self.input.size, self.input.resize)

    def pixels(self, row: int) -> np.ndarray:
        """Image `row`, (H, W, 3) float32 in [0, 1], changed where this is a perturbed set."""
        if self.stored is not None:
            return self.stored[self.ids[row]]
        pixels = np.asarray(self.image(row), np.float32) / 255
        return pixels if self.change is None else self.change(pixels, self.ids[row])

    def tensor(self, rows: Sequence[int]) -> Tensor:
        """Images `rows`, normalised: (B, 3, H, W) float32."""
        pixels = np.stack([self.pixels(row) for row in rows])
        mean, std = np.float32(self.input.mean), np.float32(self.input.std)
        return torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2).copy())

    def batches(self, size: int) -> Iterator[tuple[range, Tensor]]:
        """Walk through the set in order: (rows, images (B, 3, H, W))."""
        for start in range(0, len(self), size):
            rows = range(start, min(start + size, len(self)))
            yield rows, self.tensor(rows)

    @cached_property
    def names(self) -> list[str]:
        """The class names in order of first appearance."""
        return list(dict.fromkeys(self.classes.tolist()))

    def subset(self, classes: Sequence[str] | None = None, per_class: int | None = None) -> "ImageSet":
        """The first `per_class` images of each of `classes`; an ImageError says which class has too few."""
        chosen: list[int] = []
        for name in classes or self.names:
            rows = np.flatnonzero(self.classes == name)
            if not len(rows):
                raise ImageError(f"no image of the class {name!r}; there are {', '.join(self.names)}")
            if per_class and len(rows) < per_class:
                raise ImageError(f"class {name!r} has {len(rows)} images, {per_class} were asked for")
            chosen.extend(rows[:per_class].tolist())
        return self.take(chosen)

    def take(self, rows: Sequence[int]) -> "ImageSet":
        """The images at `rows`, in that order."""
        rows = list(rows)
        read, ids = self.read, [self.ids[row] for row in rows]
        return replace(
            self, ids=ids, labels=self.labels[rows], classes=self.classes[rows], read=lambda row: read(rows[row])
        )

    def normalised_as(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> "ImageSet":
        """The same images with another model's normalisation, or this very set where that is None."""
        return self if mean is None else replace(self, input=replace(self.input, mean=list(mean), std=list(std)))

    def changed(self, change: Callable[[np.ndarray, str], np.ndarray]) -> "ImageSet":
        """The same images, their pixels (H, W, 3) in [0, 1] passed through `change(pixels, id)` as they are read.

        It takes the place of an earlier change.
        """
        return replace(self, change=change, stored=None)

    def held(self) -> "ImageSet":
        """The same images read and changed once, now in memory."""
        return replace(self, stored={name: self.pixels(row) for row, name in enumerate(self.ids)})


def resize(image: Image.Image, size: int, how: str) -> Image.Image:
    """`squash` an image straight to size x size (released code), or resize by 256/224 and `crop` its centre (MAE)."""
    if how == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    shorter = functional.resize(image, round(size * 256 / 224), functional.InterpolationMode.BICUBIC)
    return functional.center_crop(shorter, [size, size])


def _bundled(images: Images, settings: Input) -> ImageSet:
    digest = hashlib.sha256(DEMO_FILE.read_bytes()).hexdigest() if DEMO_FILE.exists() else "no file"
    if digest != DEMO_SHA256:
        raise ImageError(
            f"{DEMO_FILE}: SHA-256 is {digest}, expected {DEMO_SHA256}; restore it with git, or rebuild it with "
            "`python -m mae_helpers.demo.build_images`"
        )
    with np.load(DEMO_FILE) as file:
        pixels, labels, index = file["images"], file["labels"], file["index"]
    ids = [f"fashion-mnist/{label}/{number:05d}" for label, number in zip(labels, index, strict=True)]
    if len(images.classes) != labels.max() + 1:
        raise ImageError(f"images.classes names {len(images.classes)} classes; the bundled images have 10")
    names = np.array(images.classes)[labels]
    return ImageSet(ids, labels.astype(int), names, lambda row: Image.fromarray(pixels[row]), settings)


def _digits(images: Images, settings: Input) -> ImageSet:
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    ids = [f"digits/{row:04d}" for row in range(len(pixels))]
    names = np.array([str(target) for target in digits.target])
    return ImageSet(ids, np.full(len(ids), -1), names, lambda row: Image.fromarray(pixels[row]), settings)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _opened(root: Path, paths: Sequence[Path], labels: np.ndarray, names: np.ndarray, settings: Input) -> ImageSet:
    ids = [path.relative_to(root).as_posix() for path in paths]
    return ImageSet(ids, labels, names, lambda row: Image.open(paths[row]), settings, root)


@cache
def _wordnet_ids() -> list[str]:
    return ImageNetInfo("imagenet-1k").label_names()


def class_index(folder_name: str, position: int) -> int:
    """A class folder's index in the model's head: by table for a WordNet id, else its position in sorted order."""
    known = _wordnet_ids()
    return known.index(folder_name) if folder_name in known else position


def _folders(images: Images, settings: Input) -> ImageSet:
    root = Path(images.folder).expanduser()
    present = sorted(path.name for path in root.iterdir() if path.is_dir())
    wanted = images.classes or present
    missing = [name for name in wanted if name not in present]
    if missing or not wanted:
        raise ImageError(f"{root}: no folder for the classes {missing or '(none at all)'}; it holds {present[:12]}")
    if images.count is not None and images.count % len(wanted):
        raise ImageError(
            f"{root}: count {images.count} cannot be shared evenly by {len(wanted)} classes; change `count`"
        )
    per_class = None if images.count is None else images.count // len(wanted)
    paths, labels, names = [], [], []
    for name in wanted:
        found = _files(root / name)
        if per_class and len(found) < per_class:
            raise ImageError(f"{root / name}: {len(found)} images, {per_class} were asked for; lower images.count")
        for path in found[:per_class]:
            paths.append(path)
            labels.append(class_index(name, present.index(name)))
            names.append(name)
    return _opened(root, paths, np.array(labels), np.array(names), settings)


def _flat(images: Images, settings: Input) -> ImageSet:
    root = Path(images.folder).expanduser()
    paths = _files(root)
    return _opened(root, paths, np.full(len(paths), -1), np.full(len(paths), ""), settings)


def open_images(images: Images, settings: Input) -> ImageSet:
    """The image set that a profile describes, in sorted order; ImageError where folder, class or count do not fit."""
    if images.folder is not None and not Path(images.folder).expanduser().is_dir():
        raise ImageError(f"{images.folder}: no such folder of images; correct `folder` in the profile")
    reader = {"bundled": _bundled, "digits": _digits, "folders": _folders, "flat": _flat}[images.source]
    found = replace(reader(images, settings), source=images)
    if images.count is not None and len(found) < images.count:
        raise ImageError(
            f"{images.folder or images.source}: {len(found)} images, {images.count} were asked for; lower `count`"
        )
    if not len(found):
        raise ImageError(f"{images.folder}: no image ({', '.join(sorted(SUFFIXES))}) in it; correct `folder`")
    return found.take(range(images.count)) if images.count else found


def fingerprint(images: Images) -> str:
    """A digest of an image source: the bundled file's bytes; names, sizes and times of a folder's files."""
    digest = hashlib.sha256(repr(images).encode())
    if images.source == "bundled" and DEMO_FILE.exists():
        digest.update(DEMO_FILE.read_bytes())
    if images.folder:
        root = Path(images.folder).expanduser()
        for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES):
            stat = path.stat()
            digest.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def first_images(profile: Profile) -> ImageSet:
    """The profile's main image set."""
    return open_images(profile.images, profile.input)


def second_images(profile: Profile) -> ImageSet | None:
    """The profile's second image set (Sec. IV-A: SAM), or None where it names none."""
    return None if profile.second_images is None else open_images(profile.second_images, profile.input)
