"""The run command: bad input is refused before anything runs, with one clear line and a status other than 0."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from papermill.iorw import read_yaml_file
from papermill.translators import PythonTranslator
from test_notebooks import write_notebook

from mae_helpers.encoder import weights as checkpoints
from mae_helpers.images import sets as images
from mae_helpers.profile.parameters import parse_value
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import command as run
from mae_helpers.run import notebooks
from mae_helpers.run import tables as results

CHAPTERS = [path.stem for path in notebooks.find([])]
LIGHT = """
import runpy, sys
try:
    runpy.run_module("mae_helpers.run", run_name="__main__")
except SystemExit as end:
    print(end.code, *sorted({"torch", "timm", "pandas", "papermill", "nbformat", "numpy"} & {*sys.modules}))
"""


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--help"], "0", ["usage: python -m mae_helpers.run"]),
        (["--profile", "dmeo"], "1", ["error: unknown profile 'dmeo'", "demo, paper"]),
        (["-p", "images_per_clas", "3"], "1", ["'images_per_clas' is unknown", "images_per_class"]),
        (["03", "-p", "k", "many"], "1", ["error: parameter 'k' is 'many'; use whole numbers"]),
        (["77"], "1", ["no notebook '77'", "03_principal_angles"]),
        (["--jobs", "0"], "1", ["--jobs 0: use 1 or more"]),
    ],
)
def test_a_wrong_command_line_is_answered_without_what_takes_seconds_to_import(arguments, status, told):
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == status, "nothing heavy was imported"
    assert all(words in done.stdout + done.stderr for words in told)


@pytest.fixture
def ran(monkeypatch):
    """The names of the chapters that would be run: none is, and no input is opened for them."""
    names = []
    monkeypatch.setattr(notebooks, "execute", lambda source, *_: names.append(source.stem))
    monkeypatch.setattr(run, "check_inputs", lambda *_: None)
    return names


def refused(capsys, tmp_path, *arguments):
    assert run.main([*arguments, "--out", str(tmp_path / "out"), "--results", str(tmp_path / "r")]) == 1
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().err


def test_wrong_inputs_are_refused_before_a_chapter_runs(capsys, tmp_path, tiny_profile, monkeypatch):
    error = refused(capsys, tmp_path, "--device", "cuda:63")
    assert "'cuda:63'" in error
    assert "--device cpu" in error
    path = tiny_profile(images={"source": "folders", "folder": "nowhere"}, three_classes=None)
    assert "nowhere: no such folder" in refused(capsys, tmp_path, "--profile", str(path))
    with monkeypatch.context() as patch:
        patch.setattr(images, "DEMO_SHA256", "0" * 64)
        error = refused(capsys, tmp_path)
    assert "SHA-256" in error
    assert "build_images" in error
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    assert "mae_pretrained.safetensors: no such checkpoint" in refused(capsys, tmp_path)


@pytest.mark.parametrize("name", ["../../up", "..", "/root", "a/b"])
def test_the_name_of_a_profile_does_not_lead_out_of_the_folders(name, tiny_profile, tmp_path, capsys):
    path = tiny_profile()
    path.write_text(path.read_text().replace("name: tiny", f"name: {name}"))
    error = refused(capsys, tmp_path, "05", "--profile", str(path))
    assert f"name is {name!r}; folders are called by it" in error


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("0.75", 0.75), ("true", True), ("[1, 2]", [1, 2]), ("euclidean", "euclidean")]
    + [(same, same) for same in ("2020-01-01", "!!set {a, b}", "!!binary aGk=", "{1: 2020-01-01}", "[[a", "&a [*a]")],
)
def test_values_from_the_command_line(text, value):
    """What is no value of a notebook stays text."""
    assert parse_value(text) == value


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
    """As papermill reads it from a file, and writes it into the notebook, in its own cell."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for value in (parse_value(text), text, [text], {text: text}):
        (tmp_path / "values.yaml").write_text(yaml.safe_dump({"parameter": value}))
        read, found = read_yaml_file(str(tmp_path / "values.yaml")), {}
        exec(PythonTranslator.codify(read), found)
        assert found["parameter"] == value
    assert not list(Path().iterdir())


ODD = "a'b\"; import os; os.system('touch sprung') #\n${HOME} $(touch sprung)"
TELLS = "import os, sys\nprint([sys.executable, os.environ['ODD'], os.environ['OMP_NUM_THREADS'], x])"
KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of four small chapters: one fails, one kills itself; what the machine calls its kernel is none."""
    root = tmp_path_factory.mktemp("small")
    for name, code in {
        "01_tells": TELLS,
        "02_killed": KILLED,
        "03_wrong": "raise ValueError(f'x is {x}')",
        "04_after": "x",
    }.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", "x = 1", code)
    (root / "kernels" / "python3").mkdir(parents=True)
    (root / "kernels" / "python3" / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "Python 3", "language": "python"})
    )
    older, told = root / "out" / "executed" / "demo" / "03_wrong.ipynb", []
    older.parent.mkdir(parents=True)
    older.write_text((root / "notebooks" / "03_wrong.ipynb").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "find", partial(notebooks.find, folder=root / "notebooks"))
        patch.setattr(run, "check_inputs", lambda *_: None)
        patch.setattr("builtins.print", lambda *words, **_: told.append(" ".join(words)))
        patch.setenv("ODD", ODD)
        patch.setenv("JUPYTER_PATH", str(root))
        where = ["--out", str(root / "out"), "--results", str(root / "results"), "-p", "x", "7", "--device", "cpu"]
        status = run.main(where)
        again = run.main([*where, "01", "04", "--no-book"])
    entries = results.read_run(root / "results" / "demo")["notebooks"]
    return SimpleNamespace(root=root, status=status, again=again, told="\n".join(told), entries=entries, older=older)


def test_a_chapter_that_fails_or_is_killed_is_named_and_the_others_go_on(small):
    assert small.status == 1
    assert "error: 02_killed: its process was killed, most often for want of memory" in small.told
    assert "error: 03_wrong: ValueError: x is 7\n" in small.told
    assert "no book was built: a chapter failed" in small.told
    assert sorted(small.entries) == ["01_tells", "04_after"]


def test_a_failure_keeps_the_copy_for_reading_and_the_older_result(small):
    for name in ("02_killed", "03_wrong"):
        failed = small.older.parent / "failed" / f"{name}.ipynb"
        assert f"read it in {failed}" in small.told
        assert notebooks.complaint(failed, "demo")
    outputs = [cell.get("outputs", []) for cell in nbformat.read(failed, 4).cells]
    assert "x is 7" in str(outputs[-1]), "the traceback"
    assert small.older.read_text() == (small.root / "notebooks" / "03_wrong.ipynb").read_text()


def test_a_chapter_runs_in_this_interpreter_with_the_environment_as_it_is(small):
    copy = nbformat.read(small.older.with_name("01_tells.ipynb"), 4)
    threads = str(max(1, (os.cpu_count() or 1) // run.default_jobs("cpu")))
    assert copy.cells[-1].outputs[0].text.strip() == repr([sys.executable, ODD, threads, 7])
    assert [cell.metadata.tags for cell in copy.cells[:2]] == [["parameters"], ["injected-parameters", "hide-input"]]
    assert not list(small.root.rglob("sprung"))


def test_what_a_chapter_took_is_told(small):
    entry = small.entries["01_tells"]
    assert entry["seconds"] > 0
    assert 20 < entry["peak_memory_mb"] < 500
    assert entry["parameters"] == {"x": 7}


def test_what_is_current_is_not_run_again(small):
    assert small.again == 0
    assert small.told.endswith("demo: 2 of 2 notebooks are up to date")


INTERRUPTED = """
import signal, sys
from functools import partial
from pathlib import Path
from mae_helpers.run import command, notebooks
notebooks.find = partial(notebooks.find, folder=Path(sys.argv[1]))
command.check_inputs = lambda *_: None
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests themselves run in the background
command.main(["--out", sys.argv[1], "--results", sys.argv[1], "--device", "cpu"])
"""


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupt_stops_at_once_and_the_chapters_with_it(tmp_path):
    code = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(tmp_path / "01_waits.ipynb", "x = 1", code)
    call = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert "stopped: what was finished is kept" in process.stderr.read()
    kernel, until = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while is_alive(kernel) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_alive(kernel)


def whole(folder):
    return run.Run(load_profile("demo"), [], {}, "cpu", folder, str(folder / "results"))


def test_chapters_that_read_tables_come_late_and_the_status_of_the_run_last(ran, tmp_path):
    assert whole(tmp_path).all(2)
    assert ran[-2:] == ["10_scorecard", "91_status"]
    assert sorted(ran) == CHAPTERS


def test_two_chapters_run_side_by_side(ran, monkeypatch, tmp_path):
    meeting = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(notebooks, "execute", lambda *_: meeting.wait())
    assert run.Run(load_profile("demo"), ["01", "02"], {}, "cpu", tmp_path, str(tmp_path / "results")).all(2)


def tiny(tiny_run, **more):
    from conftest import TINY_RUN

    return run.Run(tiny_run.profile, [], TINY_RUN | more, "cpu", tiny_run.out, str(tiny_run.out / "results"))


def test_a_second_run_redoes_nothing_and_a_changed_parameter_the_chapters_that_take_it(
    tiny_run, ran, capsys, monkeypatch
):
    assert tiny(tiny_run).all(1)
    assert not ran
    assert f"{len(CHAPTERS)} of {len(CHAPTERS)} notebooks are up to date" in capsys.readouterr().err
    monkeypatch.setattr(results, "record_run", lambda *_, **__: None)
    assert tiny(tiny_run, k=4).all(1)
    assert ran == ["03_principal_angles"]


def test_other_data_give_every_chapter_another_fingerprint(ran, monkeypatch, tmp_path):
    one = whole(tmp_path)
    monkeypatch.setattr(results, "data_fingerprint", lambda _: "other")
    two = whole(tmp_path)
    assert not {one.fingerprint(path) for path in one.paths} & {two.fingerprint(path) for path in two.paths}
    assert two.all(1)
    assert json.loads((tmp_path / "results" / "demo" / "run.json").read_text())["data"] == "other"


def test_the_scorecard_is_made_anew_where_another_chapters_table_changed(tmp_path):
    (path, other), profile = notebooks.find(["10", "01"])[::-1], load_profile("demo")
    (tmp_path / "table1_blur.csv").write_text("a")
    before = notebooks.fingerprint(path, profile, {}, "data", tmp_path)
    (tmp_path / "scorecard.csv").write_text("its own")
    assert notebooks.fingerprint(path, profile, {}, "data", tmp_path) == before
    (tmp_path / "table1_blur.csv").write_text("b")
    assert notebooks.fingerprint(path, profile, {}, "data", tmp_path) != before
    one, two = (notebooks.fingerprint(other, profile, {}, "data", tables) for tables in (tmp_path, None))
    assert one == two


def test_the_status_of_a_run_is_current_until_another_chapter_ran(tiny_run, tmp_path):
    one = tiny(tiny_run)
    (status,) = (path for path in one.paths if notebooks.has_tag(path, notebooks.READS_RUN))
    told = json.loads((one.tables / "run.json").read_text())
    assert set(told["notebooks"]) == {path.stem for path in one.paths}
    now = partial(notebooks.fingerprint, status, tiny_run.profile, one.parameters[status], one.data)
    before = now(one.tables)
    for name, changes in {None: False, status.stem: False, "03_principal_angles": True}.items():
        if name:
            told["notebooks"][name]["seconds"] += 1
        (tmp_path / "run.json").write_text(json.dumps(told))
        assert (now(tmp_path) != before) == changes, "its own entry does not matter"
