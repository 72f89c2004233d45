"""Peak memory of the pass with all statistics, against keeping every attention map; each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import psutil
import torch
from timm.models.vision_transformer import VisionTransformer

from benchmarks.harness import Pair, Row, largest_difference
from benchmarks.inputs import demo, demo_images
from benchmarks.statistics import BATCH, all_statistics
from mae_helpers.encoder.passes import one_pass
from mae_helpers.encoder.walk import walk
from mae_helpers.images.sets import ImageSet
from mae_helpers.measures.attention import patch_distances
from mae_helpers.profile.machine import Compute
from mae_helpers.profile.settings import ROOT
from mae_helpers.run.usage import peaks

IMAGES = 500
STORED = 100  # images whose maps are kept: 22 MB each; so many as are compared would not fit a small machine
RUNS = 2  # of each, of which the smaller counts: what the allocator adds differs from run to run


def in_one_pass(model: VisionTransformer, images: ImageSet) -> dict[str, np.ndarray]:
    """All statistics, attention distances (images, layers, heads) among them."""
    return one_pass(model, images, all_statistics(model, images), compute=Compute(batch_size=BATCH))


def from_stored_maps(model: VisionTransformer, images: ImageSet) -> dict[str, np.ndarray]:
    """Attention distances from the maps of all images, kept first in one array, (images, layers, heads)."""
    layers, heads, length = len(model.blocks), model.blocks[0].attn.num_heads, 1 + model.patch_embed.num_patches
    maps = torch.empty(len(images), layers, heads, length, length)
    for rows, _, batch in images.batches(BATCH):
        for state in walk(model, batch):
            maps[rows.start : rows.stop, state.layer - 1] = state.attention()
    distances = patch_distances(model.patch_embed.grid_size[0], model.patch_embed.patch_size[0])
    among = [each[:, :, 1:, 1:] for each in maps]
    return {"distance": np.stack([((each * distances).sum(-1) / each.sum(-1)).mean(-1).numpy() for each in among])}


WAYS = {"pass": in_one_pass, "stored": from_stored_maps}


@cache
def in_a_process(way: str, count: int) -> dict:
    """`distance`, and the MB that the way took above its results and what the process held with the model loaded."""
    return min((_run(way, count) for _ in range(RUNS)), key=lambda found: found["mb"])


def _run(way: str, count: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "distance.npy"
        call = [sys.executable, "-m", "benchmarks.memory", way, str(count), str(out)]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}  # of glibc: large freed blocks leave no holes
        said = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True, env=environment).stdout
        return {"distance": np.load(out)} | json.loads(said)


def pair(device: torch.device, ours: tuple[str, int], other: tuple[str, int]) -> Pair:
    """Two ways on so many images each; equal on the images that both have."""
    common = min(ours[1], other[1])

    def gap(first: dict, second: dict) -> float:
        kept = [each["distance"][:: len(each["distance"]) // common] for each in (first, second)]
        return largest_difference({"distance": kept[0]}, {"distance": kept[1]})

    return Pair(
        ours=partial(in_a_process, *ours),
        other=partial(in_a_process, *other),
        difference=gap,
        tolerance=1e-4,
        setting=f"demo's model (12 layers x 12 heads, 196 patches), {ours[1]} images against {other[1]}, batches of "
        f"{BATCH}; MB above the loaded model and the results, the smaller of {RUNS} runs; distances in pixels",
        cost=lambda function: function()["mb"],
    )


ROWS = [
    Row(
        name="memory",
        measured="peak memory of that pass beyond its results, 500 images",
        against="storing all attention maps",
        goals={"cpu": ">= 10"},
        pair=partial(pair, ours=("pass", IMAGES), other=("stored", STORED)),
        unit="mb",
        repeats=1,
    ),
    Row(
        name="memory_flat",
        measured="peak memory of that pass beyond its results, 500 images",
        against="the same pass, 125 images",
        goals={"cpu": "<= 1.05"},
        pair=partial(pair, ours=("pass", IMAGES), other=("pass", IMAGES // 4)),
        unit="mb",
        repeats=1,
    ),
]

if __name__ == "__main__":
    way, count, out = sys.argv[1:]
    model, images = demo("mae_finetuned"), demo_images()
    images = images.take(range(0, len(images), len(images) // int(count)))  # all classes, whatever their number
    held = psutil.Process().memory_info().rss / 2**20
    found = WAYS[way](model, images)
    results = (
        sum(value.nbytes for value in found.values() if isinstance(value, np.ndarray)) / 2**20
    )  # with a row an image
    print(json.dumps({"mb": round(peaks()["peak_memory_mb"] - held - results, 1)}))
    np.save(out, found["distance"])
