"""What the terminal shows while chapters run: one live line of all that are running, a plain line for each that ended."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Display:
    """Follows running chapters by the files that their kernels write their progress to."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[Path, float]] = {}
        self.lock, self.done = threading.Lock(), threading.Event()
        self.live = sys.stderr.isatty()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _print(self, text: str, end: str = "\n") -> None:
        print(("\r\033[K" if self.live else "") + text, end=end, file=sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self.done.wait(0.5):
            with self.lock:
                parts = [
                    f"{title} {file.read_text() if file.exists() else 'starting'} {clock(began)}"
                    for title, (file, began) in self.running.items()
                ]
                if self.live and parts:
                    self._print("  |  ".join(parts), end="")

    def __enter__(self) -> "Display":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @contextmanager
    def following(self, title: str, file: Path) -> Iterator[None]:
        """Show a chapter while it runs, and at the end how long it took."""
        began, word = time.monotonic(), "failed"
        self.running[title] = (file, began)
        if not self.live:
            self._print(f"{title}  started")
        try:
            yield
            word = "done"
        finally:
            with self.lock:
                del self.running[title]
                self._print(f"{title}  {word}  {clock(began)}")


def clock(began: float) -> str:
    """Minutes and seconds since `began` (monotonic)."""
    seconds = int(time.monotonic() - began)
    return f"{seconds // 60}:{seconds % 60:02d}"
