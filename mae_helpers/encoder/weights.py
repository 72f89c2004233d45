"""Find a checkpoint or fetch it, verify its hash, and load it strictly into a timm `VisionTransformer`."""

import hashlib
import re
from functools import cache
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae_helpers.demo import WEIGHTS
from mae_helpers.encoder.downloads import DownloadError, cache_folder, download, from_hub, timm_settings
from mae_helpers.encoder.reading import CheckpointError, load_strictly, read_weights
from mae_helpers.profile.machine import pick_device  # noqa: F401 - callers take it from here
from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import Model, Profile

DECODER_KEYS = ("mask_token", "decoder_")  # what the official pre-training checkpoint holds beside the encoder


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
