"""Files whole or not at all, claims on them, and what is said where a disk is full or a folder closed."""

import errno
import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, _unix
from nbformat import v4
from nbformat import write as write_notebook
from test_sweep import BLUR, forbid_computing, mae, pair, same  # noqa: F401 - fixtures

from mae_helpers.images.decoded import decoded
from mae_helpers.images.sets import first_images
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile import files
from mae_helpers.profile.files import StorageError, claim, write_whole
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import command as run
from mae_helpers.run import notebooks
from mae_helpers.run import tables as results
from mae_helpers.sweep import sweep

ROOM = r"no room for {} \(No space left on device; \S+ MB are to be written, \S+ MB are free\); make room, or choose"
BLUR_FILE = r"gaussian_blur_5_1-\S+"
SHUT = r"{} cannot be written there \(Read-only file system\); allow it, or choose another folder"


@contextmanager
def mounted(folder: Path, size: str):
    """A small file system in memory, where we may have one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small(tmp_path):
    """A disk of 256 kB."""
    with mounted(tmp_path / "small", "256k") as folder:
        yield folder


def shut(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def fill(folder):
    """Leave no byte."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return folder / "filler"


# Whole files


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda number: (steps.append(os.fstat(number).st_size), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append(to.name), replace(self, to)))
    write_whole(tmp_path / "deep" / "a.csv", "text")
    assert steps == [4, "a.csv"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.csv"]


def test_what_a_killed_process_left_of_a_file_is_removed_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "dead": f"a.csv.{files._host()}-{dead.pid}-00000000.part",
        "alive": f"a.csv.{files._host()}-{os.getppid()}-00000000.part",
        "elsewhere": f"a.csv.another_host-{dead.pid}-00000000.part",
        "other file": f"b.csv.{files._host()}-{dead.pid}-00000000.part",
        "not ours": "a.csv.part",
        "nor this": "a.csv.x.part",
    }
    for name in names.values():
        (tmp_path / name).write_text("half")
    write_whole(tmp_path / "a.csv", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", *names.values()} - {names["dead"]}


# A full disk, a closed folder


def test_a_full_disk_is_named_with_what_is_missing_and_nothing_is_lost(pair, small, monkeypatch):  # noqa: F811
    cells = small / "cells"
    before = sweep.sweep(pair, {"clean": Clean()}, "prediction", cells)
    filler = fill(small)
    with pytest.raises(StorageError, match=f"{cells}/mae: {ROOM.format(BLUR_FILE)}"):
        sweep.sweep(pair, {"clean": Clean(), "blur": BLUR}, "prediction", cells)
    assert not list(cells.rglob("*.part"))
    filler.unlink()
    sweep.sweep(pair, {"blur": BLUR}, "prediction", cells)
    forbid_computing(monkeypatch)
    assert same(before, sweep.sweep(pair, {"clean": Clean()}, "prediction", cells))


def test_cells_are_read_from_a_closed_folder_and_a_new_one_is_refused(pair, small, monkeypatch):  # noqa: F811
    before = sweep.sweep(pair, {"clean": Clean()}, "prediction", small)
    shut(small)
    with monkeypatch.context() as patch:
        forbid_computing(patch)
        with warnings.catch_warnings(action="error"):
            assert same(before, sweep.sweep(pair, {"clean": Clean()}, "prediction", small))
    with pytest.raises(StorageError, match=SHUT.format("mae-" + BLUR_FILE)):
        sweep.sweep(pair, {"blur": BLUR}, "prediction", small)


def test_tables_blocks_and_notebooks_say_it_as_well(small, tiny_profile, tmp_path, monkeypatch):
    images, made = first_images(load_profile(tiny_profile())), {"profile": "tiny"}
    table = pd.DataFrame({column: np.arange(500.0) for column in results.COLUMNS["fig8_feature_drop"]})
    source = tmp_path / "01_plain.ipynb"
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    write_notebook(v4.new_notebook(cells=[v4.new_code_cell("1")], metadata={"kernelspec": kernel}), source)
    monkeypatch.setattr(
        notebooks.papermill, "execute_notebook", lambda one, two, **_: Path(two).write_bytes(source.read_bytes())
    )
    results.save_table(table, "fig8_feature_drop", small, made)
    kept = (small / "fig8_feature_drop.csv").read_bytes()
    writers = {
        "fig8_feature_drop.csv": lambda: results.save_table(
            table.assign(mean_drop=2.0), "fig8_feature_drop", small, made
        ),
        r"\S+": lambda: decoded(images, small / "pixels").pixels(0),
        "01_plain.ipynb": lambda: notebooks.execute(source, small / "01_plain.ipynb", {}, {}, {}),
    }
    for name, write in writers.items():
        filler = fill(small)
        with pytest.raises(StorageError, match=rf"{small}\S*: no room for {name}"):
            write()
    assert (small / "fig8_feature_drop.csv").read_bytes() == kept
    filler.unlink()
    shut(small)
    for write in writers.values():
        with pytest.raises(StorageError, match=rf"{small}\S*: {SHUT.format(chr(92) + 'S+')}"):
            write()


def test_a_full_disk_is_one_line_of_the_runner_and_the_other_chapters_still_run(monkeypatch, tmp_path, capsys):
    def execute(source, target, *_):
        if source.stem.startswith("02"):
            raise StorageError("/disk: no room for 02.ipynb")

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(run, "check_inputs", lambda *_: None)
    assert run.main(["01", "02", "03", "--out", str(tmp_path), "--results", str(tmp_path), "--jobs", "1"]) == 1
    error = capsys.readouterr().err
    assert "error: /disk: no room for 02.ipynb\n" in error
    assert set(results.read_run(tmp_path / "demo")["notebooks"]) == {"01_token_embeddings", "03_principal_angles"}


def test_other_troubles_name_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StorageError, match=r"a\.csv: cannot be written \(Input/output error\)"):
        write_whole(tmp_path / "a.csv", "text")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/a\.csv: cannot be written \((Not a directory|File exists)\)"):
        write_whole(tmp_path / "file" / "a.csv", "text")


# Claims


HOLD = (
    "import sys, time; from pathlib import Path; from mae_helpers.profile.files import claim\n"
    "held = claim([Path(sys.argv[1])]); print('held' if held else 'refused', flush=True); time.sleep(600)"
)


def test_a_claim_is_respected_and_vanishes_with_its_process(tmp_path):
    lock = tmp_path / "locks" / "one"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert claim([lock]) is None
        assert claim([tmp_path / "locks" / "another", lock]) is None, "nothing is kept of a claim that failed"
        with claim([tmp_path / "locks" / "another"]) as free:
            assert free is not None
        other.send_signal(signal.SIGKILL)
        other.wait()
        with claim([lock]) as held:
            assert held is not None
    assert lock.exists(), "the file stays, the lock does not"


@pytest.mark.parametrize("number", sorted(files.WITHOUT_LOCKS))
def test_a_file_system_without_locks_is_one_warning_and_cells_are_still_written(pair, tmp_path, monkeypatch, number):  # noqa: F811
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_unix, "lock_fd_nonblocking", refuse)
    with pytest.warns(UserWarning, match="this file system has no locks"):
        found = sweep.sweep(pair, {"clean": Clean()}, "prediction", tmp_path)
    forbid_computing(monkeypatch)
    assert same(found, sweep.sweep(pair, {"clean": Clean()}, "prediction", tmp_path))


def test_a_lock_left_by_a_killed_process_is_no_soft_lock(tmp_path):
    """filelock would fall back to files whose mere existence locks; these outlive a killed process."""
    with claim([tmp_path / "one"]) as held:
        assert held is not None
        assert isinstance(next(iter(vars(held)["_exit_callbacks"]))[1].__self__, FileLock)
