"""The terminal's view of running chapters."""

import pytest

from mae_helpers.run.display import Display, clock


def test_a_chapter_that_ends_has_a_line_and_one_that_fails_says_so(capsys, tmp_path):
    with Display() as display:
        with display.following("01_small", tmp_path / "progress"):
            assert list(display.running) == ["01_small"]
        with pytest.raises(ValueError, match="made up"), display.following("02", tmp_path / "progress"):
            raise ValueError("made up")
    assert not display.running
    told = capsys.readouterr().err
    assert "01_small  done  0:00" in told
    assert "02  failed" in told


def test_clock(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 125.9)
    assert clock(0.0) == "2:05"
