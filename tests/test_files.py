"""Files whole or not at all, claims on them, and what is said where a disk is full or a folder closed."""

import os
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import _unix
from nbformat import v4
from nbformat import write as write_notebook

from mae_helpers.perturbations.blur import GaussianBlur
from mae_helpers.perturbations.levels import Clean
from mae_helpers.profile import files
from mae_helpers.profile.files import StorageError, claim, write_whole
from mae_helpers.run import chapter, notebooks
from mae_helpers.run import command as run
from mae_helpers.run import tables as results

ROOM = r"no room for {} \(No space left on device; \S+ MB are to be written, \S+ MB are free\); make room, or choose"
SHUT = r"{} cannot be written there \(Read-only file system\); allow it, or choose another folder"


@pytest.fixture
def small(tmp_path):
    """A disk of 512 kB in memory, where we may have one."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


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
        "dead": f"a.csv.{files.HOST}-{dead.pid}-00000000.part",
        "alive": f"a.csv.{files.HOST}-{os.getppid()}-00000000.part",
        "elsewhere": f"a.csv.another_host-{dead.pid}-00000000.part",
        "other file": f"b.csv.{files.HOST}-{dead.pid}-00000000.part",
        "not ours": "a.csv.part",
        "nor this": "a.csv.x.part",
    }
    for name in names.values():
        (tmp_path / name).write_text("half")
    write_whole(tmp_path / "a.csv", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", *names.values()} - {names["dead"]}


# A full disk, a closed folder


TABLE = pd.DataFrame({column: np.arange(500.0) for column in results.COLUMNS["fig8_feature_drop"]})


@pytest.fixture
def here(small, tiny_profile):
    """A chapter whose folder of results is on the small disk, with a cell and a table in it."""
    path = tiny_profile(second_images={"source": "flat", "folder": "images/dog"})
    here = chapter.begin(str(path), "cpu", results_folder=str(small))
    here.save(TABLE, "fig8_feature_drop")
    return here


def clean(here):
    return here.sweep({"mae_finetuned": here.images()}, {"clean": Clean()}, "prediction")["mae_finetuned"]["clean"]


def writers(here, folder):
    """All that a run writes, by what its file is called."""
    source, images = folder / "01_plain.ipynb", here.images()
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    write_notebook(v4.new_notebook(cells=[v4.new_code_cell("1")], metadata={"kernelspec": kernel}), source)
    return {
        r"(fig8_feature_drop|run)\S+": lambda: here.save(TABLE.assign(mean_drop=2.0), "fig8_feature_drop"),
        r"(mae_finetuned-)?gaussian_blur_5_1-\S+": lambda: here.sweep(
            {"mae_finetuned": images}, {"clean": Clean(), "blur": GaussianBlur(5, 1.0)}, "prediction"
        ),
        r"\S+": lambda: here.second_images().pixels(0),
        "01_plain.ipynb": lambda: notebooks.execute(source, here.tables / source.name, {}, {}, {}, here.tables),
    }


def test_a_full_disk_is_named_with_what_is_missing_and_nothing_is_lost(here, small, tmp_path):
    before, written = clean(here), writers(here, tmp_path)
    kept = {path: path.read_bytes() for path in here.tables.rglob("*.[cn]*")}
    for name, write in written.items():
        filler = fill(small)
        with pytest.raises(StorageError, match=rf"{small}\S*: {ROOM.format(name)}"):
            write()
    assert not list(small.rglob("*.part"))
    assert {path: path.read_bytes() for path in kept} == kept
    filler.unlink()
    for write in written.values():
        write()
    assert np.array_equal(clean(here), before)
    assert all(path.read_bytes() == kept[path] for path in kept if path.suffix == ".npz")


def test_cells_are_read_from_a_closed_folder_and_all_that_is_new_is_refused(here, small, tmp_path):
    before, written = clean(here), writers(here, tmp_path)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(clean(here), before)
    for name, write in written.items():
        with pytest.raises(StorageError, match=rf"{small}\S*: {SHUT.format(name)}"):
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


def test_other_troubles_name_the_file(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(StorageError, match=r"folder\.csv: cannot be written \(Is a directory\)"):
        write_whole(tmp_path / "folder.csv", "text")
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
def test_a_file_system_without_locks_is_one_warning_and_cells_are_still_written(
    tiny_profile, tmp_path, monkeypatch, number
):
    """Nor does filelock fall back to files whose mere existence locks: these outlive a killed process."""

    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_unix, "lock_fd_nonblocking", refuse)
    here = chapter.begin(str(tiny_profile()), "cpu", results_folder=str(tmp_path / "results"))
    with pytest.warns(UserWarning, match="this file system has no locks"):
        found = clean(here)
    [cell] = here.tables.rglob("*.npz")
    written = cell.stat().st_mtime_ns
    assert np.array_equal(clean(here), found)
    assert cell.stat().st_mtime_ns == written
