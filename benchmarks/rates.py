"""Images a second of the paper's model on files like ImageNet-C's: decoded, normalised, classified by `one_pass`."""

from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from skimage import data

from benchmarks.harness import device_name, seconds, versions, write
from benchmarks.inputs import vit_b
from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.walk import classify
from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.machine import Compute
from mae_helpers.profile.settings import Input

COLUMNS = ["work", "device", "images_per_second", "low", "high", "precision", "setting", "versions"]
WORK = "prediction of ViT-B/16 on JPEG files of 224 px"


def jpeg_images(count: int) -> ImageSet:
    """Crops of a photograph, 224 pixels, JPEG at quality 85 as ImageNet-C's files are, in memory."""
    photograph, files = data.astronaut(), []
    for row in range(count):
        top, left, buffer = 7 * row % 288, 13 * row % 288, BytesIO()
        Image.fromarray(photograph[top : top + 224, left : left + 224]).save(buffer, "jpeg", quality=85)
        files.append(buffer.getvalue())
    ids, labels = [f"{row:05d}" for row in range(count)], np.zeros(count, int)
    return ImageSet.of_pictures(
        ids, labels, np.array(["one"] * count), lambda row: Image.open(BytesIO(files[row])), Input(size=224)
    )


def rate(kind: str, precision: str = "float32", repeats: int = 3) -> dict[str, object]:
    """One line: the median of so many passes, after one to warm up, with the slowest and the fastest."""
    model, images = vit_b(kind), jpeg_images(32 if kind == "cpu" else 4096)
    compute = Compute(precision, workers=torch.get_num_threads())
    statistics = {"prediction": PerImage(partial(classify, model), only=len(model.blocks))}

    def one() -> None:
        one_pass(model, images, statistics, compute=compute)

    one()
    found = len(images) / np.array([seconds(one) for _ in range(repeats)])
    device, size = device_name(kind), compute.size_on(torch.device(kind))
    values = {"images_per_second": np.median(found), "low": found.min(), "high": found.max()}
    told = {"work": WORK, "device": device, "precision": precision, "versions": versions()}
    told |= {"setting": f"{len(images)} images in memory, batches of {size}, {repeats} passes"}
    return told | {name: round(float(value), 2) for name, value in values.items()}


def keep(measured: list[dict], path: Path) -> pd.DataFrame:
    """Write the rates that were measured now beside those of other devices and precisions in the file."""
    table = pd.DataFrame(measured, columns=COLUMNS)
    if path.exists():
        table = pd.concat([pd.read_csv(path), table])
    table = table.drop_duplicates(["work", "device", "precision"], keep="last").sort_values(["device", "precision"])
    write(table, path)
    return table
