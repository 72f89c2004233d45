"""What a chapter's process tells its runner: the largest memory that it needed, of the machine and of a GPU."""

import atexit
import json
import os
import resource
import sys
import time
from pathlib import Path
from threading import Thread

USAGE_FILE = "MAE_HELPERS_USAGE"  # environment variables: where a runner reads it
RUNNER = "MAE_HELPERS_RUNNER"  # the runner's process


def peaks() -> dict[str, float]:
    """Peak memory of this process so far in MB: `peak_memory_mb`, and `peak_gpu_memory_mb` where PyTorch used a GPU.

    Counted is what is resident, also where it is shared: a forked process begins with its parent's libraries.
    """
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where `getrusage` also counts what the parent had before it began this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        memory = int(line.split()[1]) * 1024
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    peak = {"peak_memory_mb": round(memory / 2**20, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        peak["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def _end_with(runner: int) -> None:
    while True:
        try:
            os.kill(runner, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(1)


def begin() -> None:
    """Before a chapter's first cell: its process ends when the runner does, and at its end writes its peaks for it."""
    if file := os.environ.get(USAGE_FILE):
        atexit.register(lambda: Path(file).write_text(json.dumps(peaks())))
    if runner := os.environ.get(RUNNER):
        Thread(target=_end_with, args=(int(runner),), daemon=True).start()
