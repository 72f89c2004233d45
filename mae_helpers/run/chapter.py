"""What every notebook begins with: the profile's images and models, a place for its tables, and one look."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.encoder.passes import Statistic, one_pass
from mae_helpers.encoder.vit import CheckpointError
from mae_helpers.figures.style import use_models, use_style
from mae_helpers.images.sets import ImageSet, fingerprint, left_out
from mae_helpers.perturbations.levels import Perturbation
from mae_helpers.profile.machine import Compute, computing_of, pick_device
from mae_helpers.profile.parameters import check_parameter, defaults_in
from mae_helpers.profile.settings import CONTROL, ROOT, Images, Profile, Training, load_profile
from mae_helpers.run import tables as results
from mae_helpers.sweep.subjects import Subject, open_source
from mae_helpers.sweep.sweep import sweep
from mae_helpers.sweep.workers import Workers


@dataclass(frozen=True)
class Chapter:
    """The settings that one notebook runs under."""

    profile: Profile
    device: torch.device
    seed: int
    tables: Path
    compute: Compute = field(default_factory=Compute)
    workers: Workers | None = None
    left_out: dict[str, str] = field(default_factory=dict)  # optional models that are not at hand, and why
    whole: Profile | None = None  # where `profile` has only some of its models: what tables are made from

    def _opened(self, source: Images) -> ImageSet:
        state, pixels = fingerprint(source), self.tables / "pixels"
        return open_source(source, self.profile.input, state, pixels, self.compute.workers)

    def images(self, classes: list[str] | None = None, per_class: int | None = None) -> ImageSet:
        """The profile's images: the first `per_class` of each of `classes`, by default all."""
        return self.all_images.subset(classes, per_class)

    def some_classes(self, count: int) -> list[str]:
        """At most `count` of the images' classes in their order, the profile's `three_classes` among them."""
        if count < 2:
            raise ValueError(f"class_count {count}: use 2 or more, so that classes can be compared")
        names = self.all_images.names
        chosen = list(dict.fromkeys([*self.profile.three_classes, *names]))[:count]
        return [name for name in names if name in chosen]

    @cached_property
    def all_images(self) -> ImageSet:
        """All images of the profile; their files are decoded once, whichever chapter asks first."""
        return self._opened(self.profile.images)

    def second_images(self) -> ImageSet | None:
        """The profile's second image set, or None where it names none or its optional folder is missing."""
        source = self.profile.second_images
        return None if left_out(source) else self._opened(source)

    def shifted_images(self) -> dict[str, ImageSet]:
        """The profile's further test sets by name, ImageNet-R and ImageNet-A, without those that are left out."""
        sources = self.profile.shifted_images.items()
        return {name: self._opened(source) for name, source in sources if not left_out(source)}

    def model(self, name: str) -> nn.Module:
        """A model of the profile by name, read once; `random` is the encoder's architecture with random weights."""
        return self._subject(name).open()

    @property
    def encoders(self) -> list[str]:
        """The models to look at, in the profile's order: all but those of an ablation, unless there are no others."""
        models = self.profile.models
        return [name for name, model in models.items() if not model.ablation] or list(models)

    @property
    def trainings(self) -> dict[str, Training]:
        """How each classifier was trained, ablations too, where the profile says so; the one that claims are about first."""
        told = {name: model.training for name, model in self.profile.models.items() if model.training}
        names = sorted(filter(self.class_count, told), key=lambda name: name != self.study["classifier"])
        return {name: told[name] for name in names}

    @cached_property
    def study(self) -> dict[str, str]:
        """Whom the paper's claims are about, a model a role; where the profile does not say, the first that can be it."""
        said = self.profile.study.said
        first = [name for name in self._classifying if name != said.get("beside")][:1]
        return {"encoder": self.encoders[0]} | dict(zip(["classifier"], first, strict=False)) | said

    @property
    def encoder(self) -> str:
        """The encoder that a chapter shows most of; see `Profile.encoder`."""
        return self.profile.encoder

    @property
    def classifiers(self) -> list[str]:
        """Those of `encoders` that give classes, the one that the claims are about first; CheckpointError for none."""
        if not self._classifying:
            raise CheckpointError(
                f"{self.profile.path}: none of the models {', '.join(self.encoders)} has a classifier; add one, fit one a "
                "`head`, or run chapters 01 to 04 and 14 alone"
            )
        return sorted(self._classifying, key=lambda name: name != self.study["classifier"])

    @cached_property
    def _classifying(self) -> list[str]:
        return [name for name in self.encoders if self.class_count(name)]

    def class_count(self, name: str) -> int:
        """How many classes a model tells apart: those of its head, or of the images where one is made for it."""
        model = self.profile.models[self.encoder if name == CONTROL else name]
        own = 0 if model.head else checkpoints.outline(model).num_classes
        return own or (len(self.all_images.names) if model.head or name == CONTROL else 0)

    def _subject(self, name: str, device: str | None = None) -> Subject:
        settings = {"seed": self.seed, "precision": self.compute.precision, "pixels": self.tables / "pixels"}
        return Subject(self.profile, name, self.profile.images, device=device or str(self.device), **settings)

    @property
    def is_paper(self) -> bool:
        """Whether this run uses the paper's own models and data, so that its numbers should agree."""
        return self.profile.same_as_paper

    def seen_by(self, name: str, chosen: ImageSet) -> ImageSet:
        """`chosen` at the size and with the normalisation that the model `name` was trained with."""
        return self._subject(name).seen(chosen)

    def compare(
        self,
        models: Sequence[str],
        chosen: ImageSet,
        statistics: Callable[[nn.Module], dict[str, Statistic]],
        ratio: float = 0.0,
    ) -> dict[str, dict]:
        """One pass of `chosen` through each model: the results of its `statistics(model)` by model name.

        Models of the same grid see the same masks; each gets images at its own size and normalisation.
        """
        settings = {"ratio": ratio, "seed": self.seed, "compute": self.compute}
        found = {}
        for name in models:
            model, seen = self.model(name), self.seen_by(name, chosen)
            found[name] = one_pass(model, seen, statistics(model), label=name, **settings)
        return found

    def sweep(
        self, sets: Mapping[str, ImageSet], levels: Mapping[Hashable, Perturbation], measure: str
    ) -> dict[str, dict[Hashable, np.ndarray]]:
        """One measure of each model's images under every level, by model and level: (images, ...) each.

        `measure` is one of the `MEASURES` of `sweep/recorded.py`. Cells lie in the results' folder `cells`; those that no chapter has
        computed yet are computed here, or by the chapter's workers.
        """
        device = self.workers.device if self.workers else None
        subjects = [self._subject(name, device).showing(chosen) for name, chosen in sets.items()]
        return sweep(subjects, levels, measure, self.tables / "cells", self.workers)

    @cached_property
    def made_from(self) -> dict[str, str]:
        """What the tables of this run are made from."""
        return results.made_from(self.whole or self.profile)

    def read(self, name: str) -> pd.DataFrame:
        """A table that another chapter wrote; an error where it is missing or of another run."""
        return results.read_table(name, self.tables, self.made_from)

    def found(self, names: Iterable[str]) -> dict[str, pd.DataFrame]:
        """Those of the tables `names` that other chapters have written, by name; an error where one is of another run."""
        return {name: self.read(name) for name in names if (self.tables / f"{name}.csv").exists()}

    def save(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write a table to the run's results and pass it on."""
        results.save_table(table, name, self.tables, self.made_from)
        return table

    def pictured(self, chosen: ImageSet, what: str) -> None:
        """Write down which images a figure shows, as the table `pictured_<what>`."""
        listing = pd.DataFrame({"image": chosen.ids, "class": chosen.classes, "label": chosen.labels})
        self.save(listing, f"pictured_{what}")

    def _repr_markdown_(self) -> str:
        cuda = self.device.type == "cuda"
        kind = torch.cuda.get_device_name(self.device) if cuda else {"mps": "Apple's GPU"}.get(self.device.type, "CPU")
        return (
            f"> **Profile: {self.profile.title or self.profile.name}.** {self.profile.about} "
            f"Computed on: {kind}, {self.compute.identity}; seed {self.seed}."
            + "".join(f" {name} is left out: {why}." for name, why in self.left_out.items())
        )


def begin(
    profile: str,
    device: str = "auto",
    seed: int = 0,
    results_folder: str | None = None,
    precision: str | None = None,
    scheduler: int | str | None = None,
    models: list[str] | None = None,
) -> Chapter:
    """Open a profile for a notebook, put the book's figure style on, and fix PyTorch's seed.

    `models` are those of the profile to look at, by default all. `scheduler` says where cells are computed: None in this
    process, a number on as many local workers, an address on those of a Dask cluster. Trouble with any of these is raised
    here, before anything is computed.
    """
    seed = check_parameter("seed", seed, [0])
    loaded = load_profile(profile)
    compute, tables = computing_of(loaded.compute, precision), results.folder(loaded, results_folder)
    workers = None if scheduler is None else Workers(scheduler, device)
    chosen, left_out = checkpoints.at_hand(loaded.only(models))
    chapter = Chapter(chosen, pick_device(device), seed, tables, compute, workers, left_out, loaded)
    torch.manual_seed(seed)
    use_style()
    use_models(loaded.titles)
    return chapter


def of_notebook(names: dict[str, Any], **settings: object) -> Chapter:
    """`begin` with the parameters in a notebook's `globals()`, each checked there and put back as it is meant."""
    for name, defaults in defaults_in(ROOT / "notebooks").items():
        if name in names and not callable(names[name]):  # a function of that name is no parameter
            names[name] = check_parameter(name, names[name], defaults)
    return begin(**{name: names[name] for name in signature(begin).parameters if name in names} | settings)
