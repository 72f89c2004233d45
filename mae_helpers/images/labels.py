"""Which class an image of ImageNet's flat validation folder is of: the usual kinds of ground-truth file."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from timm.data import ImageNetInfo

from mae_helpers.images.pixels import ImageError
from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import Images

USUAL_NAMES = (
    "LOC_val_solution.csv",  # Kaggle: ImageId,PredictionString
    "ILSVRC2012_validation_ground_truth.txt",  # development kit, with meta.mat beside it
    "imagenet_2012_validation_synset_labels.txt",  # a WordNet id a line
    "val.txt",  # file name and class index
)
NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


@cache
def wordnet_ids() -> list[str]:
    """The WordNet ids of ImageNet-1K in the order of a classifier's outputs."""
    return ImageNetInfo("imagenet-1k").label_names()


def file_of(images: Images, root: Path) -> str | None:
    """The ground-truth file that a profile names, or one of a usual name in the folder `root` or the one above it."""
    if isinstance(images.labels, str):
        return images.labels
    places = [place / name for place in (root, root.parent) for name in USUAL_NAMES]
    return next((str(path) for path in places if path.is_file()), None)


def classes(images: Images, root: Path, names: Sequence[str]) -> list[str]:
    """The classes of the sorted image files `names` in `root`; empty ones where the profile neither asks for nor has any.

    ImageError where classes are asked for and no ground-truth file says them.
    """
    path = file_of(images, root) if images.classes or images.labels else None
    if path is None and images.classes:
        raise ImageError(
            f"{root}: a flat folder, and no file that says which class an image is of; name it as `labels` "
            f"(IMAGENET_LABELS), or put one of {', '.join(USUAL_NAMES)} beside the images"
        )
    return read(Path(path), names) if path else [""] * len(names)


def _by_the_kit(path: Path, values: Sequence[str]) -> list[str]:
    """The WordNet ids that the development kit's own numbers stand for, by the meta.mat beside the file."""
    meta = path.with_name("meta.mat")
    if not meta.is_file():
        raise ImageError(
            f"{path}: one number a line counts classes in the development kit's own order; put the kit's meta.mat beside "
            "it, or use a file that gives WordNet ids"
        )
    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        meaning = {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in synsets}
    except Exception as error:  # SciPy has a kind of its own for each kind of damage
        raise ImageError(f"{meta}: not the development kit's ({error}); copy it again") from None
    # never as an index from 0: a number that meta.mat lacks is no class
    return [meaning.get(value, f"number {value}, which meta.mat lacks") for value in values]


def _by_line(path: Path, values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """A value a line, in the order of the validation images' numbers, or of the sorted names where they have none."""
    numbers = [NUMBER.match(name) for name in names]
    fits = all(numbers) or len(values) == len(names)
    rows = [int(number[1]) - 1 for number in numbers] if all(numbers) else range(len(names))
    if not fits or not all(0 <= row < len(values) for row in rows):
        raise ImageError(f"{path}: {len(values)} lines do not fit {len(names)} images; use the file of this very set")
    values = _by_the_kit(path, values) if all(value.isdecimal() for value in values) else values
    return {Path(name).stem: values[row] for name, row in zip(names, rows, strict=True)}


def read(path: Path, names: Sequence[str]) -> list[str]:
    """The WordNet id of each of the sorted image files `names`; ImageError where one is missing or none of ImageNet's.

    Understands a file name and a class a line (comma or space; the class as WordNet id, or as index from 0), a WordNet
    id a line, and the development kit's numbers with its meta.mat.
    """
    if not path.is_file():
        raise ImageError(f"{path}: no such file; name a ground-truth file as `labels`")
    try:
        text = path.read_text("utf-8-sig")  # without the mark that some editors put first
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: not text in UTF-8 ({error}); use a ground-truth file of these images") from None
    lines = [re.split(r"[,\s]+", line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise ImageError(f"{path}: nothing in it; use a ground-truth file of these images")
    if all(len(line) == 1 for line in lines):
        said = _by_line(path, [line[0] for line in lines], names)
    else:
        said = {}
        for name, value in (line[:2] for line in lines if len(line) > 1):
            if said.setdefault(Path(name).stem, value) != value:
                raise ImageError(f"{path}: {shown(name)} is in it twice, as {shown(value)} too; remove one of them")
    known, found = wordnet_ids(), []
    ids = set(known)
    for name in names:
        value = said.get(Path(name).stem, "")
        if value.isdecimal() and len(value) < 10 and int(value) < len(known):
            value = known[int(value)]
        if value not in ids:
            told = shown(value)[1:-1] if value else "not in it"
            raise ImageError(f"{path}: {name} is {told}; expected a WordNet id or an index from 0 to 999")
        found.append(value)
    return found
