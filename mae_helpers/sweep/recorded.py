"""What a cell holds: measures of what models make of perturbed images. This module, and all that it imports, is its code."""

from collections.abc import Callable, Mapping, Sequence
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


def measured(
    subjects: Sequence[Subject], perturbation: Perturbation, clean: Mapping[str, Arrays], compute: Compute, label: str
) -> dict[str, Arrays]:
    """All measures that a perturbation records, by model; each image is perturbed once for all models where that can be.

    `clean` has by model the rollouts of the clean images, where the perturbation is guided.
    """
    models = {subject.name: subject.open() for subject in subjects}
    changes = {one.name: perturbation.change(one.images, clean.get(one.name, {})) for one in subjects}
    parts: dict[str, list[Arrays]] = {subject.name: [] for subject in subjects}
    for subject in subjects:
        check(subject, models[subject.name])
    for start in range(0, len(subjects[0].images), CHUNK):
        rows, held = range(start, min(start + CHUNK, len(subjects[0].images))), None
        for subject in subjects:
            chosen, change = subject.images.take(rows), changes[subject.name]
            if perturbation.guided:
                chosen = chosen.changed(change)
            else:
                in_processes = perturbation.in_processes and compute.workers > 1
                held = held or chosen.held(compute.workers, change, in_processes)
                chosen = held.normalised_as(subject.images.input.mean, subject.images.input.std)
            model = models[subject.name]
            statistics = {name: MEASURES[name](model, subject) for name in perturbation.measures}
            parts[subject.name].append(one_pass(model, chosen, statistics, label=label, compute=compute))
    return {
        name: {measure: np.concatenate([part[measure] for part in found]) for measure in perturbation.measures}
        for name, found in parts.items()
    }
