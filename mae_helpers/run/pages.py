"""An executed notebook as a page: code in as few folds as can be, links to drawing and data under figures and tables.

A cell names its data in its metadata: `"mae_helpers": {"data": ["table1_blur.csv"]}`, files of `results/<profile>/`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

KEY = "mae_helpers"  # in the metadata of a cell: its data; in that of an executed notebook: what made it
WRITTEN_LATER = {"scorecard.csv", "run.json"}  # by another chapter, or when all have run
FOLDER = "downloads"  # beside the notebooks' folder of the staged book
SVG = "image/svg+xml"


def shown(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode, list[str]]]:
    """The figures and tables of a notebook: the name of each, its cell, and the files that hold its data."""
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure and cell.outputs:
            yield figure["name"], cell, cell.metadata.get(KEY, {}).get("data", [])


def digests(notebook: NotebookNode, tables: Path) -> dict[str, str]:
    """The SHA-256 of each file behind a notebook's figures as it is now; empty for one that is not there."""
    names = {name for _, _, data in shown(notebook) for name in data} - WRITTEN_LATER
    files = {name: tables / name for name in sorted(names)}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "" for name, file in files.items()
    }


def drawing(cell: NotebookNode) -> str | None:
    """The SVG that a cell drew, or None where it drew nothing."""
    return next((output.data[SVG] for output in cell.outputs if SVG in output.get("data", {})), None)


def _is_folded(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and "hide-input" in cell.metadata.get("tags", [])


def folded_together(cells: Iterable[NotebookNode]) -> list[NotebookNode]:
    """The cells, where folded ones that show nothing stand in one fold with the next: parameters, imports, a figure."""
    kept: list[NotebookNode] = []
    for cell in cells:
        if kept and _is_folded(cell) and _is_folded(kept[-1]) and not kept[-1].outputs:
            cell = NotebookNode(cell | {"source": f"{kept.pop().source}\n\n{cell.source}"})
        kept.append(cell)
    return kept


def page(notebook: NotebookNode, tables: Path) -> tuple[NotebookNode, dict[Path, bytes]]:
    """The notebook with a line of links behind each figure and table, and the files that these lead to, by their places.

    `tables` is the run's folder of CSV files. The places count from the staged book's root.
    """
    cells, files = [], {}
    links = {id(cell): (name, data, drawing(cell)) for name, cell, data in shown(notebook)}
    for cell in notebook.cells:
        cells.append(cell)
        name, data, picture = links.get(id(cell), ("", [], None))
        linked = {f"{name}.svg": picture.encode()} if picture else {}
        linked |= {file: (tables / file).read_bytes() for file in data}
        if linked:
            line = " · ".join(f"{{download}}`{file} <../{FOLDER}/{file}>`" for file in linked)
            cells.append(new_markdown_cell(f"{{.downloads}}\nDownload: {line}", id=f"{name}-downloads"))
        files |= {Path(FOLDER) / file: content for file, content in linked.items()}
    return NotebookNode(notebook | {"cells": folded_together(cells)}), files
