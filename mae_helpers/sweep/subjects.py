"""What a sweep looks at: a model and the images that it is shown, described in a few words and opened where it is needed."""

import hashlib
import json
import os
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mae_helpers.encoder import weights
from mae_helpers.encoder.head import fitted, untrained
from mae_helpers.encoder.passes import PerImage, one_pass
from mae_helpers.encoder.vit import compile_blocks
from mae_helpers.encoder.walk import cls_token, mean_patch
from mae_helpers.images.decoded import decoded
from mae_helpers.images.pixels import ImageError
from mae_helpers.images.sets import ImageSet, fingerprint, open_images
from mae_helpers.profile.machine import Compute, computing_of
from mae_helpers.profile.settings import CONTROL, Images, Input, Model, Profile


@cache
def open_model(profile: Profile, name: str, device: str, seed: int, compiled: bool, file: str) -> nn.Module:
    """A model of the profile, read once a process for each identity of its `file`; see `Subject.open`.

    What its checkpoint took to be read, such as a decoder that is not used or positions resampled, is printed.
    """
    if name == CONTROL:
        model = weights.random_model(profile, profile.encoder, device, seed)
    else:
        model = weights.load_model(profile, name, device)
        if model.loaded:
            print(f"{name}: {'; '.join(model.loaded)}")
    return compile_blocks(model) if compiled else model


@cache
def open_source(source: Images, settings: Input, state: str, pixels: Path | None, workers: int) -> ImageSet:
    """All images of a profile's entry, opened once a process for each `state` of its files.

    What is decoded, by `workers` threads, is kept in the folder `pixels`, where there is one.
    """
    opened = open_images(source, settings)
    return opened if pixels is None else decoded(opened, pixels, workers)


@dataclass(frozen=True)
class Subject:
    """A model of a profile and the images that it is shown: small, and the same in every process that opens it.

    `rows` are those of the images of `source`, whose files had that `state`; `random` is a model with the
    encoder's architecture and random weights of that `seed`; decoded images are kept in the folder `pixels`, where there is one.
    `among` are the classes that `own_prediction` chooses from: where it is None, those that the images are of.
    """

    profile: Profile
    name: str
    source: Images
    rows: tuple[int, ...] = ()
    state: str | None = None
    device: str = "cpu"
    seed: int = 0
    precision: str | None = None
    pixels: Path | None = None
    among: tuple[int, ...] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # nothing that was opened

    def showing(self, images: ImageSet) -> "Subject":
        """The same model with these images; ValueError where they come from no profile, or were changed since."""
        if images.source is not None:
            empty = replace(self, source=images.source, state=images.state)
            places = {one: row for row, one in enumerate(empty._all.ids)}
            found = replace(empty, rows=tuple(places.get(one, -1) for one in images.ids))
            known = images.input in (self.profile.input, self.input)
            if known and -1 not in found.rows and np.array_equal(images.labels, found.images.labels):
                return found
        raise ValueError(
            f"{self.name}: these images come from no profile, or were changed since; a sweep opens images by itself, so "
            "use the chapter's own (`here.images()`), and a perturbation for what is done to them"
        )

    def parts(self, size: int) -> "list[Subject]":
        """The subject with at most `size` of its images at a time, in their order."""
        cuts = [self.rows[start : start + size] for start in range(0, len(self.rows), size)]
        return [replace(self, rows=rows, among=self.own_classes) for rows in cuts]

    @property
    def compute(self) -> Compute:
        """How this process computes it."""
        return computing_of(self.profile.compute, self.precision)

    @property
    def _described(self) -> str:
        """The model that the profile describes: the control is of the encoder's architecture."""
        return self.profile.encoder if self.name == CONTROL else self.name

    @property
    def _model(self) -> Model:
        return weights.settings_of(self.profile, self._described)

    def open(self) -> nn.Module:
        """The model on its device, read once a process, and anew where its file was replaced."""
        file = weights.identity(self._model)
        return open_model(self.profile, self.name, self.device, self.seed, self.compute.compile, file)

    @cached_property
    def input(self) -> Input:
        """How images become what the model takes: at its own size and normalisation."""
        return weights.input_of(self.profile, self._described)

    @property
    def _fit(self) -> Images | None:
        """What the model's head is fitted to, where the profile fits it one."""
        return self._model.head and (self._model.head.fit or self.profile.images)

    @property
    def fits_head(self) -> bool:
        """Whether its head is one that the profile has fitted to it."""
        return self._model.head is not None

    @cached_property
    def fitted_to(self) -> ImageSet:
        """The images that its head is fitted to: the last of each of the classes that the profile's images are of."""
        own, head = replace(self, source=self.profile.images, state=None)._all, self._model.head
        images, rows = replace(self, source=self._fit, state=None)._all, []
        for name in own.names:
            found = np.flatnonzero(images.classes == name)[-head.per_class :]
            if len(found) < head.per_class:
                place = f"{self.profile.path}: models.{self._described}.head: class {name!r} has {len(found)} images"
                raise ImageError(f"{place}, {head.per_class} were asked for; lower `per_class`")
            rows += found.tolist()
        return self.seen(images.take(rows))

    def fitted_again(self) -> set[str]:
        """The ids of its images that its head was fitted to as well; none where their folder is another."""
        same = self._fit and len({os.path.realpath(one.folder or one.source) for one in (self._fit, self.source)}) == 1
        return set(self.images.ids) & set(self.fitted_to.ids) if same else set()

    @torch.no_grad()
    def classifier(self) -> nn.Module:
        """The model with the head that gives its classes: its own, one fitted to it, or the control's untrained one."""
        model, head, own = self.open(), self._model.head, replace(self, source=self.profile.images, state=None)
        if hasattr(model, "fitted_head") or (head is None and not (self.name == CONTROL and model.num_classes == 0)):
            return model
        if head is None:
            model.fitted_head = untrained(model.num_features, own._all.labels, self.seed)
        else:
            images, numbers = self.fitted_to, dict(zip(own._all.classes, own._all.labels, strict=True))
            kind = {"mean_patch": mean_patch, "cls": cls_token}[head.token]
            normed = PerImage(
                lambda state: kind(replace(state, tokens=model.norm(state.tokens))), only=len(model.blocks)
            )
            features = one_pass(model, images, {"token": normed}, label=f"{self.name}, head", compute=self.compute)
            labels = np.array([numbers[name] for name in images.classes])
            model.fitted_head = fitted(head.token, features["token"], labels)
        model.fitted_head = model.fitted_head.to(self.device)
        model.num_classes = model.fitted_head.num_classes
        return model

    @property
    def _all(self) -> ImageSet:
        state = self.state or fingerprint(self.source)
        settings = self.profile.input.model_copy(update={"size": self.input.size})
        return open_source(self.source, settings, state, self.pixels, self.compute.workers)

    def seen(self, images: ImageSet) -> ImageSet:
        """`images` at the size and with the normalisation that the model was trained with."""
        same = images.input.size == self.input.size
        return images.normalised_as(self.input.mean, self.input.std) if same else self.showing(images).images

    @cached_property
    def images(self) -> ImageSet:
        """The images as the model sees them."""
        return self.seen(self._all.take(self.rows))

    @cached_property
    def own_classes(self) -> tuple[int, ...]:
        """The classes that the images are of, sorted, or `among`."""
        return tuple(sorted(set(self.images.labels.tolist()))) if self.among is None else self.among

    @cached_property
    def digest(self) -> str:
        """A digest of the model's weights and settings, the images' files, order, labels and transform, and the numbers.

        CheckpointError where the weights are missing or not the right ones; their file is read each time it changed.
        """
        model, images, path = weights.described(self._model), self.images, weights.fetched(self._model)
        seed, kind = self.seed if self.name == CONTROL else 0, torch.device(self.device).type
        what = [self.name, weights.file_hash(path), model.model, model.arguments, kind, seed, self.compute.identity]
        if self.fits_head:
            what += [self._model.head.model_dump(exclude={"fit"}), fingerprint(self._fit)]
        what += [images.state, list(images.ids), images.labels.tolist(), self.own_classes, images.input.model_dump()]
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=repr).encode()).hexdigest()
