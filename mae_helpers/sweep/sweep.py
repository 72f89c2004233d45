"""Many models under many perturbations: each cell is computed once, kept on disk, and shared by all chapters and runs.

Whichever chapter asks first computes a cell, in this process or on workers; the others read it.
"""

import heapq
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mae_helpers.perturbations.levels import Clean, Perturbation
from mae_helpers.profile import files
from mae_helpers.profile.machine import Compute
from mae_helpers.sweep.cells import cell_key, cell_path, lock_path, read_cell, write_cell
from mae_helpers.sweep.recorded import ROLLOUTS, Arrays, measured
from mae_helpers.sweep.subjects import PART, Subject
from mae_helpers.sweep.workers import Workers, opened

POLL = 0.2  # seconds between two looks at what another run computes
Found = dict[str, Arrays]  # measures by model


@dataclass(frozen=True)
class Task:
    """Cells that are computed together: models that see the same images, under one perturbation.

    `clean` has by model the clean images' rollouts, where the perturbation is guided.
    """

    subjects: tuple[Subject, ...]
    perturbation: Perturbation
    label: str
    clean: Mapping[str, Arrays] = field(default_factory=dict, repr=False)

    def paths(self, folder: Path) -> dict[str, Path]:
        """Each cell's file by model."""
        return {subject.name: cell_path(folder, subject, self.perturbation) for subject in self.subjects}

    def rest(self, folder: Path, measures: Sequence[str], found: Found, warn: bool = False) -> "Task | None":
        """The task for those models alone that have nothing on disk; what the others have there goes into `found`."""
        paths, missing = self.paths(folder), []
        for one in self.subjects:
            cell = read_cell(paths[one.name], cell_key(one, self.perturbation), measures, warn)
            if cell is None:
                missing.append(one)
            else:
                found[one.name] = cell
        return replace(self, subjects=tuple(missing)) if missing else None

    def write(self, folder: Path, found: Mapping[str, Arrays]) -> None:
        """Keep what was computed."""
        paths = self.paths(folder)
        for subject in self.subjects:
            write_cell(paths[subject.name], cell_key(subject, self.perturbation), found[subject.name])


class _Queue:
    """Tasks that are claimed one by one: what another run is computing is left to it, and looked at again later."""

    def __init__(self, tasks: Mapping[int, Task], folder: Path, measures: Sequence[str], results: dict[int, Found]):
        self.tasks, self.folder, self.measures, self.results = tasks, folder, measures, results
        self.claims: dict[int, ExitStack] = {}
        self.left: dict[int, Task] = {}

    def claimed(self, force: bool) -> Iterator[tuple[int, Task]]:
        """Each task that is still to be done and that nobody else is doing, or every one where that is forced."""
        for number, task in self.tasks.items():
            claim = files.claim([lock_path(path) for path in task.paths(self.folder).values()])
            if claim is None and not force:
                self.left[number] = task
                continue
            self.claims[number] = claim or ExitStack()
            rest = task.rest(self.folder, self.measures, self.results[number])  # another run may have finished it
            if rest:
                yield number, rest
            else:
                self.claims.pop(number).close()

    def finish(self, number: int, task: Task, found: Mapping[str, Arrays]) -> None:
        """Keep a task's cells, and give its claim back."""
        task.write(self.folder, found)
        self.results[number] |= {name: {key: cell[key] for key in self.measures} for name, cell in found.items()}
        self.claims.pop(number).close()


def gather(
    tasks: Sequence[Task], measures: Sequence[str], folder: Path, compute: Compute, workers: Workers | None = None
) -> list[Found]:
    """Measures of each task by model; what is not on disk is computed first, and written as soon as it is there."""
    results: dict[int, Found] = {number: {} for number in range(len(tasks))}

    def unfinished(some: Mapping[int, Task], warn: bool = False) -> dict[int, Task]:
        rest = {number: task.rest(folder, measures, results[number], warn) for number, task in some.items()}
        return {number: task for number, task in rest.items() if task}

    waiting = unfinished(dict(enumerate(tasks)), warn=True)
    guided = [number for number, task in waiting.items() if task.perturbation.guided]
    if guided:  # these look at what the models make of the clean images
        first = {
            tuple(one.digest for one in waiting[n].subjects): replace(waiting[n], perturbation=Clean()) for n in guided
        }
        rollouts = gather(list(first.values()), ROLLOUTS, folder, compute, workers)
        clean = {
            one.digest: found[one.name]
            for task, found in zip(first.values(), rollouts, strict=True)
            for one in task.subjects
        }
        waiting = unfinished(waiting)
        for number in [number for number in guided if number in waiting]:
            task = waiting[number]
            waiting[number] = replace(task, clean={one.name: clean[one.digest] for one in task.subjects})
    since, force = time.monotonic(), False
    while waiting:
        queue = _Queue(waiting, folder, measures, results)
        claimed = queue.claimed(force)
        try:
            for number, task, cells in workers.run(claimed, len(waiting)) if workers else _here(claimed, compute):
                queue.finish(number, task, cells)
        finally:
            for claim in queue.claims.values():
                claim.close()
        if len(queue.left) < len(waiting):
            since = time.monotonic()
        elif time.monotonic() - since > files.WAIT:
            warnings.warn(f"{folder}: another run holds {len(waiting)} cells for too long; computed here", stacklevel=2)
            force = True
        else:
            time.sleep(POLL)
        waiting = queue.left
    return [results[number] for number in range(len(tasks))]


def _here(tasks: Iterator[tuple[int, Task]], compute: Compute) -> Iterator[tuple[int, Task, dict[str, Arrays]]]:
    for number, task in tasks:
        yield number, task, measured(task.subjects, task.perturbation, task.clean, compute, task.label)


def groups(subjects: Sequence[Subject]) -> list[tuple[Subject, ...]]:
    """Subjects that see the same images, and so share the work on the pixels; a part of these images at a time."""
    found: dict[tuple, list[list[Subject]]] = {}
    for subject in subjects:
        found.setdefault(tuple(subject.images.ids), []).append(subject.parts())
    return [group for together in found.values() for group in zip(*together, strict=True)]


def cells(
    subjects: Sequence[Subject],
    levels: Mapping[Hashable, Perturbation],
    measures: Sequence[str],
    folder: Path,
    compute: Compute | None = None,
    scheduler: Workers | int | str | None = None,
) -> dict[str, dict[Hashable, dict[str, np.ndarray]]]:
    """Several measures of every model and level: {model: {level: {measure: array (images, ...)}}}."""
    for perturbation in levels.values():
        unknown = [name for name in measures if name not in perturbation.measures]
        if unknown:
            raise ValueError(f"{perturbation.name}: {unknown} are not recorded; there are {perturbation.measures}")
    tasks, owners = [], []
    for number, (level, perturbation) in enumerate(levels.items(), 1):
        for group in groups(subjects):
            tasks.append(Task(group, perturbation, f"{perturbation.name} ({number} of {len(levels)})"))
            owners.append(level)
    with opened(scheduler) as workers:
        results = gather(tasks, measures, folder, compute or Compute(), workers)
    found: dict[str, dict] = {subject.name: {level: [] for level in levels} for subject in subjects}
    for level, result in zip(owners, results, strict=True):
        for name, cell in result.items():
            found[name][level].append(cell)
    return {
        name: {
            level: {key: np.concatenate([part[key] for part in parts]) for key in measures}
            for level, parts in by_level.items()
        }
        for name, by_level in found.items()
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
    found = cells(subjects, levels, (measure,), folder, compute, scheduler)
    return {name: {level: cell[measure] for level, cell in by_level.items()} for name, by_level in found.items()}


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
