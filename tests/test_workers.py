"""Cells on workers: the same results as in this process, whatever happens to the workers; and what is refused."""

import json
import os
import pickle
import re
import sys
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import dask
import distributed
import numpy as np
import pytest
import torch
import trouble
from processes import ensure_running
from test_sweep import same

from mae_helpers.perturbations.blur import blur_levels
from mae_helpers.perturbations.levels import Clean
from mae_helpers.perturbations.occlusion import Occlusion
from mae_helpers.profile import files
from mae_helpers.profile.progress import PROGRESS_FILE
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import chapter, notebooks
from mae_helpers.run import command as run
from mae_helpers.sweep import workers
from mae_helpers.sweep.recorded import Task
from mae_helpers.sweep.workers import WorkerError, Workers

LEVELS = blur_levels(["I", "X"]) | {50: Occlusion(50)}
MAE = "mae_finetuned"


@pytest.fixture(scope="module")
def started():
    """Two local workers, for all tests of this module, forked so that they and their successors start at once."""
    ensure_running()
    forked, there = {"distributed.worker.multiprocessing-method": "forkserver"}, Workers(2, "cpu")
    with dask.config.set(forked):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers, "gpus_of", lambda device: ["4", "7"])
            there.client.wait_for_workers(2, timeout=120)
        with there.client:
            yield there


@pytest.fixture
def two(started):
    """Both of them, the successor of one that was killed in the test before too."""
    started.client.wait_for_workers(2, timeout=120)
    return started


def demo(folder, workers_=None, profile="demo"):
    return replace(chapter.begin(str(profile), "cpu", results_folder=str(folder)), workers=workers_)


def few(here):
    """Both classifiers, the second on fewer images."""
    return {MAE: here.images(per_class=3), "vit_supervised": here.images(per_class=2)}


def written(folder):
    """Every file of cells, by its place."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.npz")}


def pids(two):
    return set(two.client.run(os.getpid).values())


@pytest.fixture(scope="module")
def expected(started, tmp_path_factory):
    """What this process computes by itself, few images of the demo under each kind of perturbation."""
    folder, before = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(next(iter(started.client.nthreads().values())))
    here = demo(folder)
    found = here.sweep(few(here), LEVELS, "embedding")
    torch.set_num_threads(before)
    return found, written(folder)


def test_results_and_files_are_those_of_this_process_to_the_bit(two, expected, tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress"))
    here = demo(tmp_path, two)
    for _ in range(2):  # the second time they are read
        assert same(here.sweep(few(here), LEVELS, "embedding"), expected[0])
    assert written(tmp_path) == expected[1]
    assert (tmp_path / "progress").read_text() == "cells on 2 workers 6/6", "the clean images of both models came first"


def test_each_local_worker_sees_a_gpu_of_its_own_and_its_share_of_the_cores(two):
    seen = two.client.run(lambda: [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")])
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert sorted(seen.values()) == [["4", share], ["7", share]]


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(two, expected, tmp_path):
    here, before = demo(tmp_path, two), pids(two)
    lethal = {"lethal": trouble.Lethal(str(tmp_path / "mark"))}
    found = here.sweep({MAE: few(here)[MAE]}, lethal | LEVELS, "embedding")[MAE]
    assert (tmp_path / "mark").exists()
    assert before - pids(two), "a worker was to be killed"
    np.testing.assert_array_equal(found.pop("lethal"), found["clean"])
    assert same({MAE: found}, {MAE: expected[0][MAE]})


def test_by_address_and_by_scheduler_file(two, expected, tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": two.client.scheduler.address}))
    for place in (two.client.scheduler.address, str(file)):
        there = Workers(place)
        with there.client:
            assert there.device == "cpu"
            here = demo(tmp_path / "results", there)
            found = here.sweep(few(here), {"X": LEVELS["X"]}, "embedding")
        assert all(np.array_equal(found[name]["X"], expected[0][name]["X"]) for name in found)
    assert two.client.nthreads(), "a cluster that was only asked stays"


def test_what_is_sent_has_no_pixels_and_no_weights(tmp_path):
    here = demo(tmp_path)
    subject = here._subject(MAE, "cpu").showing(here.images())
    assert subject.open() is here.model(MAE)
    for part, size in zip(subject.parts(200), (200, 200, 100), strict=True):
        digest, sent = part.digest, pickle.dumps(part)
        assert len(sent) < 10_000
        opened = pickle.loads(sent)
        assert len(opened.images) == size
        assert opened.digest == digest
        np.testing.assert_array_equal(opened.images.pixels(7), part.images.pixels(7))


def test_an_error_of_a_cell_comes_back_and_the_others_are_kept(two, tmp_path):
    here = demo(tmp_path, two)
    with pytest.raises(ValueError, match=r"fashion-mnist/\S+: refused"):
        here.sweep({MAE: here.images(per_class=1)}, {"X": LEVELS["X"], "failing": trouble.Failing()}, "prediction")
    assert [path.name.split("-")[0] for path in tmp_path.rglob("*.npz")] == [LEVELS["X"].name]
    assert pids(two), "the workers are still there"


def test_code_that_is_missing_or_another_on_the_workers_is_refused(two, tmp_path, monkeypatch):
    """A user's own module: first the workers do not find it, then it is edited after this process has read it."""
    module, here = tmp_path / "mine_of_workers.py", demo(tmp_path, two)
    module.write_text("from mae_helpers.perturbations.levels import Clean\nclass Mine(Clean):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from mine_of_workers import Mine

    sets = {MAE: here.images(per_class=1)}
    with pytest.raises(WorkerError, match=r"worker tcp://\S+: module 'mine_of_workers' has no file here"):
        here.sweep(sets, {"mine": Mine()}, "prediction")
    place = str(tmp_path)
    two.client.run(lambda: sys.path.append(place))
    module.write_text("raise SystemExit('imported, though it is another')\n")
    with pytest.raises(WorkerError, match=r"worker tcp://\S+: another mine_of_workers; install the same code"):
        here.sweep(sets, {"mine": Mine()}, "prediction")
    assert not list(tmp_path.rglob("*.npz"))


def test_other_files_are_refused(two, tmp_path, tiny_profile):
    here = demo(tmp_path / "results", two, tiny_profile())
    sets = {MAE: here.images()}
    os.utime(tmp_path / "images" / "cat" / "000.png", (0, 0))
    other = rf"worker tcp://\S+: its weights or images of {MAE} are not those of this process; {tmp_path}/im"
    with pytest.raises(WorkerError, match=other):
        here.sweep(sets, {"clean": Clean()}, "prediction")
    assert not list(tmp_path.rglob("*.npz"))


def test_a_cell_that_cannot_be_written_stops_the_run_and_leaves_the_workers(two, tmp_path):
    here = demo(tmp_path, two)
    (here.tables / "cells").mkdir(parents=True)
    (here.tables / "cells" / MAE).write_text("a file where a folder should be")
    with (
        pytest.warns(UserWarning, match="not a whole cell"),
        pytest.raises(files.StorageError, match=r"clean-.*written"),
    ):
        here.sweep({MAE: here.images(per_class=1)}, {"clean": Clean()}, "prediction")
    assert pids(two)


def test_a_cell_that_kills_every_worker_is_one_clear_error(two, tmp_path):
    """The last test with these workers: they have to be started again after it."""
    here = demo(tmp_path, two)
    with pytest.raises(WorkerError, match=r"lethal: the workers that computed it died .*out of memory.*are kept"):
        here.sweep({MAE: here.images(per_class=1)}, {"lethal": trouble.Lethal()}, "prediction")


# Without workers


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "foo", "", "4", [], {}, "nowhere.json"])
def test_what_is_no_scheduler_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match=rf"scheduler {re.escape(repr(wrong))}: use a number of workers"):
        chapter.begin("demo", scheduler=wrong)


def test_where_no_cluster_answers(monkeypatch):
    monkeypatch.setattr(workers, "CONNECT", 0.5)
    with pytest.raises(WorkerError, match=r"'tcp://127.0.0.1:9': no Dask cluster answers there .*`dask scheduler`"):
        chapter.begin("demo", "cpu", scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize("number", [0, 1])
def test_a_cluster_without_workers_and_one_that_its_only_worker_leaves_in_the_middle(monkeypatch, tmp_path, number):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    cluster = distributed.LocalCluster(n_workers=number, dashboard_address=None, processes=False)

    def run_there():
        there = Workers(cluster.scheduler_address)
        with there.client:
            here = demo(tmp_path, there)
            here.sweep({MAE: here.images(per_class=1)}, {"leaving": trouble.Leaving()}, "prediction")

    with cluster, pytest.raises(WorkerError, match=r"no worker for 0\.5 s; start some.*finished cells are kept"):
        run_there()


def test_a_lost_scheduler_is_named():
    """Dask cancels what was asked of it."""
    lost, cancelled = Workers(2), Future()
    cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    pool = SimpleNamespace(submit=lambda *_: cancelled)
    lost.client = SimpleNamespace(nthreads=dict, get_executor=lambda pure: pool)
    with pytest.raises(WorkerError, match="scheduler 2: the connection was lost; see whether it still runs"):
        list(lost.run(iter([(0, Task((), Clean(), "clean"))])))


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(WorkerError, match="needs the package `distributed`"):
        _ = Workers(2).client


@pytest.mark.parametrize(
    ("seen", "device", "gpus"),
    [("4,7", "cuda", ["4", "7"]), ("4,7", "cuda:1", ["7"]), ("", "cuda", ["0", "1"]), ("4,7", "cpu", [])],
)
def test_the_gpus_that_workers_share(monkeypatch, seen, device, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert workers.gpus_of(device) == gpus


def test_the_run_hands_a_scheduler_to_the_chapters_that_take_one(monkeypatch, tmp_path):
    chosen = run.Run(load_profile("demo"), ["01", "05"], {}, "cpu", tmp_path, None, 3).parameters
    blur, tokens = (chosen[notebooks.find([number])[0]] for number in ("05", "01"))
    assert blur["scheduler"] == 3
    assert "scheduler" not in tokens
    assert run.default_jobs("cpu", 3) == 1
    (tmp_path / "scheduler.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    file, address = str(tmp_path / "scheduler.json"), "tcp://10.0.0.1:8786"
    for text, given, scheduler in (
        *(("3", {}, 3), (None, {"scheduler": 3}, 3), (None, {}, None)),
        *(("scheduler.json", {}, file), (address, {}, address)),
    ):
        assert run.chosen_scheduler(text, given) == scheduler


def test_a_wrong_scheduler_is_one_line_of_the_runner(capsys, tmp_path):
    assert run.main(["05", "--scheduler", "foo", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: scheduler 'foo': use a number of workers")


def test_where_a_chapter_is_computed_does_not_make_it_another():
    [path] = notebooks.find(["05"])
    profile = load_profile("demo")
    one, two = (notebooks.fingerprint(path, profile, {"seed": 0, "scheduler": given}, "data") for given in (None, 4))
    assert one == two


@pytest.mark.parametrize("number", ["05", "06", "07", "08", "09", "11", "12"])
def test_chapters_that_sweep_have_the_parameter(number):
    [path] = notebooks.find([number])
    assert notebooks.parameters_of(path)["scheduler"] is None
    assert "chapter.of_notebook(globals())" in path.read_text(), "which takes it from there"
