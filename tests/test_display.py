"""The terminal's view of running chapters."""

import pytest

from mae_helpers.run.display import Display, clock


def test_a_chapter_that_ends_has_a_line(capsys, tmp_path):
    with Display() as display, display.following("01_small", tmp_path / "progress"):
        assert list(display.running) == ["01_small"]
    assert not display.running
    assert "01_small  done  0:00" in capsys.readouterr().err


def test_a_chapter_that_fails_says_so(capsys, tmp_path):
    with (
        pytest.raises(ValueError, match="made up"),
        Display() as display,
        display.following("02", tmp_path / "progress"),
    ):
        raise ValueError("made up")
    assert "02  failed" in capsys.readouterr().err


def test_clock(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 125.9)
    assert clock(0.0) == "2:05"
