"""The machine: its devices, and how a pass is computed on one: number format, images at a time, threads that read."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

from mae_helpers.profile.parameters import shown
from mae_helpers.profile.settings import PRECISIONS, Computing

FIRST_BATCH = {"cuda": 256, "mps": 64, "cpu": 8}  # on a CPU, so that a layer fits its caches


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on: `auto` takes a GPU where there is one; an absent device is a ValueError."""
    apple = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if apple else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", str(name)):
        raise ValueError(f"device {shown(name)}: use auto, cpu, mps, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "mps" and not apple:
        raise ValueError(f"device {name!r}: PyTorch sees no GPU of Apple's here; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(f"device {name!r}: PyTorch sees {found} CUDA devices here; use --device cpu or auto")
    return device


def doubled(values: torch.Tensor) -> torch.Tensor:
    """The values in float64, on their device, or on the CPU where that has none (`mps`, Apple's GPU)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


@dataclass
class Compute:
    """Settings of the passes of one chapter; `batch_size` shrinks when a device runs out of memory, and stays there.

    `precision` is that of the encoder's blocks: float32; tf32 (matrix products of a GPU with 10-bit mantissas); bf16
    (autocast). Attention maps, head features, means and all that follows are float32 or float64 in each of them.
    """

    precision: str = "float32"
    compile: bool = False
    batch_size: int | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {shown(self.precision)}: use one of {', '.join(PRECISIONS)}")

    @property
    def identity(self) -> str:
        """What of these settings may move a result, if only in the last digits."""
        return f"{self.precision} {'compiled' if self.compile else ''}".strip()

    def size_on(self, device: torch.device) -> int:
        """Images at a time: as set, as found before, or what is tried first on such a device."""
        return self.batch_size or FIRST_BATCH[device.type]

    def halve(self, size: int) -> None:
        """Remember that `size` images at a time were too many; MemoryError where not even one fits."""
        if size <= 1:
            raise MemoryError("the device has no memory for one image; use --device cpu, a smaller model, or free it")
        self.batch_size = size // 2


_once = cache(Compute)  # a process has one for the same settings: a batch size that was too large is remembered


def computing_of(settings: Computing, precision: str | None = None) -> Compute:
    """The settings of a profile, with a notebook's own precision; reading threads as many as PyTorch's by default."""
    precision = settings.precision if precision is None else precision
    return _once(precision, settings.compile, settings.batch_size, settings.workers or torch.get_num_threads())


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass failed for want of memory, of a GPU or of the machine (PyTorch has no kind of its own for that)."""
    told = any(words in str(error) for words in ("DefaultCPUAllocator: can't allocate", "MPS backend out of memory"))
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


@contextmanager
def number_format(precision: str, device: torch.device) -> Iterator[None]:
    """Run what is inside in this precision; PyTorch's global switches are put back afterwards.

    float32 means float32: PyTorch alone would let a GPU's convolutions round to TF32.
    """
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


@cache
def keep_freed_memory() -> None:
    """Let each layer on a CPU take the memory of the one before: tell glibc not to hand freed blocks to the system.

    By default it does so with blocks as large as an attention map, and in every layer their pages are zeroed anew. Said
    once a process; other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    trim_threshold, mmap_threshold = -1, -3  # of glibc's malloc.h
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_threshold, 2**30)
