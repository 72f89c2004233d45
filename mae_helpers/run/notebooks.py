"""Run one notebook through papermill so that what is left behind is whole, current, or plainly marked as failed."""

import ast
import difflib
import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import papermill

from mae_helpers.profile.files import remove, storage_error, write_whole
from mae_helpers.profile.parameters import check_parameter, shown
from mae_helpers.profile.settings import ROOT, Profile
from mae_helpers.run import pages

NOTEBOOKS, CODE, BENCHMARKS = ROOT / "notebooks", ROOT / "mae_helpers", ROOT / "benchmarks"
READS_TABLES = "reads-tables"  # tag of a cell that reads what other chapters wrote
READS_RUN = "reads-run"  # tag of a cell that reads how the other chapters ran
READS_BENCHMARKS = "reads-benchmarks"  # tag of a cell that reads what `make bench` measured
HOW = ("scheduler",)  # parameters that say where a chapter is computed: they change nothing in it
OPTIONS = {"profile": "--profile", "device": "--device", "results_folder": "--results"}
MARK = pages.KEY  # key in an executed notebook's metadata: profile, fingerprint, seconds, tables


class NotebookError(ValueError):
    """A notebook, or a parameter of one, that cannot be run: the message names it and the remedy."""


def find(names: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """The chapters called by number (`03`), by stem or by path, in order; all where no name is given."""
    known = sorted(folder.glob("[0-9]*.ipynb"))
    if not names:
        return known
    chosen = set()
    for name in names:
        stem = Path(name).stem
        found = [path for path in known if path.stem == stem or path.stem.split("_")[0] == stem.zfill(2)]
        if not found:
            raise NotebookError(f"no notebook {name!r} in {folder}; there are {', '.join(p.stem for p in known)}")
        chosen.update(found)
    return sorted(chosen)


def parameters_of(path: Path) -> dict[str, object]:
    """The names in the notebook's `parameters` cell with their defaults."""
    found = papermill.inspect_notebook(str(path))
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def choose_parameters(
    paths: list[Path], given: dict[str, object], defaults: dict[str, object] | None = None
) -> dict[Path, dict[str, object]]:
    """The parameters that each notebook takes: those `given` over a profile's `defaults`.

    NotebookError for one that is given and that none of them knows, a default that no notebook knows, one that is the
    run's own, or one of another kind than its defaults are (see `check_parameter`).
    """
    known = {path: parameters_of(path) for path in paths}
    everything = sorted(set().union(*known.values()))
    for name in given:
        if name not in everything:
            raise NotebookError(
                f"parameter {name!r} is unknown to {', '.join(path.stem for path in paths)}; "
                f"they take {', '.join(everything)}"
            )
        if name in OPTIONS:
            raise NotebookError(f"parameter {name!r} is that of the whole run; use the option {OPTIONS[name]} for it")
    values, folder = (defaults or {}) | given, paths[0].parent if paths else NOTEBOOKS
    every = [*known.values(), *map(parameters_of, sorted({*folder.glob("[0-9]*.ipynb")} - {*paths}))]
    for name, value in values.items():
        usual = [parameters[name] for parameters in every if name in parameters]
        if not usual and name not in (*OPTIONS, *HOW):
            close = difflib.get_close_matches(name[:80], set().union(*every), n=1)
            raise NotebookError(
                f"the profile's parameter {shown(name)} is unknown to every notebook; "
                + (f"did you mean {close[0]!r}?" if close else "leave it out")
            )
        if usual:
            try:
                check_parameter(name, value, usual, "parameter" if name in given else "the profile's parameter")
            except ValueError as error:
                raise NotebookError(str(error)) from None
    return {path: {name: value for name, value in values.items() if name in known[path]} for path in paths}


def has_tag(path: Path, tag: str) -> bool:
    """Whether a cell of the notebook has a tag, such as READS_TABLES or READS_RUN."""
    return any(tag in cell.metadata.get("tags", []) for cell in nbformat.read(path, 4).cells)


def usual_seconds(path: Path) -> float:
    """How long the notebook says that it takes on the demo (its metadata), or 0: the longest are started first."""
    return nbformat.read(path, 4).metadata.get(MARK, {}).get("seconds", 0)


def fingerprint(
    path: Path, profile: Profile, parameters: dict[str, object], data: str, tables: Path | None = None
) -> str:
    """A digest of all that decides what a notebook will show: its cells, its parameters, the code and the data.

    Where a cell has the tag `reads-tables`, the other chapters' tables in the folder `tables` decide as well; with
    `reads-run` what its `run.json` says of them; with `reads-benchmarks` what `make bench` measured last.
    """
    digest = hashlib.sha256(data.encode())
    for cell in nbformat.read(path, 4).cells:
        if tables and READS_TABLES in cell.metadata.get("tags", []):
            for file in sorted(tables.glob("*.csv")):
                digest.update(file.read_bytes() if file.stem != "scorecard" else b"")
        if tables and READS_RUN in cell.metadata.get("tags", []) and (tables / "run.json").exists():
            ran = json.loads((tables / "run.json").read_text())["notebooks"]
            digest.update(json.dumps({name: entry for name, entry in ran.items() if name != path.stem}).encode())
        if READS_BENCHMARKS in cell.metadata.get("tags", []):
            for file in sorted(BENCHMARKS.glob("*.csv")):
                digest.update(file.read_bytes())
        digest.update(json.dumps([cell.cell_type, cell.source, cell.metadata], sort_keys=True).encode())
    what = {name: value for name, value in parameters.items() if name not in HOW}
    digest.update(json.dumps(what, sort_keys=True).encode())
    code = sorted(
        path
        for kind in ("*.py", "verdicts/*.yaml", "verdicts/published/*.csv", "run/look_closer/*")
        for path in CODE.rglob(kind)
    )
    for file in [*code, profile.path, ROOT / "requirements.lock"]:
        if file.exists():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def complaint(path: Path, profile: str, tables: Path | None = None) -> str | None:
    """Why an executed notebook may not go into a book of `profile`, or None where it may.

    With `tables`, the folder of its tables, these must be as its run left them.
    """
    if not path.exists():
        return f"{path.stem} was not run"
    notebook = nbformat.read(path, 4)
    mark = notebook.metadata.get(MARK, {})
    if mark.get("profile") != profile:
        return f"{path.stem} was run on the profile {mark.get('profile')!r}, not {profile!r}"
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            return f"{path.stem} has a cell that was not run"
        if any(output.output_type == "error" for output in cell.outputs):
            return f"{path.stem} has a cell that failed"
    now = pages.digests(notebook, tables) if tables else {}
    changed = [name for name, digest in now.items() if digest != mark.get("tables", {}).get(name)]
    return f"{path.stem}: {', '.join(changed)} is not what its run wrote; run it again" if changed else None


def is_current(path: Path, profile: str, digest: str, tables: Path | None = None) -> bool:
    """Whether an executed notebook is whole, has its tables, and was made from what `fingerprint` describes."""
    if complaint(path, profile, tables):
        return False
    return nbformat.read(path, 4).metadata[MARK].get("fingerprint") == digest


def execute(
    source: Path,
    target: Path,
    parameters: dict[str, object],
    mark: dict,
    environment: dict[str, str],
    tables: Path | None = None,
) -> None:
    """Run `source` with papermill into `target`; a failed copy goes to `failed/` beside it, and an older one stays.

    The copy carries `mark`, and digests of the files in the folder `tables` that its figures show. `environment` is set
    in the notebook's own process before its first cell, so that several can run at a time. Raises NotebookError with the
    failing cell's error, StorageError where the copy cannot be written.
    """
    failed = target.parent / "failed" / target.name
    options = {"kernel_name": "python3", "progress_bar": False, "cwd": str(source.parent), "start_timeout": 180}
    options["extra_arguments"] = [
        "--IPKernelApp.log_level=CRITICAL",  # its notes on transport and shutdown are no news to a reader
        f"--IPKernelApp.exec_lines=import os; os.environ.update({environment!r}); "
        "from mae_helpers import usage; usage.tell_at_exit(); del os, usage",
    ]
    with TemporaryDirectory() as folder:
        temporary = Path(folder) / source.name
        try:
            papermill.execute_notebook(str(source), str(temporary), parameters=parameters, **options)
        except papermill.PapermillExecutionError as error:
            write_whole(failed, temporary.read_bytes())
            raise NotebookError(f"{source.stem}: {error.ename}: {error.evalue}\n  read it in {failed}") from None
        except OSError as error:
            raise storage_error(error, temporary) from error
        notebook = parameters_hidden(nbformat.read(temporary, 4))
    notebook.metadata[MARK] = mark | ({"tables": pages.digests(notebook, tables)} if tables else {})
    write_whole(target, nbformat.writes(notebook) + "\n")
    remove(failed)


def parameters_hidden(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the cell that papermill injected folded like the other code."""
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = [*cell.metadata["tags"], "hide-input"]
    return notebook
