"""The run command: bad input is refused before anything runs, with one clear line and a status other than 0."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from conftest import TINY, TINY_RUN
from processes import copied, python
from test_notebooks import write_notebook

from mae_helpers.encoder.vit import CheckpointError
from mae_helpers.profile.parameters import parse_value
from mae_helpers.profile.settings import load_profile
from mae_helpers.run import chapter, notebooks
from mae_helpers.run import command as run
from mae_helpers.run import tables as results

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


def test_wrong_inputs_are_refused_before_a_chapter_runs(capsys, tmp_path, tiny_profile):
    folder = {"images": {"source": "folders", "folder": "nowhere"}, "three_classes": None}
    for given, options, told in (
        ({}, ["--device", "cuda:63"], ["'cuda:63'", "--device cpu"]),
        (folder, [], ["nowhere: no such folder"]),
        (
            {"models": {"mae_pretrained": {"checkpoint": "gone.safetensors", "arguments": TINY}}},
            [],
            ["gone.safetensors: no such checkpoint"],
        ),
    ):
        options += ["--profile", str(tiny_profile(**given)), "--results", str(tmp_path / "r")]
        assert run.main([*options, "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert all(words in error for words in told), error
        assert not (tmp_path / "out").exists()


def test_a_model_that_no_chapter_is_to_look_at_may_lack_its_weights(tiny_profile, tmp_path):
    profile = load_profile(tiny_profile())
    (tmp_path / "weights" / "vit_supervised.safetensors").unlink()
    picked = run.Run(profile, ["01"], {"models": ["mae_finetuned"]}, "cpu", tmp_path, str(tmp_path / "r")).looked_at
    assert list(picked.models) == ["mae_finetuned"]
    assert picked.encoder == "mae_finetuned", "the control has its architecture"
    run.check_inputs(picked, "cpu")
    assert set(results.provenance(picked, "cpu")["checkpoints"]) == set(picked.models)
    everything = run.Run(profile, ["01"], {}, "cpu", tmp_path, str(tmp_path / "r")).looked_at
    with pytest.raises(CheckpointError, match=r"vit_supervised.safetensors: no such checkpoint"):
        run.check_inputs(everything, "cpu")


def test_an_optional_model_without_weights_is_left_out_and_said(tiny_profile, tmp_path, capsys):
    path = tiny_profile()
    values = yaml.safe_load(path.read_text())
    values["models"]["vit_supervised"]["optional"] = True
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    gone = tmp_path / "weights" / "vit_supervised.safetensors"
    gone.unlink()
    here = chapter.begin(str(path), "cpu", results_folder=str(tmp_path / "r"))
    assert here.encoders == ["mae_pretrained", "mae_finetuned"]
    assert f"vit_supervised is left out: {gone}: no such checkpoint" in here._repr_markdown_()
    assert here.made_from == results.made_from(load_profile(path))
    assert run.Run(load_profile(path), ["01"], {}, "cpu", tmp_path, str(tmp_path / "r")).looked_at.models.keys() == {
        *here.encoders
    }
    for other in ("mae_pretrained", "mae_finetuned"):
        values["models"][other]["optional"] = True
        (tmp_path / "weights" / f"{other}.safetensors").unlink()
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(
        CheckpointError, match=r"no model is at hand: .*mae_pretrained\.safetensors: no such checkpoint"
    ):
        chapter.begin(str(path), "cpu")


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
ODD = "a'b\"; import os; os.system('touch sprung') #\n${HOME} $(touch sprung)"
TELLS = "import os, sys\nprint([sys.executable, os.environ['ODD'], os.environ['OMP_NUM_THREADS'], x, nasty])"
MEETS = """import pathlib, time
pathlib.Path("met_{0}").touch()
until = time.monotonic() + 60
while len(list(pathlib.Path().glob("met_*"))) < 2:
    assert time.monotonic() < until
    time.sleep(0.1)
"""
DEMOS = "test_images_per_class = None"  # to which the profile demo gives another default
ANCESTORS = """import os
pids = [str(os.getpid())]
while pids[-1] != "0":
    pids.append(open(f"/proc/{pids[-1]}/stat").read().rsplit(")", 1)[1].split()[1])"""
KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Runs of four small chapters: one fails, one kills itself; what the machine calls its kernel is none."""
    root = copied(tmp_path_factory.mktemp("small"))
    for name, tag, *cells in (
        ("01_tells", notebooks.READS_RUN, "x = 1\nnasty = ['a']", TELLS),
        ("02_killed", None, "x = 1", MEETS.format(2), KILLED),
        ("03_wrong", notebooks.READS_TABLES, f"x = 1\n{DEMOS}", "raise ValueError(f'x is {x}')"),
        ("04_after", None, "x = 1", MEETS.format(4), "x"),
    ):
        write_notebook(root / "notebooks" / f"{name}.ipynb", *cells, tags=[tag] if tag else [])
    (root / "kernels" / "python3").mkdir(parents=True)
    kernel = {"argv": ["false"], "display_name": "Python 3", "language": "python"}
    (root / "kernels" / "python3" / "kernel.json").write_text(json.dumps(kernel))
    older = root / "out" / "executed" / "demo" / "03_wrong.ipynb"
    older.parent.mkdir(parents=True)
    older.write_text((root / "notebooks" / "03_wrong.ipynb").read_text())
    where = ["--out", root / "out", "--results", root / "results", "--device", "cpu", "-p", "x", "7", "--jobs", "2"]
    where += ["-p", "nasty", json.dumps(NASTY)]

    def command(*options):
        process = python(root, "-m", "mae_helpers.run", *where, *options, ODD=ODD, JUPYTER_PATH=str(root))
        told = process.communicate(timeout=200)[1]
        return process.returncode, told

    status, told = command()
    record = results.read_run(root / "results" / "demo")
    return SimpleNamespace(root=root, status=status, told=told, command=command, record=record, older=older)


def test_a_chapter_that_fails_or_is_killed_is_named_and_the_others_go_on(small):
    assert small.status == 1
    assert "error: 02_killed: its process was killed, most often for want of memory" in small.told
    assert "error: 03_wrong: ValueError: x is 7\n" in small.told
    assert "no book was built: a chapter failed" in small.told
    assert sorted(small.record["notebooks"]) == ["01_tells", "04_after"]


def test_two_run_side_by_side_what_reads_tables_after_them_and_what_reads_the_run_last(small):
    """02 and 04 wait for each other."""
    begun = [line.split()[0] for line in small.told.splitlines() if line.endswith("  started")]
    assert sorted(begun[:2]) == ["02_killed", "04_after"]
    assert begun[2:] == ["03_wrong", "01_tells"]


def test_a_failure_keeps_the_copy_for_reading_and_the_older_result(small):
    for name in ("02_killed", "03_wrong"):
        failed = small.older.parent / "failed" / f"{name}.ipynb"
        assert f"read it in {failed}" in small.told
        assert notebooks.complaint(failed, "demo")
    outputs = [cell.get("outputs", []) for cell in nbformat.read(failed, 4).cells]
    assert "x is 7" in str(outputs[-1]), "the traceback"
    assert small.older.read_text() == (small.root / "notebooks" / "03_wrong.ipynb").read_text()


def test_a_chapter_runs_in_this_interpreter_with_environment_and_values_as_they_are(small):
    """A parameter is a value and never code."""
    copy = nbformat.read(small.older.with_name("01_tells.ipynb"), 4)
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    assert copy.cells[-1].outputs[0].text.strip() == repr([sys.executable, ODD, threads, 7, NASTY])
    assert copy.cells[1].metadata.tags == ["injected-parameters", "hide-input"]
    assert not list(small.root.rglob("sprung"))


def test_what_a_chapter_took_is_told(small):
    entry = small.record["notebooks"]["04_after"]
    assert entry["seconds"] > 0
    assert 20 < entry["peak_memory_mb"] < 1500, "with the libraries that it was forked with"
    assert entry["parameters"] == {"x": 7}
    assert small.record["data"] == results.data_fingerprint(load_profile("demo"))


def test_what_is_current_is_not_run_again(small):
    assert small.command("01", "04", "--no-book") == (0, "demo: 2 of 2 notebooks are up to date\n")


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def waits(condition, seconds):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return condition()


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_runner_that_is_stopped_or_killed_leaves_no_process(tmp_path, sign, status):
    code = f"{ANCESTORS}\nimport pathlib, time\npathlib.Path('pids').write_text(' '.join(pids) + ' .')\ntime.sleep(600)"
    root, pids = copied(tmp_path), tmp_path / "notebooks" / "pids"
    write_notebook(root / "notebooks" / "01_waits.ipynb", DEMOS, code)
    where = ["--out", root, "--results", root, "--device", "cpu"]
    with python(root, "-m", "mae_helpers.run", *where) as process:
        waits(lambda: pids.exists() and pids.read_text().endswith("."), 180)
        process.send_signal(sign)
        assert process.wait(timeout=20) == status
        assert ("stopped: what was finished is kept" in process.stderr.read()) == (sign == signal.SIGINT)
    own = pids.read_text().split(f" {process.pid} ")[0].split()
    assert len(own) == 3, "the kernel, papermill, and what they were forked from"
    assert waits(lambda: not any(is_alive(int(pid)) for pid in own), 20)


def test_the_chapters_of_a_whole_run_are_current_and_not_those_that_take_a_changed_parameter(tiny_run):
    def stale(**more):
        one = run.Run(tiny_run.profile, [], TINY_RUN | more, "cpu", tiny_run.out, str(tiny_run.out / "results"))
        return [path.stem for path in one.paths if not one.is_current(path)]

    assert stale() == []
    assert stale(k=4) == ["03_principal_angles"]


def test_the_scorecard_is_made_anew_where_another_chapters_table_changed(tmp_path):
    other, path = notebooks.find(["01", "10"])
    states = []
    for name, content in (("table1_blur", "a"), ("scorecard", "its own"), ("table1_blur", "b")):
        (tmp_path / f"{name}.csv").write_text(content)
        states.append(notebooks.fingerprint(path, load_profile("demo"), {}, "data", tmp_path))
    assert states[0] == states[1] != states[2]
    one, two = (notebooks.fingerprint(other, load_profile("demo"), {}, "data", at) for at in (tmp_path, None))
    assert one == two


def test_the_status_of_a_run_is_current_until_another_chapter_ran(tiny_run, tmp_path):
    (status,) = (path for path in notebooks.find([]) if notebooks.READS_RUN in path.read_text())
    told = json.loads((tiny_run.tables / "run.json").read_text())
    assert set(told["notebooks"]) == {path.stem for path in notebooks.find([])}
    before = notebooks.fingerprint(status, tiny_run.profile, {}, "data", tiny_run.tables)
    for name, changes in {None: False, status.stem: False, "03_principal_angles": True}.items():
        if name:
            told["notebooks"][name]["seconds"] += 1
        (tmp_path / "run.json").write_text(json.dumps(told))
        now = notebooks.fingerprint(status, tiny_run.profile, {}, "data", tmp_path)
        assert (now != before) == changes, "its own entry does not matter"
