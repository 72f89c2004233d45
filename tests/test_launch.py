"""The repository's address: notebooks that set themselves up, and buttons that open them elsewhere."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import launch, notebooks
from mae_helpers.run import site as book

ADDRESS = "https://github.com/someone/mae-book"


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A copy of the repository's sources that knows its address."""
    root = tmp_path_factory.mktemp("launched")
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "book", root / "book")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    launch.launch(ADDRESS + ".git", root)
    return root


def test_every_notebook_sets_itself_up_in_its_first_cell(launched):
    for source in notebooks.find([]):
        path = launched / "notebooks" / source.name
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert f"%pip install -q git+{ADDRESS}" in first.source
        others = [cell for cell in notebook.cells if cell.id != launch.CELL]
        assert others == nbformat.read(source, 4).cells
        assert notebooks.parameters_of(path) == notebooks.parameters_of(source)


def test_the_first_cell_does_nothing_where_the_module_is_there(tmp_path):
    cell = launch.set_up_cell(ADDRESS)
    source = cell.source.replace("%pip install", "raise SystemExit('installs') #")
    assert subprocess.run([sys.executable, "-c", source], cwd=ROOT).returncode == 0
    elsewhere = subprocess.run([sys.executable, "-S", "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert elsewhere.stderr.strip() == "installs"


def test_a_second_address_takes_the_place_of_the_first(launched, tmp_path):
    root = tmp_path / "again"
    shutil.copytree(launched, root)
    launch.launch("https://github.com/another/book", root)
    for path in [root / "_config.yml", root / "CITATION.cff", *notebooks.find([], root / "notebooks")]:
        text = path.read_text()
        assert "someone" not in text, path.name
        assert text.count("https://github.com/another/book") == 1, path.name


def test_the_citation_has_the_address(launched):
    assert yaml.safe_load((launched / "CITATION.cff").read_text())["repository-code"] == ADDRESS


@pytest.mark.parametrize(
    "address", ["", "github.com/a/b", "https://gitlab.com/a/b", "https://github.com/a/b; ls", "https://github.com/a"]
)
def test_another_kind_of_address_is_refused(address, capsys):
    before = (ROOT / "_config.yml").read_text()
    assert launch.main([address]) == 1
    assert f"{address!r} is no repository on GitHub; use https://github.com/OWNER/NAME" in capsys.readouterr().err
    assert (ROOT / "_config.yml").read_text() == before


def test_pages_of_notebooks_get_buttons(launched, tiny_run, tmp_path):
    toc = "format: jb-book\nroot: notebooks/90_demo_model\nchapters: [{file: book/bibliography}]\n"
    (launched / "_toc.yml").write_text(toc)
    executed = tmp_path / "executed"
    executed.mkdir()
    shutil.copy(tiny_run.executed / "90_demo_model.ipynb", executed)
    assert book.build(tiny_run.profile, executed, tiny_run.tables, tmp_path / "out", launched)
    page = (tmp_path / "out" / "html" / "notebooks" / "90_demo_model.html").read_text()
    links = re.findall(r'href="(https://(?:mybinder|colab)[^"]+)"', page)
    assert links == [
        "https://mybinder.org/v2/gh/someone/mae-book/main?urlpath=lab/tree/notebooks/90_demo_model.ipynb",
        "https://colab.research.google.com/github/someone/mae-book/blob/main/notebooks/90_demo_model.ipynb",
    ]


def test_without_an_address_there_is_no_button(tiny_run, tmp_path):
    settings = yaml.safe_load(book.sources(tiny_run.profile, tmp_path, tmp_path)[book.Path("_config.yml")])
    assert settings["repository"]["url"] == ""
    assert "launch_buttons" not in settings
