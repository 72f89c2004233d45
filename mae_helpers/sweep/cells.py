"""The files of a sweep: one for each model, perturbation and part of the images, under a key of all that it depends on.

A cell is written whole or not at all. Its key has the weights' digest and settings, the images with their files, order,
labels and transform, the perturbation with its parameters and seed, the code behind both, and the libraries' versions.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np

from mae_helpers.perturbations.levels import Perturbation
from mae_helpers.profile.files import write_whole
from mae_helpers.sweep import recorded as measures
from mae_helpers.sweep.dependencies import Dependencies, dependencies
from mae_helpers.sweep.recorded import Arrays
from mae_helpers.sweep.subjects import Subject


def code_behind(perturbation: Perturbation) -> Dependencies:
    """The code and libraries that decide a cell: those of the measures, and those of the perturbation's own module."""
    return dependencies(measures.__name__, type(perturbation).__module__)


def _plain(value: object) -> object:
    """A field of a perturbation as JSON that tells different values apart; TypeError where there is no such."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r}: a perturbation's fields must be numbers, text, arrays, or lists and mappings of them")


def cell_key(subject: Subject, perturbation: Perturbation) -> str:
    """The digest of everything that a cell depends on."""
    kind = f"{type(perturbation).__module__}.{type(perturbation).__qualname__}"
    parts = [subject.digest, kind, asdict(perturbation), list(perturbation.measures), code_behind(perturbation).digest]
    return hashlib.sha256(json.dumps(parts, default=_plain).encode()).hexdigest()


def _file_name(name: str) -> str:
    """A name without what could lead to another folder."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_"


def cell_path(folder: Path, subject: Subject, perturbation: Perturbation) -> Path:
    """Where a cell lies: `<folder>/<model>/<perturbation>-<key>.npz`."""
    name = f"{_file_name(perturbation.name)}-{cell_key(subject, perturbation)[:16]}.npz"
    return folder / _file_name(subject.name) / name


def lock_path(path: Path) -> Path:
    """The file that is locked while a cell is computed."""
    return path.parent.parent / ".locks" / f"{path.parent.name}-{path.stem}"


def read_cell(path: Path, key: str, wanted: Sequence[str], warn: bool = True) -> Arrays | None:
    """Measures from a cell's file; None where there is none, or, with a warning that names it, where it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if str(file["key"]) != key:
                raise ValueError("it belongs to another cell")
            return {name: file[name] for name in wanted}
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy and zipfile answer damage with a dozen kinds
        if warn:
            warnings.warn(f"{path}: not a whole cell ({error}); it is computed again", stacklevel=2)
        return None


def write_cell(path: Path, key: str, found: Arrays) -> None:
    """Write a cell's file, whole or not at all."""
    buffer = BytesIO()
    np.savez(buffer, key=np.array(key), **found)
    write_whole(path, buffer.getvalue())
