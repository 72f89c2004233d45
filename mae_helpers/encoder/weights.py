"""A model's weights: found or fetched, verified by their hash, read without running anything in them, loaded strictly."""

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mae_helpers.encoder.checkpoint_layouts import WRAPPERS, LayoutError, from_config, from_jax, translated, unwrapped
from mae_helpers.encoder.decoder import Decoder
from mae_helpers.encoder.downloads import cached, download, from_hub, timm_settings
from mae_helpers.encoder.vit import KINDS, CheckpointError, architecture, check_heads, in_short
from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import Input, Model, Profile

WEIGHTS = Path(__file__).parents[1] / "demo" / "weights"
FILES = ("model.safetensors", "pytorch_model.bin")  # what Hugging Face calls the weights in a folder
UNPACKED = 10  # times its size on the disk: how much a file may unpack to
PLAIN = [argparse.Namespace, np.dtype, *map(type, map(np.dtype, "fdilq")), np._core.multiarray.scalar]
PLAIN += [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar")]  # as NumPy 1 called it
NAMED = 3  # keys of each kind of trouble that a message names; the others are counted


def checkpoint_path(model: Model) -> Path:
    """Where a model's weights lie, there yet or not: the file `checkpoint` first, then the one behind `url` in the cache.

    `bundled:` names are the project's own; a folder is one of Hugging Face's, with config.json beside the weights. Weights
    of timm's own are found by `fetched` alone.
    """
    name = model.checkpoint or ""
    if name and Path(name).is_dir():
        return next((path for file in FILES if (path := Path(name) / file).is_file()), Path(name) / FILES[0])
    if name.startswith("bundled:"):
        return WEIGHTS / name.removeprefix("bundled:")
    if model.url and not Path(name).is_file():
        return cached(model.url)
    return Path(name or f"{model.model}.safetensors")


def fetched(model: Model) -> Path:
    """The file of a model's weights, downloaded first where this machine has it in no known place, and verified."""
    path = checkpoint_path(model)
    try:
        if not path.is_file() and model.url:
            path = download(model.url)
        elif not path.is_file() and model.model and "." in model.model:
            path = from_hub(model.model)
    except CheckpointError as error:
        raise CheckpointError(f"{error} ({model.checkpoint or 'give it one'})") from error
    if not path.is_file():
        for index in path.parent.glob("*.index.json"):  # as Hugging Face cuts large models
            what = 'lists weights in several files; save them in one: `save_pretrained(..., max_shard_size="99GB")`'
            raise CheckpointError(f"{index}: {what}")
        raise CheckpointError(f"{path}: no such checkpoint; put it there, or correct `checkpoint` in the profile")
    verify(path, model.hash)
    return path


@cache
def _digest(path: Path, kind: str, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def file_hash(path: Path, kind: str = "sha256") -> str:
    """A file's hash, read again only where its size or time changed since."""
    stat = path.stat()
    return _digest(path, kind, stat.st_size, stat.st_mtime_ns)


def identity(model: Model) -> str:
    """What tells a model's weights from others, fetched or not: the hash to be checked, or those of its files."""
    path = checkpoint_path(model)
    if model.hash or not path.is_file():
        return model.hash or model.url or model.model or path.name
    folder = Path(model.checkpoint or "")
    return " ".join(file_hash(file) for file in (path, *(sorted(folder.glob("*.json")) if folder.is_dir() else ())))


def checkpoint_hashes(profile: Profile) -> dict[str, str]:
    """The SHA-256 of every checkpoint of the profile, by model."""
    return {name: file_hash(fetched(model)) for name, model in profile.weights.items()}


def verify(path: Path, expected: str | None) -> None:
    """Compare a file's hash with `md5:...` or `sha256:...` (or the beginning of one); CheckpointError if it differs.

    A file of the Hugging Face hub's cache is named after its own SHA-256, and is compared with that at least.
    """
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


def described(model: Model) -> Model:
    """A model with what the config.json in its checkpoint's folder says of it, where that is a folder."""
    if not model.checkpoint or not Path(model.checkpoint).is_dir():
        return model
    path = Path(model.checkpoint) / "config.json"
    if not path.is_file():
        what = "a folder without config.json; name the file of the weights, or a folder that `save_pretrained` wrote"
        raise CheckpointError(f"{model.checkpoint}: {what}")
    try:
        name, arguments = from_config(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: {type(error).__name__}: {in_short(error)}; give `checkpoint` as a file"
        ) from error
    return model.model_copy(update={"model": model.model or name, "arguments": arguments | model.arguments})


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, a .npz or a pickle, flat or wrapped as training code saves them (`WRAPPERS`).

    No other class than `Namespace` and NumPy's numbers, which training code saves beside them, is allowed in a pickle.
    """
    try:
        _check_archive(path)
        if path.suffix == ".safetensors" or bytes(np.fromfile(path, "u1", 9))[8:] == b"{":  # whatever its name is
            weights = load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                weights = {key: torch.from_numpy(file[key]) for key in file.files}
        else:
            with torch.serialization.safe_globals(PLAIN):
                weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = unwrapped(weights)
    except Exception as error:  # each reader has exceptions of its own; the cause stays attached
        why, remedy = str(error).rpartition("WeightsUnpickler error:")[2], "fetch it again from its source"
        if other := re.search(r"GLOBAL (\S+)", why):
            why, remedy = f"it holds a {other[1]}", "save its tensors alone, as `model.state_dict()`"
        told = f"{type(error).__name__}: {in_short(why)}"
        raise CheckpointError(f"{path}: not a readable checkpoint ({told}); {remedy}") from error
    pairs = weights.items() if isinstance(weights, Mapping) else [(None, weights)]
    odd = [f"{shown(k)}: {type(v).__name__}" for k, v in pairs if not (isinstance(k, str) and isinstance(v, Tensor))]
    if odd:
        raise CheckpointError(
            f"{path}: {_few(odd, ', ')} found; expected tensors by name, flat or under one of {', '.join(WRAPPERS)}"
        )
    for key, value in weights.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            what = "is quantised, sparse, complex or empty of data; save it as a plain tensor"
            raise CheckpointError(f"{path}: {shown(key)[1:-1]} {what}")
    return dict(weights)


def _check_archive(path: Path) -> None:
    """ValueError for a zip that unpacks to far more than it takes on the disk; PyTorch's own are not compressed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > UNPACKED * path.stat().st_size:
            raise ValueError(f"its {path.stat().st_size} bytes would unpack to {size}")


def _few(parts: list[str], between: str) -> str:
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return between.join(parts[:NAMED]) + more


def load_strictly(module: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy a file's weights into a module, a Vision Transformer's from any known layout; what that took, a phrase each.

    CheckpointError in PyTorch's own words where a tensor is missing, surplus or misfits, and where a number is not
    finite: it would make every result NaN.
    """
    expected, lines, weights, how = module.state_dict(), [], read_weights(path), ()
    if isinstance(module, KINDS):
        try:
            weights, how = from_jax(weights, module, path) if path.suffix == ".npz" else translated(weights, module)
        except LayoutError as error:
            raise CheckpointError(f"{path}: {error}") from error
    weights = {key if key in expected else shown(key)[1:-1]: value for key, value in weights.items()}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:  # a line of missing keys, one of surplus keys, and one for each wrong shape
        lines = [line.strip(" .") for line in str(error).split("\n\t")[1:]] or [in_short(error)]
    told = [_few(line.split(", "), ", ") for line in lines if "key(s)" in line]
    misfits = [line for line in lines if "key(s)" not in line] + [
        f"{key} holds {value.dtype}, expected floating point"
        for key, value in weights.items()
        if key in expected and value.is_floating_point() != expected[key].is_floating_point()
    ]
    if misfits:
        told.append(_few(misfits, "; "))
    if told:
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(told)}; correct `arguments` in the profile")
    for key, value in expected.items():
        if strange := int((~value.isfinite()).sum()):
            trouble = f"{key} has {strange} numbers that are NaN or infinite in float32; fetch or train it again"
            raise CheckpointError(f"{path}: {trouble}")
    return how


def settings_of(profile: Profile, name: str) -> Model:
    """What the profile says of the model `name`; a CheckpointError where it has none."""
    if name not in profile.models:
        raise CheckpointError(
            f"{profile.path}: no model {name!r} among {', '.join(profile.models)}; add it to `models`"
        )
    return profile.models[name]


def _normalisation(model: Model) -> tuple[list[float] | None, list[float] | None]:
    """A model's own mean and deviation a channel: as the profile says, or its checkpoint's folder, or timm of its own."""
    for file, mean, std in (("preprocessor_config.json", "image_mean", "image_std"), ("config.json", "mean", "std")):
        if model.checkpoint and (beside := Path(model.checkpoint, file)).is_file():
            known = json.loads(beside.read_text())
            known = known.get("pretrained_cfg", known)  # as timm saves it
            if known.get(mean):
                return model.mean or known[mean], model.std or known.get(std)
    if not model.model or "." not in model.model:
        return model.mean, model.std
    known = timm_settings(model.model)
    return model.mean or list(known.mean), model.std or list(known.std)


def at_hand(profile: Profile) -> tuple[Profile, dict[str, str]]:
    """The profile without those of its `optional` models whose weights cannot be had, and why each of them is left out."""
    left_out = {}
    for name, model in profile.models.items():
        try:
            if model.optional:
                fetched(model)
        except CheckpointError as error:
            left_out[name] = str(error)
    names = [name for name in profile.models if name not in left_out]
    if not names:
        raise CheckpointError(f"{profile.path}: no model is at hand: {'; '.join(left_out.values())}")
    return profile.only(names), left_out


@cache
def outline(model: Model) -> nn.Module:
    """A model as its profile describes it, without weights and without memory: its size, head and tokens can be read."""
    with torch.device("meta"):
        return architecture(described(model))


def input_of(profile: Profile, name: str) -> Input:
    """How images become the input of the model `name`: at its own size, with its own normalisation or the profile's."""
    model = settings_of(profile, name)
    (height, width), (mean, std) = outline(model).patch_embed.img_size, _normalisation(model)
    size = height if height == width else [height, width]
    own = {"size": size, "mean": mean or profile.input.mean, "std": std or profile.input.std}
    return profile.input.model_copy(update=own)


def load_model(profile: Profile, name: str, device: torch.device | str = "cpu") -> nn.Module:
    """The profile's model `name` with its weights, ready to be read: float32, in evaluation mode, each block as assumed.

    Its attribute `loaded` says how its checkpoint was read, a phrase each.
    """
    model = described(settings_of(profile, name))
    vit = architecture(model).eval()
    if model.head and vit.num_classes:
        what = f"has a head of {vit.num_classes} classes; leave `head` out, or set `arguments: {{num_classes: 0}}`"
        raise CheckpointError(f"{profile.path}: models.{name} {what}")
    vit.loaded = load_strictly(vit, fetched(model))
    check_heads(vit, f"{profile.path}: models.{name}, {model.model or 'VisionTransformer'}")
    return vit.to(device)


def random_model(profile: Profile, name: str, device: torch.device | str = "cpu", seed: int = 0) -> nn.Module:
    """The control of Section IV-A: the architecture of `name` with timm's random initialisation and its positions."""
    with torch.random.fork_rng():
        trained = load_model(profile, name)
        torch.manual_seed(seed)
        vit = architecture(described(profile.models[name]))
    if getattr(trained, "pos_embed", None) is not None:
        vit.pos_embed = trained.pos_embed
    return vit.eval().to(device)


def load_decoder(profile: Profile, device: torch.device | str = "cpu") -> nn.Module | None:
    """The demo's MAE decoder, for showing reconstructions; None where the profile has none."""
    if profile.decoder is None:
        return None
    decoder = Decoder()
    load_strictly(decoder, fetched(profile.decoder))
    return decoder.eval().to(device)
