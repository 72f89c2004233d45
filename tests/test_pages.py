"""Executed notebooks become pages: one fold for what is folded, links to data and drawings, digests of the data."""

import hashlib

import nbformat
import pytest
from nbformat import v4

from mae_helpers.run import notebooks, site

DRAWING = '<svg xmlns="http://www.w3.org/2000/svg"/>'


def drawn(name, *data, svg=DRAWING):
    """A cell that drew a figure of that name from tables of these names."""
    output = v4.new_output("display_data", {site.SVG: svg} if svg else {"text/html": "<table></table>"})
    about = {"mystnb": {"figure": {"name": name, "caption": "C."}}, "mae_helpers": {"data": list(data)}}
    return v4.new_code_cell("draw()", outputs=[output], metadata=about | {"tags": ["hide-input"]})


def page_of(tables, *cells):
    """As it is read from a file, and valid."""
    nbformat.write(v4.new_notebook(cells=list(cells)), tables / "01.ipynb")
    page, files = site.page(notebooks.read(tables / "01.ipynb"), tables)
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


def test_digests_are_of_the_data_and_not_of_what_is_written_later(tables):
    cells = [drawn("fig-one", "a.csv", "gone.csv"), drawn("tab-one", "scorecard.csv", svg=None)]
    digest = hashlib.sha256(b"a\n1\n").hexdigest()
    assert notebooks.digests({"cells": cells}, tables) == {"a.csv": digest, "gone.csv": ""}
