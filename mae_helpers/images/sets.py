"""Ordered image sets: the bundled demo, scikit-learn's digits, or files in one of the layouts of layouts.py."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from mae_helpers.images import labels as ground_truth
from mae_helpers.images import layouts
from mae_helpers.images.layouts import class_index
from mae_helpers.images.pixels import SUFFIXES, ImageError, resize, rgb
from mae_helpers.profile.settings import Images, Input, Profile

DEMO_FILE = Path(__file__).parents[1] / "demo" / "fashion_mnist_500.npz"
DEMO_SHA256 = "5d83645d798d263e8c599a66ecaabb42305a62d1c3e794a6800d125b8b1fa15b"
AHEAD = 2  # batches that are read while the model is busy


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
    decoded: Callable[[int], np.ndarray] | None = None  # bytes (H, W, 3) at input size, decoded once: see decoded.py
    source: Images | None = None  # the profile's entry that these come from
    state: str = ""  # the digest of that source when it was opened

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int) -> Image.Image:
        """Image `row` as RGB at the model's input size; an unreadable file is an ImageError with its path."""
        if self.decoded is not None:
            return Image.fromarray(self.decoded(row))
        try:
            return resize(rgb(self.read(row)), self.input.size, self.input.resize)
        except Exception as error:  # each format has errors of its own
            path = self.folder / self.ids[row] if self.folder else self.ids[row]
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            raise ImageError(f"{path}: not a readable image ({reason}); replace or remove the file") from None

    def pixels(self, row: int) -> np.ndarray:
        """Image `row`, (H, W, 3) float32 in [0, 1], changed where this is a perturbed set."""
        if self.stored is not None:
            return self.stored[self.ids[row]]
        pixels = np.asarray(self.image(row), np.float32) / 255
        return pixels if self.change is None else self.change(pixels, self.ids[row])

    def normalised(self, row: int) -> np.ndarray:
        """Image `row` as the model takes it, (3, H, W) float32."""
        mean, std = np.float32(self.input.mean), np.float32(self.input.std)
        return ((self.pixels(row) - mean) / std).transpose(2, 0, 1)

    def tensor(self, rows: Sequence[int]) -> Tensor:
        """Images `rows`, normalised: (B, 3, H, W) float32."""
        return torch.from_numpy(np.stack([self.normalised(row) for row in rows]))

    def batches(self, size: int, workers: int = 1) -> Iterator[tuple[range, list[str], Tensor]]:
        """Walk through the set in order: (rows, ids, images (B, 3, H, W)); `workers` threads read ahead of whoever asks."""
        batches = [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]
        if workers < 2:
            yield from ((rows, [self.ids[row] for row in rows], self.tensor(rows)) for rows in batches)
            return
        pool, waiting = ThreadPoolExecutor(workers), deque()
        try:
            for rows in [*batches, *[None] * AHEAD]:
                if rows is not None:
                    waiting.append((rows, [pool.submit(self.normalised, row) for row in rows]))
                if waiting and (rows is None or len(waiting) > AHEAD):
                    first, pixels = waiting.popleft()
                    ids = [self.ids[row] for row in first]
                    yield first, ids, torch.from_numpy(np.stack([pixel.result() for pixel in pixels]))
        finally:
            pool.shutdown(cancel_futures=True)  # whoever asks may stop early

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
        ids, read, decoded = [self.ids[row] for row in rows], self.read, self.decoded
        return replace(
            self,
            ids=ids,
            labels=self.labels[rows],
            classes=self.classes[rows],
            read=lambda row: read(rows[row]),
            decoded=decoded and (lambda row: decoded(rows[row])),
        )

    def normalised_as(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> "ImageSet":
        """The same images with another model's normalisation, or this very set where that is None."""
        return self if mean is None else replace(self, input=replace(self.input, mean=list(mean), std=list(std)))

    def changed(self, change: Callable[[np.ndarray, str], np.ndarray]) -> "ImageSet":
        """The same images, their pixels (H, W, 3) in [0, 1] passed through `change(pixels, id)` as they are read.

        It takes the place of an earlier change.
        """
        return replace(self, change=change, stored=None)

    def held(self, workers: int = 1, processes: bool = False) -> "ImageSet":
        """The same images read and changed once, now in memory; by `workers` threads, or processes for the change."""
        change, plain = self.change, self if not processes else replace(self, change=None)
        with ThreadPoolExecutor(workers) as pool:
            pixels = list(pool.map(plain.pixels, range(len(self))))
        if processes and change is not None:
            pairs = zip(pixels, self.ids, strict=True)
            pixels = Parallel(n_jobs=workers)(delayed(change)(one, name) for one, name in pairs)
        return replace(self, stored=dict(zip(self.ids, pixels, strict=True)))


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


def _files(images: Images, settings: Input) -> ImageSet:
    """Images that are files in one of the layouts."""
    found = layouts.listing(images)
    rows = layouts.chosen_rows(found, images)
    ids, names = [found.ids[row] for row in rows], [found.classes[row] for row in rows]
    positions = {name: class_index(name, position) if name else -1 for position, name in enumerate(found.present)}
    labels = np.array([positions.get(name, -1) for name in names], int)
    return ImageSet(ids, labels, np.array(names), lambda row: found.open(rows[row]), settings, found.root)


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
    reader = {"bundled": _bundled, "digits": _digits}.get(images.source, _files)
    found = replace(reader(images, settings), source=images, state=fingerprint(images))
    if images.count is not None and len(found) < images.count:
        raise ImageError(
            f"{images.folder or images.source}: {len(found)} images, {images.count} were asked for; lower `count`"
        )
    if not len(found):
        raise ImageError(f"{images.folder}: no image ({', '.join(sorted(SUFFIXES))}) in it; correct `folder`")
    return found.take(range(images.count)) if images.count else found


def fingerprint(images: Images) -> str:
    """A digest of an image source: the bundled file's bytes; names, sizes and times of the files of wanted classes."""
    digest = hashlib.sha256(repr(images).encode())
    if images.source == "bundled" and DEMO_FILE.exists():
        digest.update(DEMO_FILE.read_bytes())
    root = Path((images.folder or "").removeprefix("hf:"))
    if images.folder and os.path.exists(root):
        there = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
        wanted = [root / name for name in images.classes if name in there] if images.classes != "all" else []
        files = [path for place in wanted or [root] for path in place.rglob("*")] if root.is_dir() else [root]
        for path in sorted(path for path in files if path.suffix.lower() in {*SUFFIXES, ".tar"}):
            stat = path.stat() if path.exists() else path.lstat()  # of a broken link itself
            digest.update(os.fsencode(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n"))
        labels = images.labels or ground_truth.find(root)
        for path in (Path(labels), Path(labels).with_name("meta.mat")) if labels else ():
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def first_images(profile: Profile) -> ImageSet:
    """The profile's main image set."""
    return open_images(profile.images, profile.input)


def shifted_images(profile: Profile) -> dict[str, ImageSet]:
    """The profile's further test sets by name (Sec. IV-B: ImageNet-R, ImageNet-A) without those that are left out."""
    there = {name: images for name, images in profile.shifted_images.items() if not left_out(images)}
    return {name: open_images(images, profile.input) for name, images in there.items()}


def second_images(profile: Profile) -> ImageSet | None:
    """The profile's second image set (Sec. IV-A: SAM), or None where it names none or an optional one is missing."""
    return None if left_out(profile.second_images) else open_images(profile.second_images, profile.input)
