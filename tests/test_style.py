"""Formatting, lint, stripped notebooks, and small modules: what the repository holds to."""

import shutil
import subprocess
import sys

import pytest

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import notebooks


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


def test_modules_are_small():
    for path in (ROOT / "mae_helpers").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 250, path.name


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
    page = (ROOT / "book" / "api.md").read_text()
    for path in (ROOT / "mae_helpers").glob("*.py"):
        assert path.stem == "__init__" or f"automodule:: mae_helpers.{path.stem}\n" in page, path.stem
