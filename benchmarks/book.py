"""The demo book a second time, when nothing changed, against the first time."""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.harness import Pair, Row
from mae_helpers.profile.settings import ROOT

CHAPTERS = ["02", "03", "04", "06"]
SMALL = {  # four chapters on few images: what fits into ten minutes with all other rows; --whole-book for all of it
    "images_per_class": 6,
    "other_k": [2],
    "k": 3,
    "masks": 4,
    "test_images_per_class": 3,
}


def run(folder: Path, chapters: Sequence[str], parameters: Mapping[str, object]) -> dict:
    """`python -m mae_helpers.run` in a folder: seconds, and a digest of every table and page that is there then."""
    call = [sys.executable, "-m", "mae_helpers.run", *chapters, *["--no-book"] * bool(chapters)]
    call += ["--out", str(folder), "--results", str(folder / "results")]
    call += [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    began = perf_counter()
    subprocess.run(call, cwd=ROOT, check=True, capture_output=True)
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


ROWS = [
    Row(
        name="book",
        measured="demo book, warm",
        against="cold",
        goals={"cpu": ">= 5"},
        pair=partial(pair, chapters=CHAPTERS, parameters=SMALL),
        repeats=3,
    )
]
WHOLE = replace(ROWS[0], pair=partial(pair, chapters=[], parameters={}))
