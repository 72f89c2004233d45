"""Peak memory of a process, as a chapter tells it to the runner."""

import json
import os
import subprocess
import sys

import pytest

from mae_helpers.run import usage

CODE = "from mae_helpers.run import usage; usage.begin(); held = bytearray({size}); held[::4096] = b'x' * len(held[::4096])"


@pytest.mark.parametrize("runs", [True, False])
def test_the_peak_counts_what_was_held_and_nothing_is_told_without_a_runner(tmp_path, runs):
    file, told = tmp_path / "usage", []
    environment = {name: value for name, value in os.environ.items() if name != usage.USAGE_FILE}
    for size in (1, 200 << 20):
        given = environment | ({usage.USAGE_FILE: str(file)} if runs else {})
        subprocess.run([sys.executable, "-c", CODE.format(size=size)], env=given, check=True)
        assert file.exists() == runs
        told.append(json.loads(file.read_text())["peak_memory_mb"] if runs else 0)
    assert not runs or 190 < told[1] - told[0] < 230
