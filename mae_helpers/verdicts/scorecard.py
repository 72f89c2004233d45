"""The paper's claims and this run's verdicts: what was said, what the tables show, and whether that supports it.

`claims.yaml` lists the claims with the tolerance of each verdict; the rules, one function a claim, read tables only.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import yaml
from pandas.io.formats.style import Styler

from mae_helpers.verdicts import classifier, latent, pretrained
from mae_helpers.verdicts.finding import NotTestedError

CLAIMS: dict[str, dict] = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text())
VERDICTS = ("supported", "partly", "not supported", "not tested here")
COLUMNS = ["claim", "where", "paper", "here", "difference", "tolerance", "verdict", "note"]


def rule_of(name: str) -> tuple[Callable, list[str]]:
    """The rule behind a claim, and what it takes beside the tables: `classes_separate.cls` -> the function, [`cls`]."""
    stem, *more = name.split(".")
    for module in (pretrained, classifier, latent):
        if hasattr(module, stem):
            return getattr(module, stem), more
    raise KeyError(f"no rule {stem!r} for the claim {name!r}")


def _row(name: str) -> dict[str, str]:
    """A claim before it was tested."""
    entry = CLAIMS[name]
    said = {
        "claim": entry["claim"],
        "where": entry["where"],
        "paper": str(entry["paper"]),
        "here": "",
        "difference": "",
    }
    return said | {"tolerance": entry["supported"], "verdict": VERDICTS[3], "note": ""}


def judge(name: str, *tables: pd.DataFrame) -> dict[str, str]:
    """One claim against the tables that it names: a row of the scorecard, with the keys of COLUMNS."""
    row, (rule, more) = _row(name), rule_of(name)
    try:
        found = rule(*tables, *more)
    except NotTestedError as missing:
        return row | {"note": str(missing)}
    verdict = VERDICTS[0 if found.full else 1 if found.partly else 2]
    return row | {"here": found.here, "difference": found.difference, "verdict": verdict, "note": found.note}


def scorecard(read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """Every claim in the paper's order: COLUMNS, section, figure, id. `read(table)` gives a run's table.

    A claim whose table no chapter has written is `not tested here`, and its note says so.
    """
    rows = []
    for name, entry in CLAIMS.items():
        try:
            row = judge(name, *(read(table) for table in entry["tables"]))
        except FileNotFoundError:
            row = _row(name) | {"note": f"this run has no table {' or '.join(entry['tables'])}"}
        rows.append(row | {"section": entry["section"], "figure": entry["figure"], "id": name})
    return pd.DataFrame(rows)


def _badge(verdict: str) -> str:
    """A verdict that the book's style sheet colours."""
    return f"[{verdict}]{{.verdict .{verdict.replace(' ', '-')}}}"


def headlines(card: pd.DataFrame, names: Sequence[str]) -> str:
    """Some claims of a scorecard in short, as a MyST table: what the paper says, what this run shows, the verdict."""
    lines = ["| the paper says | this run | verdict | see |", "|---|---|---|---|"]
    for name in names:
        row = card[card["id"] == name].iloc[0]
        cells = (f"{row['claim']} ({row['where']})", row["here"] or row["note"], _badge(row["verdict"]))
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} | {{numref}}`{row['figure']}` |")
    return "\n".join(lines)


def as_markdown(card: pd.DataFrame, section: str, differences: bool = True) -> str:
    """One section of a scorecard as a MyST table: verdicts as badges by class, figures as numbered links.

    Without `differences` from the paper where a run has other models or data.
    """
    heads = ["claim", "paper", "here", "difference", "supported if", "verdict", "figure"]
    table = []
    for row in card[card["section"] == section].itertuples():
        figure = f"{{numref}}`{row.figure}`" if row.figure else ""
        here = f"{row.here}; {row.note}" if row.here and row.note else row.here or row.note
        cells = (
            f"**{row.claim}** ({row.where})",
            row.paper,
            here,
            row.difference if differences else "",
            row.tolerance,
            _badge(row.verdict),
            figure,
        )
        table.append([str(cell).replace("|", "\\|") for cell in cells])
    kept = [column for column in range(len(heads)) if any(cells[column] for cells in table)]
    lines = [heads, ["---"] * len(heads), *table]
    return "\n".join("| " + " | ".join(line[column] for column in kept) + " |" for line in lines)


def show(*rows: dict[str, str]) -> Styler:
    """Claims as the table at a chapter's end: whole texts, no row numbers, no column that is empty throughout."""
    table = pd.DataFrame(rows).drop(columns="difference")
    styler = table.loc[:, (table != "").any()].style.hide(axis="index").set_uuid("claims")
    badge = '<span class="verdict {}">{}</span>'
    return styler.format(lambda verdict: badge.format(verdict.replace(" ", "-"), verdict), subset=["verdict"])
