"""What a chapter needed: the largest memory of its process, and of a GPU, told to the runner when the process ends."""

import atexit
import json
import os
import resource
import sys
from pathlib import Path

USAGE_FILE = "MAE_HELPERS_USAGE"  # environment variable: where a runner reads it


def _peak_memory() -> int:
    """The largest resident memory of this process, in bytes.

    Linux keeps it in /proc; `getrusage` there counts what the parent had before it started this process, too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def peaks() -> dict[str, float]:
    """Peak memory of this process so far in MB: `peak_memory_mb`, and `peak_gpu_memory_mb` where PyTorch used a GPU."""
    found = {"peak_memory_mb": round(_peak_memory() / 2**20, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


def tell_at_exit() -> None:
    """Write the peaks to the runner's file, if there is a runner, when this process ends."""
    file = os.environ.get(USAGE_FILE)
    if file:
        atexit.register(lambda: Path(file).write_text(json.dumps(peaks())))
