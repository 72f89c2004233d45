"""Ordered image sets: the bundled demo, scikit-learn's digits, or files in one of the layouts of layouts.py."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from mae_helpers.images import labels, layouts
from mae_helpers.images.layouts import Entry
from mae_helpers.images.pixels import SUFFIXES, ImageError, read
from mae_helpers.profile.settings import Images, Input, Profile

DEMO_FILE = Path(__file__).parents[1] / "demo" / "fashion_mnist_500.npz"
DEMO_SHA256 = "5d83645d798d263e8c599a66ecaabb42305a62d1c3e794a6800d125b8b1fa15b"
DEMO_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]  # fmt: skip
AHEAD = 2  # batches that are read while the model is busy
Change = Callable[[np.ndarray, str], np.ndarray]  # pixels (H, W, 3) in [0, 1] and the image's id -> pixels


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order, each with a stable id and a label.

    `labels` index the model's classes (-1 where there are none) and `classes` holds each image's class name.
    `pixels(row)` gives an image at the model's input size, (H, W, 3) float32 in [0, 1], when it is asked for.
    """

    ids: Sequence[str]
    labels: np.ndarray
    classes: np.ndarray
    pixels: Callable[[int], np.ndarray]
    input: Input
    source: Images | None = None  # the profile's entry that these come from, unless their pixels were changed
    state: str = ""  # the digest of that source when it was opened
    counted: tuple[str, ...] = ()  # the classes among which a label is the place, where nothing else says what it is

    @classmethod
    def of_pictures(
        cls,
        ids: Sequence[str],
        labels: np.ndarray,
        classes: np.ndarray,
        picture: Callable[[int], Image.Image],
        settings: Input,
        folder: Path | str = "",
    ) -> "ImageSet":
        """Images of any size and mode; one that cannot be read is an ImageError with its path, `folder` and id."""

        def pixels(row: int) -> np.ndarray:
            return read(lambda: picture(row), Path(folder, ids[row]), settings.shape, settings.resize)

        return cls(ids, labels, classes, pixels, settings)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int) -> Image.Image:
        """Image `row` in bytes, RGB."""
        return Image.fromarray(np.round(self.pixels(row) * 255).astype(np.uint8))

    def normalised(self, row: int) -> np.ndarray:
        """Image `row` as the model takes it, (3, H, W) float32."""
        mean, std = np.float32(self.input.mean), np.float32(self.input.std)
        return ((self.pixels(row) - mean) / std).transpose(2, 0, 1)

    def tensor(self, rows: Sequence[int]) -> Tensor:
        """Images `rows`, normalised: (B, 3, H, W) float32."""
        return torch.from_numpy(np.stack([self.normalised(row) for row in rows]))

    def batches(self, size: int, workers: int = 1) -> Iterator[tuple[range, list[str], Tensor]]:
        """Walk through the set in order: (rows, ids, normalised images (B, 3, H, W)); `workers` threads read ahead."""
        cuts = [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]
        with ThreadPoolExecutor(workers) as pool:
            read_ahead = ((rows, [pool.submit(self.normalised, row) for row in rows]) for rows in cuts)
            waiting = deque(islice(read_ahead, AHEAD))
            while waiting:
                waiting.extend(islice(read_ahead, 1))
                rows, images = waiting.popleft()
                pixels = np.stack([one.result() for one in images])
                yield rows, [self.ids[row] for row in rows], torch.from_numpy(pixels)

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
            if per_class is not None and per_class < 1:
                raise ImageError(f"{per_class} images of each class: use 1 or more")
            if per_class and len(rows) < per_class:
                raise ImageError(f"class {name!r} has {len(rows)} images, {per_class} were asked for")
            chosen.extend(rows[:per_class].tolist())
        return self.take(chosen)

    def take(self, rows: Sequence[int]) -> "ImageSet":
        """The images at `rows`, in that order."""
        rows = list(rows)
        kept = {"labels": self.labels[rows], "classes": self.classes[rows]}
        return replace(self, ids=[self.ids[row] for row in rows], pixels=lambda row: self.pixels(rows[row]), **kept)

    def normalised_as(self, mean: Sequence[float], std: Sequence[float]) -> "ImageSet":
        """The same images with another model's normalisation."""
        return replace(self, input=self.input.model_copy(update={"mean": list(mean), "std": list(std)}))

    def changed(self, change: Change) -> "ImageSet":
        """The same images, their pixels passed through `change(pixels, id)` as they are asked for."""
        return replace(self, pixels=lambda row: change(self.pixels(row), self.ids[row]), source=None)

    def held(self, workers: int, change: Change, processes: bool = False) -> "ImageSet":
        """The same images in memory, read and changed once by `workers` threads, or changed by as many `processes`."""
        made = self.changed(change)
        with ThreadPoolExecutor(workers) as pool:
            pixels = list(pool.map(self.pixels if processes else made.pixels, range(len(self))))
        if processes:
            pixels = Parallel(n_jobs=workers)(delayed(change)(*one) for one in zip(pixels, self.ids, strict=True))
        return replace(made, pixels=pixels.__getitem__)


def _bundled(images: Images) -> tuple[list[Entry], list[str]]:
    digest = hashlib.sha256(DEMO_FILE.read_bytes()).hexdigest() if DEMO_FILE.exists() else "no file"
    if digest != DEMO_SHA256:
        raise ImageError(
            f"{DEMO_FILE}: SHA-256 is {digest}, expected {DEMO_SHA256}; restore it with git, or rebuild it with "
            "`python -m mae_helpers.demo.build_images`"
        )
    with np.load(DEMO_FILE) as file:
        pixels, numbers, index = file["images"], file["labels"], file["index"]
    ids = [f"fashion-mnist/{number}/{row:05d}" for number, row in zip(numbers, index, strict=True)]
    return _drawn(pixels, [DEMO_CLASSES[number] for number in numbers], ids), DEMO_CLASSES


def _digits(images: Images) -> tuple[list[Entry], list[str]]:
    """scikit-learn's digits; where no class is asked for there are none, and they come in their own order."""
    digits = load_digits()
    pixels, names = np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(str).tolist()
    ids = [f"digits/{row:04d}" for row in range(len(names))]
    return _drawn(pixels, names, ids), sorted(set(names)) if images.classes else []


def _drawn(pixels: np.ndarray, names: Sequence[str], ids: Sequence[str]) -> list[Entry]:
    """Images in memory, (images, H, W) in bytes."""
    return [Entry(*one, partial(Image.fromarray, image)) for *one, image in zip(names, ids, ids, pixels, strict=True)]


def exists(images: Images) -> bool:
    """Whether there is anything at the place that a profile names."""
    return images.folder is None or images.folder.startswith("hf:") or os.path.exists(images.folder)


def left_out(images: Images | None) -> bool:
    """Whether a set is not there and need not be: the profile names none, or an optional one that is missing."""
    return images is None or (images.optional and not exists(images))


def why_left_out(images: Images | None, what: str) -> str | None:
    """One line for the page on a set that is left out, or None where it is there."""
    cause = f"there is no {images.folder}" if images else "this profile names none"
    return f"{what}: left out, because {cause}." if left_out(images) else None


def open_images(images: Images, settings: Input) -> ImageSet:
    """The image set that a profile describes, in sorted order; ImageError where folder, class or count do not fit."""
    if not exists(images):
        raise ImageError(f"{images.folder}: no such folder of images; correct `folder`, or the variable behind it")
    listed, present = {"bundled": _bundled, "digits": _digits}.get(images.source, layouts.listing)(images)
    chosen = layouts.chosen(listed, present, images)
    if not chosen:
        raise ImageError(f"{images.folder}: no image ({', '.join(sorted(SUFFIXES))}) in it; correct `folder`")
    table = {name: number for number, name in enumerate(labels.wordnet_ids())}
    heads = [] if images.source == "digits" else list(filter(None, present))  # no model at hand knows digits
    if heads and all(name.isdecimal() and name.isascii() for name in heads) and len({*map(int, heads)}) == len(heads):
        table = {name: int(name) for name in heads}
    known = {name: table.get(name, position) for position, name in enumerate(heads)}  # others by their sorted order
    if isinstance(images.labels, dict):
        known = table = images.labels
        if missing := sorted({entry.label for entry in chosen} - set(known)):
            raise ImageError(f"{images.folder}: `labels` gives no number to {missing[:12]}; add them")
    classes, numbers = np.array([entry.label for entry in chosen]), [known.get(entry.label, -1) for entry in chosen]
    ids, folder = [entry.id for entry in chosen], images.folder or ""
    found = ImageSet.of_pictures(ids, np.array(numbers), classes, lambda row: chosen[row].open(), settings, folder)
    by_order = any(entry.label in known and entry.label not in table for entry in chosen)
    return replace(found, source=images, state=fingerprint(images), counted=tuple(heads) if by_order else ())


def fingerprint(images: Images) -> str:
    """A digest of an image source: the bundled file's bytes; names, sizes and times of the files of wanted classes."""
    digest = hashlib.sha256(images.model_dump_json(exclude={"title", "optional"}).encode())
    if images.source == "bundled" and DEMO_FILE.exists():
        digest.update(DEMO_FILE.read_bytes())
    root = Path((images.folder or "").removeprefix("hf:"))
    if images.folder and os.path.exists(root):
        there = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
        wanted = [root / name for name in images.classes if name in there] if images.classes != "all" else []
        files = [path for place in wanted or [root] for path in layouts.files_below(place)] if root.is_dir() else [root]
        for path in sorted(path for path in files if path.suffix.lower() in {*SUFFIXES, ".tar"}):
            stat = path.stat() if path.exists() else path.lstat()  # of a broken link itself
            digest.update(os.fsencode(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n"))
        truth = labels.file_of(images, root)
        for path in (Path(truth), Path(truth).with_name("meta.mat")) if truth else ():
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def first_images(profile: Profile) -> ImageSet:
    """The profile's main image set."""
    return open_images(profile.images, profile.input)
