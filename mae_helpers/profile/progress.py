"""Progress of a long loop: a bar on a terminal, one line in a file for a runner, nothing in a captured page."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

PROGRESS_FILE = "MAE_HELPERS_PROGRESS"  # environment variable: where a runner reads "label step/total"


def _reported(items: Iterable[Any], label: str, total: int, file: Path) -> Iterator[Any]:
    written = 0.0
    for step, item in enumerate(items, 1):
        if time.monotonic() - written > 0.5 or step == total:
            file.write_text(f"{label} {step}/{total}")
            written = time.monotonic()
        yield item


def progress(items: Iterable[Any], label: str, total: int) -> Iterable[Any]:
    """Pass `items` through while telling how far they are, in whichever way the surroundings can show."""
    file = os.environ.get(PROGRESS_FILE)
    if file:
        return _reported(items, label, total, Path(file))
    captured = "ipykernel" in sys.modules or not sys.stderr.isatty()
    return tqdm(items, label, total, disable=captured, leave=False)
