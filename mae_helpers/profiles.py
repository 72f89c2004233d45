"""Profiles: which images, models and sizes a run uses. `demo` and `paper` are bundled; any YAML file works alike."""

import difflib
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

BUNDLED = Path(__file__).parent / "profiles"
ROOT = BUNDLED.parent.parent
SOURCES = ("auto", "bundled", "digits", "folders", "flat", "tar", "hf")  # see layouts.py
PRECISIONS = ("float32", "tf32", "bf16")  # see compute.py
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")  # ${NAME} or ${NAME:-default}, as in a shell


class ProfileError(ValueError):
    """A profile that cannot be used: the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class Images:
    """Where an image set comes from: `source` is one of SOURCES, `folder` its place, `labels` a ground-truth file.

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


def _build(kind: type, values: Any, where: str) -> Any:
    """Make a dataclass from a mapping, strictly: an unknown, missing or mistyped entry is a ProfileError."""
    if not isinstance(values, dict):
        raise ProfileError(f"{where}: expected a mapping of settings, found {values!r}")
    known = {item.name: item for item in fields(kind)}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ProfileError(
                f"{where}: unknown setting {key!r}"
                + (f"; did you mean {close[0]!r}?" if close else f" of {set(known)}")
            )
    try:
        return kind(**values)
    except TypeError as error:
        raise ProfileError(f"{where}: {str(error).split('__init__() ')[-1]}") from None


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
        found[key] = str(base / Path(text).expanduser()) if local else text or None
        if key == "folder" and given:
            found["optional"] = False
    return found


def _check_images(label: str, images: Images, where: str) -> None:
    if images.source not in SOURCES:
        raise ProfileError(f"{where}: {label}.source is {images.source!r}; use one of {', '.join(SOURCES)}")
    if images.source not in ("bundled", "digits") and not images.folder:
        raise ProfileError(f"{where}: {label}.folder is missing; it names the folder that holds the images")
    if images.count is not None and (not isinstance(images.count, int) or images.count < 1):
        raise ProfileError(f"{where}: {label}.count is {images.count!r}; use a whole number, or leave it out for all")
    if images.classes != "all" and not _is_list_of_names(images.classes):
        raise ProfileError(
            f"{where}: {label}.classes is {images.classes!r}; use a list of names (in quotes where YAML sees a "
            "number), or all"
        )


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check(profile: Profile, where: str) -> Profile:
    sets = {"images": profile.images, "second_images": profile.second_images, "imagenet_c": profile.imagenet_c}
    sets |= {f"shifted_images.{name}": images for name, images in profile.shifted_images.items()}
    for label, images in sets.items():
        if images is not None:
            _check_images(label, images, where)
    if profile.input.resize not in ("squash", "crop"):
        raise ProfileError(f"{where}: input.resize is {profile.input.resize!r}; use squash or crop")
    if profile.compute.precision not in PRECISIONS:
        raise ProfileError(
            f"{where}: compute.precision is {profile.compute.precision!r}; use one of {', '.join(PRECISIONS)}"
        )
    for name, model in profile.models.items():
        side = model.arguments.get("img_size", profile.input.size)
        if side != profile.input.size:
            raise ProfileError(f"{where}: models.{name} has img_size {side}, but input.size is {profile.input.size}")
        if not model.checkpoint and not model.model:
            raise ProfileError(f"{where}: models.{name} has neither `checkpoint` nor `model`; give one of them")
    if not _is_list_of_names(profile.three_classes):
        raise ProfileError(
            f"{where}: three_classes is {profile.three_classes!r}; use a list of names (in quotes where YAML sees a number)"
        )
    strange = set(profile.three_classes) - set(profile.images.classes)
    if profile.images.classes and profile.images.classes != "all" and strange:
        raise ProfileError(f"{where}: three_classes has {sorted(strange)}, which images.classes lacks")
    return profile


def load_profile(name: str | Path) -> Profile:
    """Read a profile by its bundled name (`demo`, `paper`) or from a YAML file of one's own.

    Relative folders and files count from the YAML file's own folder, in a bundled profile from the repository's root.
    `${NAME:-default}` in them is filled in from the environment.
    Raises ProfileError, naming the file and the entry, where the profile is unknown or does not fit.
    """
    path = BUNDLED / f"{name}.yaml"
    if not path.exists():
        path = Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.yaml")))
        raise ProfileError(f"unknown profile {str(name)!r}: neither a bundled one ({known}) nor a YAML file at {path}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: not valid YAML: {error}") from None
    where, base = str(path), ROOT if path.resolve().parent == BUNDLED.resolve() else path.parent.resolve()
    profile = _build(Profile, values, where)
    if not isinstance(profile.models, dict):
        raise ProfileError(f"{where}: models is {profile.models!r}; name each model, with its checkpoint under it")
    if not isinstance(profile.shifted_images, dict):
        raise ProfileError(
            f"{where}: shifted_images is {profile.shifted_images!r}; name each set, with its folder under it"
        )

    def images(entry: Any, label: str) -> Images:
        return _build(Images, _located(entry, base), f"{where}, {label}")

    parts = {
        "images": images(profile.images, "images"),
        "input": _build(Input, profile.input, f"{where}, input"),
        "models": {
            key: _build(Model, _located(model, base), f"{where}, models.{key}") for key, model in profile.models.items()
        },
        "shifted_images": {
            key: images(entry, f"shifted_images.{key}") for key, entry in profile.shifted_images.items()
        },
        "path": path.resolve(),
    }
    if isinstance(profile.compute, dict):
        parts["compute"] = _build(Computing, profile.compute, f"{where}, compute")
    for label in ("second_images", "imagenet_c"):
        if getattr(profile, label) is not None:
            parts[label] = images(getattr(profile, label), label)
    return _check(Profile(**(vars(profile) | parts)), where)
