"""Run chapters through papermill and build the book: `python -m mae_helpers.run [notebooks] --profile demo`."""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from mae_helpers import book, checkpoints, images, notebooks, results
from mae_helpers.profiles import ROOT, Profile, load_profile, reference
from mae_helpers.progress import PROGRESS_FILE


def check_inputs(profile: Profile, device: str) -> None:
    """Open everything that the notebooks will use, so that trouble shows before the first of them runs."""
    checkpoints.pick_device(device)
    images.first_images(profile)
    images.second_images(profile)
    for name in profile.models:
        if name == "mae_decoder":
            checkpoints.load_decoder(profile)
        else:
            checkpoints.load_model(profile, name)


def parse_value(text: str) -> object:
    """A parameter's value from the command line, read as YAML: `10`, `0.75`, `true`, `[1, 2]`, `text`."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


class Display:
    """One line on the terminal that tells where the current notebook is; plain lines where there is no terminal."""

    def __init__(self, title: str, file: Path):
        self.title, self.file, self.began = title, file, time.monotonic()
        self.done = threading.Event()
        self.live = sys.stderr.isatty()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _line(self, text: str) -> str:
        seconds = int(time.monotonic() - self.began)
        return f"{self.title}  {text}  {seconds // 60}:{seconds % 60:02d}"

    def _watch(self) -> None:
        while not self.done.wait(0.5):
            if self.live:
                step = self.file.read_text() if self.file.exists() else "starting"
                print(f"\r\033[K{self._line(step)}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> "Display":
        self.thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.done.set()
        self.thread.join()
        clear = "\r\033[K" if self.live else ""
        print(clear + self._line("failed" if kind else "done"), file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        """Time since this notebook began."""
        return time.monotonic() - self.began


def run(
    profile: Profile, names: list[str], given: dict[str, object], device: str, out: Path, tables: str | None
) -> bool:
    """Run what is not current; returns whether every chosen notebook succeeded. Nothing already computed is lost."""
    paths = notebooks.find(names)
    folder = str(Path(tables).resolve()) if tables else None
    defaults = {"profile": reference(profile), "device": device, "results_folder": folder}
    chosen = notebooks.choose_parameters(paths, given, profile.parameters | defaults)
    data, executed = results.data_fingerprint(profile), out / "executed" / profile.name
    where = results.folder(profile, tables)

    def mark_of(path: Path) -> dict[str, str]:
        return {
            "profile": profile.name,
            "fingerprint": notebooks.fingerprint(path, profile, chosen[path], data, where),
        }

    def is_current(path: Path) -> bool:
        return notebooks.is_current(executed / path.name, profile.name, mark_of(path)["fingerprint"])

    stale = [path for path in paths if not is_current(path)]
    print(f"{profile.name}: {len(paths) - len(stale)} of {len(paths)} notebooks are up to date", file=sys.stderr)
    if stale:
        check_inputs(profile, device)
    about = {
        "profile": profile.name,
        "device": str(checkpoints.pick_device(device)),
        "data": data,
        "checkpoints": checkpoints.checkpoint_hashes(profile) if stale else {},
        "provenance": results.provenance(),
    }
    failures = []
    for path in paths:
        if is_current(path):  # asked anew: one that reads tables follows those that were just written
            continue
        mark, title = mark_of(path), f"[{paths.index(path) + 1}/{len(paths)}] {path.stem}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "progress"
            try:
                with Display(title, file) as display:
                    target = executed / path.name
                    notebooks.execute(path, target, chosen[path], mark, {PROGRESS_FILE: str(file)})
            except notebooks.NotebookError as error:
                failures.append(str(error))
                continue
        parameters = notebooks.parameters_of(path) | chosen[path]
        entry = {"seconds": round(display.seconds, 1), "parameters": parameters, "fingerprint": mark["fingerprint"]}
        results.record_run(where, path.stem, entry, **about)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return not failures


def build_book(profile: Profile, out: Path, required: bool) -> bool:
    """Build the site if every chapter has a whole copy on this profile; returns False where one is missing."""
    executed = out / "executed" / profile.name
    complaints = [notebooks.complaint(executed / path.name, profile.name) for path in notebooks.find([])]
    complaints = [text for text in complaints if text]
    if complaints:
        print(f"no book was built: {'; '.join(complaints)}", file=sys.stderr)
        return not required
    began = time.monotonic()
    built = book.build(executed, out)
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
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="folder of executed notebooks and the site")
    parser.add_argument("--results", help="folder of the tables (default: results/)")
    parser.add_argument("--no-book", action="store_true", help="run the notebooks only")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        given = {name: parse_value(value) for name, value in options.p}
        out = options.out.resolve()
        done = run(profile, options.notebooks, given, options.device, out, options.results)
        if not done:
            print("no book was built: a chapter failed", file=sys.stderr)
            return 1
        return 0 if options.no_book or build_book(profile, out, required=not options.notebooks) else 1
    except (ValueError, OSError, book.BookError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
