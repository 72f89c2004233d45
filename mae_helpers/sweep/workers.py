"""Where cells are computed when one process is not enough: local workers, or those of a Dask cluster, a task at a time each.

A worker opens models and images by itself, by the paths of the profile; results come back and are written here.
"""

import os
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mae_helpers.profile.machine import pick_device
from mae_helpers.sweep.cells import code_of
from mae_helpers.sweep.current import Code, code_behind
from mae_helpers.sweep.recorded import Results, Task, measured

if TYPE_CHECKING:
    from distributed import Client

CONNECT = 10  # seconds until a scheduler must have answered
PATIENCE = 120  # seconds without any worker
DEATHS = 3  # of workers, after which a local cell is given up; elsewhere the cluster's own `allowed-failures` counts
_ONE = threading.Lock()  # a process computes one cell at a time, however many threads Dask gave it


class WorkerError(RuntimeError):
    """Workers that cannot be used: the message names the scheduler or the worker, what is wrong and the remedy."""


def _compute(code: Code, sent: bytes) -> Results:
    """A task, on a worker; refused where its code, its libraries or its files are not the sender's."""
    from distributed import get_worker

    worker = get_worker()
    try:
        difference = code.difference(code_behind(*code.modules))
    except ValueError as error:
        raise WorkerError(f"worker {worker.address}: {error}") from None
    if difference:
        raise WorkerError(
            f"worker {worker.address}: {difference}; install the same code and requirements.lock there, and start it again"
        )
    task, digests = pickle.loads(sent)  # by Dask it would be before this check
    with _ONE:
        torch.set_num_threads(worker.state.nthreads)
        for subject, digest in zip(task.subjects, digests, strict=True):
            if subject.digest != digest:
                raise WorkerError(
                    f"worker {worker.address}: its weights or images of {subject.name} are not those of this process; "
                    f"{subject.source.folder or 'the images'} and the checkpoint must be the same files there, with the "
                    "same times"
                )
        return measured(task)


def check(scheduler: object) -> None:
    """ValueError for what is neither a number of workers, the address of a scheduler, nor the path of its file."""
    number = type(scheduler) is int and scheduler >= 1  # True is none
    place = isinstance(scheduler, str) and ("://" in scheduler or Path(scheduler).is_file())
    if not (number or place):
        raise ValueError(
            f"scheduler {scheduler!r}: use a number of workers on this machine, 1 or more, the address of a Dask "
            "scheduler such as tcp://10.0.0.1:8786, or the path of its scheduler file"
        )


def gpus_of(device: str) -> list[str]:
    """What CUDA calls the GPUs that local workers share in turn; of `cuda:N` that one alone, on a CPU none."""
    chosen = pick_device(device)
    if chosen.type != "cuda":
        return []
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = seen.split(",") if seen else [str(index) for index in range(torch.cuda.device_count())]
    return gpus if chosen.index is None else [gpus[chosen.index]]


def _local(number: int, gpus: list[str]) -> "Client":
    """So many workers on this machine, which share its cores, and its GPUs in turn; closing the client ends them."""
    import dask
    from distributed import Client, Nanny

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // number)

    def worker(*place: str, name: int, env: dict[str, str], **options: object) -> Nanny:
        own = {"CUDA_VISIBLE_DEVICES": gpus[name % len(gpus)]} if gpus else {}
        return Nanny(*place, name=name, env=env | own, **options)

    size = {"n_workers": number, "threads_per_worker": threads, "processes": True, "memory_limit": 0}
    size["env"] = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    quiet = {"silence_logs": "CRITICAL", "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"}}
    with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1}):
        return Client(**size, **quiet, worker_class=worker, set_as_default=False)


class Workers:
    """Processes that compute cells. Local ones are started when first needed; a cluster is asked at once."""

    def __init__(self, scheduler: int | str, device: str = "auto"):
        check(scheduler)
        self.scheduler, self.wanted = scheduler, device
        if isinstance(scheduler, str):
            self.device  # noqa: B018 - trouble shows before anything is computed

    def _error(self, text: str) -> WorkerError:
        return WorkerError(f"scheduler {self.scheduler!r}: {text}")

    @cached_property
    def client(self) -> "Client":
        """The connection to Dask's scheduler; WorkerError where there is none."""
        try:
            from distributed import Client
        except ImportError:
            raise self._error("needs the package `distributed`; install it into the environment") from None
        if isinstance(self.scheduler, int):
            return _local(self.scheduler, gpus_of(self.wanted))
        place = {"address" if "://" in self.scheduler else "scheduler_file": self.scheduler}
        try:
            return Client(**place, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            text = f"no Dask cluster answers there ({error}); start one with `dask scheduler`, and correct the address"
            raise self._error(text) from None

    @cached_property
    def device(self) -> str:
        """The kind of device that the workers compute on, `cpu` or `cuda`; WorkerError where no worker says."""
        if isinstance(self.scheduler, int):
            return pick_device(self.wanted).type
        self._wait()
        if self.wanted != "auto":
            return self.wanted.partition(":")[0]
        return self.client.submit(pick_device, "auto", pure=False).result().type

    def _wait(self) -> None:
        """Until there is a worker; WorkerError where none comes."""
        try:
            self.client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise self._error(
                f"no worker for {PATIENCE} s; start some, such as `dask worker` with that address, and run again: "
                "finished cells are kept"
            ) from None

    def run(self, tasks: Iterator[tuple[int, Task]]) -> Iterator[tuple[int, Task, Results]]:
        """Compute tasks, one a worker at a time, and hand each out as soon as it is done; those of a lost worker go to another.

        Where one fails, those that run are awaited and handed out before the error is raised.
        """
        from distributed import KilledWorker

        pool = self.client.get_executor(pure=False)
        running: dict[Future, tuple[int, Task]] = {}
        done, failure = [], None
        while True:
            free = 0 if failure else max(1, len(self.client.nthreads())) - len(running)
            for number, task in islice(tasks, max(0, free)):
                sent = pickle.dumps((task, [subject.digest for subject in task.subjects]))
                # for whichever worker is free: of one meant for a worker that died, Dask never asks another
                running[pool.submit(_compute, code_of(task.perturbation), sent)] = (number, task)
            yield from done  # written here while the workers are busy again
            if not running:
                break
            finished, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            if not finished:
                self._wait()
            done = []
            for future in finished:
                number, task = running.pop(future)
                try:
                    done.append((number, task, future.result()))
                except CancelledError:
                    failure = failure or self._error(
                        "the connection was lost; see whether it still runs, and start again: finished cells are kept"
                    )
                except KilledWorker:
                    failure = failure or WorkerError(
                        f"{task.perturbation.name}: the workers that computed it died one after another (out of memory?); "
                        "see their logs, or use fewer workers or a smaller compute.batch_size; other finished cells are kept"
                    )
                except Exception as error:
                    failure = failure or error
        if failure:
            raise failure
