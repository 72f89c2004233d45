"""Cells on workers: the same results as in this process, whatever happens to the workers; and what is refused."""

import json
import os
import pickle
import re
import sys
from dataclasses import replace

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
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import chapter, notebooks
from mae_helpers.run import command as run
from mae_helpers.sweep import subjects, sweep, workers
from mae_helpers.sweep.workers import WorkerError, Workers

LEVELS = blur_levels(["I", "X"]) | {50: Occlusion(50)}


@pytest.fixture(scope="module")
def two():
    """Two local workers, for all tests of this module, forked so that they and their successors start at once."""
    ensure_running()
    found = Workers(2)
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        assert found.client
        yield found
    found.close()


def demo(folder, workers_=None):
    return replace(chapter.begin("demo", "cpu", results_folder=str(folder)), workers=workers_)


def written(folder):
    """Every file of cells, by its place."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.npz")}


def pids(two):
    return set(two.client.run(os.getpid).values())


@pytest.fixture(scope="module")
def expected(two, tmp_path_factory):
    """What this process computes by itself, few images of the demo under each kind of perturbation."""
    folder, before = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(next(iter(two.client.nthreads().values())))
    here = demo(folder)
    found = here.sweep(here.classifiers(3, 2), LEVELS, "embedding")
    torch.set_num_threads(before)
    return found, written(folder)


def test_results_and_files_are_those_of_this_process_to_the_bit(two, expected, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(workers, "progress", lambda items, label, total: (told.append((label, total)), items)[1])
    monkeypatch.setattr(sweep, "measured", lambda *_: pytest.fail("computed in this process"))
    here = demo(tmp_path, two)
    assert same(here.sweep(here.classifiers(3, 2), LEVELS, "embedding"), expected[0])
    assert written(tmp_path) == expected[1]
    assert told == [("cells on 2 workers", 2), ("cells on 2 workers", 6)], "the clean images of both models come first"
    monkeypatch.setattr(two, "run", lambda *_: pytest.fail("computed again"))
    assert same(here.sweep(here.classifiers(3, 2), LEVELS, "embedding"), expected[0])


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(two, expected, tmp_path):
    """By the first cell that it computes, and from outside while it computes another."""
    here = demo(tmp_path, two)
    before = pids(two)
    lethal = {"lethal": trouble.Lethal(str(tmp_path / "mark"))}
    sets = {"mae_finetuned": here.classifiers(3, 2)["mae_finetuned"]}
    found = here.sweep(sets, lethal | LEVELS, "embedding")["mae_finetuned"]
    assert (tmp_path / "mark").exists()
    assert before - pids(two), "a worker was to be killed"
    clean = found.pop("lethal")
    np.testing.assert_array_equal(clean, found["clean"])
    assert same({"mae_finetuned": found}, {"mae_finetuned": expected[0]["mae_finetuned"]})


def test_by_address_and_by_scheduler_file(two, expected, tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": two.client.scheduler.address}))
    for place in (two.client.scheduler.address, str(file)):
        with workers.opened(place) as there:
            assert there.device == "cpu"
            here = demo(tmp_path / "results", there)
            found = here.sweep(here.classifiers(3, 2), {"X": LEVELS["X"]}, "embedding")
        assert all(np.array_equal(found[name]["X"], expected[0][name]["X"]) for name in found)
    assert two.client.nthreads(), "a cluster that was only asked stays"


def test_what_is_sent_has_no_pixels_and_no_weights(two, tmp_path):
    here = demo(tmp_path, two)
    subject = here._subject("mae_finetuned", here.images())
    sent = len(pickle.dumps(subject.origin))
    assert sent < 10_000 + 8 * len(subject.images)
    parts = subject.parts(200)
    assert [len(part.origin.rows) for part in parts] == [200, 200, 100]
    for part in parts:
        opened, _ = subjects.reopened(part.origin)
        assert opened.digest == part.digest
        np.testing.assert_array_equal(opened.images.pixels(7), part.images.pixels(7))


def test_an_error_of_a_cell_comes_back_and_the_others_are_kept(two, tmp_path):
    here = demo(tmp_path, two)
    sets = {"mae_finetuned": here.images(per_class=1)}
    with pytest.raises(ValueError, match=r"fashion-mnist/\S+: refused"):
        here.sweep(sets, {"X": LEVELS["X"], "failing": trouble.Failing()}, "prediction")
    assert [path.name.split("-")[0] for path in tmp_path.rglob("*.npz")] == [LEVELS["X"].name]
    assert pids(two), "the workers are still there"


def test_other_code_other_libraries_and_other_files_are_refused(two, tmp_path, monkeypatch):
    here = demo(tmp_path, two)
    sets, real = {"mae_finetuned": here.images(per_class=1)}, workers.code_behind
    for change, words in (
        ({"code": {"mae_helpers.encoder": "edited"}}, "another mae_helpers.encoder"),
        ({"libraries": {"torch": "1.0"}}, r"torch \S+ instead of 1\.0"),
    ):
        [(name, entries)] = change.items()

        def other(perturbation, name=name, entries=entries):
            return replace(real(perturbation), **{name: getattr(real(perturbation), name) | entries})

        monkeypatch.setattr(workers, "code_behind", other)
        with pytest.raises(WorkerError, match=rf"worker tcp://\S+: {words}; install the same code"):
            here.sweep(sets, {"clean": Clean()}, "prediction")
    monkeypatch.setattr(workers, "code_behind", real)
    subject = replace(here._subject("mae_finetuned", here.images(per_class=1)), identity="other weights")
    with pytest.raises(WorkerError, match="its weights or images of mae_finetuned are not those of this process"):
        sweep.sweep([subject], {"clean": Clean()}, "prediction", tmp_path, scheduler=two)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_full_disk_here_stops_the_run_and_leaves_the_workers(two, tmp_path, monkeypatch):
    def full(path, *_):
        raise files.StorageError(f"{path.parent}: no room for {path.name}")

    here = demo(tmp_path, two)
    monkeypatch.setattr("mae_helpers.cells.write_whole", full)
    with pytest.raises(files.StorageError, match="no room for clean"):
        here.sweep({"mae_finetuned": here.images(per_class=1)}, {"clean": Clean()}, "prediction")
    assert pids(two)


def test_images_of_no_profile_are_refused(two, tmp_path, tiny_images):
    with pytest.raises(ValueError, match="these come from no profile"):
        demo(tmp_path, two).sweep({"mae_finetuned": tiny_images}, LEVELS, "prediction")


def test_a_cell_that_kills_every_worker_is_one_clear_error(two, tmp_path):
    """The last test with these workers: they have to be started again after it."""
    here = demo(tmp_path, two)
    with pytest.raises(WorkerError, match=r"lethal: the workers that computed it died .*out of memory.*are kept"):
        here.sweep({"mae_finetuned": here.images(per_class=1)}, {"lethal": trouble.Lethal()}, "prediction")


# Without workers


def test_a_lost_scheduler_is_named():
    lost = Workers(2)._clear(distributed.client.FuturesCancelledError([]), None)
    assert isinstance(lost, WorkerError)
    assert "scheduler 2: the connection was lost" in str(lost)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "foo", "", "4", [], {}, "nowhere.json"])
def test_what_is_no_scheduler_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match=rf"scheduler {re.escape(repr(wrong))}: use a number of workers"):
        chapter.begin("demo", scheduler=wrong)


def test_where_no_cluster_answers(monkeypatch):
    monkeypatch.setattr(workers, "CONNECT", 0.5)
    with pytest.raises(
        WorkerError, match=r"scheduler 'tcp://127.0.0.1:9': no Dask cluster answers there .*`dask scheduler`"
    ):
        chapter.begin("demo", "cpu", scheduler="tcp://127.0.0.1:9")


def test_a_cluster_without_workers(monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    cluster = distributed.LocalCluster(n_workers=0, dashboard_address=None, processes=False)
    with cluster, pytest.raises(WorkerError, match=r"no worker for 0\.5 s; start some"):
        Workers(cluster.scheduler_address)


def test_a_cluster_that_its_only_worker_leaves_in_the_middle(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    cluster = distributed.LocalCluster(n_workers=1, dashboard_address=None, processes=False)
    with cluster, workers.opened(cluster.scheduler_address) as there:
        here = demo(tmp_path, there)
        sets = {"mae_finetuned": here.images(per_class=1)}
        with pytest.raises(WorkerError, match=r"no worker for 0\.5 s; start some.*finished cells are kept"):
            here.sweep(sets, {"leaving": trouble.Leaving()}, "prediction")


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(WorkerError, match="needs the package `distributed`"):
        _ = Workers(2).client


def test_each_local_worker_sees_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    seen = [found["CUDA_VISIBLE_DEVICES"] for found in workers._environments(3, "cuda")]
    assert workers._environments(2, "cuda:1") == [{"CUDA_VISIBLE_DEVICES": "7"}] * 2
    assert seen == ["4", "7", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in workers._environments(2, "cuda")] == ["0", "1"]
    assert workers._environments(2, "cpu") == [{}, {}]


def test_the_run_hands_a_scheduler_to_the_chapters_that_take_one(monkeypatch, tmp_path):
    given, jobs = {}, []
    monkeypatch.setattr(
        run.Run, "all", lambda self, number: (given.update(self.parameters), jobs.append(number))[0] is None
    )
    chapters = ["01", "05", "--no-book", "--out", str(tmp_path), "--device", "cpu"]
    for arguments in (["--scheduler", "3"], ["-p", "scheduler", "3"]):
        assert run.main([*chapters, *arguments]) == 0
        blur, tokens = (given[notebooks.find([number])[0]] for number in ("05", "01"))
        assert blur["scheduler"] == 3
        assert "scheduler" not in tokens
    assert run.main([*chapters, "--scheduler", "3", "--jobs", "2"]) == 0
    assert run.main(chapters) == 0
    assert jobs == [1, 1, 2, run.default_jobs("cpu")]
    (tmp_path / "scheduler.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert run.chosen_scheduler("scheduler.json", {}) == str(tmp_path / "scheduler.json")
    assert run.chosen_scheduler("tcp://10.0.0.1:8786", {}) == "tcp://10.0.0.1:8786"
    assert run.chosen_scheduler(None, {}) is None


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
    assert "precision, scheduler)" in path.read_text()
