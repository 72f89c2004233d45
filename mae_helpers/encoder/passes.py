"""Statistics of any number of images in one pass through an encoder, in memory that does not grow with that number."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae_helpers.encoder.walk import LayerState, visible_patches, walk
from mae_helpers.profile.machine import Compute, is_out_of_memory, keep_freed_memory
from mae_helpers.profile.progress import progress

BLOCK = 256  # images whose measures lie in one array while they are gathered


class Batches(Protocol):
    """Images that can be walked through any number of times."""

    def __len__(self) -> int: ...

    def batches(self, size: int, workers: int = 1) -> Iterator[tuple[range, list[str], Tensor]]:
        """At most `size` images at a time, in order: their rows, their ids, and what the model takes, (B, 3, H, W)."""


class Statistic(Protocol):
    """Something computed during a pass: told every layer of every batch, asked once at the end."""

    def add(self, state: LayerState, rows: range) -> None:
        """Take in one layer of the images `rows`."""

    def result(self) -> np.ndarray:
        """What has been gathered."""

    def fresh(self) -> "Statistic":
        """The same statistic with nothing gathered: a pass begins with one, and begins again where memory ran out."""


class Gathered:
    """Rows of an array as batches bring them, copied into few blocks.

    Thousands of small arrays would lie scattered between the layers' large ones, and a view would keep its layer alive:
    either way memory would grow with every batch.
    """

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []
        self.filled = BLOCK  # rows of the last block

    def add(self, rows: np.ndarray) -> None:
        """Append rows (B, ...)."""
        while len(rows):
            if self.filled == BLOCK:
                self.blocks.append(np.empty((BLOCK, *rows.shape[1:]), rows.dtype))
                self.filled = 0
            now = rows[: BLOCK - self.filled]
            self.blocks[-1][self.filled : self.filled + len(now)] = now
            self.filled, rows = self.filled + len(now), rows[len(now) :]

    def whole(self) -> np.ndarray:
        """All rows so far."""
        return np.concatenate([*self.blocks[:-1], self.blocks[-1][: self.filled]])


class PerImage:
    """A measure of each image and layer: `measure(state) -> (B, ...)`, gathered as (images, layers, ...) float32.

    With `only`, the measure of that one layer, (images, ...).
    """

    def __init__(self, measure: Callable[[LayerState], Tensor], only: int | None = None):
        self.measure, self.only = measure, only
        self.layers: dict[int, Gathered] = {}

    def add(self, state: LayerState, rows: range) -> None:
        """Measure one layer of the images `rows`."""
        if self.only in (None, state.layer):
            self.layers.setdefault(state.layer, Gathered()).add(self.measure(state).float().cpu().numpy())

    def result(self) -> np.ndarray:
        """All measures, (images, layers, ...), or (images, ...) of the only layer."""
        layers = [gathered.whole() for _, gathered in sorted(self.layers.items())]
        return np.stack(layers, axis=1) if self.only is None else layers[0]  # [image, layer, ...]

    def fresh(self) -> "PerImage":
        """The same measure with nothing gathered."""
        return PerImage(self.measure, self.only)


def one_pass(
    model: VisionTransformer,
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
    device, patches = model.pos_embed.device, model.patch_embed.num_patches
    compute = compute or Compute()
    keep_freed_memory()
    while True:
        size, told = compute.size_on(device), {name: statistic.fresh() for name, statistic in statistics.items()}
        try:
            batches = images.batches(size, compute.workers)
            for rows, ids, batch in progress(batches, label, -(-len(images) // size)):
                visible = visible_patches(ids, patches, ratio, seed, draw)
                visible = None if visible is None else visible.to(device)
                for state in walk(model, batch.to(device), visible, compute.precision):
                    for statistic in told.values():
                        statistic.add(state, rows)
                    del state  # the next layer needs its memory
            return {name: statistic.result() for name, statistic in told.items()}
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            compute.halve(size)
            torch.cuda.empty_cache()
