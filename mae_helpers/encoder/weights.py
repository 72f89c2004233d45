"""A model's weights: found or fetched, verified by their hash, read without running anything in them, loaded strictly."""

import argparse
import hashlib
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_helpers.encoder.decoder import Decoder
from mae_helpers.encoder.downloads import DownloadError, cache_folder, download, from_hub, timm_settings
from mae_helpers.encoder.vit import CheckpointError, architecture, check_heads, in_short
from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import Model, Profile

WEIGHTS = Path(__file__).parents[1] / "demo" / "weights"
DECODER_KEYS = ("mask_token", "decoder_")  # what the official pre-training checkpoint holds beside the encoder
UNPACKED = 10  # times its size on the disk: how much a file may unpack to
NAMED = 3  # keys of each kind of trouble that a message names; the others are counted


def checkpoint_path(model: Model) -> Path:
    """Where a model's weights lie, there yet or not: the file `checkpoint` first, then the one behind `url` in the cache.

    `bundled:` names are the project's own. Weights of timm's own are found by `fetched` alone.
    """
    name = model.checkpoint or ""
    if name.startswith("bundled:"):
        return WEIGHTS / name.removeprefix("bundled:")
    if model.url and not Path(name).is_file():
        return cache_folder() / model.url.rsplit("/", 1)[-1]
    return Path(name or f"{model.model}.safetensors")


def _missing(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: no such checkpoint; put it there, or correct `checkpoint` in the profile")


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
    raise _missing(path)


@cache
def _digest(path: Path, kind: str, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def file_hash(path: Path, kind: str = "sha256") -> str:
    """A file's hash, read again only where its size or time changed since."""
    stat = path.stat()
    return _digest(path, kind, stat.st_size, stat.st_mtime_ns)


def identity(model: Model) -> str:
    """What tells a model's weights from others, fetched already or not: the hash that is checked, or the file's own."""
    path = checkpoint_path(model)
    if model.hash or not path.is_file():
        return model.hash or model.url or model.model or path.name
    return file_hash(path)


def checkpoint_hashes(profile: Profile) -> dict[str, str]:
    """The SHA-256 of every checkpoint of the profile, by model."""
    return {name: file_hash(fetched(model)) for name, model in profile.models.items()}


def verify(path: Path, expected: str | None) -> None:
    """Compare a file's hash with `md5:...` or `sha256:...` (or the beginning of one); CheckpointError if it differs.

    A file of the Hugging Face hub's cache is named after its own SHA-256, and is compared with that at least.
    """
    if not path.is_file():
        raise _missing(path)
    if expected is None and re.fullmatch("[0-9a-f]{64}", path.resolve().name):
        expected = f"sha256:{path.resolve().name}"
    if expected is None:
        return
    if not re.fullmatch("(md5|sha1|sha256|sha512):[0-9a-fA-F]+", expected):
        raise CheckpointError(
            f"{path}: hash {shown(expected)} in the profile is not of the form md5:... or sha256:..., with its digits"
        )
    kind, _, digest = expected.lower().partition(":")
    if not (found := file_hash(path, kind)).startswith(digest):
        raise CheckpointError(f"{path}: {kind} is {found}, expected {digest}...; fetch the file again")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a pickle, flat or in the official `{"model": ..., "args": Namespace}`.

    No other class is allowed in a pickle. Floating point comes back as float32, and none that is not finite: it would make
    every result NaN.
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
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {in_short(error)}); fetch it again from its source"
        ) from error
    pairs = weights.items() if isinstance(weights, Mapping) else [(None, weights)]
    if odd := [
        f"{shown(k)}: {type(v).__name__}" for k, v in pairs if not isinstance(k, str) or not isinstance(v, Tensor)
    ]:
        raise CheckpointError(f"{path}: {_few(odd, ', ')[0]} found; expected tensors by name, flat or under 'model'")
    return {key: _plain(path, key, value) for key, value in weights.items()}


def _check_archive(path: Path) -> None:
    """ValueError for a zip that unpacks to far more than it takes on the disk; PyTorch's own are not compressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > UNPACKED * path.stat().st_size:
            raise ValueError(f"its {path.stat().st_size} bytes would unpack to {size}")


def _plain(path: Path, key: str, value: Tensor) -> Tensor:
    """A tensor as its model takes it, floating point in float32; a CheckpointError where that is not what it is."""
    place, dense = f"{path}: {shown(key)[1:-1]}", value.layout == torch.strided and value.device.type == "cpu"
    if not dense or value.is_quantized or value.is_complex():
        raise CheckpointError(f"{place} is quantised, sparse, complex or empty of data; save it as a plain tensor")
    if value.numel() * value.element_size() > UNPACKED * path.stat().st_size:
        raise CheckpointError(f"{place} of shape {tuple(value.shape)} is larger than its file; fetch it again")
    if not value.is_floating_point():
        return value
    value = value.float()
    if strange := int((~torch.isfinite(value)).sum()):
        raise CheckpointError(
            f"{place} has {strange} numbers that are NaN or infinite in float32; fetch or train it again"
        )
    return value


def _few(parts: list[str], between: str = "; ") -> list[str]:
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return [between.join(parts[:NAMED]) + more] if parts else []


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a module; CheckpointError in PyTorch's own words where a tensor is missing, surplus or misfits."""
    expected, lines = module.state_dict(), []
    weights = {key if key in expected else shown(key)[1:-1]: value for key, value in weights.items()}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:  # a line of missing keys, one of surplus keys, and one for each wrong shape
        lines = [line.strip(" .") for line in str(error).split("\n\t")[1:]] or [in_short(error)]
    told = [part for line in lines if "key(s)" in line for part in _few(line.split(", "), ", ")]
    told += _few([line for line in lines if "key(s)" not in line])
    told += _few(
        [
            f"{key} holds {value.dtype}, expected floating point"
            for key, value in weights.items()
            if key in expected and value.is_floating_point() != expected[key].is_floating_point()
        ]
    )
    if told:
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(told)}; correct `arguments` in the profile")


def settings_of(profile: Profile, name: str) -> Model:
    """What the profile says of the model `name`; a CheckpointError where it has none."""
    if name not in profile.models:
        raise CheckpointError(
            f"{profile.path}: no model {name!r} among {', '.join(profile.models)}; add it to `models`"
        )
    return profile.models[name]


def normalisation(model: Model) -> tuple[list[float] | None, list[float] | None]:
    """A model's own mean and deviation a channel: as the profile says, or timm's for weights of its own, or None."""
    if not model.model or "." not in model.model:
        return model.mean, model.std
    known = timm_settings(model.model)
    return model.mean or list(known.mean), model.std or list(known.std)


def load_model(profile: Profile, name: str, device: torch.device | str = "cpu") -> VisionTransformer:
    """The profile's model `name` with its weights, ready to be read: float32, in evaluation mode, each block as assumed."""
    model = settings_of(profile, name)
    vit, path = architecture(model, profile.input.size).eval(), fetched(model)
    verify(path, model.hash)
    load_strictly(vit, {k: v for k, v in read_weights(path).items() if not k.startswith(DECODER_KEYS)}, path)
    check_heads(vit, f"{profile.path}: models.{name}, {model.model or 'VisionTransformer'}")
    return vit.to(device)


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
    if "mae_decoder" not in profile.models:
        return None
    model = profile.models["mae_decoder"]
    path = checkpoint_path(model)
    verify(path, model.hash)
    decoder = Decoder()
    load_strictly(decoder, read_weights(path), path)
    return decoder.eval().to(device)
