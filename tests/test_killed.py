"""A run that is killed and started again loses nothing: no finished cell is computed twice, and the tables are the same."""

import random
import signal
import time
from pathlib import Path

import pytest
import runs
from processes import start

from mae_helpers.profile import files

CELLS = 60


def finished(process):
    process.join(120)
    assert process.exitcode == 0


def cells(folder):
    """Every whole cell and what changes where it is written again."""
    stats = {path: path.stat() for path in Path(folder).rglob("*.npz")}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def contents(folder, kind):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob(kind))}


def computed(folder):
    return (folder / "computed").read_text().splitlines()


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The tiny profile of conftest, made once for this module."""
    import conftest

    return conftest.tiny_profile.__wrapped__(tmp_path_factory.mktemp("profile"))(per_class=20)


@pytest.fixture(scope="module")
def undisturbed(profile, tmp_path_factory):
    """What a run writes that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(runs.tables, profile, folder)
    runs.waits(folder)
    mark, *_ = folder.glob("began-*")
    assert mark.read_text() == "", "Dask is asked where it is wanted, and nowhere else"
    finished(process)
    assert len(cells(folder)) == CELLS
    assert len(computed(folder)) == CELLS / 2
    return folder


def same_tables(folder, undisturbed):
    assert len(contents(folder, "*.csv")) == 2
    for kind in ("*.csv", "*.npz"):
        assert contents(folder, kind) == contents(undisturbed, kind)
    assert not list(folder.rglob("*.part"))


def test_ten_kills_at_random_moments_and_then_an_end(profile, undisturbed, tmp_path):
    moments, known, grew = random.Random(6), {}, 0
    for _ in range(10):
        for mark in tmp_path.glob("began-*"):
            mark.unlink()
        process = start(runs.tables, profile, tmp_path)
        runs.waits(tmp_path)
        wanted = len(known) + moments.randrange(3)
        while len(cells(tmp_path)) < wanted and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = cells(tmp_path)
        assert known.items() <= now.items(), "a finished cell was touched"
        grew += len(now) > len(known)
        known = now
    assert grew >= 3, "the kills came before anything was computed"
    assert len(known) < CELLS, "the kills came after all was computed"
    assert not contents(tmp_path, "*.csv")
    finished(start(runs.tables, profile, tmp_path))
    assert known.items() <= cells(tmp_path).items()
    same_tables(tmp_path, undisturbed)
    assert len(computed(tmp_path)) <= CELLS / 2 + 10, "each kill costs the group that was being computed, no more"


def test_a_kill_between_writing_and_naming_leaves_a_part_that_the_next_run_removes(profile, undisturbed, tmp_path):
    process = start(runs.killed_before_the_name, profile, tmp_path, 6)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.part"))) == 1
    known = cells(tmp_path)
    assert len(known) == 5
    finished(start(runs.tables, profile, tmp_path))
    assert known.items() <= cells(tmp_path).items()
    same_tables(tmp_path, undisturbed)


def test_two_runs_at_once_share_the_work(profile, undisturbed, tmp_path):
    both = [start(runs.tables, profile, tmp_path) for _ in range(2)]
    for process in both:
        finished(process)
    same_tables(tmp_path, undisturbed)
    names = [line.split()[1] for line in computed(tmp_path)]
    assert sorted(names) == sorted(set(names)), "a cell was computed twice"
    assert len(names) == CELLS / 2


def test_a_run_that_is_killed_while_another_waits_for_it(profile, undisturbed, tmp_path):
    """Its lock vanishes with it: the other computes what is missing, at once."""
    assert files.WAIT > 600
    first = start(runs.tables, profile, tmp_path)
    runs.waits(tmp_path)
    second = start(runs.tables, profile, tmp_path)
    time.sleep(0.05)
    first.kill()
    finished(second)
    same_tables(tmp_path, undisturbed)
