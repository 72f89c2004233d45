"""Many models under many perturbations: each cell is computed once, kept on disk, and shared by all chapters and runs.

Whichever chapter asks first computes a cell, in this process or on workers; the others read it.
"""

import heapq
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from mae_helpers.perturbations.levels import Clean, Perturbation
from mae_helpers.profile import files
from mae_helpers.profile.machine import Compute
from mae_helpers.sweep.cells import Cell
from mae_helpers.sweep.recorded import ROLLOUTS, Results, Task, measured
from mae_helpers.sweep.subjects import Subject
from mae_helpers.sweep.workers import Workers

PART = 2048  # images of one cell: a larger set is cut, so that a killed run loses little and many workers have work
POLL = 0.2  # seconds between two looks at what another run computes


def gather(
    tasks: Sequence[Task], measures: Sequence[str], folder: Path, compute: Compute, workers: Workers | None = None
) -> list[Results]:
    """Measures of each task by model; what is not on disk is computed first, and written as soon as it is there."""
    results: list[Results] = [{} for _ in tasks]
    claims: dict[int, ExitStack] = {}

    def cells_of(task: Task) -> list[Cell]:
        return [Cell(folder, subject, task.perturbation) for subject in task.subjects]

    def rest(number: int, task: Task, warn: bool = False) -> Task | None:
        """The task for those models alone that have nothing on disk; what the others have there is their result."""
        arrays = {cell.subject.name: cell.read(measures, warn) for cell in cells_of(task)}
        results[number] |= {name: found for name, found in arrays.items() if found is not None}
        missing = tuple(one for one in task.subjects if arrays[one.name] is None)
        return replace(task, subjects=missing) if missing else None

    def claimed(force: bool) -> Iterator[tuple[int, Task]]:
        """Each task that is still to be done and that no other run is doing, or every one where that is forced."""
        for number, task in list(waiting.items()):
            claim = files.claim([cell.lock for cell in cells_of(task)])
            if claim or force:
                claims[number] = claim or ExitStack()
                missing = rest(number, task)  # another run may have finished it
                if missing:
                    yield number, missing
                else:
                    finished(number)

    def finished(number: int) -> None:
        del waiting[number]
        claims.pop(number).close()

    def unfinished(some: Mapping[int, Task], warn: bool = False) -> dict[int, Task]:
        return {number: left for number, task in some.items() if (left := rest(number, task, warn))}

    waiting = unfinished(dict(enumerate(tasks)), warn=True)
    guided = {number: task for number, task in waiting.items() if task.perturbation.guided}
    if guided:  # these look at what the models make of the clean images
        first = {task.subjects: replace(task, perturbation=Clean()) for task in guided.values()}
        clean = dict(zip(first, gather(list(first.values()), ROLLOUTS, folder, compute, workers), strict=True))
        waiting |= {number: replace(task, clean=clean[task.subjects]) for number, task in guided.items()}
        waiting = unfinished(waiting)
    since, force = time.monotonic(), False
    while waiting:
        total, todo = len(waiting), claimed(force)
        try:
            done = workers.run(todo, total) if workers else ((n, task, measured(task, compute)) for n, task in todo)
            for number, task, found in done:
                for cell in cells_of(task):
                    cell.write(found[cell.subject.name])
                    results[number][cell.subject.name] = {name: found[cell.subject.name][name] for name in measures}
                finished(number)
        finally:
            for claim in claims.values():
                claim.close()
        if len(waiting) < total:
            since = time.monotonic()
        elif time.monotonic() - since > files.WAIT:
            warnings.warn(f"{folder}: another run holds {total} cells for too long; computed here", stacklevel=2)
            force = True
        else:
            time.sleep(POLL)
    return results


def groups(subjects: Sequence[Subject]) -> list[tuple[Subject, ...]]:
    """Subjects that see the same images, and so share the work on the pixels; a part of these images at a time."""
    same: dict[tuple, list[list[Subject]]] = {}
    for one in subjects:
        same.setdefault((one.source, one.state, one.profile.input, one.rows), []).append(one.parts(PART))
    return [group for together in same.values() for group in zip(*together, strict=True)]


def cells(
    subjects: Sequence[Subject],
    levels: Mapping[Hashable, Perturbation],
    measures: Sequence[str],
    folder: Path,
    compute: Compute | None = None,
    scheduler: Workers | int | str | None = None,
) -> dict[str, dict[Hashable, dict[str, np.ndarray]]]:
    """Several measures of every model and level: {model: {level: {measure: array (images, ...)}}}.

    `compute` has each subject's precision; by default it is what their profile says.
    """
    for perturbation in levels.values():
        unknown = [name for name in measures if name not in perturbation.measures]
        if unknown:
            raise ValueError(f"{perturbation.name}: {unknown} are not recorded; there are {perturbation.measures}")
    compute = compute or subjects[0].compute
    for one in subjects:
        if one.compute.identity != compute.identity:
            raise ValueError(f"{one.name} is for {one.compute.identity}, not {compute.identity}; make them the same")
    tasks, owners = [], []
    for number, (level, perturbation) in enumerate(levels.items(), 1):
        for group in groups(subjects):
            tasks.append(Task(group, perturbation, f"{perturbation.name} ({number} of {len(levels)})"))
            owners.append(level)
    own = None if scheduler is None or isinstance(scheduler, Workers) else Workers(scheduler)
    with closing(own) if own else nullcontext(scheduler) as workers:
        results = gather(tasks, measures, folder, compute, workers)
    parts: dict[str, dict[Hashable, list]] = {one.name: {level: [] for level in levels} for one in subjects}
    for level, result in zip(owners, results, strict=True):
        for name, cell in result.items():
            parts[name][level].append(cell)
    return {
        name: {
            level: {key: np.concatenate([part[key] for part in each]) for key in measures} for level, each in by.items()
        }
        for name, by in parts.items()
    }


def sweep(
    subjects: Sequence[Subject],
    levels: Mapping[Hashable, Perturbation],
    measure: str,
    folder: Path,
    compute: Compute | None = None,
    scheduler: Workers | int | str | None = None,
) -> dict[str, dict[Hashable, np.ndarray]]:
    """One measure of every model and level: {model: {level: array (images, ...)}}.

    `scheduler` is None for this process, a number of local workers, or the address of a Dask cluster.
    """
    by_model = cells(subjects, levels, (measure,), folder, compute, scheduler)
    return {name: {level: cell[measure] for level, cell in by_level.items()} for name, by_level in by_model.items()}


def seconds_on(gpus: int, cells: int, images: int, rate: float) -> float:
    """How long `cells` of so many `images` each take on that many GPUs, at `rate` images a second on each of them.

    The cells are cut into parts of PART images, and a GPU takes the next part as soon as it is free, as a sweep does;
    reading and sending are part of the rate, or not counted.
    """
    if min(gpus, cells, images) < 1 or not rate > 0:
        raise ValueError(f"{gpus} GPUs, {cells} cells of {images} images, {rate} images/s: all must be above 0")
    sizes = [PART] * (images // PART) + [images % PART] * (images % PART > 0)
    free = [0] * gpus  # images that each has been given
    for size in sizes * cells:
        heapq.heapreplace(free, free[0] + size)
    return max(free) / rate
