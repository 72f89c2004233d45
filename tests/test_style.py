"""Formatting, lint, stripped notebooks, and the order of the rooms: what the repository holds to."""

import shutil
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import notebooks
from mae_helpers.sweep.current import imports


def call(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [("check", "."), ("format", "--check", ".")])
def test_ruff(arguments):
    done = call(sys.executable, "-m", "ruff", *arguments)
    assert done.returncode == 0, done.stdout


def test_outputs_are_stripped_from_the_sources():
    sources = [str(path) for path in notebooks.find([])]
    done = call(sys.executable, "-m", "nbstripout", "--verify", *sources)
    assert done.returncode == 0, done.stdout


PACKAGE = ROOT / "mae_helpers"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {  # each room of the house, and those that it may import beside itself
    "profile": "",
    "images": "profile",
    "perturbations": "profile images",
    "encoder": "profile",
    "measures": "profile encoder",
    "figures": "",
    "verdicts": "profile images perturbations measures figures",
    "sweep": "profile images perturbations encoder measures",
    "demo": "profile images encoder",
    "run": "profile images perturbations encoder measures figures verdicts sweep demo",
}


def imported(file):
    """The files of ours that a file imports, at its top or inside a function."""
    package = ".".join(file.parent.relative_to(ROOT).parts)
    places = [ROOT / name.replace(".", "/") for name in imports(file.read_text(), package)]
    return {path for place in places for path in (place.with_suffix(".py"), place / "__init__.py") if path in FILES}


def test_the_house_is_small():
    rooms = {path.parent for path in FILES} - {PACKAGE}
    assert len(rooms) <= 10
    assert sum(len(path.read_text().splitlines()) for path in FILES) <= 9567  # and falling: to be 6,000


def test_rooms_import_only_rooms_below_them():
    upward = []
    for file in set(FILES) - {PACKAGE / "__init__.py"}:
        here = file.relative_to(PACKAGE)
        allowed = {here.parts[0], *ROOMS[here.parts[0]].split()}
        rooms = {path.relative_to(PACKAGE).parts[0] for path in imported(file)}
        upward += [f"{here} imports {room}" for room in rooms - allowed]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({file: imported(file) for file in FILES}).prepare()  # CycleError names the modules


def test_the_lock_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    assert "index-url" not in lock
    assert "://" not in "".join(line for line in lock.splitlines() if not line.lstrip().startswith("#"))


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_bundled_weights_are_small_enough():
    files = call("git", "ls-files", "mae_helpers/demo").stdout.split()
    for name in files:
        size = (ROOT / name).stat().st_size
        assert size <= (11e6 if name.endswith(".safetensors") else 1e6), name


def test_every_module_is_on_the_api_page():
    """But for the demo's, and for the rules, which the claims' list describes."""
    page = (ROOT / "book" / "api.md").read_text()
    rules = {"pretrained", "classifier", "latent"}
    for file in FILES:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if not (file.stem.startswith("__") or name.startswith("mae_helpers.demo.") or file.stem in rules):
            assert f"automodule:: {name}\n" in page, name
