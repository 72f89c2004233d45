"""Cells of a run: what one model makes of one perturbation of the images, computed once and shared by all chapters.

A cell is a file, written whole or not at all, under a key of everything that it depends on: checkpoint, images,
perturbation, seed, code and library versions. Whichever chapter asks first computes it; the others read it.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
from filelock import FileLock
from timm.models.vision_transformer import VisionTransformer

from mae_helpers.attention import Rollout
from mae_helpers.compute import Compute
from mae_helpers.encoder import PerImage, Statistic, classify, mean_patch, one_pass
from mae_helpers.features import head_features
from mae_helpers.images import ImageSet
from mae_helpers.perturbations import Clean, Perturbation
from mae_helpers.results import write_whole

CODE = (
    *("attention", "checkpoints", "compute", "corruptions", "decoded", "encoder", "features", "imagenet_c", "images"),
    *("layouts", "perturbations", "sweep"),
)
PACKAGES = ("torch", "timm", "numpy", "pillow", "scikit-image", "opencv-python-headless", "imagecorruptions-imaug")
CHUNK = 256  # images whose perturbed pixels are held in memory, to be shared by the models
MEASURES: dict[str, Callable[[VisionTransformer, ImageSet], Statistic]] = {
    "prediction": lambda model, images: PerImage(partial(classify, model), only=len(model.blocks)),
    "own_prediction": lambda model, images: PerImage(  # among the classes that these images are of
        partial(classify, model, among=sorted(set(images.labels.tolist()))), only=len(model.blocks)
    ),
    "embedding": lambda model, images: PerImage(mean_patch, only=len(model.blocks)),  # before `fc_norm` (Table III)
    "heads": lambda model, images: PerImage(head_features),
    "cls_rollout": lambda model, images: Rollout("cls", len(model.blocks)),
    "patch_rollout": lambda model, images: Rollout("patches", len(model.blocks)),
}


@dataclass(frozen=True)
class Subject:
    """A model in a sweep: how to open it, the images as it sees them, and a digest of its weights, settings and images."""

    name: str
    open: Callable[[], VisionTransformer]
    images: ImageSet
    identity: str


@cache
def code_version() -> str:
    """A digest of the modules that decide what a cell holds, and of the versions of the libraries under them."""
    digest = hashlib.sha256(" ".join(version(name) for name in PACKAGES).encode())
    for name in CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def cell_key(subject: Subject, perturbation: Perturbation) -> str:
    """The digest of everything that a cell depends on."""
    kind = type(perturbation).__name__
    parts = [subject.identity, subject.images.ids, asdict(subject.images.input), kind, asdict(perturbation)]
    return hashlib.sha256(json.dumps([*parts, code_version()], default=str).encode()).hexdigest()


def cell_path(folder: Path, subject: Subject, perturbation: Perturbation) -> Path:
    """Where a cell lies: `<folder>/<model>/<perturbation>-<key>.npz`."""
    return folder / subject.name / f"{perturbation.name}-{cell_key(subject, perturbation)[:16]}.npz"


def read_cell(path: Path, key: str, measures: Sequence[str], warn: bool = True) -> dict[str, np.ndarray] | None:
    """Measures from a cell's file; None where there is none, or, with a warning that names it, where it is damaged."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if str(file["key"]) != key:
                raise ValueError("it belongs to another cell")
            return {name: file[name] for name in measures}
    except Exception as error:  # numpy and zipfile answer damage with a dozen kinds
        if warn:
            warnings.warn(f"{path}: not a whole cell ({error}); it is computed again", stacklevel=2)
        return None


def write_cell(path: Path, key: str, measures: Mapping[str, np.ndarray]) -> None:
    """Write a cell's file, whole or not at all."""
    buffer = BytesIO()
    np.savez(buffer, key=np.array(key), **measures)
    write_whole(path, buffer.getvalue())


def _check(subject: Subject, model: VisionTransformer) -> None:
    if model.num_classes == 0:
        raise ValueError(f"{subject.name} has no classifier; a sweep needs one, such as mae_finetuned")
    if subject.images.labels.min() < 0:
        raise ValueError("accuracy needs labels, and some of these images have none; use a folder a class")
    if subject.images.labels.max() >= model.num_classes:
        raise ValueError(
            f"{subject.name}: an image has the label {subject.images.labels.max()}, but the model knows "
            f"{model.num_classes} classes; use WordNet ids as folder names, or another model"
        )


def _compute(
    subjects: Sequence[Subject], perturbation: Perturbation, folder: Path, label: str, compute: Compute
) -> dict[str, dict]:
    """Compute and write one perturbation's cells of several models, perturbing each image once where that can be."""
    clean: dict[str, dict] = {subject.name: {} for subject in subjects}
    if perturbation.guided:
        clean = cells(subjects, Clean(), ("cls_rollout", "patch_rollout"), folder, label, compute)
    models = {subject.name: subject.open() for subject in subjects}
    changes = {subject.name: perturbation.change(subject.images, clean[subject.name]) for subject in subjects}
    parts: dict[str, list[dict]] = {subject.name: [] for subject in subjects}
    for subject in subjects:
        _check(subject, models[subject.name])
    for start in range(0, len(subjects[0].images), CHUNK):
        rows, stored = range(start, min(start + CHUNK, len(subjects[0].images))), None
        for subject in subjects:
            chosen = subject.images.take(rows).changed(changes[subject.name])
            if not perturbation.guided:
                in_processes = getattr(perturbation, "in_processes", False) and compute.workers > 1
                stored = stored or chosen.held(compute.workers, in_processes).stored
                chosen = replace(chosen, stored=stored)
            model = models[subject.name]
            statistics = {name: MEASURES[name](model, subject.images) for name in perturbation.measures}
            parts[subject.name].append(one_pass(model, chosen, statistics, label=label, compute=compute))
    computed = {}
    for subject in subjects:
        found = parts[subject.name]
        whole = {name: np.concatenate([part[name] for part in found]) for name in perturbation.measures}
        write_cell(cell_path(folder, subject, perturbation), cell_key(subject, perturbation), whole)
        computed[subject.name] = whole
    return computed


def _on_disk(
    subjects: Sequence[Subject], perturbation: Perturbation, measures: Sequence[str], folder: Path, warn: bool = True
) -> dict[str, dict[str, np.ndarray] | None]:
    places = {s.name: (cell_path(folder, s, perturbation), cell_key(s, perturbation)) for s in subjects}
    return {name: read_cell(*place, measures, warn) for name, place in places.items()}


def cells(
    subjects: Sequence[Subject],
    perturbation: Perturbation,
    measures: Sequence[str],
    folder: Path,
    label: str = "",
    compute: Compute | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Measures of one perturbation by model, (images, ...) each; what is not on disk is computed first."""
    unknown = [name for name in measures if name not in perturbation.measures]
    if unknown:
        raise ValueError(f"{perturbation.name}: {unknown} are not recorded; there are {perturbation.measures}")
    found = _on_disk(subjects, perturbation, measures, folder)
    missing = [subject for subject in subjects if found[subject.name] is None]
    if missing:
        with ExitStack() as held:  # another run of the same cells is waited for, and then read
            for path in sorted(cell_path(folder, subject, perturbation) for subject in missing):
                lock = folder / ".locks" / f"{path.parent.name}-{path.stem}"
                lock.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(lock))
            found |= _on_disk(missing, perturbation, measures, folder, warn=False)
            missing = [subject for subject in missing if found[subject.name] is None]
            if missing:
                computed = _compute(missing, perturbation, folder, label or perturbation.name, compute or Compute())
                found |= {name: {measure: cell[measure] for measure in measures} for name, cell in computed.items()}
    return found


def sweep(
    subjects: Sequence[Subject],
    levels: Mapping[Hashable, Perturbation],
    measure: str,
    folder: Path,
    compute: Compute | None = None,
) -> dict[str, dict[Hashable, np.ndarray]]:
    """One measure of every model and level: {model: {level: array (images, ...)}}."""
    found: dict[str, dict] = {subject.name: {} for subject in subjects}
    groups: dict[tuple, list[Subject]] = {}  # models with the same images share the work on the pixels
    for subject in subjects:
        groups.setdefault(tuple(subject.images.ids), []).append(subject)
    for number, (level, perturbation) in enumerate(levels.items(), 1):
        label = f"{perturbation.name} ({number} of {len(levels)})"
        for group in groups.values():
            for name, cell in cells(group, perturbation, (measure,), folder, label, compute).items():
                found[name][level] = cell[measure]
    return found
