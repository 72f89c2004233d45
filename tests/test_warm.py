"""Chapters that are forked from one process: the same results as from new interpreters, each in its own environment."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from test_notebooks import write_notebook
from test_run import ANCESTORS

from mae_helpers.profile.settings import load_profile
from mae_helpers.run import command, notebooks, warm

TELLS = f"""{ANCESTORS}
import sys
has_torch = "torch" in sys.modules
import numpy as np, random, torch
drawn = [random.random(), np.random.rand(), torch.rand(1).item()]
print([pids, os.environ.get("OF_CHAPTER"), torch.get_num_threads(), has_torch, drawn])"""


@pytest.fixture
def told(tmp_path):
    """A function that runs a chapter, and returns what it tells of its process."""
    write_notebook(tmp_path / "01_tells.ipynb", "device = 'cpu'", TELLS)

    def run(device="cpu", **environment):
        source, target = tmp_path / "01_tells.ipynb", tmp_path / "out" / "01_tells.ipynb"
        began = warm._served[0] if warm._served else {"OMP_NUM_THREADS": "1"}  # with an earlier test's variables
        notebooks.execute(source, target, {"device": device}, {}, began | environment, tmp_path)
        return eval(notebooks.read(target)["cells"][-1]["outputs"][0]["text"][0])

    return run


def test_two_chapters_share_what_one_process_imported_and_nothing_else(told, monkeypatch):
    monkeypatch.setattr(warm, "EACH", warm.EACH | {"OF_CHAPTER"})
    (one, *first), (two, *second) = told(OF_CHAPTER="1"), told(OF_CHAPTER="2")
    assert one[2:] == two[2:]
    assert one[3] == str(os.getpid()), "kernel, papermill, server, runner"
    assert len({*one[:2], *two[:2]}) == 4
    assert (first[0], second[0]) == ("1", "2")
    assert first[1:3] == second[1:3] == [first[1], True]
    assert not {*first[3]} & {*second[3]}, "random numbers are not the same ones"


def test_chapters_start_cold_on_a_gpu_and_with_other_variables_that_are_read_on_import(told, monkeypatch):
    assert told()[0][3] == str(os.getpid())
    other = told(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    monkeypatch.setattr(warm, "pick_device", torch.device)
    for cold in (other, told("cuda")):
        assert cold[0][2] == str(os.getpid()), "kernel, papermill, runner"
        assert cold[3] is False


def test_nothing_that_makes_a_fork_unsafe_is_imported(told):
    """Threads of libraries that know of forks: jemalloc begins its own again, OpenBLAS (NumPy's, SciPy's) stops its."""
    server, of_each = told()[0][2], int(warm._served[0].get("OMP_NUM_THREADS", os.cpu_count())) - 1
    threads = [path.read_text().strip() for path in Path(f"/proc/{server}/task").glob("*/comm")]
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) <= 1 + 2 * of_each


def test_a_chapter_is_the_same_to_the_byte_forked_or_not(told, tiny_profile, tmp_path, monkeypatch):
    """But for addresses of objects, and what papermill says of its time."""
    told()  # the server has begun
    profile, found = load_profile(tiny_profile()), []
    for forks in (True, False):
        monkeypatch.setattr(warm, "_serves", lambda variables, forks=forks: forks)
        out = tmp_path / str(forks)
        run = command.Run(profile, ["02"], {"images_per_class": 4}, "cpu", out, str(out))
        assert run.all(2)
        cells = notebooks.read(run.executed / run.paths[0].name)["cells"]
        outputs = re.sub(r"0x\w+|/(True|False)\b", "", json.dumps([cell.get("outputs") for cell in cells]))
        found.append((outputs, {path.name: path.read_bytes() for path in run.tables.glob("*.csv")}))
    assert found[0] == found[1]
    assert found[0][1]
