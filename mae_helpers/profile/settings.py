"""Profiles: which images, models and sizes a run uses. `demo`, `paper` and `atlas` are bundled; any YAML file works alike."""

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from mae_helpers.profile import plain_yaml
from mae_helpers.profile.parameters import TEXT, shown

BUNDLED = Path(__file__).parent
ROOT = BUNDLED.parents[1]
ROLES = {"encoder": "mae_pretrained", "classifier": "mae_finetuned", "beside": "vit_supervised"}  # by usual names
USUAL_TITLES = dict(zip(ROLES.values(), ("MAE, pretrained", "MAE, fine-tuned", "ViT, supervised"), strict=True))
CONTROL = "random"  # what chapters call the encoder's architecture with random weights
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")  # ${NAME} or ${NAME:-default}, as in a shell
ADDRESS = re.compile(r"https?://[^\s/]+/(\S*/)?[^\s/?#]*[^\s/?#.]")
OUTSIDE = re.compile(r"pretrained.*|checkpoint.*|cache_dir|scriptable|exportable")  # what timm would fetch or load
LONGEST = 2000  # characters of a setting; a path has fewer
DEEPEST, LARGEST = 1000, 65_536  # the blocks of a model; any other number among its arguments
LARGEST_MODEL = 30_000_000_000  # numbers, more than the largest Vision Transformer has
PRECISIONS = ("float32", "tf32", "bf16")  # see machine.Compute
# By pydantic's type of error; for any other, what pydantic itself says:
REMEDIES = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false", "string_type": TEXT}
REMEDIES |= {"list_type": "a list", "is_instance_of": "null"}
REMEDIES |= dict.fromkeys(("dict_type", "model_type"), "a mapping of settings, with names for keys")


class ProfileError(ValueError):
    """A profile that cannot be used: the message names the file, the entry, its value and the remedy."""


def _if(fits: Callable[[Any], object], remedy: str) -> AfterValidator:
    """Refuse a value that does not fit."""

    def check(value: Any) -> Any:
        if not fits(value):
            raise ValueError(f"is {shown(value)}; {remedy}")
        return value

    return AfterValidator(check)


def _names(value: Any, info: ValidationInfo) -> Any:
    """Names of classes, each once; or `all`, for whoever takes that."""
    if value != "all" and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        whole = ", or all" if info.field_name == "classes" else ""
        raise ValueError(f"is {shown(value)}; use a list of names (in quotes where YAML sees a number){whole}")
    again = sorted(name for name, times in Counter(value).items() if times > 1) if value != "all" else []
    if again:
        raise ValueError(f"has {shown(again)} twice; name each class once")
    return value


def _labels(value: Any) -> Any:
    """A ground-truth file, or the number of each class among a classifier's outputs."""
    numbers = value.values() if isinstance(value, dict) and all(isinstance(name, str) for name in value) else [-1]
    if not (value is None or isinstance(value, str) or all(type(number) is int and number >= 0 for number in numbers)):
        raise ValueError(f"is {shown(value)}; name a ground-truth file, or give each class its number, as {{cat: 3}}")
    return value


def _size(value: Any) -> Any:
    """The side of a square, or height and width, in pixels."""
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    if not all(type(side) is int and 0 < side <= 4096 for side in sides):
        raise ValueError(f"is {shown(value)}; use a whole number of pixels from 1 to 4096, or two: [height, width]")
    return value


def _buildable(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model that fetch and load nothing, and ask for no size beyond all reason."""
    for name, value in arguments.items():
        if OUTSIDE.fullmatch(name):
            raise ValueError(f"has {shown(name)}; weights come from `checkpoint` or `url` alone; leave it out")
        limit = DEEPEST if name == "depth" else LARGEST
        numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int | float)]
        if not all(0 <= one <= limit for one in numbers):  # nor is it true of NaN
            raise ValueError(f"has {shown(name)}, which is {shown(value)}; use numbers from 0 to {limit}")
    width, depth = arguments.get("embed_dim", 768), arguments.get("depth", 12)
    if type(width) is type(depth) is int and 12 * depth * width**2 > LARGEST_MODEL:
        raise ValueError(f"has depth {depth} at embed_dim {width}, larger than any model that there is; lower them")
    return arguments


def _is_folder_name(name: str) -> bool:
    return name.strip(" .") != "" and name.isprintable() and not set(name) & set("/\\") and len(name.encode()) <= 100


FolderName = Annotated[
    str, _if(_is_folder_name, "folders are called by it, so use up to 100 printable characters without / and \\")
]
FileName = Annotated[
    str, _if(re.compile(r"(?!bundled:(.*[/\\]|\.*$))[\s\S]*").fullmatch, "behind `bundled:` stands a file's name alone")
]
TimmName = Annotated[str, _if(re.compile(r"[\w.]+").fullmatch, "use a name of timm's, as vit_base_patch16_224.mae")]
Address = Annotated[str, _if(ADDRESS.fullmatch, "use an address that begins with http and ends in the file's name")]
Count = Annotated[int, _if(lambda count: count > 0, "use a whole number above 0, or leave it out")]
Channels = Annotated[
    list[float], _if(lambda all_: len(all_) == 3 and max(map(abs, all_)) < 1e30, "use three numbers, one a channel")
]
Deviations = Annotated[Channels, _if(lambda values: min(values) > 0, "use numbers above 0")]


class _Settings(BaseModel):
    """Part of a profile: strict, frozen, each unknown entry refused; equal ones hash alike."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=LONGEST, ser_json_bytes="base64"
    )

    def __hash__(self) -> int:
        return hash(tuple(value for _, value in self if isinstance(value, Hashable)))

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        for key in values:
            if key not in cls.model_fields:
                close = difflib.get_close_matches(str(key)[:80], cls.model_fields, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"use some of {', '.join(cls.model_fields)}"
                raise ValueError(f"has an unknown setting {shown(key)}; {hint}")
        return values if info.context is None else _located(values, info.context)


class Images(_Settings):
    """Where an image set comes from: the layout `source`, its place `folder`, `labels` a ground-truth file or numbers.

    `classes` are those to take, all where it is empty or `all`; `count` images in all, the same number of each class.
    A set that is `optional` may be missing: what needs it is then left out, unless an environment variable names it.
    """

    source: Literal["auto", "bundled", "digits", "folders", "flat", "tar", "hf"]  # see images.layouts
    folder: str | None = Field(None, validate_default=True)
    classes: Annotated[list[str] | Literal["all"], BeforeValidator(_names)] = []
    count: Count | None = None
    title: str = ""
    labels: Annotated[Any, AfterValidator(_labels)] = None
    split: str = "validation"  # of a Hugging Face dataset
    optional: bool = False

    @pydantic.field_validator("folder")
    @classmethod
    def _there(cls, folder: str | None, info: ValidationInfo) -> str | None:
        if not folder and info.data.get("source") not in ("bundled", "digits"):
            raise ValueError("is missing; add it")
        return folder


class Input(_Settings):
    """How an image becomes the model's input: side, or height and width, `squash` or `crop`, normalisation a channel."""

    size: Annotated[Any, AfterValidator(_size)]
    resize: Literal["squash", "crop"] = "squash"
    mean: Channels = [0.485, 0.456, 0.406]
    std: Deviations = [0.229, 0.224, 0.225]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.size) if isinstance(self.size, list) else (self.size, self.size)


class Head(_Settings):
    """A linear head, fitted to an encoder that has none: to the last `per_class` images of each class of `fit`.

    `fit` is by default the profile's own `images`; those that the head is tested on must be others.
    """

    per_class: Count
    fit: Images | None = None
    token: Literal["mean_patch", "cls"] = "mean_patch"


class Training(_Settings):
    """How a classifier was trained: what its weights started from, with which augmentations, and where that is told."""

    start: str
    augmentation: str
    source: str


class Model(_Settings):
    """A Vision Transformer and its weights: architecture, where the file lies or comes from, and its normalisation.

    `model` is the name of one in timm, `arguments` are passed to it, or to `VisionTransformer` where no name is given.
    The weights are the file `checkpoint`; where that is missing, what `url` leads to, or timm's own of that name. The
    input's side and, where `mean` and `std` are not given here, its normalisation are read from the model.
    """

    title: str = ""
    checkpoint: FileName | None = None
    model: TimmName | None = None
    arguments: Annotated[dict[str, Any], AfterValidator(_buildable)] = {}
    url: Address | None = None
    hash: str | None = None  # "md5:..." or "sha256:...", or the beginning of one
    mean: Channels | None = None
    std: Deviations | None = None
    head: Head | None = None
    optional: bool = False  # left out where its weights cannot be had
    training: Training | None = None
    ablation: bool = False  # compared in chapter 13 alone, by its `training`

    @pydantic.model_validator(mode="after")
    def _named(self) -> "Model":
        if not self.checkpoint and not self.model:
            raise ValueError("has neither `checkpoint` nor `model`; give one of them")
        return self


class Study(_Settings):
    """Whom the paper's claims are about, by their names among a profile's models; the rules alone need to know.

    `encoder` is the pretrained one, `classifier` the fine-tuned one, `beside` what both are compared with.
    """

    encoder: str | None = None
    classifier: str | None = None
    beside: str | None = None

    @property
    def said(self) -> dict[str, str]:
        """The roles that are filled."""
        return {role: name for role, name in self if name is not None}


class Computing(_Settings):
    """How passes are computed: see `machine.Compute`, which says what each setting means."""

    precision: Literal[PRECISIONS] = "float32"
    compile: bool = False
    batch_size: Count | None = None
    workers: Count | None = None


class Profile(_Settings):
    """Everything that differs between a run on the demo, on the paper's data, or on a user's own."""

    name: FolderName
    images: Images
    input: Input
    models: dict[str, Model]
    study: Study = Study()
    decoder: Model | None = None  # the demo's own alone: see encoder.decoder
    title: str = ""
    about: str = ""
    three_classes: Annotated[list[str], BeforeValidator(_names)] = []
    second_images: Images | None = None
    imagenet_c: Images | None = None  # the published files of ImageNet-C, for the same images as `images`
    shifted_images: dict[str, Images] = {}  # ImageNet-R, ImageNet-A, by name
    compute: Computing = Computing()
    same_as_paper: bool = False  # the paper's own models and images: only then are differences from it shown
    parameters: dict[str, Any] = {}  # of notebooks, where this profile wants other defaults
    path: Path | None = None  # where it was read

    @property
    def titles(self) -> dict[str, str]:
        """What figures and tables call each model."""
        titles = {name: model.title or USUAL_TITLES.get(name, name) for name, model in self.models.items()}
        return {name: title + ", linear head" * (self.models[name].head is not None) for name, title in titles.items()}

    @property
    def encoder(self) -> str:
        """The encoder that chapters show most of: the one that the claims are about, or the first model."""
        return self.study.encoder if self.study.encoder in self.models else next(iter(self.models))

    def only(self, names: list[str] | None) -> "Profile":
        """The profile with these of its models, in its own order; with all where it is told none."""
        if not {*(names or ())} <= {*self.models}:
            raise ValueError(
                f"parameter 'models' is {shown(names)}; use some of {', '.join(self.models)} ({self.path})"
            )
        kept = {name: model for name, model in self.models.items() if not names or name in names}
        return self.model_copy(update={"models": kept})

    @property
    def weights(self) -> dict[str, Model]:
        """All that has a checkpoint, by name."""
        return self.models | ({"mae_decoder": self.decoder} if self.decoder else {})

    @pydantic.model_validator(mode="before")
    @classmethod
    def _usual(cls, values: Any) -> Any:
        """A profile without `study`, whose models have the usual names, and with its decoder among them."""
        models = values.get("models") if isinstance(values, dict) else None
        if not isinstance(models, dict):
            return values
        rest = {name: model for name, model in models.items() if name != "mae_decoder"}
        decoder = {"decoder": models["mae_decoder"]} if len(rest) < len(models) else {}
        study = {role: name for role, name in ROLES.items() if name in rest}
        return decoder | {"study": study} | values | {"models": rest}

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> "Profile":
        if not self.models or CONTROL in self.models:
            raise ValueError(f"models has none, or one called {CONTROL!r}, which is the control's name; correct it")
        again = [title for title, times in Counter(self.titles.values()).items() if times > 1]
        if again:
            raise ValueError(f"models has {shown(again)} twice; give each model a `title` of its own")
        for role, name in self.study.said.items():
            if name not in self.models:
                raise ValueError(f"study.{role} is {shown(name)}; use one of models: {', '.join(self.models)}")
        strange = set(self.three_classes) - set(self.images.classes)
        if self.images.classes and self.images.classes != "all" and strange:
            raise ValueError(f"three_classes has {shown(sorted(strange))}, which images.classes lacks; add them there")
        return self


def reference(profile: Profile) -> str:
    """What `load_profile` finds this profile by again: the name of a bundled one, the path of any other."""
    return profile.path.stem if profile.path.parent == BUNDLED.resolve() else str(profile.path)


def _located(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """Settings with their paths made absolute, counted from `base`, and the environment's variables filled in.

    `bundled:` and `hf:` names stay as they are; an optional set whose place the environment names is no longer optional.
    """
    places = {key: text for key in ("folder", "checkpoint", "labels") if isinstance(text := values.get(key), str)}
    filled = {}
    for key, text in places.items():
        place = VARIABLE.sub(lambda named: os.environ.get(named[1]) or named[2] or "", text)
        local = place and not place.startswith(("bundled:", "hf:"))
        filled[key] = str(base / os.path.expanduser(place)) if local else place or None
        if key == "folder" and any(os.environ.get(name) for name, _ in VARIABLE.findall(text)):
            filled["optional"] = False
    return values | filled


def _complaint(error: ValidationError) -> str:
    """The first thing that pydantic refuses, in one line: entry, value, remedy."""
    problem = error.errors(include_url=False)[0]
    entry = ".".join(shown(str(key))[1:-1] for key in problem["loc"] if key != "[key]")
    if problem["type"] == "missing":
        return f"{entry} is missing; add it"
    if problem["type"] == "value_error":
        return f"{entry} {problem['ctx']['error']}".strip()
    remedy = REMEDIES.get(problem["type"], re.sub(r"^.*? should (be|have) ", "", problem["msg"]))
    return f"{entry} is {shown(problem['input'])}; use {remedy}".strip()


def load_profile(name: str | Path) -> Profile:
    """Read a profile by its bundled name (`demo`, `paper`, `atlas`) or from a YAML file of one's own.

    Relative folders and files count from the YAML file's own folder, in a bundled profile from the repository's root.
    `${NAME:-default}` in them is filled in from the environment.
    Raises ProfileError, naming the file and the entry, where the profile is unknown or does not fit.
    """
    path = BUNDLED / f"{name}.yaml"
    if not os.path.isfile(path):  # unlike Path's own, it says no to a name that is too long or no name at all
        path = Path(os.path.expanduser(name))
    if not os.path.isfile(path):
        known = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.yaml")))
        what = f"unknown profile {shown(str(name))}: neither a bundled one ({known}) nor a YAML file"
        raise ProfileError(f"{what} at {shown(str(path))[1:-1]}")
    base = ROOT if path.resolve().parent == BUNDLED.resolve() else path.parent.resolve()
    try:
        profile = Profile.model_validate(plain_yaml.read(path.read_bytes()), context=base)
    except OSError as error:
        raise ProfileError(f"{path}: not readable ({error.strerror}); correct its name or its rights") from None
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    except ValidationError as error:
        raise ProfileError(f"{path}: {_complaint(error)}") from None
    return profile.model_copy(update={"path": path.resolve()})
