"""Peak memory of a process, as a chapter tells it to the runner."""

import json
import os
import subprocess
import sys

from mae_helpers.run import usage

CODE = "from mae_helpers.run import usage; usage.begin(); held = bytearray({size}); held[::4096] = b'x' * len(held[::4096])"


def peak_after(tmp_path, size):
    file = tmp_path / "usage"
    environment = os.environ | {usage.USAGE_FILE: str(file)}
    subprocess.run([sys.executable, "-c", CODE.format(size=size)], env=environment, check=True)
    return json.loads(file.read_text())["peak_memory_mb"]


def test_the_peak_counts_what_was_held(tmp_path):
    small, large = peak_after(tmp_path, 1), peak_after(tmp_path, 200 << 20)
    assert 190 < large - small < 230


def test_nothing_is_told_without_a_runner(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != usage.USAGE_FILE}
    subprocess.run([sys.executable, "-c", CODE.format(size=1)], env=environment, check=True, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_chapters_tell_it(tiny_run):
    told = json.loads((tiny_run.tables / "run.json").read_text())["notebooks"]
    assert all(entry["peak_memory_mb"] > 100 for entry in told.values())
