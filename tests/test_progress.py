"""Progress passes every item through, and tells a runner through a file."""

from mae_helpers.profile.progress import PROGRESS_FILE, progress


def test_items_pass_through_in_order(capsys, monkeypatch):
    monkeypatch.delenv(PROGRESS_FILE, raising=False)
    assert list(progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_runner_reads_the_last_step_from_the_file(tmp_path, monkeypatch):
    file = tmp_path / "progress"
    monkeypatch.setenv(PROGRESS_FILE, str(file))
    steps = progress(iter("abc"), "letters", 3)
    assert next(iter(steps)) == "a"
    assert file.read_text() == "letters 1/3"
    assert list(progress(iter("abc"), "letters", 3)) == ["a", "b", "c"]
    assert file.read_text() == "letters 3/3"
