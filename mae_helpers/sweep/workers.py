"""Where cells are computed when one process is not enough: local workers, or those of a Dask cluster, a task at a time each.

A worker opens models and images by itself, by the paths of the profile; results come back and are written here.
"""

import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.progress import progress
from mae_helpers.sweep.cells import code_behind
from mae_helpers.sweep.dependencies import Dependencies, dependencies
from mae_helpers.sweep.recorded import Arrays, measured
from mae_helpers.sweep.subjects import reopened

if TYPE_CHECKING:
    from distributed import Client, Future

    from mae_helpers.sweep.sweep import Task

CONNECT = 10  # seconds until a scheduler must have answered
PATIENCE = 120  # seconds without any worker
DEATHS = 3  # of workers, after which a local cell is given up; elsewhere the cluster's own `allowed-failures` counts
_ONE = threading.Lock()  # a process computes one cell at a time, however many threads Dask gave it


class WorkerError(RuntimeError):
    """Workers that cannot be used: the message names the scheduler or the worker, what is wrong and the remedy."""


def _compute(expected: Dependencies, payload: bytes) -> dict[str, Arrays]:
    """A task, on a worker; refused where its code or its libraries are not the sender's."""
    from distributed import get_worker

    worker = get_worker()
    try:
        difference = expected.difference(dependencies(*expected.modules))
    except ValueError as error:
        raise WorkerError(f"worker {worker.address}: {error}") from None
    if difference:
        raise WorkerError(
            f"worker {worker.address}: {difference}; install the same code and requirements.lock there, and start it again"
        )
    perturbation, origins, digests, clean, label = pickle.loads(payload)  # by Dask it would be before this check
    with _ONE:
        torch.set_num_threads(worker.state.nthreads)
        found = [reopened(origin) for origin in origins]
        for (subject, _), digest in zip(found, digests, strict=True):
            if subject.digest != digest:
                raise WorkerError(
                    f"worker {worker.address}: its weights or images of {subject.name} are not those of this process; "
                    f"{subject.images.folder or 'the images'} and the checkpoint must be the same files there, "
                    "with the same times"
                )
        return measured([subject for subject, _ in found], perturbation, clean, found[0][1], label)


def _device_of_worker() -> str:
    return pick_device("auto").type


def check(scheduler: object) -> None:
    """ValueError for what is neither None, a number of workers, the address of a scheduler, nor the path of its file."""
    number = isinstance(scheduler, int) and not isinstance(scheduler, bool) and scheduler >= 1
    place = isinstance(scheduler, str) and ("://" in scheduler or Path(scheduler).is_file())
    if scheduler is not None and not number and not place:
        raise ValueError(
            f"scheduler {scheduler!r}: use a number of workers on this machine, 1 or more, the address of a Dask "
            "scheduler such as tcp://10.0.0.1:8786, or the path of its scheduler file"
        )


def _environments(number: int, device: str) -> list[dict[str, str]]:
    """For each local worker its environment: on a machine with GPUs, which of them it sees; of `cuda:N` that one alone."""
    chosen = pick_device(device)
    if chosen.type != "cuda":
        return [{}] * number
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = seen.split(",") if seen else [str(index) for index in range(torch.cuda.device_count())]
    gpus = gpus if chosen.index is None else [gpus[chosen.index]]
    return [{"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} for index in range(number)]


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
            import dask
            from distributed import Client, Nanny, Scheduler, SpecCluster
        except ImportError:
            raise WorkerError(
                f"scheduler {self.scheduler!r}: needs the package `distributed`; install it into the environment"
            ) from None
        if isinstance(self.scheduler, str):
            place = {"address" if "://" in self.scheduler else "scheduler_file": self.scheduler}
            try:
                return Client(**place, timeout=CONNECT, set_as_default=False)
            except (OSError, ValueError, TypeError) as error:
                raise WorkerError(
                    f"scheduler {self.scheduler!r}: no Dask cluster answers there ({error}); start one with "
                    "`dask scheduler`, and correct the address"
                ) from None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // self.scheduler)
        options = {"nthreads": threads, "memory_limit": 0, "silence_logs": "CRITICAL"}
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        specs = {
            number: {"cls": Nanny, "options": options | {"env": variables | environment}}
            for number, environment in enumerate(_environments(self.scheduler, self.wanted))
        }
        with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS - 1}):
            server = {
                "cls": Scheduler,
                "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
            }
            cluster = SpecCluster(specs, server, silence_logs="CRITICAL")
        return Client(cluster, set_as_default=False)

    @cached_property
    def device(self) -> str:
        """The kind of device that the workers compute on, `cpu` or `cuda`; WorkerError where no worker says."""
        if isinstance(self.scheduler, int):
            return pick_device(self.wanted).type
        self._wait()
        if self.wanted != "auto":
            return self.wanted.partition(":")[0]
        return self.client.submit(_device_of_worker, pure=False).result()

    def _wait(self) -> None:
        try:
            self.client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise WorkerError(
                f"scheduler {self.scheduler!r}: no worker for {PATIENCE} s; start some, such as `dask worker` with that "
                "address, and run again: finished cells are kept"
            ) from None

    def _submit(self, task: "Task") -> "Future":
        """A task for whichever worker is free: one meant for a worker that died would wait for it, Dask never asks another."""
        origins = [subject.origin for subject in task.subjects]
        if None in origins:
            raise ValueError("scheduler: these subjects can be opened in this process alone; leave `scheduler` out")
        expected = code_behind(task.perturbation)
        digests = [subject.digest for subject in task.subjects]
        payload = pickle.dumps((task.perturbation, origins, digests, dict(task.clean), task.label))
        return self.client.submit(
            _compute,
            expected,
            payload,
            pure=False,
            key=f"{task.perturbation.name}-{os.urandom(4).hex()}",
        )

    def run(self, tasks: Iterator[tuple[int, "Task"]], total: int) -> Iterator[tuple[int, "Task", dict[str, Arrays]]]:
        """Compute tasks, one a worker at a time, and hand each out as soon as it is done; those of a lost worker go to another.

        Where one fails, those that run are awaited and handed out before the error is raised.
        """
        yield from progress(self._run(tasks), f"cells on {len(self.client.nthreads())} workers", total)

    def _run(self, tasks: Iterator[tuple[int, "Task"]]) -> Iterator[tuple[int, "Task", dict[str, Arrays]]]:
        from distributed import wait

        running: dict[Future, tuple[int, Task]] = {}
        failure, exhausted, ready = None, False, []
        while not exhausted or running or ready:
            number_of_workers = len(self.client.nthreads())
            while not exhausted and len(running) < number_of_workers:
                number, task = next(tasks, (None, None))
                exhausted = task is None
                if not exhausted:
                    running[self._submit(task)] = (number, task)
            yield from ready  # written here while the workers are busy again
            ready = []
            if not number_of_workers and (running or not exhausted):
                self._wait()
            if not running:
                continue
            try:
                with self.client.as_current():
                    done = wait(list(running), timeout=1, return_when="FIRST_COMPLETED").done
            except TimeoutError:  # a look at which workers there are now
                continue
            for future in done:
                number, task = running.pop(future)
                try:
                    ready.append((number, task, future.result()))
                except Exception as error:
                    failure, exhausted = failure or self._clear(error, task), True
        if failure:
            raise failure

    def _clear(self, error: Exception, task: "Task") -> Exception:
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


@contextmanager
def opened(scheduler: Workers | int | str | None) -> Iterator[Workers | None]:
    """Workers for a while; those that are at hand already stay, and None is none."""
    if scheduler is None or isinstance(scheduler, Workers):
        yield scheduler
        return
    workers = Workers(scheduler)
    try:
        yield workers
    finally:
        workers.close()
