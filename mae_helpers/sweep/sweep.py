"""Many models under many perturbations: each cell is computed once, kept on disk, and shared by all chapters and runs.

Whichever chapter asks first computes a cell, in this process or on workers; the others read it.
"""

import heapq
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from mae_helpers.perturbations.levels import Clean, Perturbation
from mae_helpers.profile import files
from mae_helpers.profile.progress import progress
from mae_helpers.sweep.cells import Cell
from mae_helpers.sweep.recorded import ROLLOUTS, Results, Task, measured
from mae_helpers.sweep.subjects import Subject
from mae_helpers.sweep.workers import Workers

PART = 2048  # images of one cell: a larger set is cut, so that a killed run loses little and many workers have work
POLL = 0.2  # seconds between two looks at what another run computes


def gather(
    tasks: Sequence[Task], measures: Sequence[str], folder: Path, workers: Workers | None = None
) -> list[Results]:
    """Measures of each task by model; what is not on disk is computed first, and written as soon as it is there."""
    results: list[Results] = [{} for _ in tasks]
    claims: dict[int, ExitStack] = {}

    def cells_of(task: Task) -> list[Cell]:
        return [Cell(folder, subject, task.perturbation) for subject in task.subjects]

    def rest(number: int, task: Task, warn: bool = False) -> Task:
        """The task for those models alone that have nothing on disk; what the others have there is their result."""
        arrays = {cell.subject.name: cell.read(measures, warn) for cell in cells_of(task)}
        results[number] |= {name: found for name, found in arrays.items() if found is not None}
        return replace(task, subjects=tuple(one for one in task.subjects if arrays[one.name] is None))

    def finished(number: int) -> None:
        del waiting[number]
        claims.pop(number).close()

    def claimed(force: bool) -> Iterator[tuple[int, Task]]:
        """Each task that is still to be done and that no other run is doing, or every one where that is forced."""
        for number, task in list(waiting.items()):
            claim = files.claim([cell.lock for cell in cells_of(task)])
            if claim or force:
                claims[number] = claim or ExitStack()
                missing = rest(number, task)  # another run may have finished it
                if missing.subjects:
                    yield number, missing
                else:
                    finished(number)

    def unfinished(some: Mapping[int, Task], warn: bool = False) -> dict[int, Task]:
        return {number: left for number, task in some.items() if (left := rest(number, task, warn)).subjects}

    waiting = unfinished(dict(enumerate(tasks)), warn=True)
    guided = {number: task for number, task in waiting.items() if task.perturbation.guided}
    if guided:  # these look at what the models make of the clean images
        first = {task.subjects: replace(task, perturbation=Clean()) for task in guided.values()}
        clean = dict(zip(first, gather(list(first.values()), ROLLOUTS, folder, workers), strict=True))
        waiting |= {number: replace(task, clean=clean[task.subjects]) for number, task in guided.items()}
        waiting = unfinished(waiting)
    since, force = time.monotonic(), False
    while waiting:
        total, todo = len(waiting), claimed(force)
        try:
            if workers:
                done = progress(workers.run(todo), f"cells on {len(workers.client.nthreads())} workers", total)
            else:
                done = ((number, task, measured(task)) for number, task in todo)
            for number, task, found in done:
                for cell in cells_of(task):
                    arrays = found[cell.subject.name]
                    cell.write(arrays)
                    results[number][cell.subject.name] = {name: arrays[name] for name in measures}
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
        same.setdefault((one.source, one.state, one.input.shape, one.rows), []).append(one.parts(PART))
    return [group for together in same.values() for group in zip(*together, strict=True)]


def sweep(
    subjects: Sequence[Subject],
    levels: Mapping[Hashable, Perturbation],
    measure: str,
    folder: Path,
    workers: Workers | None = None,
) -> dict[str, dict[Hashable, np.ndarray]]:
    """One measure of every model and level: {model: {level: array (images, ...)}}; without `workers`, in this process."""
    for perturbation in levels.values():
        if measure not in perturbation.measures:
            raise ValueError(f"{perturbation.name}: {[measure]} are not recorded; there are {perturbation.measures}")
    tasks, owners, together = [], [], groups(subjects)
    for number, (level, perturbation) in enumerate(levels.items(), 1):
        label = f"{perturbation.name} ({number} of {len(levels)})"
        tasks += [Task(group, perturbation, label) for group in together]
        owners += [level] * len(together)
    parts: dict[str, dict[Hashable, list]] = {one.name: {level: [] for level in levels} for one in subjects}
    for level, result in zip(owners, gather(tasks, [measure], folder, workers), strict=True):
        for name, arrays in result.items():
            parts[name][level].append(arrays[measure])
    return {name: {level: np.concatenate(each) for level, each in by.items()} for name, by in parts.items()}


def seconds_on(gpus: int, cells: int, images: int, rate: float) -> float:
    """How long `cells` of so many `images` each take on that many GPUs, at `rate` images a second on each of them.

    A GPU takes the next part of PART images as soon as it is free, as in a sweep; reading and sending are part of the
    rate, or not counted.
    """
    parts = [len(range(images)[start : start + PART]) for start in range(0, images, PART)]
    given = [0] * gpus  # images that each has been given
    for size in parts * cells:
        heapq.heapreplace(given, given[0] + size)
    return max(given) / rate
