"""Read the tensors of a checkpoint file, refuse what no model can take, and copy them strictly into a model."""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mae_helpers.profile.parameters import shown

UNPACKED = 10  # times its size on the disk: how much a file may unpack to


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message names the file, the tensor or hash, and the remedy."""


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
        ) from error
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
