"""A small copy of ImageNet's validation set: crops of scikit-image's photographs under ImageNet's names."""

import csv
import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from mae_helpers.images.sets import ImageSet, open_images
from mae_helpers.profile.settings import Images, Input

PAPER = {  # the ten classes of the paper in its order, and their places in a classifier's output
    "n02106662": 235,
    "n01855032": 98,
    "n02107312": 237,
    "n02105641": 229,
    "n02782093": 417,
    "n02788148": 421,
    "n02802426": 430,
    "n03788195": 668,
    "n04065272": 757,
    "n04273569": 814,
}
EACH = 3
SIZES = [(64, 96), (96, 64), (120, 80), (75, 100), (60, 60), (118, 62), (81, 97)]  # width, height
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "moon", "retina", "brick", "grass")
SETTINGS = Input(size=32)


def validation_names() -> dict[str, str]:
    """File name -> WordNet id: the classes take turns, with gaps in the numbers, as some of the 50,000 files do."""
    return {f"ILSVRC2012_val_{7 * row + 3:08d}.JPEG": list(PAPER)[row % 10] for row in range(10 * EACH)}


def photograph(number: int) -> Image.Image:
    """A crop of a photograph, a different one for each number, most in colour, at one of several sizes and shapes."""
    whole = Image.fromarray(getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])())
    width, height = SIZES[number % len(SIZES)]
    left, top = 11 * number % (whole.width - 2 * width), 17 * number % (whole.height - 2 * height + 1)
    return whole.crop((left, top, left + 2 * width, top + 2 * height)).resize((width, height))


def write_flat(root: Path) -> Path:
    """The images as ImageNet's validation archive holds them: one folder, numbered."""
    root.mkdir(parents=True)
    for number, name in enumerate(validation_names()):
        photograph(number).save(root / name, quality=90)
    return root


def write_folders(flat: Path, root: Path, classes: list[str] | None = None) -> Path:
    """The same files, a folder a class."""
    for name, label in validation_names().items():
        if classes is None or label in classes:
            (root / label).mkdir(parents=True, exist_ok=True)
            (root / label / name).write_bytes((flat / name).read_bytes())
    return root


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar archive of these names and contents, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, BytesIO(content))
    return path


def write_class_tar(flat: Path, path: Path) -> Path:
    """One archive of class folders."""
    names = validation_names()
    return write_tar(path, {f"val/{label}/{name}": (flat / name).read_bytes() for name, label in names.items()})


def write_class_tars(flat: Path, root: Path, prefix: str = "") -> Path:
    """An archive a class, as the training set is published."""
    for label in PAPER:
        chosen = [name for name, other in validation_names().items() if other == label]
        write_tar(root / f"{label}.tar", {prefix + name: (flat / name).read_bytes() for name in chosen})
    return root


def shard_members(flat: Path, prefix: str = "") -> dict[str, bytes]:
    """What WebDataset shards hold: key.jpg, key.cls and key.json, shuffled."""
    names, members = list(validation_names().items()), {}
    for row in np.random.default_rng(0).permutation(len(names)):
        name, label = names[row]
        key = prefix + name.removesuffix(".JPEG")
        members[f"{key}.json"] = json.dumps({"label": PAPER[label], "filename": name}).encode()
        members[f"{key}.cls"] = str(PAPER[label]).encode()
        members[f"{key}.jpg"] = (flat / name).read_bytes()
    return members


def write_shards(flat: Path, root: Path, prefix: str = "") -> Path:
    """Three WebDataset shards of ten images each."""
    members = list(shard_members(flat, prefix).items())
    for number in range(3):
        write_tar(root / f"imagenet-val-{number:06d}.tar", dict(members[30 * number : 30 * number + 30]))
    return root


def write_kaggle(path: Path, names: dict[str, str] | None = None) -> Path:
    """Kaggle's LOC_val_solution.csv: the image's id, then a class and a box for each object."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        for name, label in reversed((names or validation_names()).items()):
            writer.writerow([name.removesuffix(".JPEG"), f"{label} 111 108 230 365 {label} 4 5 60 70 "])
    return path


def opened(
    folder: Path | str, source: str = "auto", classes: object = None, settings: Input = SETTINGS, **more
) -> ImageSet:
    """The image set of a folder: by default the paper's ten classes."""
    wanted = list(PAPER) if classes is None else classes
    return open_images(Images(source=source, folder=str(folder), classes=wanted, **more), settings)


def keys(images: ImageSet) -> list[str]:
    """The number in the name of each file, whatever stands around it."""
    return [name.rpartition("ILSVRC2012_val_")[2].partition(".")[0] for name in images.ids]
