"""The run command: bad input is refused before anything runs, with one clear line and a status other than 0."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from papermill.translators import PythonTranslator

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.images import sets as images
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import command as run
from mae_helpers.run import notebooks
from mae_helpers.run import tables as results


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fail the test if a notebook is executed."""

    def execute(source, *_):
        pytest.fail(f"{source} was run")

    monkeypatch.setattr(notebooks, "execute", execute)


@pytest.mark.usefixtures("nothing_runs")
class TestBadInput:
    def refuse(self, capsys, tmp_path, *arguments):
        assert run.main([*arguments, "--out", str(tmp_path / "out")]) != 0
        return capsys.readouterr().err

    def test_unknown_profile(self, capsys, tmp_path):
        error = self.refuse(capsys, tmp_path, "--profile", "dmeo")
        assert "unknown profile 'dmeo'" in error
        assert "demo" in error

    def test_unknown_parameter(self, capsys, tmp_path):
        error = self.refuse(capsys, tmp_path, "-p", "images_per_clas", "3")
        assert "'images_per_clas' is unknown" in error
        assert "images_per_class" in error

    def test_unknown_notebook(self, capsys, tmp_path):
        assert "no notebook '77'" in self.refuse(capsys, tmp_path, "77")

    def test_absent_gpu(self, capsys, tmp_path):
        error = self.refuse(capsys, tmp_path, "--device", "cuda:63")
        assert "'cuda:63'" in error
        assert "--device cpu" in error

    def test_missing_image_folder(self, capsys, tmp_path, tiny_profile):
        path = tiny_profile(images={"source": "folders", "folder": "nowhere"}, three_classes=None)
        error = self.refuse(capsys, tmp_path, "--profile", str(path))
        assert "nowhere: no such folder" in error

    def test_wrong_bundled_images(self, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr(images, "DEMO_SHA256", "0" * 64)
        error = self.refuse(capsys, tmp_path)
        assert "SHA-256" in error
        assert "build_images" in error

    def test_missing_checkpoint(self, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
        assert "mae_pretrained.safetensors: no such checkpoint" in self.refuse(capsys, tmp_path)


def test_values_from_the_command_line():
    assert run.parse_value("10") == 10
    assert run.parse_value("0.75") == 0.75
    assert run.parse_value("true") is True
    assert run.parse_value("[1, 2]") == [1, 2]
    assert run.parse_value("euclidean") == "euclidean"


NASTY = [
    "!!python/object/apply:os.system ['touch sprung']",
    "__import__('os').system('touch sprung')",
    "\"\nimport os; os.system('touch sprung')\n\"",
    "'''; __import__('os').system('touch sprung'); '''",
    "\\",
    "{x!r}",
    "%system touch sprung",
]


@pytest.mark.parametrize("text", NASTY)
def test_a_parameter_is_a_value_and_never_code(text, tmp_path, monkeypatch):
    """As papermill writes it into the notebook, in its own cell."""
    monkeypatch.chdir(tmp_path)
    for value in (run.parse_value(text), text, [text], {text: text}):
        found = {}
        exec(PythonTranslator.codify({"parameter": value}), found)
        assert found["parameter"] == value
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["2020-01-01", "!!set {a, b}", "!!binary aGk=", "{1: 2020-01-01}", "[[a", "&a [*a]"])
def test_what_is_no_value_of_a_notebook_stays_text(text):
    assert run.parse_value(text) == text


def test_the_environment_of_a_chapter_is_set_and_never_run(tmp_path, monkeypatch):
    """As the kernel's command line has it: a folder's name may hold anything."""
    name = "a'b\"; import os; os.system('touch sprung') #\n${HOME} $(touch sprung)"
    seen, [path] = {}, notebooks.find(["01"])

    def execute(source, target, **options):
        seen.update(options)
        Path(target).write_bytes(path.read_bytes())

    monkeypatch.setattr(notebooks.papermill, "execute_notebook", execute)
    notebooks.execute(path, tmp_path / "a.ipynb", {}, {}, {"SPRUNG": name})
    [line] = [text for text in seen["extra_arguments"] if "exec_lines" in text]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("SPRUNG", "")
    exec(line.partition("exec_lines=")[2].partition("; from mae_helpers")[0])
    assert os.environ["SPRUNG"] == name
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["../../up", "..", "/root", "a/b"])
def test_the_name_of_a_profile_does_not_lead_out_of_the_folders(name, tiny_profile, tmp_path, capsys):
    path = tiny_profile()
    path.write_text(path.read_text().replace("name: tiny", f"name: {name}"))
    where = ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "r")]
    assert run.main(["05", "--profile", str(path), *where]) == 1
    assert f"name is {name!r}; folders are called by it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failed_chapter_stops_the_book_but_not_the_others(monkeypatch, tmp_path, capsys):
    ran = []

    def execute(source, target, *_):
        ran.append(source.stem)
        if source.stem.startswith("02"):
            raise notebooks.NotebookError(f"{source.stem}: ValueError: made up")

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(run, "check_inputs", lambda *_: None)
    status = run.main(["--out", str(tmp_path), "--results", str(tmp_path / "results"), "--jobs", "1"])
    error = capsys.readouterr().err
    assert status == 1
    assert sorted(ran) == [path.stem for path in notebooks.find([])]
    assert "02_attention_distance: ValueError: made up" in error
    assert "no book was built" in error


def test_other_data_give_every_chapter_another_fingerprint(monkeypatch, tmp_path):
    demo, marks = load_profile("demo"), {"one": {}, "two": {}}
    monkeypatch.setattr(run, "check_inputs", lambda *_: None)
    for data, found in marks.items():
        monkeypatch.setattr(results, "data_fingerprint", lambda _, data=data: data)
        monkeypatch.setattr(
            notebooks,
            "execute",
            lambda source, target, parameters, mark, *_, found=found: found.update({source.stem: mark["fingerprint"]}),
        )
        assert run.Run(demo, [], {}, "cpu", tmp_path, str(tmp_path / "results")).all(1)
        assert json.loads((tmp_path / "results" / "demo" / "run.json").read_text())["data"] == data
    assert sorted(marks["one"]) == sorted(marks["two"]) == [path.stem for path in notebooks.find([])]
    assert not set(marks["one"].values()) & set(marks["two"].values())


def test_second_run_redoes_nothing(tiny_run, monkeypatch, capsys):
    from conftest import TINY_RUN

    monkeypatch.setattr(notebooks, "execute", lambda source, *_: pytest.fail(f"{source} was run again"))
    assert run.Run(tiny_run.profile, [], TINY_RUN, "cpu", tiny_run.out, str(tiny_run.out / "results")).all(1)
    count = len(notebooks.find([]))
    assert f"{count} of {count} notebooks are up to date" in capsys.readouterr().err


def test_changed_parameter_redoes_the_chapters_that_take_it(tiny_run, monkeypatch):
    from conftest import TINY_RUN

    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda source, *_: ran.append(source.stem))
    monkeypatch.setattr(run, "check_inputs", lambda *_: None)
    monkeypatch.setattr(run.results, "record_run", lambda *_, **__: None)
    run.Run(tiny_run.profile, [], TINY_RUN | {"k": 4}, "cpu", tiny_run.out, str(tiny_run.out / "results")).all(1)
    assert ran == ["03_principal_angles"]


def test_chapters_that_read_tables_come_late_and_the_status_of_the_run_last(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda source, *_: ran.append(source.stem))
    monkeypatch.setattr(run, "check_inputs", lambda *_: None)
    assert run.Run(load_profile("demo"), [], {}, "cpu", tmp_path, str(tmp_path / "results")).all(2)
    assert ran[-2:] == ["10_scorecard", "91_status"]
    assert sorted(ran) == [path.stem for path in notebooks.find([])]


def test_the_scorecard_is_made_anew_where_another_chapters_table_changed(tmp_path):
    path, profile = notebooks.find(["10"])[0], load_profile("demo")
    (tmp_path / "table1_blur.csv").write_text("a")
    before = notebooks.fingerprint(path, profile, {}, "data", tmp_path)
    (tmp_path / "scorecard.csv").write_text("its own")
    assert notebooks.fingerprint(path, profile, {}, "data", tmp_path) == before
    (tmp_path / "table1_blur.csv").write_text("b")
    assert notebooks.fingerprint(path, profile, {}, "data", tmp_path) != before
    other = notebooks.find(["01"])[0]
    assert notebooks.fingerprint(other, profile, {}, "data", tmp_path) == notebooks.fingerprint(
        other, profile, {}, "data"
    )


def test_no_job_at_all_is_refused(capsys, tmp_path):
    assert run.main(["--jobs", "0", "--out", str(tmp_path)]) == 1
    assert "--jobs 0: use 1 or more" in capsys.readouterr().err


def test_two_chapters_run_side_by_side(monkeypatch, tmp_path):
    meeting = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(notebooks, "execute", lambda source, *_: meeting.wait())
    monkeypatch.setattr(run, "check_inputs", lambda *_: None)
    assert run.Run(load_profile("demo"), ["01", "02"], {}, "cpu", tmp_path, str(tmp_path / "results")).all(2)


def test_an_interrupt_stops_at_once(tmp_path):
    code = (
        "import sys, time; from mae_helpers import notebooks, run; run.check_inputs = lambda *_: None\n"
        "notebooks.execute = lambda *_: (print('running\\n', end='', flush=True), time.sleep(120))\n"
        "run.main(['--out', sys.argv[1], '--results', sys.argv[1], '--jobs', '2'])"
    )
    call = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert "stopped: what was finished is kept" in process.stderr.read()


def test_the_status_of_a_run_is_current_until_another_chapter_ran(tiny_run, tmp_path):
    from conftest import TINY_RUN

    one = run.Run(tiny_run.profile, [], TINY_RUN, "cpu", tiny_run.out, str(tiny_run.out / "results"))
    (status,) = (path for path in one.paths if notebooks.has_tag(path, notebooks.READS_RUN))
    told = json.loads((one.tables / "run.json").read_text())
    assert set(told["notebooks"]) == {path.stem for path in one.paths}
    arguments = (status, tiny_run.profile, one.parameters[status], one.data)
    before = notebooks.fingerprint(*arguments, one.tables)
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert notebooks.fingerprint(*arguments, tmp_path) == before
    told["notebooks"][status.stem]["seconds"] += 1
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert notebooks.fingerprint(*arguments, tmp_path) == before, "its own entry does not matter"
    told["notebooks"]["03_principal_angles"]["seconds"] += 1
    (tmp_path / "run.json").write_text(json.dumps(told))
    assert notebooks.fingerprint(*arguments, tmp_path) != before
