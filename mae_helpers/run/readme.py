"""Bring the README's picture and scorecard up to date with the last run of the demo: `python -m mae_helpers.run.readme`."""

import re
import sys
from pathlib import Path

import nbformat
import pandas as pd

from mae_helpers.profile.settings import ROOT
from mae_helpers.run import pages
from mae_helpers.run.tables import write_whole

BLOCK = re.compile(r"(<!-- scorecard -->\n).*?(<!-- end -->)", re.S)
PICTURE = ".github/overview.svg"


def scorecard_in_short(card: pd.DataFrame, named: str) -> str:
    """How many claims have which verdict, and those that the overview's cell `named` lists, as a Markdown table."""
    counts = card["verdict"].value_counts()
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in card["verdict"].unique() if verdict in counts)
    shown = card[[f'"{name}"' in named for name in card["id"]]]
    rows = [f"| {row.claim} ({row.where}) | {row.here} | {row.verdict} |" for row in shown.itertuples()]
    head = ["| the paper says | the demo shows | verdict |", "|---|---|---|"]
    return "\n".join([f"Of {len(card)} claims, on the demo: {told}. Ten of them:", "", *head, *rows]) + "\n"


def update(readme: Path, picture: Path, executed: Path, card: pd.DataFrame) -> None:
    """Write the overview's drawing to `picture`, and the scorecard in short between the marks in `readme`."""
    notebook = nbformat.read(executed / "00_overview.ipynb", 4)
    cells = {name: cell for name, cell, _ in pages.shown(notebook)}
    write_whole(picture, pages.drawing(cells["fig-overview"]))
    block = scorecard_in_short(card, cells["tab-headlines"].source)
    write_whole(readme, BLOCK.sub(lambda found: found[1] + block + found[2], readme.read_text()))


def main() -> int:
    """The command line; returns the exit status."""
    executed, table = ROOT / "_build" / "executed" / "demo", ROOT / "results" / "demo" / "scorecard.csv"
    try:
        update(ROOT / "README.md", ROOT / PICTURE, executed, pd.read_csv(table, keep_default_na=False))
    except FileNotFoundError as error:
        print(f"error: {error.filename}: not there yet; run `make book` first", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
