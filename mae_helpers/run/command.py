"""Run chapters through papermill and build the book: `python -m mae_helpers.run [notebooks] --profile demo`.

What is wrong with the command line is said before PyTorch and what else takes seconds is imported.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mae_helpers.profile.files import StorageError
from mae_helpers.profile.parameters import parse_value
from mae_helpers.profile.progress import PROGRESS_FILE
from mae_helpers.profile.settings import ROOT, Profile, load_profile, reference
from mae_helpers.run import notebooks, site
from mae_helpers.run.display import Display
from mae_helpers.run.usage import USAGE_FILE


def check_inputs(profile: Profile, device: str) -> None:
    """Open everything that the notebooks will use, so that trouble shows before the first of them runs.

    Weights that are missing are downloaded here; optional images that are missing are named.
    """
    from mae_helpers.encoder import weights
    from mae_helpers.images import sets
    from mae_helpers.perturbations import imagenet_c
    from mae_helpers.profile.machine import pick_device

    pick_device(device)
    sets.first_images(profile)
    for source in (profile.second_images, *profile.shifted_images.values()):
        if not sets.left_out(source):
            sets.open_images(source, profile.input)
    imagenet_c.file_levels(profile.imagenet_c, profile.images.classes)
    optional = {"second images": profile.second_images, "ImageNet-C's files": profile.imagenet_c}
    for what, source in (optional | profile.shifted_images).items():
        if source is not None and sets.left_out(source):
            print(sets.why_left_out(source, what), file=sys.stderr)
    for name in profile.models:
        weights.load_model(profile, name)
    weights.load_decoder(profile)


def default_jobs(device: str, scheduler: int | str | None = None) -> int:
    """How many chapters to run side by side: two on a CPU with two cores or more; one on a GPU, or where workers are busy."""
    from mae_helpers.profile.machine import pick_device

    busy = scheduler is not None or pick_device(device).type != "cpu"
    return 1 if busy else min(2, os.cpu_count() or 1)


def chosen_scheduler(text: str | None, given: dict[str, object]) -> int | str | None:
    """The scheduler of `--scheduler` or of `-p scheduler`, checked; the path of a scheduler's file seen from anywhere."""
    chosen = parse_value(text) if text is not None else given.get("scheduler")
    if chosen is not None:
        from mae_helpers.sweep.workers import check

        check(chosen)
    return str(Path(chosen).resolve()) if isinstance(chosen, str) and "://" not in chosen else chosen


class Run:
    """One run of chosen chapters: what each takes, which of them are current, and where all of it goes."""

    def __init__(
        self,
        profile: Profile,
        names: list[str],
        given: dict[str, object],
        device: str,
        out: Path,
        results: str | None,
        scheduler: int | str | None = None,
    ):
        self.profile, self.device, self.paths = profile, device, notebooks.find(names, profile=profile.name)
        folder = str(Path(results).resolve()) if results else None
        own = {"profile": reference(profile), "device": device, "results_folder": folder}
        own |= {"scheduler": scheduler} if scheduler is not None else {}
        self.parameters = notebooks.choose_parameters(self.paths, given, profile.parameters | own)
        looked_at = profile.only(
            next((each["models"] for each in self.parameters.values() if each.get("models")), None)
        )

        from mae_helpers.encoder import weights  # all above is said without PyTorch
        from mae_helpers.run import tables

        self.looked_at, self.left_out = weights.at_hand(looked_at)
        self.made_from, self.tables = tables.made_from(profile), tables.folder(profile, results)
        self.executed = out / "executed" / profile.name

    def fingerprint(self, path: Path) -> str:
        """What decides this chapter's content now."""
        return notebooks.fingerprint(path, self.profile, self.parameters[path], self.made_from["data"], self.tables)

    def is_current(self, path: Path) -> bool:
        """Whether the chapter's executed copy is whole and shows what it would show now."""
        copy, name = self.executed / path.name, self.profile.name
        return notebooks.complaint(copy, name, self.tables, self.fingerprint(path)) is None

    def chapter(self, path: Path, display: Display, threads: int, about: dict) -> str | None:
        """Run one chapter unless it is current; returns what went wrong, if anything did."""
        from mae_helpers.run.tables import record_run

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
                entry = {"seconds": round(time.monotonic() - began, 1)}
                entry |= json.loads(used.read_text()) if used.exists() else {}
                entry |= {"parameters": notebooks.parameters_of(path) | self.parameters[path]}
                record_run(self.tables, path.stem, entry | {"fingerprint": mark["fingerprint"]}, **about)
            except (notebooks.NotebookError, StorageError) as error:
                return str(error)
        return None

    def all(self, jobs: int) -> bool:
        """Run what is not current, `jobs` side by side; returns whether every chapter succeeded.

        The longest come first, then those that read the others' tables, last what reads how they ran. Nothing already
        computed is lost.
        """
        from mae_helpers.run.tables import provenance

        current = sum(map(self.is_current, self.paths))
        print(f"{self.profile.name}: {current} of {len(self.paths)} notebooks are up to date", file=sys.stderr)
        if current == len(self.paths):
            return True
        for name, why in self.left_out.items():
            print(f"{name}: left out, because {why}", file=sys.stderr)
        check_inputs(self.looked_at, self.device)
        rounds: list[list[Path]] = [[], [], []]
        for path in sorted(self.paths, key=lambda path: (-notebooks.about(path).get("seconds", 0), path)):
            tags = notebooks.tags(*notebooks.read(path)["cells"])
            turn = 2 if notebooks.READS_RUN in tags else 1 if notebooks.READS_TABLES in tags else 0
            rounds[turn].append(path)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        about, display, failures = self.made_from | provenance(self.looked_at, self.device), Display(), []
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for paths in rounds:
                    chapters = [pool.submit(self.chapter, path, display, threads, about) for path in paths]
                    display.wait(chapters)
                    failures += [failure for chapter in chapters if (failure := chapter.result())]
            except KeyboardInterrupt:
                print("stopped: what was finished is kept", file=sys.stderr, flush=True)
                os._exit(130)  # at once: threads would be waited for, and the notebooks' processes end with us
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
        return not failures


def build_book(run: Run, out: Path, required: bool) -> bool:
    """Build the site if every chapter has a whole copy on this profile; returns False where one is missing."""
    names = [run.executed / path.name for path in notebooks.find([], profile=run.profile.name)]
    complaints = [text for path in names if (text := notebooks.complaint(path, run.profile.name, run.tables))]
    if complaints:
        print(f"no book was built: {'; '.join(complaints)}", file=sys.stderr)
        return not required
    began, display = time.monotonic(), Display()
    (out / "book.log").unlink(missing_ok=True)  # the last build's
    with ThreadPoolExecutor(1) as pool, display.following("book", out / "book.log"):
        building = pool.submit(site.build, run.profile, run.executed, run.tables, out)
        display.wait([building])
        built = building.result()
    printed = out / "html" / "book.pdf"
    if not printed.exists():
        from mae_helpers.run import pdf

        print("book: printing it as a PDF, where Chromium is installed", file=sys.stderr, flush=True)
        try:
            pdf.print_book(out / "html", site.order(out), printed)
        except notebooks.NotebookError as error:
            print(f"book: without its PDF, as {error}", file=sys.stderr)
    state = f"built in {time.monotonic() - began:.0f} s" if built else "up to date"
    print(f"book {state}: {out / 'html' / 'index.html'}", file=sys.stderr)
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mae_helpers.run", description=__doc__.split(":")[0])
    parser.add_argument("notebooks", nargs="*", help="chapters by number or name, such as 03; default: all")
    parser.add_argument("--profile", default="demo", help="demo, paper, atlas, or a YAML file (default: demo)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter")
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:N (default: auto)")
    jobs = "chapters to run side by side (default: 2 on a CPU, 1 with a GPU or workers)"
    parser.add_argument("--jobs", type=int, help=jobs)
    where = "a number of local workers, or the address of a Dask cluster (default: none)"
    parser.add_argument("--scheduler", help=where)
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="folder of executed notebooks and the site")
    parser.add_argument("--results", help="folder of the tables (default: results/)")
    parser.add_argument("--no-book", action="store_true", help="run the notebooks only")
    options = parser.parse_args(arguments)
    try:
        if options.jobs is not None and options.jobs < 1:
            raise ValueError(f"--jobs {options.jobs}: use 1 or more")
        profile, out = load_profile(options.profile), options.out.resolve()
        given = {name: parse_value(value) for name, value in options.p}
        scheduler = chosen_scheduler(options.scheduler, given)
        given |= {"scheduler": scheduler} if "scheduler" in given else {}
        run = Run(profile, options.notebooks, given, options.device, out, options.results, scheduler)
        finished = run.all(options.jobs or default_jobs(options.device, scheduler))
        if options.no_book:
            return 0 if finished else 1
        if not finished:
            print("no book was built: a chapter failed", file=sys.stderr)
            return 1
        return 0 if build_book(run, out, required=not options.notebooks) else 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
