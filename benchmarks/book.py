"""The demo book a second time, when nothing changed, against the first time; and the first against its bare passes."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import pandas as pd
import torch

from benchmarks.harness import Pair, Row
from mae_helpers.encoder.walk import embed
from mae_helpers.encoder.weights import load_model
from mae_helpers.profile.machine import keep_freed_memory
from mae_helpers.profile.settings import ROOT, load_profile

CHAPTERS = ["02", "03", "04", "06"]
SMALL = {  # four chapters on few images: what fits into ten minutes with all other rows; --whole-book for all of it
    "images_per_class": 6,
    "other_k": [2],
    "k": 3,
    "masks": 4,
    "test_images_per_class": 3,
}

COUNTED = "BENCHMARK_PASSES"  # environment variable: the file for a line a batch, `patches images`
STARTUP = f"""\
import os
from mae_helpers.encoder import walk as module


def counted(model, images, visible=None, *precision, walk=module.walk):
    with open(os.environ["{COUNTED}"], "a") as file:
        print(model.patch_embed.num_patches if visible is None else visible.shape[1], len(images), file=file)
    return walk(model, images, visible, *precision)


module.walk = counted
"""


def command(folder: Path, chapters: Sequence[str], parameters: Mapping[str, object]) -> list[str]:
    """`python -m mae_helpers.run` in a folder, with its site where all chapters are asked for."""
    call = [sys.executable, "-m", "mae_helpers.run", *chapters, *["--no-book"] * bool(chapters)]
    call += ["--out", str(folder), "--results", str(folder / "results")]
    return call + [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def run(folder: Path, chapters: Sequence[str], parameters: Mapping[str, object]) -> dict:
    """The command: its seconds, and a digest of every table and page that is there then."""
    began = perf_counter()
    subprocess.run(command(folder, chapters, parameters), cwd=ROOT, check=True, capture_output=True)
    took = perf_counter() - began
    files = [*(folder / "results").rglob("*.csv"), *folder.rglob("*.ipynb"), *(folder / "html").rglob("*.html")]
    return {"seconds": took} | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed(first: dict, second: dict) -> float:
    """How many tables and pages differ."""
    return sum(first.get(name) != second.get(name) for name in first.keys() | second.keys() if name != "seconds")


def pair(device: torch.device, chapters: Sequence[str], parameters: Mapping[str, object]) -> Pair:
    """A first run in an empty folder, timed once, and further ones in the same folder."""
    folder = tempfile.TemporaryDirectory()
    first = run(Path(folder.name), chapters, parameters)
    size = f"chapters {', '.join(chapters)}, few images, no site" if chapters else "the whole demo and its site"
    return Pair(
        ours=lambda folder=folder: run(Path(folder.name), chapters, parameters),
        other=lambda: first,
        difference=changed,
        tolerance=0,
        setting=f"{size}; the first run once; tables and pages that differ",
        cost=lambda function: function()["seconds"],
    )


def cold(
    folder: Path, chapters: Sequence[str] = (), parameters: Mapping[str, object] | None = None
) -> tuple[float, pd.DataFrame]:
    """CPU seconds of a demo book in an empty folder, of all its processes, and how many images it passed, by patches."""
    startup, file = folder / "ipython" / "profile_default" / "startup" / "counted.py", folder / "passes"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP)  # IPython runs it in every kernel
    environment = os.environ | {"IPYTHONDIR": str(folder / "ipython"), COUNTED: str(file)}
    call = [sys.executable, "-m", "benchmarks.cpu_time", *command(folder, chapters, parameters or {})]
    said = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True, env=environment).stdout
    passed = pd.read_csv(file, sep=" ", names=["patches", "images"])
    return float(said.split()[-1]), passed.groupby("patches", as_index=False).sum()


@torch.inference_mode()
def bare(passed: pd.DataFrame, sample: int = 64, batch: int = 8) -> float:
    """CPU seconds of as many bare fused forward passes of the demo's encoder, reckoned from `sample` images each.

    By one thread: others would be counted while they wait.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the book's passes do
    model, total = load_model(load_profile("demo"), "mae_pretrained", torch.device("cpu")), 0.0
    images = torch.randn(batch, 3, *model.patch_embed.img_size)
    for patches, number in passed.itertuples(index=False):
        visible = None if patches == model.patch_embed.num_patches else torch.arange(patches).expand(batch, -1)
        for turn in range(1 + sample // batch):
            if turn == 1:  # the first is the warm-up
                began = process_time()
            model.norm(model.blocks(embed(model, images, visible)[0]))
        total += number * (process_time() - began) / sample
    torch.set_num_threads(threads)
    return total


def cost_pair(device: torch.device) -> Pair:
    """A cold book, once, and its passes alone."""
    with tempfile.TemporaryDirectory() as folder:
        used, passed = cold(Path(folder))
    return Pair(
        ours=lambda: used,
        other=lambda: bare(passed),
        difference=lambda ours, other: 0.0,  # they have no result in common
        tolerance=0,
        setting=f"CPU time of all processes, imports and site too; {passed['images'].sum():,} images through the encoder",
        cost=lambda function: function(),
    )


ROWS = [
    Row(
        name="book",
        measured="demo book, warm",
        against="cold",
        goals={"cpu": ">= 5"},
        pair=partial(pair, chapters=CHAPTERS, parameters=SMALL),
        repeats=3,
    ),
    Row(
        name="book_cost",
        measured="the whole demo book, cold",
        against="the bare fused forward passes that it makes",
        goals={"cpu": "<= 1.6"},
        pair=cost_pair,
        repeats=1,
    ),
]
WHOLE = replace(ROWS[0], pair=partial(pair, chapters=[], parameters={}))
