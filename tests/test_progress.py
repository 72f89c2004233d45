"""Progress passes every item through, and tells a runner through a file."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from mae_helpers.profile.progress import PROGRESS_FILE, SESSION, progress


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


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{SESSION: "a.ipynb"}, {}, {SESSION: "a.ipynb", PROGRESS_FILE: "progress"}])
def test_a_notebook_shows_a_bar_only_to_whoever_has_it_open(tmp_path, monkeypatch, environment):
    """A loop in a kernel of its own: the bar is a widget."""
    monkeypatch.delenv(SESSION, raising=False)
    code = "from mae_helpers.profile.progress import progress\nprint(sum(progress([1, 2], 'numbers', 2)))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client, shown = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": tmp_path}}), []
    process = client.process_message
    monkeypatch.setattr(
        client, "process_message", lambda message, *rest: (shown.append(message), process(message, *rest))[1]
    )
    client.execute(env=os.environ | environment)
    assert [output["text"] for output in notebook.cells[0].outputs if output["output_type"] == "stream"] == ["3\n"]
    bars = [message for message in shown if message["msg_type"] == "display_data"]
    assert bool(bars) == (environment == {SESSION: "a.ipynb"})
    assert all("application/vnd.jupyter.widget-view+json" in bar["content"]["data"] for bar in bars)
