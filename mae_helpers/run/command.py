"""Run chapters through papermill and build the book: `python -m mae_helpers.run [notebooks] --profile demo`."""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.images import sets as images
from mae_helpers.perturbations import imagenet_c
from mae_helpers.profile.files import StorageError
from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.parameters import parse_value
from mae_helpers.profile.progress import PROGRESS_FILE
from mae_helpers.profile.settings import ROOT, Profile, load_profile, reference
from mae_helpers.run import notebooks
from mae_helpers.run import site as book
from mae_helpers.run import tables as results
from mae_helpers.run.display import Display
from mae_helpers.run.usage import USAGE_FILE
from mae_helpers.sweep import workers


def check_inputs(profile: Profile, device: str) -> None:
    """Open everything that the notebooks will use, so that trouble shows before the first of them runs.

    Weights that are missing are downloaded here; optional images that are missing are named.
    """
    pick_device(device)
    images.first_images(profile)
    images.second_images(profile)
    images.shifted_images(profile)
    imagenet_c.file_levels(profile.imagenet_c, profile.images.classes)
    optional = {"second images": profile.second_images, "ImageNet-C's files": profile.imagenet_c}
    for what, source in (optional | profile.shifted_images).items():
        if source is not None and images.left_out(source):
            print(images.why_left_out(source, what), file=sys.stderr)
    for name in profile.models:
        if name == "mae_decoder":
            checkpoints.load_decoder(profile)
        else:
            checkpoints.load_model(profile, name)


def default_jobs(device: str, scheduler: int | str | None = None) -> int:
    """How many chapters to run side by side: two on a CPU with two cores or more; one on a GPU, or where workers are busy."""
    busy = scheduler is not None or pick_device(device).type == "cuda"
    return 1 if busy else min(2, os.cpu_count() or 1)


def chosen_scheduler(text: str | None, given: dict[str, object]) -> int | str | None:
    """The scheduler of `--scheduler` or of `-p scheduler`, checked; the path of a scheduler's file seen from anywhere."""
    found = parse_value(text) if text is not None else given.get("scheduler")
    workers.check(found)
    return str(Path(found).resolve()) if isinstance(found, str) and "://" not in found else found


class Run:
    """One run of chosen chapters: what each takes, which of them are current, and where all of it goes."""

    def __init__(
        self,
        profile: Profile,
        names: list[str],
        given: dict[str, object],
        device: str,
        out: Path,
        tables: str | None,
        scheduler: int | str | None = None,
    ):
        self.profile, self.device = profile, device
        self.paths = notebooks.find(names)
        folder = str(Path(tables).resolve()) if tables else None
        defaults = {"profile": reference(profile), "device": device, "results_folder": folder}
        defaults |= {"scheduler": scheduler} if scheduler is not None else {}
        self.parameters = notebooks.choose_parameters(self.paths, given, profile.parameters | defaults)
        self.data, self.executed = results.data_fingerprint(profile), out / "executed" / profile.name
        self.tables, self.recording = results.folder(profile, tables), threading.Lock()

    def fingerprint(self, path: Path) -> str:
        """What decides this chapter's content now."""
        return notebooks.fingerprint(path, self.profile, self.parameters[path], self.data, self.tables)

    def is_current(self, path: Path) -> bool:
        """Whether the chapter's executed copy is whole and shows what it would show now."""
        return notebooks.is_current(self.executed / path.name, self.profile.name, self.fingerprint(path), self.tables)

    def chapter(self, path: Path, display: Display, threads: int, about: dict) -> str | None:
        """Run one chapter unless it is current; returns what went wrong, if anything did."""
        if self.is_current(path):
            return None
        mark = {"profile": self.profile.name, "fingerprint": self.fingerprint(path)}
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            file, used = Path(folder) / "progress", Path(folder) / "usage"
            environment = {PROGRESS_FILE: str(file), USAGE_FILE: str(used), "OMP_NUM_THREADS": str(threads)}
            try:
                with display.following(path.stem, file):
                    target = self.executed / path.name
                    notebooks.execute(path, target, self.parameters[path], mark, environment, self.tables)
                usage = json.loads(used.read_text()) if used.exists() else {}
                parameters = notebooks.parameters_of(path) | self.parameters[path]
                entry = {"seconds": round(time.monotonic() - began, 1), **usage, "parameters": parameters}
                with self.recording:
                    results.record_run(self.tables, path.stem, entry | {"fingerprint": mark["fingerprint"]}, **about)
            except (notebooks.NotebookError, StorageError) as error:
                return str(error)
        return None

    def all(self, jobs: int) -> bool:
        """Run what is not current, `jobs` side by side; returns whether every chapter succeeded.

        The longest come first, then those that read the others' tables, last what reads how they ran. Nothing already
        computed is lost.
        """
        stale = [path for path in self.paths if not self.is_current(path)]
        current = len(self.paths) - len(stale)
        print(f"{self.profile.name}: {current} of {len(self.paths)} notebooks are up to date", file=sys.stderr)
        if stale:
            check_inputs(self.profile, self.device)
        about = {
            "profile": self.profile.name,
            "device": str(pick_device(self.device)),
            "data": self.data,
            "checkpoints": checkpoints.checkpoint_hashes(self.profile) if stale else {},
            "provenance": results.provenance(),
        }
        last = [path for path in self.paths if notebooks.has_tag(path, notebooks.READS_RUN)]
        readers = [path for path in self.paths if notebooks.has_tag(path, notebooks.READS_TABLES)]
        others = sorted(
            set(self.paths) - set(readers) - set(last), key=lambda path: (-notebooks.usual_seconds(path), path)
        )
        threads = max(1, (os.cpu_count() or 1) // jobs)
        failures = []
        with Display() as display, ThreadPoolExecutor(jobs) as pool:
            for chapters in (others, readers, last):
                futures = [pool.submit(self.chapter, path, display, threads, about) for path in chapters]
                try:
                    failures += [future.result() for future in futures]
                except KeyboardInterrupt:
                    print("stopped: what was finished is kept", file=sys.stderr, flush=True)
                    os._exit(130)  # at once: threads would be waited for, and the notebooks' kernels end with us
        failures = [failure for failure in failures if failure]
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
        return not failures


def build_book(profile: Profile, out: Path, tables: Path, required: bool) -> bool:
    """Build the site if every chapter has a whole copy on this profile; returns False where one is missing."""
    executed = out / "executed" / profile.name
    complaints = [notebooks.complaint(executed / path.name, profile.name, tables) for path in notebooks.find([])]
    complaints = [text for text in complaints if text]
    if complaints:
        print(f"no book was built: {'; '.join(complaints)}", file=sys.stderr)
        return not required
    began = time.monotonic()
    built = book.build(profile, executed, tables, out)
    state = f"built in {time.monotonic() - began:.0f} s" if built else "up to date"
    print(f"book {state}: {out / 'html' / 'index.html'}", file=sys.stderr)
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mae_helpers.run", description=__doc__.split(":")[0])
    parser.add_argument("notebooks", nargs="*", help="chapters by number or name, such as 03; default: all")
    parser.add_argument("--profile", default="demo", help="demo, paper, or a YAML file (default: demo)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--jobs", type=int, help="chapters to run side by side (default: 2 on a CPU, 1 with a GPU or workers)"
    )
    parser.add_argument(
        "--scheduler", help="a number of local workers, or the address of a Dask cluster (default: none)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="folder of executed notebooks and the site")
    parser.add_argument("--results", help="folder of the tables (default: results/)")
    parser.add_argument("--no-book", action="store_true", help="run the notebooks only")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        given = {name: parse_value(value) for name, value in options.p}
        out = options.out.resolve()
        scheduler = chosen_scheduler(options.scheduler, given)
        given |= {"scheduler": scheduler} if "scheduler" in given else {}
        jobs = default_jobs(options.device, scheduler) if options.jobs is None else options.jobs
        if jobs < 1:
            raise ValueError(f"--jobs {jobs}: use 1 or more")
        if not Run(profile, options.notebooks, given, options.device, out, options.results, scheduler).all(jobs):
            if not options.no_book:
                print("no book was built: a chapter failed", file=sys.stderr)
            return 1
        tables = results.folder(profile, options.results)
        return 0 if options.no_book or build_book(profile, out, tables, required=not options.notebooks) else 1
    except (ValueError, OSError, book.BookError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
