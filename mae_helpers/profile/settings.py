"""Profiles: which images, models and sizes a run uses. `demo` and `paper` are bundled; any YAML file works alike."""

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from mae_helpers.profile import checks as profile_checks
from mae_helpers.profile import plain_yaml
from mae_helpers.profile.kinds import fits, shown, words

BUNDLED = Path(__file__).parent
ROOT = BUNDLED.parents[1]
LONGEST = 2000  # characters of a setting; a path has fewer
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")  # ${NAME} or ${NAME:-default}, as in a shell


class ProfileError(ValueError):
    """A profile that cannot be used: the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class Images:
    """Where an image set comes from: `source` is one of `profile_checks.SOURCES`, `folder` its place, `labels` a ground-truth file.

    `classes` are those to take, all where it is empty or `all`; `count` images in all, the same number of each class.
    A set that is `optional` may be missing: what needs it is then left out, unless an environment variable names it.
    """

    source: str
    folder: str | None = None
    classes: list[str] | str = field(default_factory=list)
    count: int | None = None
    title: str = ""
    labels: str | None = None
    split: str = "validation"  # of a Hugging Face dataset
    optional: bool = False


@dataclass(frozen=True)
class Input:
    """How an image becomes the model's input: side in pixels, `squash` or `crop`, normalisation a channel."""

    size: int
    resize: str = "squash"
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Model:
    """A Vision Transformer and its weights: architecture, where the file lies or comes from, and its normalisation.

    `model` is the name of one in timm, `arguments` are passed to it, or to `VisionTransformer` where no name is given.
    The weights are the file `checkpoint`; where that is missing, what `url` leads to, or timm's own of that name.
    """

    checkpoint: str | None = None
    model: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    url: str | None = None
    hash: str | None = None  # "md5:..." or "sha256:...", or the beginning of one
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass(frozen=True)
class Computing:
    """How passes are computed: see `compute.Compute`, which says what each setting means."""

    precision: str = "float32"
    compile: bool = False
    batch_size: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Profile:
    """Everything that differs between a run on the demo, on the paper's data, or on a user's own."""

    name: str
    images: Images
    input: Input
    models: dict[str, Model]
    title: str = ""
    about: str = ""
    three_classes: list[str] = field(default_factory=list)
    second_images: Images | None = None
    imagenet_c: Images | None = None  # the published files of ImageNet-C, for the same images as `images`
    shifted_images: dict[str, Images] = field(default_factory=dict)  # ImageNet-R, ImageNet-A, by name
    compute: Computing = field(default_factory=Computing)
    same_as_paper: bool = False  # the paper's own models and images: only then are differences from it shown
    parameters: dict[str, Any] = field(default_factory=dict)  # of notebooks, where this profile wants other defaults
    path: Path | None = None


def reference(profile: Profile) -> str:
    """What `load_profile` finds this profile by again: the name of a bundled one, the path of any other."""
    return profile.path.stem if profile.path.parent == BUNDLED.resolve() else str(profile.path)


def _build(kind: type, values: Any, where: str, label: str = "") -> Any:
    """Make a dataclass from a mapping, strictly: an unknown, missing or mistyped entry is a ProfileError."""
    place = f"{where}, {label}" if label else where
    if not isinstance(values, dict):
        raise ProfileError(f"{place}: expected a mapping of settings, found {shown(values)}")
    known = get_type_hints(kind)
    for key, value in values.items():
        name = f"{label}.{key}".lstrip(".")
        if key not in known:
            close = difflib.get_close_matches(str(key)[:80], known, n=1)
            raise ProfileError(
                f"{place}: unknown setting {shown(key)}"
                + (f"; did you mean {close[0]!r}?" if close else f" of {set(known)}")
            )
        if not fits(value, known[key]):
            raise ProfileError(f"{where}: {name} is {shown(value)}; use {words(known[key])}")
        if isinstance(value, str) and len(value) > LONGEST:
            raise ProfileError(f"{where}: {name} has {len(value)} characters; use up to {LONGEST}")
    try:
        return kind(**values)
    except TypeError as error:  # a key that is missing
        raise ProfileError(f"{place}: {str(error).split('__init__() ')[-1]}") from None


def _expanded(text: str) -> tuple[str, bool]:
    """Text with `${NAME}` and `${NAME:-default}` replaced from the environment, and whether one was set there."""
    given = [name for name, _ in VARIABLE.findall(text) if os.environ.get(name)]
    return VARIABLE.sub(lambda found: os.environ.get(found[1]) or found[2] or "", text), bool(given)


def _located(value: Any, base: Path) -> Any:
    """An entry with its paths made absolute, counted from `base`, and its environment variables filled in.

    `bundled:` and `hf:` names stay as they are; an optional set whose place the environment names is no longer optional.
    """
    if not isinstance(value, dict):
        return value
    found = dict(value)
    for key in ("folder", "checkpoint", "labels"):
        if not isinstance(value.get(key), str):
            continue
        text, given = _expanded(value[key])
        local = text and not text.startswith(("bundled:", "hf:"))
        found[key] = str(base / os.path.expanduser(text)) if local else text or None
        if key == "folder" and given:
            found["optional"] = False
    return found


def _values(path: Path) -> Any:
    try:
        return plain_yaml.read(path.read_bytes())
    except OSError as error:
        raise ProfileError(f"{path}: not readable ({error.strerror}); correct its name or its rights") from None
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from None


def load_profile(name: str | Path) -> Profile:
    """Read a profile by its bundled name (`demo`, `paper`) or from a YAML file of one's own.

    Relative folders and files count from the YAML file's own folder, in a bundled profile from the repository's root.
    `${NAME:-default}` in them is filled in from the environment.
    Raises ProfileError, naming the file and the entry, where the profile is unknown or does not fit.
    """
    path = BUNDLED / f"{name}.yaml"
    if not os.path.isfile(path):  # unlike Path's own, it says no to a name that is too long or no name at all
        path = Path(os.path.expanduser(name))
    if not os.path.isfile(path):
        known = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.yaml")))
        raise ProfileError(
            f"unknown profile {shown(str(name))}: neither a bundled one ({known}) nor a YAML file "
            f"at {shown(str(path))[1:-1]}"
        )
    values, where = _values(path), str(path)
    base = ROOT if path.resolve().parent == BUNDLED.resolve() else path.parent.resolve()
    profile = _build(Profile, values, where)

    def images(entry: Any, label: str) -> Images:
        return _build(Images, _located(entry, base), where, label)

    parts = {
        "images": images(profile.images, "images"),
        "input": _build(Input, profile.input, where, "input"),
        "models": {
            key: _build(Model, _located(model, base), where, f"models.{key}") for key, model in profile.models.items()
        },
        "shifted_images": {
            key: images(entry, f"shifted_images.{key}") for key, entry in profile.shifted_images.items()
        },
        "path": path.resolve(),
    }
    if "compute" in values:
        parts["compute"] = _build(Computing, profile.compute, where, "compute")
    for label in ("second_images", "imagenet_c"):
        if getattr(profile, label) is not None:
            parts[label] = images(getattr(profile, label), label)
    made = Profile(**(vars(profile) | parts))
    for complaint in profile_checks.of_profile(made):
        raise ProfileError(f"{where}: {complaint}")
    return made
