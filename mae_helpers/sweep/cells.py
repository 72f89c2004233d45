"""The files of a sweep: one for each model, perturbation and part of the images, under a key of all that it depends on.

A cell is written whole or not at all. Its key has the weights' digest and settings, the images with their files, order,
labels and transform, the perturbation with its parameters and seed, the code behind both, and the libraries' versions.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np

from mae_helpers.perturbations.levels import Perturbation
from mae_helpers.profile.files import write_whole
from mae_helpers.sweep import recorded
from mae_helpers.sweep.current import Code, code_behind
from mae_helpers.sweep.recorded import Arrays
from mae_helpers.sweep.subjects import Subject


def code_of(perturbation: Perturbation) -> Code:
    """The code and libraries that decide a cell: those of what is recorded, and of the perturbation's own module."""
    return code_behind(recorded.__name__, type(perturbation).__module__)


def _plain(value: object) -> object:
    """A field of a perturbation as JSON that tells different values apart; TypeError where there is no such."""
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r}: a perturbation's fields must be numbers, text, arrays, or lists and mappings of them")


def _file_name(name: str) -> str:
    """A name without what could lead to another folder."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_"


@dataclass(frozen=True)
class Cell:
    """One file: what a model makes of its images under a perturbation."""

    folder: Path
    subject: Subject
    perturbation: Perturbation

    @cached_property
    def key(self) -> str:
        """The digest of everything that it depends on."""
        kind, what = type(self.perturbation), self.perturbation
        parts = [self.subject.digest, f"{kind.__module__}.{kind.__qualname__}", asdict(what), list(what.measures)]
        return hashlib.sha256(json.dumps([*parts, code_of(what).digest], default=_plain).encode()).hexdigest()

    @property
    def path(self) -> Path:
        """Where it lies: `<folder>/<model>/<perturbation>-<key>.npz`."""
        model, perturbation = _file_name(self.subject.name), _file_name(self.perturbation.name)
        return self.folder / model / f"{perturbation}-{self.key[:16]}.npz"

    @property
    def lock(self) -> Path:
        """The file that is locked while it is computed."""
        return self.folder / ".locks" / f"{self.path.parent.name}-{self.path.stem}"

    def read(self, wanted: Sequence[str], warn: bool = True) -> Arrays | None:
        """Some of its measures; None where there is no file, or, with a warning that names it, where it is damaged."""
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if str(file["key"]) != self.key:
                    raise ValueError("it belongs to another cell")
                return {name: file[name] for name in wanted}
        except FileNotFoundError:
            return None
        except Exception as error:  # numpy and zipfile answer damage with a dozen kinds
            if warn:
                warnings.warn(f"{self.path}: not a whole cell ({error}); it is computed again", stacklevel=2)
            return None

    def write(self, arrays: Arrays) -> None:
        """Write its file, whole or not at all."""
        buffer = BytesIO()
        np.savez(buffer, key=np.array(self.key), **arrays)
        write_whole(self.path, buffer.getvalue())
