"""What the terminal shows while chapters run and the book is built: one live line of both, a plain line for each that ended."""

import re
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Lock


class Display:
    """What is running: of each, the file whose last line tells how far it is, and when it began."""

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
                parts = [f"{title} {last_line(file)} {clock(began)}" for title, (file, began) in self.running.items()]
                if self.live and parts:
                    self._print("  |  ".join(parts), end="")


def last_line(file: Path) -> str:
    """The last line of a file that has any text, without its colours and at most 60 characters of it, or `starting`."""
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    plain = [text for line in lines[-20:] if (text := re.sub(r"\x1b\[[\d;]*m", "", line).strip())]
    return plain[-1][:60] if plain else "starting"


def clock(began: float) -> str:
    """Minutes and seconds since `began` (monotonic)."""
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d}"
