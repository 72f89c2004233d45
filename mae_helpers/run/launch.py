"""Tell the book where its repository is: `python -m mae_helpers.run.launch https://github.com/OWNER/NAME`.

With an address, pages have buttons that open a notebook on Binder or Colab, and a notebook that finds no `mae_helpers`
where it runs, as on Colab, installs it from there in its first cell.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import notebooks
from mae_helpers.run.tables import write_whole

GITHUB = re.compile(r"https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
CELL = "set-up"  # its id in every notebook


def set_up_cell(address: str) -> NotebookNode:
    """A cell that does nothing where `mae_helpers` is installed, and installs it where it is not."""
    source = (
        f"try:\n    import mae_helpers  # noqa: F401\nexcept ModuleNotFoundError:\n    %pip install -q git+{address}"
    )
    return new_code_cell(source, id=CELL, metadata={"tags": ["remove-cell"]})


def with_set_up(notebook: NotebookNode, address: str) -> NotebookNode:
    """The notebook with the set-up cell for `address` before its first code cell, in place of an earlier one."""
    cells = [cell for cell in notebook.cells if cell.id != CELL]
    place = next(number for number, cell in enumerate(cells) if cell.cell_type == "code")
    return NotebookNode(notebook | {"cells": [*cells[:place], set_up_cell(address), *cells[place:]]})


def launch(address: str, root: Path = ROOT) -> None:
    """Write the address into `_config.yml` and `CITATION.cff`, and the set-up cell into every notebook of `root`.

    ValueError where it is no repository on GitHub, which is what Colab and Binder open.
    """
    address = address.removesuffix("/").removesuffix(".git")
    if not GITHUB.fullmatch(address):
        raise ValueError(f"{address!r} is no repository on GitHub; use https://github.com/OWNER/NAME")
    config, citation = root / "_config.yml", root / "CITATION.cff"
    write_whole(config, re.sub(r"(?m)^  url: .*$", f'  url: "{address}"', config.read_text()))
    lines = [line for line in citation.read_text().splitlines() if not line.startswith("repository-code:")]
    write_whole(citation, "\n".join([*lines, f'repository-code: "{address}"']) + "\n")
    for path in notebooks.find([], root / "notebooks"):
        write_whole(path, nbformat.writes(with_set_up(nbformat.read(path, 4), address)) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mae_helpers.run.launch", description=__doc__.split(":")[0])
    parser.add_argument("address", help="the repository's address, such as https://github.com/OWNER/NAME")
    try:
        launch(parser.parse_args(arguments).address)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
