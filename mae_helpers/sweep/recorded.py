"""What a cell holds: measures of what models make of perturbed images. This module, and all that it imports, is its code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch import nn

from mae_helpers.encoder.passes import PerImage, Statistic, one_pass
from mae_helpers.encoder.walk import classify, mean_patch, probability
from mae_helpers.measures.attention import Rollout
from mae_helpers.measures.features import head_features
from mae_helpers.perturbations.levels import Perturbation
from mae_helpers.profile.parameters import shown
from mae_helpers.sweep.subjects import Subject

CHUNK = 256  # images whose perturbed pixels are held in memory, to be shared by the models
MEASURES: dict[str, Callable[[nn.Module, Subject], Statistic]] = {
    "prediction": lambda model, subject: PerImage(partial(classify, model), only=len(model.blocks)),
    "own_prediction": lambda model, subject: PerImage(
        partial(classify, model, among=subject.own_classes), only=len(model.blocks)
    ),
    "probability": lambda model, subject: PerImage(partial(probability, model), only=len(model.blocks)),
    "embedding": lambda model, subject: PerImage(mean_patch, only=len(model.blocks)),  # before `fc_norm` (Table III)
    "heads": lambda model, subject: PerImage(head_features),
    "cls_rollout": lambda model, subject: Rollout("cls", len(model.blocks)),
    "patch_rollout": lambda model, subject: Rollout("patches", len(model.blocks)),
}
ROLLOUTS = ("cls_rollout", "patch_rollout")  # of the clean images: what guided perturbations look at
Arrays = Mapping[str, np.ndarray]  # by measure, (images, ...)
Results = dict[str, Arrays]  # by model


@dataclass(frozen=True)
class Task:
    """Cells that are computed together: models that see the same images, under one perturbation.

    `clean` has by model the clean images' rollouts, where the perturbation is guided.
    """

    subjects: tuple[Subject, ...]
    perturbation: Perturbation
    label: str
    clean: Mapping[str, Arrays] = field(default_factory=dict, repr=False)


def check(subject: Subject, model: nn.Module) -> None:
    """ValueError where a model has no classifier, or one fitted to these images, or does not know their labels."""
    labels, counted = subject.images.labels, subject.images.counted
    if model.num_classes == 0:
        raise ValueError(
            f"{subject.name} has no classifier; a sweep needs one: give it a `head`, or take another model"
        )
    both = sorted(subject.fitted_again())
    if both:
        raise ValueError(
            f"{subject.name}: its head is fitted to {len(both)} of the images that it is tested on, such as {both[0]}; give "
            "it others by `head: {fit: ...}`, or test on fewer (`test_images_per_class`)"
        )
    if labels.min() < 0:
        raise ValueError("accuracy needs labels, and some of these images have none; use a folder a class")
    if counted and not subject.fits_head and len(counted) != model.num_classes:
        raise ValueError(
            f"{subject.name}: its head has {model.num_classes} classes, but there are {len(counted)} folders of images, "
            f"{shown(counted)}; say which is which in the profile, as images.labels: {{{counted[0]!r:.40}: 0, ...}}"
        )
    if labels.max() >= model.num_classes:
        raise ValueError(
            f"{subject.name}: an image has the label {labels.max()}, but the model knows {model.num_classes} classes; "
            "use WordNet ids as folder names, or another model"
        )


def measured(task: Task) -> Results:
    """All measures that a perturbation records, by model; each image is perturbed once for all models where that can be."""
    first, perturbation = task.subjects[0], task.perturbation
    models = [one.classifier() for one in task.subjects]
    changes = [perturbation.change(one.images, task.clean.get(one.name, {})) for one in task.subjects]
    for one, model in zip(task.subjects, models, strict=True):
        check(one, model)
    parts: dict[str, list[Arrays]] = {one.name: [] for one in task.subjects}
    for start in range(0, len(first.rows), CHUNK):
        rows = range(len(first.rows))[start : start + CHUNK]
        if not perturbation.guided:
            shared = first.images.take(rows).held(first.compute.workers, changes[0], perturbation.in_processes)
        for one, model, change in zip(task.subjects, models, changes, strict=True):
            own = one.images.take(rows).changed(change) if perturbation.guided else shared
            seen = replace(own, input=one.images.input)
            statistics = {name: MEASURES[name](model, one) for name in perturbation.measures}
            parts[one.name].append(one_pass(model, seen, statistics, label=task.label, compute=one.compute))
    return {
        name: {measure: np.concatenate([part[measure] for part in each]) for measure in perturbation.measures}
        for name, each in parts.items()
    }
