"""Find a checkpoint or fetch it, verify its hash, and load it strictly into a timm `VisionTransformer`."""

import argparse
import hashlib
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_helpers.demo import WEIGHTS
from mae_helpers.downloads import DownloadError, cache_folder, download, from_hub, timm_settings
from mae_helpers.kinds import shown
from mae_helpers.profiles import Model, Profile

DECODER_KEYS = ("mask_token", "decoder_")  # what the official pre-training checkpoint holds beside the encoder

UNPACKED = 10  # times its size on the disk: how much a file may unpack to


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message names the file, the tensor or hash, and the remedy."""


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: `auto` takes a GPU where there is one; an absent device is a ValueError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r}: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(f"device {name!r}: PyTorch sees {found} CUDA devices here; use --device cpu or auto")
    return device


def checkpoint_path(model: Model) -> Path:
    """Where a model's weights lie, whether they are there yet or not: `bundled:` names are the project's own.

    A file named by `checkpoint` comes first, then the one behind `url` in the cache folder. Weights of timm's own that
    were fetched are found by `fetched`.
    """
    name = model.checkpoint or ""
    if name.startswith("bundled:"):
        return WEIGHTS / name.removeprefix("bundled:")
    if model.url and not Path(name).is_file():
        return cache_folder() / model.url.rsplit("/", 1)[-1]
    return Path(name or f"{model.model}.safetensors")


def fetched(model: Model) -> Path:
    """The file of a model's weights, downloaded first where it is on none of this machine's known places."""
    path = checkpoint_path(model)
    if path.is_file():
        return path
    try:
        if model.url:
            return download(model.url)
        if model.model and "." in model.model:
            return from_hub(model.model)
    except DownloadError as error:
        raise CheckpointError(f"{error} ({model.checkpoint or 'give it one'})") from error
    raise CheckpointError(f"{path}: no such checkpoint; put it there, or correct `checkpoint` in the profile")


def identity(model: Model) -> str:
    """What tells a model's weights from others, fetched already or not: the hash that is checked, or the file's own."""
    path = checkpoint_path(model)
    if model.hash or not path.is_file():
        return model.hash or model.url or model.model or path.name
    return file_hash(path)


@cache
def _digest(path: Path, kind: str, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def file_hash(path: Path, kind: str = "sha256") -> str:
    """A file's hash, read again only where its size or time changed since."""
    stat = path.stat()
    return _digest(path, kind, stat.st_size, stat.st_mtime_ns)


def checkpoint_hashes(profile: Profile) -> dict[str, str]:
    """The SHA-256 of every checkpoint of the profile, by model."""
    return {name: file_hash(fetched(model)) for name, model in profile.models.items()}


def verify(path: Path, expected: str | None) -> None:
    """Compare a file's hash with `md5:...` or `sha256:...` (or the beginning of one); CheckpointError if it differs.

    A file of the Hugging Face hub's cache is named after its own SHA-256, and is compared with that at least.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; put it there, or correct `checkpoint` in the profile")
    if expected is None and re.fullmatch("[0-9a-f]{64}", path.resolve().name):
        expected = f"sha256:{path.resolve().name}"
    if expected is None:
        return
    if not re.fullmatch("(md5|sha1|sha256|sha512):[0-9a-fA-F]+", expected):
        raise CheckpointError(
            f"{path}: hash {shown(expected)} in the profile is not of the form md5:... or sha256:..., with its digits"
        )
    kind, _, digest = expected.lower().partition(":")
    found = file_hash(path, kind)
    if not found.startswith(digest):
        raise CheckpointError(f"{path}: {kind} is {found}, expected {digest}...; fetch the file again")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a pickle in the official layout `{"model": ..., "args": Namespace}`.

    Pickles are read with `weights_only=True`, that one class allowed. Floating-point tensors come back as float32, none
    with a number that is not finite: that would make every result NaN.
    """
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            _check_archive(path)
            with torch.serialization.safe_globals([argparse.Namespace]):
                weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = weights.get("model", weights) if isinstance(weights, Mapping) else weights
    except Exception as error:  # each reader has exceptions of its own; the cause stays attached
        reason = str(error).strip().partition("\n")[0][:200]
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {reason}); fetch it again from its source"
        ) from None
    if not isinstance(weights, Mapping) or not all(isinstance(key, str) for key in weights):
        raise CheckpointError(
            f"{path}: {type(weights).__name__} found; expected tensors by name, flat or under 'model'"
        )
    strange = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(
            f"{path}: {shown(strange[:5])} are no tensors; expected a flat layout, or one under 'model'"
        )
    return {key: _number_format(path, key, value) for key, value in weights.items()}


def _check_archive(path: Path) -> None:
    """ValueError for a zip that unpacks to far more than it takes on the disk; PyTorch's own are not compressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > UNPACKED * path.stat().st_size:
            raise ValueError(f"its {path.stat().st_size} bytes would unpack to {size}")


def _number_format(path: Path, key: str, value: Tensor) -> Tensor:
    """A tensor as its model takes it, floating point in float32; a CheckpointError where that is not what it is."""
    place, dense = f"{path}: {shown(key)[1:-1]}", value.layout == torch.strided and value.device.type == "cpu"
    if not dense or value.is_quantized or value.is_complex():
        raise CheckpointError(f"{place} is quantised, sparse, complex or empty of data; save it as a plain tensor")
    if value.numel() * value.element_size() > UNPACKED * path.stat().st_size:
        raise CheckpointError(f"{place} of shape {tuple(value.shape)} is larger than its file; fetch it again")
    if not value.is_floating_point():
        return value
    value = value.float()
    if not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise CheckpointError(
            f"{place} has {count} numbers that are NaN or infinite in float32; fetch or train it again"
        )
    return value


def load_strictly(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Copy weights into a module; a missing, surplus or wrongly shaped tensor is a CheckpointError that names it."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    problems = [f"missing {key} {shape}" for key, shape in expected.items() if key not in found]
    surplus = [f"surplus {shown(key)[1:-1]} {shape}" for key, shape in found.items() if key not in expected]
    problems = problems[: 5 - min(2, len(surplus))] + surplus + problems[5 - min(2, len(surplus)) :]  # some of both
    problems += [
        f"{key} has shape {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if found.get(key, shape) != shape
    ]
    problems += [
        f"{key} holds {weights[key].dtype}, expected floating point"
        for key, value in module.state_dict().items()
        if key in weights and value.is_floating_point() != weights[key].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{path}: does not fit the model: {'; '.join(problems[:5])}{more}; correct `arguments` in the profile"
        )
    module.load_state_dict(weights)


def settings_of(profile: Profile, name: str) -> Model:
    """What the profile says of the model `name`; a CheckpointError where it has none."""
    if name not in profile.models:
        raise CheckpointError(
            f"{profile.path}: no model {name!r} among {', '.join(profile.models)}; add it to `models`"
        )
    return profile.models[name]


def architecture(model: Model, size: int | None = None) -> VisionTransformer:
    """The model that a profile describes, with random weights: timm's of that name, or one of its `arguments` alone.

    CheckpointError where it is none that this book understands: timm's class VisionTransformer, one CLS token, square
    images of `size` pixels, where that is given.
    """
    what = model.model or "VisionTransformer"
    try:
        vit = timm.create_model(model.model, **model.arguments) if model.model else VisionTransformer(**model.arguments)
    except Exception as error:  # timm checks some arguments by assertions, others not at all
        reason = str(error).strip().partition("\n")[0][:200] or "it cannot be built"
        reason = (
            reason if isinstance(error, RuntimeError | TypeError | ValueError) else f"{type(error).__name__}: {reason}"
        )
        raise CheckpointError(
            f"{what} with {shown(model.arguments)}: {reason}; correct `model` or `arguments`"
        ) from None
    if type(vit) is not VisionTransformer:
        raise CheckpointError(f"{what}: it is a {type(vit).__name__}; only timm's VisionTransformer is understood")
    if vit.num_prefix_tokens != 1 or not vit.has_class_token:
        raise CheckpointError(
            f"{what}: {vit.num_prefix_tokens} tokens beside the patches; only a CLS token is understood"
        )
    if size is not None and tuple(vit.patch_embed.img_size) != (size, size):
        raise CheckpointError(
            f"{what} takes images of {vit.patch_embed.img_size} pixels, but input.size is {size}; make them the same "
            "(`arguments: {img_size: ...}` where the weights allow it)"
        )
    return vit


def normalisation(model: Model) -> tuple[list[float] | None, list[float] | None]:
    """A model's own mean and deviation a channel: as the profile says, or timm's for weights of its own, or None."""
    known = timm_settings(model.model) if model.model and "." in model.model else None
    mean, std = (None, None) if known is None else (list(known.mean), list(known.std))
    return model.mean or mean, model.std or std


def load_model(profile: Profile, name: str, device: torch.device | str = "cpu") -> VisionTransformer:
    """The profile's model `name` with its weights, ready to be read: float32, in evaluation mode."""
    model = settings_of(profile, name)
    vit, path = architecture(model, profile.input.size), fetched(model)
    verify(path, model.hash)
    weights = {key: value for key, value in read_weights(path).items() if not key.startswith(DECODER_KEYS)}
    load_strictly(vit, weights, path)
    return vit.eval().to(device)


def random_model(profile: Profile, name: str, device: torch.device | str = "cpu", seed: int = 0) -> VisionTransformer:
    """The control of Section IV-A: the architecture of `name` with timm's random initialisation and its positions."""
    with torch.random.fork_rng():
        trained = load_model(profile, name)
        torch.manual_seed(seed)
        vit = architecture(profile.models[name])
    vit.pos_embed = trained.pos_embed
    return vit.eval().to(device)


def load_decoder(profile: Profile, device: torch.device | str = "cpu") -> nn.Module | None:
    """The demo's MAE decoder, for showing reconstructions; None where the profile has none."""
    from mae_helpers.demo.model import Decoder

    if "mae_decoder" not in profile.models:
        return None
    model = settings_of(profile, "mae_decoder")
    path = checkpoint_path(model)
    verify(path, model.hash)
    decoder = Decoder()
    load_strictly(decoder, read_weights(path), path)
    return decoder.eval().to(device)
