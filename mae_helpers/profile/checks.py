"""What a profile whose entries have the right kinds may still say that no run can use: one sentence for each."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mae_helpers.profile.kinds import fits, shown

if TYPE_CHECKING:
    from mae_helpers.profile.settings import Images, Model, Profile

SOURCES = ("auto", "bundled", "digits", "folders", "flat", "tar", "hf")  # see layouts.py
PRECISIONS = ("float32", "tf32", "bf16")  # see compute.py
LARGEST_SIDE = 4096  # pixels of a model's input
LARGEST_SIZE = 65_536  # of any number among a model's arguments; and of the weights they ask for:
LARGEST_MODEL = 30_000_000_000  # numbers, more than the largest Vision Transformer has
DEEPEST = 1000  # blocks
OUTSIDE = re.compile(
    r"pretrained.*|checkpoint.*|cache_dir|scriptable|exportable"
)  # what timm would fetch, load or script


def of_profile(profile: "Profile") -> Iterator[str]:
    """All complaints about a profile, each with its entry, the value and the remedy."""
    if not _is_folder_name(profile.name):
        yield f"name is {shown(profile.name)}; folders are called by it, so use up to 100 printable characters without / and \\"
    sets = {"images": profile.images, "second_images": profile.second_images, "imagenet_c": profile.imagenet_c}
    sets |= {f"shifted_images.{name}": images for name, images in profile.shifted_images.items()}
    for label, images in sets.items():
        if images is not None:
            yield from _of_images(label, images)
    yield from _of_input(profile)
    for name, model in profile.models.items():
        yield from _of_model(f"models.{name}", model, profile.input.size)
    yield from _twice("three_classes", profile.three_classes)
    strange = set(profile.three_classes) - set(profile.images.classes)
    if profile.images.classes and profile.images.classes != "all" and strange:
        yield f"three_classes has {shown(sorted(strange))}, which images.classes lacks"


def _is_folder_name(name: str) -> bool:
    return name.strip(" .") != "" and name.isprintable() and not set(name) & set("/\\") and len(name.encode()) <= 100


def _twice(label: str, names: list[str]) -> Iterator[str]:
    again = sorted({name for name in names if names.count(name) > 1})
    if again:
        yield f"{label} has {shown(again)} twice; name each class once"


def _of_images(label: str, images: "Images") -> Iterator[str]:
    if images.source not in SOURCES:
        yield f"{label}.source is {shown(images.source)}; use one of {', '.join(SOURCES)}"
    if images.source not in ("bundled", "digits") and not images.folder:
        yield f"{label}.folder is missing; it names the folder that holds the images"
    if images.count is not None and images.count < 1:
        yield f"{label}.count is {shown(images.count)}; use a whole number above 0, or leave it out for all"
    if isinstance(images.classes, str) and images.classes != "all":
        yield (
            f"{label}.classes is {shown(images.classes)}; use a list of names (in quotes where YAML sees a number), or all"
        )
    elif images.classes != "all":
        yield from _twice(f"{label}.classes", images.classes)


def _of_normalisation(label: str, mean: list[float] | None, std: list[float] | None) -> Iterator[str]:
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != 3:
            yield f"{label}.{name} is {shown(values)}; use three numbers, one a channel"
    if std is not None and not all(value > 0 for value in std):
        yield f"{label}.std is {shown(std)}; use numbers above 0"


def _of_input(profile: "Profile") -> Iterator[str]:
    settings, compute = profile.input, profile.compute
    if not 1 <= settings.size <= LARGEST_SIDE:
        yield f"input.size is {shown(settings.size)}; use a whole number of pixels from 1 to {LARGEST_SIDE}"
    if settings.resize not in ("squash", "crop"):
        yield f"input.resize is {shown(settings.resize)}; use squash or crop"
    yield from _of_normalisation("input", settings.mean, settings.std)
    if compute.precision not in PRECISIONS:
        yield f"compute.precision is {shown(compute.precision)}; use one of {', '.join(PRECISIONS)}"
    for name in ("batch_size", "workers"):
        value = getattr(compute, name)
        if value is not None and value < 1:
            yield f"compute.{name} is {shown(value)}; use a whole number above 0, or leave it out"


def _of_model(label: str, model: "Model", side: int) -> Iterator[str]:
    if model.arguments.get("img_size", side) != side:
        yield f"{label} has img_size {shown(model.arguments['img_size'])}, but input.size is {side}"
    if not model.checkpoint and not model.model:
        yield f"{label} has neither `checkpoint` nor `model`; give one of them"
    if model.model is not None and not re.fullmatch(r"[\w.]+", model.model):
        yield f"{label}.model is {shown(model.model)}; use a name of timm's, such as vit_base_patch16_224.mae"
    if model.checkpoint and re.fullmatch(r"bundled:(.*[/\\].*|\.*)", model.checkpoint):
        yield f"{label}.checkpoint is {shown(model.checkpoint)}; behind `bundled:` stands the name of a file alone"
    if model.url is not None and not re.fullmatch(r"https?://[^\s/]+/(\S*/)?[^\s/?#]*[^\s/?#.]", model.url):
        yield f"{label}.url is {shown(model.url)}; use an address that begins with http and ends in the file's name"
    yield from _of_normalisation(label, model.mean, model.std)
    for name, value in model.arguments.items():
        yield from _of_argument(f"{label}.arguments.{name}", name, value)
    width, depth = model.arguments.get("embed_dim", 768), model.arguments.get("depth", 12)
    if fits(width, int) and fits(depth, int) and 12 * depth * width**2 > LARGEST_MODEL:
        yield f"{label}.arguments: depth {depth} at embed_dim {width} is larger than any model that there is; lower them"


def _of_argument(label: str, name: str, value: Any) -> Iterator[str]:
    numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int | float)]
    limit = DEEPEST if name == "depth" else LARGEST_SIZE
    if OUTSIDE.fullmatch(name):
        yield f"{label}: weights come from `checkpoint` or `url` alone; leave it out"
    elif not all(fits(one, bool | float) and 0 <= one <= limit for one in numbers):
        yield f"{label} is {shown(value)}; use numbers from 0 to {limit}"
