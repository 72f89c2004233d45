"""What the terminal shows while chapters run: one live line of all that are running, a plain line for each that ended."""

import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Lock


class Display:
    """The chapters that are running: of each, the file that its kernel writes its progress to, and when it began."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[Path, float]] = {}
        self.lock, self.live = Lock(), sys.stderr.isatty()

    def _print(self, text: str, end: str = "\n") -> None:
        print(("\r\033[K" if self.live else "") + text, end=end, file=sys.stderr, flush=True)

    @contextmanager
    def following(self, title: str, file: Path) -> Iterator[None]:
        """Count a chapter among those that are running, and say at the end how long it took."""
        began, word = time.monotonic(), "failed"
        with self.lock:
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

    def wait(self, chapters: Collection[Future]) -> None:
        """Until all `chapters` have ended: on a terminal, the live line anew every half second."""
        while wait(chapters, timeout=0.5).not_done:
            with self.lock:
                parts = [
                    f"{title} {file.read_text() if file.exists() else 'starting'} {clock(began)}"
                    for title, (file, began) in self.running.items()
                ]
                if self.live and parts:
                    self._print("  |  ".join(parts), end="")


def clock(began: float) -> str:
    """Minutes and seconds since `began` (monotonic)."""
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d}"
