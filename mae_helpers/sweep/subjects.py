"""What a sweep looks at: a model and the images that it is shown, opened here or, from a few settings, by a worker."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.encoder.vit import compile_blocks
from mae_helpers.images.decoded import decoded
from mae_helpers.images.sets import ImageSet, open_images
from mae_helpers.profile.machine import Compute, computing_of, pick_device
from mae_helpers.profile.settings import Images, Input, Profile

PART = 2048  # images of one cell: a larger set is cut, so that a killed run loses little and many workers have work


@dataclass(frozen=True)
class Origin:
    """What a worker opens a subject from: no weights and no pixels, but where they lie and which rows are meant."""

    profile: Profile
    model: str
    images: Images
    input: Input  # before the model's own normalisation
    state: str
    rows: np.ndarray
    device: str
    seed: int
    precision: str
    pixels: Path
    among: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Subject:
    """A model in a sweep: how to open it, the images as it sees them, a digest of its weights and settings.

    `among` are the classes that `own_prediction` chooses from: where it is None, those that the images are of.
    """

    name: str
    open: Callable[[], VisionTransformer]
    images: ImageSet
    identity: str
    among: tuple[int, ...] | None = None
    origin: Origin | None = None  # None: only this process can open it

    @cached_property
    def own_classes(self) -> tuple[int, ...]:
        """The classes that the images are of, sorted."""
        return tuple(sorted(set(self.images.labels.tolist()))) if self.among is None else self.among

    @cached_property
    def digest(self) -> str:
        """A digest of the model, its weights and settings, and of the images: files, order, labels and transform."""
        images = self.images
        what = [self.name, self.identity, images.state, list(images.ids), images.labels.tolist(), self.own_classes]
        return hashlib.sha256(json.dumps([*what, images.input.model_dump()]).encode()).hexdigest()

    def parts(self, size: int = PART) -> "list[Subject]":
        """The subject with at most `size` of its images at a time, in their order."""
        if len(self.images) <= size:
            return [self]
        cuts = [range(start, min(start + size, len(self.images))) for start in range(0, len(self.images), size)]
        found = [replace(self, images=self.images.take(rows), among=self.own_classes) for rows in cuts]
        if self.origin is None:
            return found
        return [
            replace(part, origin=replace(self.origin, rows=self.origin.rows[list(rows)], among=part.among))
            for part, rows in zip(found, cuts, strict=True)
        ]


def open_model(
    profile: Profile, name: str, device: torch.device | str, seed: int = 0, compiled: bool = False
) -> VisionTransformer:
    """A model of the profile by name; `random` is mae_pretrained's architecture with random weights of that seed."""
    if name == "random":
        model = checkpoints.random_model(profile, "mae_pretrained", device, seed)
    else:
        model = checkpoints.load_model(profile, name, device)
    return compile_blocks(model) if compiled else model


def seen_by(profile: Profile, name: str, images: ImageSet) -> ImageSet:
    """`images` with the normalisation that the model `name` was trained with."""
    model = profile.models["mae_pretrained" if name == "random" else name]
    return images.normalised_as(*checkpoints.normalisation(model))


def subject_of(
    profile: Profile,
    name: str,
    images: ImageSet,
    open_it: Callable[[], VisionTransformer],
    device: str,
    seed: int,
    compute: Compute,
) -> Subject:
    """A profile's model and images as a subject; a CheckpointError where the weights are missing or not the right ones.

    `device` is the kind to compute on, `cpu` or `cuda`. The file of weights is read for its hash each time it changed.
    """
    settings = checkpoints.settings_of(profile, "mae_pretrained" if name == "random" else name)
    path = checkpoints.fetched(settings)
    checkpoints.verify(path, settings.hash)
    parts = (
        checkpoints.file_hash(path),
        settings.model,
        settings.arguments,
        device,
        seed if name == "random" else None,
    )
    return Subject(name, open_it, seen_by(profile, name, images), f"{parts} {compute.identity}")


_OPENED: dict[str, object] = {}  # what this process opened for its tasks, by what decides its content


def _once(key: tuple, opened: Callable[[], object]) -> object:
    return _OPENED[repr(key)] if repr(key) in _OPENED else _OPENED.setdefault(repr(key), opened())


def origin_of(
    profile: Profile, name: str, images: ImageSet, device: str, seed: int, compute: Compute, pixels: Path
) -> Origin:
    """Where a worker finds these images and this model; ValueError for images that come from no profile."""
    if images.source is None:
        raise ValueError(
            "a scheduler's workers open the images themselves, and these come from no profile, or were changed; use "
            "the chapter's own (`here.images()`), or leave `scheduler` out"
        )
    whole = _once((images.source, images.input, images.state), partial(open_images, images.source, images.input))
    places = {found: row for row, found in enumerate(whole.ids)}
    rows = np.array([places[found] for found in images.ids], np.int32)
    parts = (images.source, images.input, images.state, rows, device, seed, compute.precision, pixels)
    return Origin(profile, name, *parts)


def reopened(origin: Origin) -> tuple[Subject, Compute]:
    """The subject that an origin describes, in another process; what it opened for earlier tasks is used again."""
    profile, name, device = origin.profile, origin.model, pick_device(origin.device)
    compute = _once((profile.compute, origin.precision), partial(computing_of, profile.compute, origin.precision))
    whole = _once(
        (origin.images, origin.input, origin.state, origin.pixels),
        lambda: decoded(open_images(origin.images, origin.input), origin.pixels, compute.workers),
    )
    opened = partial(open_model, profile, name, device, origin.seed, compute.compile)
    found = subject_of(profile, name, whole.take(origin.rows), opened, device.type, origin.seed, compute)
    return replace(found, open=partial(_once, (name, found.identity), opened), among=origin.among), compute
