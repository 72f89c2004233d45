"""The published files of ImageNet-C: `corruption/severity/class/file`, or grouped, `noise/corruption/severity/...`."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from mae_helpers.images.labels import NUMBER
from mae_helpers.images.pixels import ImageError, opened, read
from mae_helpers.images.sets import Change, ImageSet, left_out, why_left_out
from mae_helpers.perturbations.corruptions import GROUP_OF, SEVERITIES, Corruption
from mae_helpers.perturbations.levels import Perturbation
from mae_helpers.profile.settings import Images, Profile

Levels = dict[tuple[str, int], Perturbation]  # by corruption and severity


@dataclass(frozen=True)
class CorruptedFiles(Perturbation):
    """One corruption at one severity, read from published files instead of being made (Table II).

    `folder` holds a folder a class; `state` is a digest of its files, so that other files are another cell.
    """

    corruption: str
    severity: int
    folder: str
    state: str
    measures: ClassVar[tuple[str, ...]] = ("prediction", "embedding")

    @property
    def name(self) -> str:
        """Corruption and severity, and that they are files."""
        return f"{self.corruption}_{self.severity}_files"

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """Instead of an image's pixels, those of its file; an image without one is an ImageError that names it."""
        classes = dict(zip(images.ids, images.classes, strict=True))

        def file_of(pixels: np.ndarray, name: str) -> np.ndarray:
            path = Path(self.folder, classes[name], file_name(name))
            if not path.exists():
                raise ImageError(
                    f"{path}: no such file; ImageNet-C must hold the images that `images` names, the validation set's"
                )
            return read(lambda: opened(path), path, images.input.shape, "squash", remedy="replace")

        return file_of


def file_name(image_id: str) -> str:
    """The name of an image's file in ImageNet-C: `ILSVRC2012_val_00000001.JPEG`, whatever stands around that number."""
    number = NUMBER.search(image_id)
    return f"{number[0]}.JPEG" if number else Path(image_id).name


def _state(folder: Path, classes: list[str] | str) -> str:
    """A digest of the files in the class folders: their names, sizes and times, so that one overwritten is noticed."""
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)) if classes in ("all", []) else classes:
        files = os.scandir(folder / name) if (folder / name).is_dir() else ()
        states = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        digest.update(repr((name, states)).encode())
    return digest.hexdigest()[:16]


def file_levels(source: Images | None, classes: list[str] | str, severities: Sequence[int] = SEVERITIES) -> Levels:
    """The cells of Table II for which files lie in the profile's `imagenet_c`; none where that is missing and optional.

    A corruption may be missing as a whole; one that is there must have all severities, or an ImageError says so.
    """
    if left_out(source):
        return {}
    root, levels = Path(source.folder), {}
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder of ImageNet-C; correct `folder` of imagenet_c (IMAGENET_C)")
    for corruption, group in GROUP_OF.items():
        places = [place for place in (root / corruption, root / group / corruption) if place.is_dir()]
        for severity in severities if places else ():
            folder = places[0] / str(severity)
            if not folder.is_dir():
                raise ImageError(f"{folder}: no such folder; ImageNet-C has severities 1 to 5 of each corruption")
            state = _state(folder, classes)
            levels[corruption, severity] = CorruptedFiles(corruption, severity, str(folder), state)
    if not levels:
        expected = "expected folders such as gaussian_noise/1 or noise/gaussian_noise/1"
        raise ImageError(f"{root}: no corruption of ImageNet-C in it; {expected}")
    return levels


def corruption_levels(
    profile: Profile, severities: Sequence[int] = SEVERITIES, seed: int = 0, source: str = "auto"
) -> tuple[Levels, str]:
    """The cells of Table II and what they are: `files` where the profile has them, else `generated` from clean images.

    `source` asks for one of the two, or for either: `auto`.
    """
    if source not in ("auto", "files", "generated"):
        raise ValueError(f"source {source!r} of the corruptions: use auto, files or generated")
    if not len(severities):
        raise ValueError(f"severities {list(severities)}: use some of 1 to 5")
    files = {} if source == "generated" else file_levels(profile.imagenet_c, profile.images.classes, severities)
    if source == "files" and not files:
        raise ImageError(f"{why_left_out(profile.imagenet_c, 'ImageNet-C')} Name its folder, or use source=auto")
    made = {cell: Corruption(*cell, seed) for cell in product(GROUP_OF, severities)}
    return (files, "files") if files else (made, "generated")


def account(profile: Profile, levels: Levels, made: str) -> str:
    """One line for the page: what the corrupted images are, and which corruptions are missing."""
    if made == "generated":
        why = why_left_out(profile.imagenet_c, "Published files of ImageNet-C") or ""
        return f"{why} The corruptions are made from the clean images."
    missing = [name.replace("_", " ") for name in GROUP_OF if name not in dict(levels.keys())]
    text = "The corrupted images are published files of ImageNet-C."
    return f"{text} Left out, because there is no folder of them: {', '.join(missing)}." if missing else text
