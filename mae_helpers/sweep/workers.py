"""Where cells are computed when one process is not enough: local workers, or those of a Dask cluster, a task at a time each.

A worker opens models and images by itself, by the paths of the profile; results come back and are written here.
"""

import os
import pickle
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.progress import progress
from mae_helpers.sweep.cells import code_of
from mae_helpers.sweep.current import Code, code_behind
from mae_helpers.sweep.recorded import Results, Task, measured

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

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
        return measured(task, task.subjects[0].compute)


def check(scheduler: object) -> None:
    """ValueError for what is neither None, a number of workers, the address of a scheduler, nor the path of its file."""
    number = isinstance(scheduler, int) and not isinstance(scheduler, bool) and scheduler >= 1
    place = isinstance(scheduler, str) and ("://" in scheduler or Path(scheduler).is_file())
    if scheduler is not None and not number and not place:
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


def _local(number: int, gpus: list[str]) -> "LocalCluster":
    """So many workers on this machine, which share its cores, and its GPUs in turn."""
    import dask
    from distributed import LocalCluster, Nanny

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // number)

    def worker(*place: str, name: int, env: dict[str, str], **options: object) -> Nanny:
        own = {"CUDA_VISIBLE_DEVICES": gpus[name % len(gpus)]} if gpus else {}
        return Nanny(*place, name=name, env=env | own, **options)

    with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1}):
        return LocalCluster(
            n_workers=number,
            threads_per_worker=threads,
            processes=True,
            worker_class=worker,
            env=dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
            memory_limit=0,
            silence_logs="CRITICAL",
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        )


class Workers:
    """Processes that compute cells. Local ones are started when first needed; a cluster is asked at once."""

    def __init__(self, scheduler: int | str, device: str = "auto"):
        check(scheduler)
        self.scheduler, self.wanted = scheduler, device
        if isinstance(scheduler, str):
            self.device  # noqa: B018 - trouble shows before anything is computed

    @cached_property
    def client(self) -> "Client":
        """The connection to Dask's scheduler; WorkerError where there is none."""
        try:
            from distributed import Client
        except ImportError:
            raise WorkerError(
                f"scheduler {self.scheduler!r}: needs the package `distributed`; install it into the environment"
            ) from None
        if isinstance(self.scheduler, int):
            return Client(_local(self.scheduler, gpus_of(self.wanted)), set_as_default=False)
        place = {"address" if "://" in self.scheduler else "scheduler_file": self.scheduler}
        try:
            return Client(**place, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise WorkerError(
                f"scheduler {self.scheduler!r}: no Dask cluster answers there ({error}); start one with "
                "`dask scheduler`, and correct the address"
            ) from None

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
            raise WorkerError(
                f"scheduler {self.scheduler!r}: no worker for {PATIENCE} s; start some, such as `dask worker` with that "
                "address, and run again: finished cells are kept"
            ) from None

    def run(self, tasks: Iterator[tuple[int, Task]], total: int) -> Iterator[tuple[int, Task, Results]]:
        """Compute tasks, one a worker at a time, and hand each out as soon as it is done; those of a lost worker go to another.

        Where one fails, those that run are awaited and handed out before the error is raised.
        """
        yield from progress(self._run(tasks), f"cells on {len(self.client.nthreads())} workers", total)

    def _run(self, tasks: Iterator[tuple[int, Task]]) -> Iterator[tuple[int, Task, Results]]:
        from distributed import wait

        running: dict[Future, tuple[int, Task]] = {}
        done, failure = [], None
        while True:
            while failure is None and len(running) < max(1, len(self.client.nthreads())):
                number, task = next(tasks, (None, None))
                if task is None:
                    break
                sent = pickle.dumps((task, [subject.digest for subject in task.subjects]))
                # for whichever worker is free: of one meant for a worker that died, Dask never asks another
                future = self.client.submit(_compute, code_of(task.perturbation), sent, pure=False)
                running[future] = (number, task)
            yield from done  # written here while the workers are busy again
            done = []
            if not running:
                break
            try:
                with self.client.as_current():
                    finished = wait(list(running), timeout=1, return_when="FIRST_COMPLETED").done
            except TimeoutError:  # is there anybody?
                self._wait()
                continue
            for future in finished:
                number, task = running.pop(future)
                try:
                    done.append((number, task, future.result()))
                except Exception as error:
                    failure = failure or self._clear(error, task)
        if failure:
            raise failure

    def _clear(self, error: Exception, task: Task) -> Exception:
        """An error of a worker in words of ours, where Dask's own would not help."""
        from distributed import CancelledError, KilledWorker

        if isinstance(error, CancelledError):
            return WorkerError(
                f"scheduler {self.scheduler!r}: the connection was lost; see whether it still runs, and start again: "
                "finished cells are kept"
            )
        if isinstance(error, KilledWorker):
            return WorkerError(
                f"{task.perturbation.name}: the workers that computed it died one after another (out of memory?); see "
                "their logs, or use fewer workers or a smaller compute.batch_size; other finished cells are kept"
            )
        return error

    def close(self) -> None:
        """Let the workers go: local ones end, a cluster stays."""
        if "client" in self.__dict__:
            self.client.close()
            if isinstance(self.scheduler, int):
                self.client.cluster.close()
