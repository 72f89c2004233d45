"""Perturbations for tests: some make trouble where they are computed."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from distributed import get_worker

from mae_helpers.perturbations.levels import Clean


@dataclass(frozen=True)
class Tint(Clean):
    """Nothing is done; it has a field of any kind, and a name of its own."""

    colours: object = None
    name: str = "tint"


@dataclass(frozen=True)
class Counting(Clean):
    """Nothing is done, and noted for each image."""

    seen: ClassVar[list[str]] = []
    name: ClassVar[str] = "counting"

    def change(self, images, clean):
        return lambda pixels, name: (self.seen.append(name), pixels)[1]


@dataclass(frozen=True)
class Failing(Clean):
    """Every image is refused."""

    name: ClassVar[str] = "failing"

    def change(self, images, clean):
        def refuse(pixels, name):
            raise ValueError(f"{name}: refused")

        return refuse


@dataclass(frozen=True)
class Lethal(Clean):
    """The process that computes it is killed, as for want of memory: once, or each time where `mark` is empty."""

    mark: str = ""
    name: ClassVar[str] = "lethal"

    def change(self, images, clean):
        if not self.mark or not Path(self.mark).exists():
            if self.mark:
                Path(self.mark).write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return lambda pixels, name: pixels


@dataclass(frozen=True)
class Leaving(Clean):
    """The worker that computes it leaves its cluster, and none comes."""

    name: ClassVar[str] = "leaving"

    def change(self, images, clean):
        worker = get_worker()
        worker.loop.add_callback(worker.close, executor_wait=False)
        return lambda pixels, name: pixels
