"""Profiles: which images, models and sizes a run uses. `demo` and `paper` are bundled; any YAML file works alike."""

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

BUNDLED = Path(__file__).parent / "profiles"
ROOT = BUNDLED.parent.parent


class ProfileError(ValueError):
    """A profile that cannot be used: the message names the file, the value and the remedy."""


@dataclass(frozen=True)
class Images:
    """Where an image set comes from: `source` is bundled, digits, folders (a folder a class) or flat (one folder)."""

    source: str
    folder: str | None = None
    classes: list[str] = field(default_factory=list)
    count: int | None = None
    title: str = ""


@dataclass(frozen=True)
class Input:
    """How an image becomes the model's input: side in pixels, `squash` or `crop`, normalisation a channel."""

    size: int
    resize: str = "squash"
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Model:
    """A checkpoint, the timm `VisionTransformer` arguments it must fit, its hash, and its own normalisation if any."""

    checkpoint: str
    arguments: dict[str, Any] = field(default_factory=dict)
    hash: str | None = None  # "md5:..." or "sha256:...", or the beginning of one
    mean: list[float] | None = None
    std: list[float] | None = None


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


def _absolute(value: Any, base: Path) -> Any:
    """Folders and checkpoint files relative to `base`; other values, `bundled:` ones included, as they are."""
    if isinstance(value, dict):
        paths = {key: value[key] for key in ("folder", "checkpoint") if isinstance(value.get(key), str)}
        return value | {
            k: p if p.startswith("bundled:") else str(base / Path(p).expanduser()) for k, p in paths.items()
        }
    return value


def _check(profile: Profile, where: str) -> Profile:
    hints = get_type_hints(Images)
    for label, images in (("images", profile.images), ("second_images", profile.second_images)):
        if images is None:
            continue
        if images.source not in ("bundled", "digits", "folders", "flat"):
            raise ProfileError(f"{where}: {label}.source is {images.source!r}; use bundled, digits, folders or flat")
        if images.source in ("folders", "flat") and not images.folder:
            raise ProfileError(f"{where}: {label}.folder is missing; it names the folder that holds the images")
        if images.count is not None and (not isinstance(images.count, int) or images.count < 1):
            raise ProfileError(f"{where}: {label}.count is {images.count!r}; use a whole number ({hints['count']})")
    if profile.input.resize not in ("squash", "crop"):
        raise ProfileError(f"{where}: input.resize is {profile.input.resize!r}; use squash or crop")
    for name, model in profile.models.items():
        side = model.arguments.get("img_size", profile.input.size)
        if side != profile.input.size:
            raise ProfileError(f"{where}: models.{name} has img_size {side}, but input.size is {profile.input.size}")
    for label, value in (("three_classes", profile.three_classes), ("images.classes", profile.images.classes)):
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ProfileError(
                f"{where}: {label} is {value!r}; use a list of names (in quotes where YAML sees a number)"
            )
    strange = set(profile.three_classes) - set(profile.images.classes)
    if profile.images.classes and strange:
        raise ProfileError(f"{where}: three_classes has {sorted(strange)}, which images.classes lacks")
    return profile


def load_profile(name: str | Path) -> Profile:
    """Read a profile by its bundled name (`demo`, `paper`) or from a YAML file of one's own.

    Relative folders and files count from the YAML file's own folder, in a bundled profile from the repository's root.
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
    parts = {
        "images": _build(Images, _absolute(profile.images, base), f"{where}, images"),
        "input": _build(Input, profile.input, f"{where}, input"),
        "models": {
            key: _build(Model, _absolute(model, base), f"{where}, models.{key}")
            for key, model in profile.models.items()
        },
        "path": path.resolve(),
    }
    if profile.second_images is not None:
        second = _absolute(profile.second_images, base)
        parts["second_images"] = _build(Images, second, f"{where}, second_images")
    return _check(Profile(**(vars(profile) | parts)), where)
