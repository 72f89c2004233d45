"""The repository's own pages: `python -m mae_helpers.run.repository readme`, `... launch https://github.com/OWNER/NAME`.

`readme` brings the README's picture and scorecard up to date with the last run of the demo. `launch` tells the book where
its repository is: pages then have buttons that open a notebook on Binder or Colab, and a notebook that finds no
`mae_helpers` where it runs, as on Colab, installs it from there in its first cell.
"""

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from mae_helpers.profile.files import write_whole
from mae_helpers.profile.settings import ROOT
from mae_helpers.run import notebooks, site

BLOCK = re.compile(r"(<!-- scorecard -->\n).*?(<!-- end -->)", re.S)
PICTURE = ".github/overview.svg"
GITHUB = re.compile(r"https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
CELL = "set-up"  # its id in every notebook


SET_UP = """try:
    import mae_helpers  # noqa: F401
except ModuleNotFoundError:
    %pip install -q git+"""


def update_readme(readme: Path, picture: Path, executed: Path, card: pd.DataFrame) -> None:
    """Write the overview's drawing to `picture`, its claims and the count of verdicts between the marks in `readme`."""
    cells = {name: cell for name, cell, _ in notebooks.figures(notebooks.read(executed / "00_overview.ipynb"))}
    write_whole(picture, site.drawing(cells["fig-overview"]))
    told = ", ".join(f"{number} {verdict}" for verdict, number in card["verdict"].value_counts(sort=False).items())
    chosen = card[[f'"{name}"' in cells["tab-headlines"]["source"] for name in card["id"]]]
    rows = [f"| {row.claim} ({row.where}) | {row.here} | {row.verdict} |" for row in chosen.itertuples()]
    head = ["| the paper says | the demo shows | verdict |", "|---|---|---|"]
    block = "\n".join([f"Of {len(card)} claims, on the demo: {told}. Ten of them:", "", *head, *rows]) + "\n"
    write_whole(readme, BLOCK.sub(lambda old: old[1] + block + old[2], readme.read_text()))


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
        notebook = notebooks.read(path)
        cells = [cell for cell in notebook["cells"] if cell["id"] != CELL]
        place = next(number for number, cell in enumerate(cells) if cell["cell_type"] == "code")
        about = {"cell_type": "code", "id": CELL, "source": SET_UP + address, "metadata": {"tags": ["remove-cell"]}}
        cells.insert(place, about | {"execution_count": None, "outputs": []})
        write_whole(path, notebooks.written(notebook | {"cells": cells}))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mae_helpers.run.repository", description=__doc__.split(":")[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("readme", help="the README's picture and scorecard from the last run of the demo")
    about = tasks.add_parser("launch", help="buttons that open a page's notebook elsewhere")
    about.add_argument("address", help="the repository's address, such as https://github.com/OWNER/NAME")
    options = parser.parse_args(arguments)
    try:
        if options.task == "launch":
            launch(options.address)
        else:
            card = pd.read_csv(ROOT / "results" / "demo" / "scorecard.csv", keep_default_na=False)
            update_readme(ROOT / "README.md", ROOT / PICTURE, ROOT / "_build" / "executed" / "demo", card)
        return 0
    except FileNotFoundError as error:
        print(f"error: {error.filename}: not there yet; run `make book` first", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
