"""The chapters: what each takes, what decides its content, and one run of it that is whole, current, or plainly failed."""

import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from mae_helpers.profile.files import remove, write_whole
from mae_helpers.profile.parameters import check_parameter, defaults_in, parameters_of, shown
from mae_helpers.profile.settings import ROOT, Profile
from mae_helpers.run import usage
from mae_helpers.sweep.current import code_behind, imports

NOTEBOOKS, CODE, BENCHMARKS = ROOT / "notebooks", Path(__file__).parents[1], ROOT / "benchmarks"
READS_TABLES = "reads-tables"  # tag of a cell that reads what other chapters wrote
READS_RUN = "reads-run"  # tag of a cell that reads how the other chapters ran
READS_BENCHMARKS = "reads-benchmarks"  # tag of a cell that reads what `make bench` measured
HOW = ("scheduler",)  # parameters that say where a chapter is computed: they change nothing in it
OPTIONS = {"profile": "--profile", "device": "--device", "results_folder": "--results"}
MARK = "mae_helpers"  # in the metadata of an executed notebook: what made it; in that of a cell: its data
WRITTEN_LATER = {"scorecard.csv", "run.json"}  # by another chapter, or when all have run
BESIDE = {  # files that a module reads, by its name's beginning
    "mae_helpers.verdicts": ("verdicts/*.yaml", "verdicts/published/*.csv"),
    "mae_helpers.run.closer": ("run/look_closer/*",),
}
KILLED = 138  # papermill's status where the notebook's process is gone


class NotebookError(ValueError):
    """A notebook, a parameter of one, or the pages of all, that cannot be run or built: the message says what to do."""


def read(path: Path) -> dict:
    """A notebook (nbformat 4), the source of each cell in one piece; nbformat itself takes seconds to be imported."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def written(notebook: dict) -> str:
    """A notebook's text as nbformat writes it."""
    cells = [cell | {"source": cell["source"].splitlines(keepends=True)} for cell in notebook["cells"]]
    return json.dumps(notebook | {"cells": cells}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def tags(*cells: dict) -> set[str]:
    """The tags of cells."""
    return {tag for cell in cells for tag in cell["metadata"].get("tags", [])}


def about(path: Path) -> dict:
    """What a notebook's metadata say: which profile alone it is `about`, how many `seconds` it takes on the demo."""
    return read(path)["metadata"].get(MARK, {})


def find(names: list[str], folder: Path = NOTEBOOKS, profile: str | None = None) -> list[Path]:
    """The chapters called by number (`03`), by stem or by path, in order; all where no name is given.

    All of a `profile` are those without the chapters that are about another one, as their metadata say.
    """
    known = sorted(folder.glob("[0-9]*.ipynb"))
    chosen = set() if names else {path for path in known if profile in (None, about(path).get("about", profile))}
    for name in names:
        stem = Path(name).stem
        called = [path for path in known if path.stem == stem or path.stem.split("_")[0] == stem.zfill(2)]
        if not called:
            raise NotebookError(f"no notebook {name!r} in {folder}; there are {', '.join(p.stem for p in known)}")
        chosen.update(called)
    return sorted(chosen)


def choose_parameters(
    paths: list[Path], given: dict[str, object], defaults: dict[str, object] | None = None
) -> dict[Path, dict[str, object]]:
    """The parameters that each notebook takes, as they are meant: those `given` over a profile's `defaults`.

    ValueError for one that is given and that none of them knows, a default that no notebook knows, one that is the
    run's own, or one of another kind than its defaults are (see `check_parameter`).
    """
    known = {path: parameters_of(path) for path in paths}
    taken = sorted(set().union(*known.values()))
    for name in given:
        if name not in taken:
            stems = ", ".join(path.stem for path in paths)
            raise NotebookError(f"parameter {name!r} is unknown to {stems}; they take {', '.join(taken)}")
        if name in OPTIONS:
            raise NotebookError(f"parameter {name!r} is that of the whole run; use the option {OPTIONS[name]} for it")
    values, usual = (defaults or {}) | given, defaults_in(paths[0].parent if paths else NOTEBOOKS)
    for name, value in values.items():
        if name in usual:
            who = "parameter" if name in given else "the profile's parameter"
            values[name] = check_parameter(name, value, usual[name], who)
        elif name not in (*OPTIONS, *HOW):
            close = difflib.get_close_matches(name[:80], usual, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else "leave it out"
            raise NotebookError(f"the profile's parameter {shown(name)} is unknown to every notebook; {remedy}")
    return {path: {name: value for name, value in values.items() if name in known[path]} for path in paths}


def modules(path: Path) -> list[str]:
    """The modules of ours that a notebook's code cells import."""
    sources = [cell["source"] for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    code = re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", "\n".join(sources))  # what only IPython understands
    ours = {name: CODE.parent.joinpath(*name.split(".")) for name in imports(code, "") if name.startswith(CODE.name)}
    return sorted(name for name, place in ours.items() if place.is_dir() or place.with_suffix(".py").exists())


def sha256(path: Path) -> str:
    """The SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def fingerprint(
    path: Path, profile: Profile, parameters: dict[str, object], data: str, tables: Path | None = None
) -> str:
    """A digest of all that decides what a notebook will show: cells, parameters, profile, data, the code it imports.

    Where a cell has the tag `reads-tables`, the other chapters' tables in the folder `tables` decide as well; with
    `reads-run` what its `run.json` says of them; with `reads-benchmarks` what `make bench` measured last.
    """
    cells, imported = read(path)["cells"], modules(path)
    what = {name: value for name, value in parameters.items() if name not in HOW}
    parts = [data, code_behind(*imported).digest if imported else "", json.dumps(what, sort_keys=True)]
    parts += [json.dumps([cell["cell_type"], cell["source"], cell["metadata"]], sort_keys=True) for cell in cells]
    beside = [names for start, names in BESIDE.items() if any(name.startswith(start) for name in imported)]
    files = [profile.path, *(file for names in beside for name in names for file in sorted(CODE.glob(name)))]
    if tables and READS_TABLES in tags(*cells):
        files += [file for file in sorted(tables.glob("*.csv")) if file.name not in WRITTEN_LATER]
    if READS_BENCHMARKS in tags(*cells):
        files += sorted(BENCHMARKS.glob("*.csv"))
    if tables and READS_RUN in tags(*cells) and (tables / "run.json").exists():
        ran = json.loads((tables / "run.json").read_text()).get("notebooks", {})
        parts.append(json.dumps({name: entry for name, entry in ran.items() if name != path.stem}))
    return hashlib.sha256("\0".join([*parts, *map(sha256, files)]).encode()).hexdigest()


def figures(notebook: dict) -> Iterator[tuple[str, dict, list[str]]]:
    """The figures and tables that a notebook shows: the name of each, its cell, and the files that hold its data."""
    for cell in notebook["cells"]:
        figure = cell["metadata"].get("mystnb", {}).get("figure")
        if figure and cell["outputs"]:
            yield figure["name"], cell, cell["metadata"].get(MARK, {}).get("data", [])


def digests(notebook: dict, tables: Path) -> dict[str, str]:
    """The SHA-256 of each file behind a notebook's figures as it is now; empty for one that is not there."""
    names = {name for *_, data in figures(notebook) for name in data} - WRITTEN_LATER
    return {name: sha256(tables / name) for name in sorted(names)}


def complaint(path: Path, profile: str, tables: Path | None = None, wanted: str | None = None) -> str | None:
    """Why an executed notebook may not go into a book of `profile`, or None where it may.

    With `tables`, the folder of its tables, these must be as its run left them; and with `wanted`, a `fingerprint`, it
    must have been made from what that describes.
    """
    if not path.exists():
        return f"{path.stem} was not run"
    notebook = read(path)
    mark = notebook["metadata"].get(MARK, {})
    if mark.get("profile") != profile:
        return f"{path.stem} was run on the profile {mark.get('profile')!r}, not {profile!r}"
    if wanted and mark.get("fingerprint") != wanted:
        return f"{path.stem} was made from something else; run it again"
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or not cell["source"].strip():
            continue
        if cell["execution_count"] is None:
            return f"{path.stem} has a cell that was not run"
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            return f"{path.stem} has a cell that failed"
    now = digests(notebook, tables) if tables else {}
    changed = [name for name, digest in now.items() if digest != mark.get("tables", {}).get(name)]
    return f"{path.stem}: {', '.join(changed)} is not what its run wrote; run it again" if changed else None


KERNEL = {  # this interpreter, whatever kernels are installed; its notes on transport and shutdown are no news
    "argv": [
        *(sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=CRITICAL"),
        "--IPKernelApp.exec_lines=from mae_helpers.run import usage; usage.begin(); del usage",
    ],
    "display_name": "Python 3",
    "language": "python",
}


def _trouble(copy: dict, done: subprocess.CompletedProcess) -> str:
    """What went wrong in a run of papermill, in a line."""
    if done.returncode == KILLED or done.returncode < 0:
        return (
            "its process was killed, most often for want of memory: give it fewer images or a smaller "
            "`compute.batch_size`, or run one chapter at a time (--jobs 1)"
        )
    errors = [output for cell in copy["cells"] for output in cell.get("outputs", []) if "ename" in output]
    said = done.stderr.strip().splitlines() or [f"papermill ended with status {done.returncode}"]
    return f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else said[-1]


def execute(
    source: Path, target: Path, parameters: dict[str, object], mark: dict, environment: dict[str, str], tables: Path
) -> None:
    """Run `source` with papermill into `target`; a failed copy goes to `failed/` beside it, and an older one stays.

    Papermill is a process with this `environment` besides ours, and so is the notebook's own, of our interpreter; both are
    forked where that is safe (`warm`). The copy carries `mark`, and digests of the files in the folder `tables` that its
    figures show. Raises NotebookError with the failing cell's error, or where the process was killed; StorageError where
    the copy cannot be written.
    """
    from mae_helpers.run import warm  # with PyTorch

    failed = target.parent / "failed" / target.name
    with TemporaryDirectory() as folder:
        copy, values, kernel = (Path(folder) / name for name in (source.name, "values.yaml", "kernels/python3"))
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(KERNEL))
        values.write_text(yaml.safe_dump(parameters))
        kernels = os.pathsep.join([folder, os.environ.get("JUPYTER_PATH", "")]).strip(os.pathsep)
        command = [sys.executable, "-m", "papermill", source.name, str(copy), "-f", str(values)]
        command += ["--kernel", "python3", "--start-timeout", "180", "--no-progress-bar", "--log-level", "CRITICAL"]
        variables = {"JUPYTER_PATH": kernels, usage.RUNNER: str(os.getpid())} | environment
        done = warm.run(command, source.parent, variables, str(parameters.get("device", "cpu")))
        notebook = read(copy) if copy.exists() else None
    if done.returncode:
        trouble = f"{source.stem}: {_trouble(notebook or {'cells': []}, done)}"
        if notebook:
            write_whole(failed, written(notebook))
            trouble += f"\n  read it in {failed}"
        raise NotebookError(trouble)
    for cell in notebook["cells"]:
        if "injected-parameters" in tags(cell):
            cell["metadata"]["tags"] += ["hide-input"]  # folded like the other code
    notebook["metadata"][MARK] = mark | {"tables": digests(notebook, tables)}
    write_whole(target, written(notebook))
    remove(failed)
