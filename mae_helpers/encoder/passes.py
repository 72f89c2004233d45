"""Statistics of any number of images in one pass through an encoder, in memory that does not grow with that number."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mae_helpers.encoder.walk import LayerState, visible_patches, walk
from mae_helpers.profile.machine import Compute, is_out_of_memory, keep_freed_memory
from mae_helpers.profile.progress import progress


class Batches(Protocol):
    """Images that can be walked through any number of times."""

    def __len__(self) -> int: ...

    def batches(self, size: int, workers: int = 1) -> Iterator[tuple[range, list[str], Tensor]]:
        """At most `size` images at a time, in order: their rows, their ids, and what the model takes, (B, 3, H, W)."""


class Statistic(Protocol):
    """Something computed during a pass: told every layer of every batch, asked once at the end."""

    def begin(self, images: int, layers: int) -> None:
        """Gather anew, of so many images: a pass begins with it, and begins again where memory ran out."""

    def add(self, state: LayerState, rows: range) -> None:
        """Take in one layer of the images `rows`."""

    def result(self) -> np.ndarray:
        """What has been gathered."""


class PerImage:
    """A measure of each image and layer: `measure(state) -> (B, ...)`, gathered as (images, layers, ...) float32.

    With `only`, the measure of that one layer, (images, ...). Measures are copied into one array: thousands of small ones
    would lie scattered between the layers' large ones, and a view would keep its layer alive.
    """

    def __init__(self, measure: Callable[[LayerState], Tensor], only: int | None = None):
        self.measure, self.only = measure, only

    def begin(self, images: int, layers: int) -> None:
        """Forget what was gathered."""
        self.shape, self.gathered = (images, layers) if self.only is None else (images,), None

    def add(self, state: LayerState, rows: range) -> None:
        """Measure one layer of the images `rows`."""
        if self.only in (None, state.layer):
            measured = self.measure(state).float().cpu().numpy()
            if self.gathered is None:
                self.gathered = np.empty((*self.shape, *measured.shape[1:]), np.float32)
            where = slice(rows.start, rows.stop)
            self.gathered[(where, state.layer - 1) if self.only is None else where] = measured

    def result(self) -> np.ndarray:
        """All measures, (images, layers, ...), or (images, ...) of the only layer."""
        return self.gathered


def one_pass(
    model: nn.Module,
    images: Batches,
    statistics: dict[str, Statistic],
    *,
    ratio: float = 0.0,
    seed: int = 0,
    draw: int = 0,
    compute: Compute | None = None,
    label: str = "encoder",
) -> dict[str, np.ndarray]:
    """Walk all images through the encoder once, feeding every statistic; returns each one's result by its name.

    `ratio`, `seed` and `draw` choose the masks as in `visible_patches`. Where the device runs out of memory, the pass
    begins again with half as many images at a time.
    """
    device, patches = next(model.parameters()).device, model.patch_embed.num_patches
    compute = compute or Compute()
    keep_freed_memory()
    while True:
        size = compute.size_on(device)
        for statistic in statistics.values():
            statistic.begin(len(images), len(model.blocks))
        try:
            batches = images.batches(size, compute.workers)
            for rows, ids, batch in progress(batches, label, -(-len(images) // size)):
                visible = visible_patches(ids, patches, ratio, seed, draw)
                visible = None if visible is None else visible.to(device)
                for state in walk(model, batch.to(device), visible, compute.precision):
                    for statistic in statistics.values():
                        statistic.add(state, rows)
                    del state  # the next layer needs its memory
            return {name: statistic.result() for name, statistic in statistics.items()}
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            compute.halve(size)
            torch.cuda.empty_cache()
