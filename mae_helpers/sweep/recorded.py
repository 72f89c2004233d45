"""What a cell holds: measures of what models make of perturbed images. This module, and all that it imports, is its code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.encoder.passes import PerImage, Statistic, one_pass
from mae_helpers.encoder.walk import classify, mean_patch
from mae_helpers.measures.attention import Rollout
from mae_helpers.measures.features import head_features
from mae_helpers.perturbations.levels import Perturbation
from mae_helpers.profile.machine import Compute
from mae_helpers.sweep.subjects import Subject

CHUNK = 256  # images whose perturbed pixels are held in memory, to be shared by the models
MEASURES: dict[str, Callable[[VisionTransformer, Subject], Statistic]] = {
    "prediction": lambda model, subject: PerImage(partial(classify, model), only=len(model.blocks)),
    "own_prediction": lambda model, subject: PerImage(
        partial(classify, model, among=subject.own_classes), only=len(model.blocks)
    ),
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


def check(subject: Subject, model: VisionTransformer) -> None:
    """ValueError where a model has no classifier, or does not know the images' labels."""
    if model.num_classes == 0:
        raise ValueError(f"{subject.name} has no classifier; a sweep needs one, such as mae_finetuned")
    if subject.images.labels.min() < 0:
        raise ValueError("accuracy needs labels, and some of these images have none; use a folder a class")
    if subject.images.labels.max() >= model.num_classes:
        raise ValueError(
            f"{subject.name}: an image has the label {subject.images.labels.max()}, but the model knows "
            f"{model.num_classes} classes; use WordNet ids as folder names, or another model"
        )


def measured(task: Task, compute: Compute) -> Results:
    """All measures that a perturbation records, by model; each image is perturbed once for all models where that can be."""
    first, perturbation = task.subjects[0], task.perturbation
    models = {one.name: one.open() for one in task.subjects}
    changes = {one.name: perturbation.change(one.images, task.clean.get(one.name, {})) for one in task.subjects}
    for one in task.subjects:
        check(one, models[one.name])
    parts: dict[str, list[Arrays]] = {name: [] for name in models}
    for start in range(0, len(first.rows), CHUNK):
        rows = range(start, min(start + CHUNK, len(first.rows)))
        if not perturbation.guided:
            in_processes = perturbation.in_processes and compute.workers > 1
            shared = first.images.take(rows).held(compute.workers, changes[first.name], in_processes)
        for one in task.subjects:
            own = one.images.take(rows).changed(changes[one.name]) if perturbation.guided else shared
            seen, model = replace(own, input=one.images.input), models[one.name]
            statistics = {name: MEASURES[name](model, one) for name in perturbation.measures}
            parts[one.name].append(one_pass(model, seen, statistics, label=task.label, compute=compute))
    return {
        name: {measure: np.concatenate([part[measure] for part in each]) for measure in perturbation.measures}
        for name, each in parts.items()
    }
