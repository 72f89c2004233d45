"""What is done to an image before the model sees it: the protocol of all perturbations, and those that change nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from mae_helpers.images.sets import Change, ImageSet


class Perturbation(Protocol):
    """A change of images at one level, with a `name` for files and progress lines.

    `measures` names what is worth recording of a pass over such images (see `sweep/recorded.py`). `guided` ones look at
    what the model makes of the clean images. One that cannot share a process with another thread is changed
    `in_processes` of its own.
    """

    name: str
    measures: tuple[str, ...]
    guided: ClassVar[bool] = False
    in_processes: ClassVar[bool] = False

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """The change of `images`, of which the model's measures on the `clean` ones are at hand."""


@dataclass(frozen=True)
class Clean(Perturbation):
    """No change at all: the level `clean`, and 0 %."""

    name: ClassVar[str] = "clean"
    measures: ClassVar[tuple[str, ...]] = (
        *("prediction", "probability", "embedding", "heads"),
        *("cls_rollout", "patch_rollout"),
    )

    def change(self, images: ImageSet, clean: Mapping[str, np.ndarray]) -> Change:
        """The identity."""
        return lambda pixels, name: pixels


@dataclass(frozen=True)
class Unchanged(Clean):
    """Images as they are, for their accuracy alone: over all classes, and over those that the images are of."""

    name: ClassVar[str] = "unchanged"
    measures: ClassVar[tuple[str, ...]] = ("prediction", "own_prediction")


def pictures(
    images: ImageSet, levels: Mapping[object, Perturbation], clean: Mapping[str, np.ndarray] | None = None
) -> list[list[np.ndarray]]:
    """Every image under every level, a row an image, pixels (H, W, 3) in [0, 1]; `clean` as in `Perturbation.change`."""
    changed = [images.changed(level.change(images, clean or {})) for level in levels.values()]
    return [[one.pixels(row) for one in changed] for row in range(len(images))]
