"""The demo book a second time, when nothing changed, against the first time."""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.harness import Pair, Row
from mae_helpers.profiles import ROOT

SMALL = {  # every chapter and the site, each on few images: what fits into ten minutes with all other rows
    "images_per_class": 6,
    "perplexity": 5,
    "patch_perplexity": 20,
    "tsne_patches": 4,
    "other_k": [2],
    "k": 3,
    "masks": 4,
    "supervised_images_per_class": 2,
    "control_images_per_class": 1,
    "corruption_images_per_class": 1,
}


def run(folder: Path, parameters: Mapping[str, object]) -> dict:
    """`python -m mae_helpers.run` in a folder: seconds, and a digest of every table and page that is there then."""
    call = [sys.executable, "-m", "mae_helpers.run", "--out", str(folder), "--results", str(folder / "results")]
    call += [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    began = perf_counter()
    subprocess.run(call, cwd=ROOT, check=True, capture_output=True)
    took = perf_counter() - began
    files = [*(folder / "results").rglob("*.csv"), *(folder / "html").glob("**/*.html")]
    return {"seconds": took} | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed(first: dict, second: dict) -> float:
    """How many tables and pages differ."""
    return sum(first.get(name) != second.get(name) for name in first.keys() | second.keys() if name != "seconds")


def pair(device: torch.device, parameters: Mapping[str, object]) -> Pair:
    """A first run in an empty folder, timed once, and further ones in the same folder."""
    folder = tempfile.TemporaryDirectory()
    first = run(Path(folder.name), parameters)
    pages = sum(name.endswith(".html") for name in first)
    size = "few images a chapter" if parameters else "the whole demo"
    return Pair(
        ours=lambda folder=folder: run(Path(folder.name), parameters),
        other=lambda: first,
        difference=changed,
        tolerance=0,
        setting=f"all chapters and the site of {pages} pages, {size}; first run once; files that differ",
        cost=lambda function: function()["seconds"],
    )


def row(parameters: Mapping[str, object]) -> Row:
    """The row for a book with these parameters."""
    return Row(
        name="book",
        measured="demo book, warm",
        against="cold",
        goals={"cpu": ">= 5"},
        pair=lambda device: pair(device, parameters),
        repeats=2,
    )


ROWS = [row(SMALL)]
