"""The repository's own pages: the README's picture and scorecard are those of a run; its address opens notebooks."""

import re
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import yaml
from processes import copied, python

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import notebooks, repository
from mae_helpers.run import site as book
from mae_helpers.verdicts import scorecard as claims

README = (ROOT / "README.md").read_text()
BLOCK = repository.BLOCK.search(README)[0]
ADDRESS = "https://github.com/someone/mae-book"


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A copy of the repository's sources that knows its address."""
    root = tmp_path_factory.mktemp("launched")
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "book", root / "book")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    repository.launch(ADDRESS + ".git", root)
    return root


def test_every_notebook_sets_itself_up_in_its_first_cell(launched):
    for source in notebooks.find([]):
        path = launched / "notebooks" / source.name
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        first = next(cell for cell in notebook.cells if cell.cell_type == "code")
        assert f"%pip install -q git+{ADDRESS}" in first.source
        others = [cell for cell in notebook.cells if cell.id != repository.CELL]
        assert others == nbformat.read(source, 4).cells
        assert notebooks.parameters_of(path) == notebooks.parameters_of(source)


def test_the_first_cell_does_nothing_where_the_module_is_there(tmp_path):
    source = (repository.SET_UP + ADDRESS).replace("%pip install", "raise SystemExit('installs') #")
    assert subprocess.run([sys.executable, "-c", source], cwd=ROOT).returncode == 0
    elsewhere = subprocess.run([sys.executable, "-SE", "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert elsewhere.stderr.strip() == "installs"


def test_a_second_address_takes_the_place_of_the_first(launched, tmp_path):
    root = tmp_path / "again"
    shutil.copytree(launched, root)
    repository.launch("https://github.com/another/book", root)
    for path in [root / "_config.yml", root / "CITATION.cff", *notebooks.find([], root / "notebooks")]:
        text = path.read_text()
        assert "someone" not in text, path.name
        assert text.count("https://github.com/another/book") == 1, path.name


def test_the_citation_has_the_address_and_the_paper(launched):
    about = yaml.safe_load((launched / "CITATION.cff").read_text())
    assert about["repository-code"] == ADDRESS
    assert about["references"][0]["url"] == "https://arxiv.org/abs/2602.03531"


@pytest.mark.parametrize(
    "address", ["", "github.com/a/b", "https://gitlab.com/a/b", "https://github.com/a/b; ls", "https://github.com/a"]
)
def test_another_kind_of_address_is_refused(address, capsys):
    before = (ROOT / "_config.yml").read_text()
    assert repository.main(["launch", address]) == 1
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


def test_the_readme_is_short_and_its_picture_there():
    assert len(README.splitlines()) < 120
    assert f"]({repository.PICTURE})" in README
    assert (ROOT / repository.PICTURE).read_text().lstrip().startswith("<?xml")
    assert (ROOT / repository.PICTURE).stat().st_size < 500_000


def test_the_scorecard_counts_every_claim_and_shows_ten_of_them():
    total, rest = re.search(r"Of (\d+) claims, on the demo: (.*)\. Ten", BLOCK).groups()
    counts = {verdict: int(number) for number, verdict in re.findall(r"(\d+) ([a-z ]+)", rest)}
    assert set(counts) <= set(claims.VERDICTS)
    assert sum(counts.values()) == int(total) == len(claims.CLAIMS)
    rows = [line.strip("| ").split(" | ") for line in BLOCK.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    known = {f"{entry['claim']} ({entry['where']})" for entry in claims.CLAIMS.values()}
    for said, here, verdict in rows:
        assert said in known
        assert re.search(r"\d", here)
        assert verdict in claims.VERDICTS


def test_without_a_run_the_readme_says_what_to_do(tmp_path):
    process = python(copied(tmp_path), "-m", "mae_helpers.run.repository", "readme")
    assert "scorecard.csv: not there yet; run `make book` first" in process.communicate()[1]
    assert process.returncode == 1


def test_an_update_writes_what_the_run_shows_and_nothing_else(tiny_run, tmp_path):
    card = pd.read_csv(tiny_run.tables / "scorecard.csv", keep_default_na=False)
    target, picture = tmp_path / "README.md", tmp_path / "overview.svg"
    target.write_text(README)
    repository.update_readme(target, picture, tiny_run.executed, card)
    text = target.read_text()
    assert repository.BLOCK.sub("", text) == repository.BLOCK.sub("", README)
    first = card[card["id"] == "angles_grow"].iloc[0]
    assert f"| {first['claim']} ({first['where']}) | {first['here']} | {first['verdict']} |" in text
    assert "<svg" in picture.read_text()
