"""Executed notebooks become pages: one fold for what is folded, links to data and drawings, digests of the data."""

import hashlib
import tomllib

import nbformat
import pytest
import yaml
from nbformat import v4

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import findings, notebooks, site

DRAWING = '<svg xmlns="http://www.w3.org/2000/svg"/>'


def drawn(name, *data, svg=DRAWING):
    """A cell that drew a figure of that name from tables of these names."""
    output = v4.new_output("display_data", {site.SVG: svg} if svg else {"text/html": "<table></table>"})
    about = {"mystnb": {"figure": {"name": name}}, "mae_helpers": {"data": list(data)}}
    return v4.new_code_cell("draw()", outputs=[output], metadata=about | {"tags": ["hide-input"]})


def page_of(tables, *cells):
    """As it is read from a file, and valid."""
    nbformat.write(v4.new_notebook(cells=list(cells)), tables / "01.ipynb")
    page, files = site.page(notebooks.read(tables / "01.ipynb"), tables, {})
    nbformat.validate(nbformat.reads(notebooks.written(page), 4))
    return page, files


@pytest.fixture
def tables(tmp_path):
    for name in ("a", "b", "scorecard"):
        (tmp_path / f"{name}.csv").write_text(f"{name}\n1\n")
    return tmp_path


def test_links_stand_behind_the_figure_and_lead_to_its_drawing_and_data(tables):
    page, files = page_of(tables, drawn("fig-one", "a.csv", "b.csv"), v4.new_markdown_cell("text"))
    assert [cell["cell_type"] for cell in page["cells"]] == ["code", "markdown", "markdown"]
    assert page["cells"][1]["source"] == (
        "{.downloads}\nDownload: {download}`fig-one.svg <../downloads/fig-one.svg>` · "
        "{download}`a.csv <../downloads/a.csv>` · {download}`b.csv <../downloads/b.csv>`"
    )
    assert {str(path): content.decode() for path, content in files.items()} == {
        "downloads/fig-one.svg": DRAWING,
        "downloads/a.csv": "a\n1\n",
        "downloads/b.csv": "b\n1\n",
    }


def test_the_cell_below_is_the_caption_and_goes_with_what_it_captions(tables):
    empty, caption = drawn("tab-empty", "b.csv", svg=None), v4.new_markdown_cell("**Table 1.1.** None.")
    empty.outputs = []
    below = v4.new_markdown_cell("**Fig. 1.1.** What it shows.")
    page, _ = page_of(tables, drawn("fig-one", "a.csv"), below, empty, caption, v4.new_markdown_cell("**Fig.** 1"))
    first, links, second, text = page["cells"]
    assert first["metadata"]["mystnb"]["figure"]["caption"] == "**Fig. 1.1.** What it shows."
    assert links["source"].startswith("{.downloads}")
    assert "caption" not in second["metadata"]["mystnb"]["figure"]
    assert text["source"] == "**Fig.** 1"


SEEN = """---
place: below Fig. 1.1
let:
  mean: a.query('a > 0')['a'].mean()
  spread: max(a['a']) - min(a['a'])
holds:
- mean < 2.5
- spread > 0 or mean == 1
---
On average {mean:.1f} %.
"""


def said(root, tables, text=SEEN, profile="mine"):
    """What stands below the figures, and what is left out, of one finding in a repository of its own."""
    (root / findings.FOLDER / "mine").mkdir(parents=True, exist_ok=True)
    (root / findings.FOLDER / "mine" / "one.md").write_text(text)
    texts, parted = findings.findings(profile, tables, root)
    return texts, [path.name for path in parted]


def test_a_finding_stands_on_its_own_profile_while_the_tables_bear_it_out(tables, tmp_path):
    assert said(tmp_path, tables) == ({"below Fig. 1.1": ["On average 1.0\u00a0%."]}, [])
    assert said(tmp_path, tables, profile="demo") == ({}, [])
    (tables / "a.csv").write_text("a\n2\n4\n")
    assert said(tmp_path, tables) == ({}, ["one.md"])
    (tables / "a.csv").unlink()
    assert said(tmp_path, tables) == ({}, ["one.md"])


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("a.query", "a.ask", "has no attribute 'ask'"),
        ("{mean:.1f}", "{men:.1f}", "men"),
        ("---\nOn", "On", "not enough values"),
    ],
)
def test_a_finding_with_a_mistake_is_an_error_that_names_it(tables, tmp_path, before, after, complaint):
    with pytest.raises(notebooks.NotebookError, match=rf"(?s)one\.md.*({complaint})"):
        said(tmp_path, tables, SEEN.replace(before, after, 1))


def test_a_finding_stands_above_its_figure_or_below_the_links(tables):
    cells = (
        drawn("fig-one", "a.csv"),
        v4.new_markdown_cell("**Fig. 1.1.** What it shows."),
        v4.new_markdown_cell("next"),
    )
    nbformat.write(v4.new_notebook(cells=list(cells)), tables / "01.ipynb")
    texts = {"above Fig. 1.1": ["First."], "below Fig. 1.1": ["Much.", "More."], "below Fig. 1.2": ["Less."]}
    page, _ = site.page(notebooks.read(tables / "01.ipynb"), tables, texts)
    nbformat.validate(nbformat.reads(notebooks.written(page), 4))
    lines = [cell["source"].split("\n")[-2:][0] for cell in page["cells"]]
    assert lines == ["First.", "draw()", "{.downloads}", "Much.", "More.", "next"]


def test_a_table_has_no_drawing_and_a_cell_that_showed_nothing_no_links(tables):
    empty = drawn("tab-empty", "b.csv", svg=None)
    empty.outputs = []
    page, files = page_of(tables, drawn("tab-one", "a.csv", svg=None), empty)
    assert [str(path) for path in files] == ["downloads/a.csv"]
    assert sum("downloads" in cell["source"] for cell in page["cells"]) == 1


def test_a_table_that_is_missing_is_an_error_that_names_it(tables):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        page_of(tables, drawn("fig-one", "gone.csv"))


def test_folded_cells_that_show_nothing_join_the_next_fold():
    output = v4.new_output("display_data", {"text/plain": "shown"})
    sources, tags = ("a = 1", "b = 2", "a", "c", "open", "d"), ["hide-input"]
    cells = [v4.new_code_cell(source, metadata={"tags": tags * (source != "open")}) for source in sources]
    cells[2].outputs = [output]
    joined = site.folded_together(cells)
    assert [cell["source"] for cell in joined] == ["a = 1\n\nb = 2\n\na", "c", "open", "d"]
    assert joined[0]["outputs"] == [output]
    assert cells[2].source == "a"


ABOUT = {
    "title": "The book",
    "version": "1.2",
    "authors": [{"name": "the authors"}, {"given-names": "Ada", "family-names": "Lovelace"}],
    "references": [{"title": "The paper", "authors": [{"given-names": "A.", "family-names": "B"}], "year": 2026}],
}


def test_the_citation_says_what_the_file_says_and_nothing_else():
    text, _, entries = site.cited(ABOUT | {"year": "2025", "commit": "abc"}).partition("```bibtex\n")
    assert "*The book*, by the authors, Ada Lovelace: version 1.2, commit `abc`." in text
    book, paper = entries.partition("\n```")[0].split("\n\n")
    assert book == (
        "@misc{authors2025,\n  author = {{the authors} and Ada Lovelace},\n  title  = {{The book}},\n"
        "  year   = {2025},\n  note   = {version 1.2, commit abc}\n}"
    )
    assert paper == "@misc{b2026,\n  author = {A. B},\n  title  = {{The paper}},\n  year   = {2026}\n}"


def test_the_version_is_the_packages():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == package["version"]


@pytest.mark.parametrize(
    ("address", "how"), [("https://a.b/c", "`pip install git+https://a.b/c`"), (None, "in a copy")]
)
def test_a_downloaded_notebook_says_in_its_first_cell_how_to_get_the_package(address, how):
    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("1")]
    first, second = site.to_download({"cells": cells}, address)["cells"]
    assert first["source"].startswith("# Title\n\n*Needs `mae_helpers`:* ")
    assert how in first["source"].splitlines()[-1]
    assert second == cells[1]


def test_digests_are_of_the_data_and_not_of_what_is_written_later(tables):
    cells = [drawn("fig-one", "a.csv", "gone.csv"), drawn("tab-one", "scorecard.csv", svg=None)]
    digest = hashlib.sha256(b"a\n1\n").hexdigest()
    assert notebooks.digests({"cells": cells}, tables) == {"a.csv": digest, "gone.csv": ""}
