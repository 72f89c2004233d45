"""Progress of a long loop: a bar on a terminal or in JupyterLab, a line in a file for a runner, nothing in a captured page."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PROGRESS_FILE = "MAE_HELPERS_PROGRESS"  # environment variable: where a runner reads "label step/total"
SESSION = "JPY_SESSION_NAME"  # set by Jupyter's server for a notebook that somebody has open, by no papermill


def progress(items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
    """Pass `items` through while telling how far they are, in whichever way the surroundings can show."""
    file, written = os.environ.get(PROGRESS_FILE), 0.0
    watched = SESSION in os.environ if "ipykernel" in sys.modules else sys.stderr.isatty()
    if watched and not file:
        from tqdm.auto import tqdm  # brings widgets, which nobody needs elsewhere

        items = tqdm(items, label, total, leave=False)
    for step, item in enumerate(items, 1):
        if file and (time.monotonic() - written > 0.5 or step == total):
            Path(file).write_text(f"{label} {step}/{total}")
            written = time.monotonic()
        yield item
