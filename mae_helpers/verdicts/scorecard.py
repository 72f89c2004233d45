"""The paper's claims and this run's verdicts: what was said, what the tables show, and whether that supports it.

`claims.yaml` lists the claims with the tolerance of each verdict; the rules, one function a claim, stand in the three files `rules_...` beside it and read tables only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml
from pandas.io.formats.style import Styler

from mae_helpers.figures.style import MODEL_NAMES
from mae_helpers.verdicts import rules_classifier, rules_latent, rules_pretrained
from mae_helpers.verdicts.finding import BESIDE, CLASSIFIER, ENCODER, NotTestedError, in_roles

CLAIMS: dict[str, dict] = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text())
USUAL = {ENCODER: "mae_pretrained", CLASSIFIER: "mae_finetuned", BESIDE: "vit_supervised"}
NOT_TESTED = "not tested here"
VERDICTS = ("supported", "partly", "not supported", NOT_TESTED)
COLUMNS = ["claim", "where", "paper", "here", "difference", "tolerance", "verdict", "note"]


def rule_of(name: str) -> tuple[Callable, list[str]]:
    """The rule behind a claim, and what it takes beside the tables: `classes_separate.cls` -> the function, [`cls`]."""
    stem, *more = name.split(".")
    return (vars(rules_pretrained) | vars(rules_classifier) | vars(rules_latent))[stem], more


def _row(name: str, verdict: str, **shown: object) -> dict[str, str]:
    """A claim with what is known of it: a row of the scorecard, empty where nothing is."""
    known = CLAIMS[name] | {"tolerance": CLAIMS[name]["supported"], "verdict": verdict} | shown
    return {column: known.get(column, "") for column in COLUMNS}


def judge(name: str, *tables: pd.DataFrame, study: Mapping[str, str] = USUAL) -> dict[str, str]:
    """One claim against the tables that it names: a row of the scorecard, with the keys of COLUMNS.

    `study` has the model of each role: encoder, classifier, beside.
    """
    rule, more = rule_of(name)
    try:
        found = rule(*(in_roles(table, study) for table in tables), *more)
    except NotTestedError as missing:
        words = str(missing)
        for role in USUAL:
            named = f"model {study[role]!r}" if role in study else f"model that `study` names as {role}"
            words = words.replace(f"model {role!r}", named)
        return _row(name, NOT_TESTED, note=words)
    shown = vars(found)
    for role, model in study.items():
        words = {key: shown[key].replace(f"[{role}]", MODEL_NAMES.get(model, model)) for key in ("here", "note")}
        shown = shown | words
    return _row(name, VERDICTS[0 if found.full else 1 if found.partly else 2], **shown)


def scorecard(read: Callable[[str], pd.DataFrame], study: Mapping[str, str] = USUAL) -> pd.DataFrame:
    """Every claim in the paper's order: COLUMNS, section, figure, id; `read` gives a table by name."""
    rows = []
    for name, entry in CLAIMS.items():
        try:
            row = judge(name, *map(read, entry["tables"]), study=study)
        except FileNotFoundError:
            row = _row(name, NOT_TESTED, note=f"this run has no table {' or '.join(entry['tables'])}")
        rows.append(row | {"section": entry["section"], "figure": entry["figure"], "id": name})
    return pd.DataFrame(rows)


def _markdown(rows: Iterable[dict[str, str]]) -> str:
    """Rows with the same keys as a Markdown table, without the columns that are empty throughout."""
    table = pd.DataFrame(rows).astype(str)
    table = table.loc[:, (table != "").any()].replace(r"\|", r"\\|", regex=True)
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _badge(verdict: str) -> str:
    """A verdict that the book's style sheet colours, and that is plain text elsewhere."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span>'


def headlines(card: pd.DataFrame, names: Sequence[str]) -> str:
    """Some claims of a scorecard in short, a Markdown table: what the paper says, what this run shows, the verdict."""
    return _markdown(
        {
            "the paper says": f"{row['claim']} ({row['where']})",
            "this run": row["here"] or row["note"],
            "verdict": _badge(row["verdict"]),
            "see": row["figure"],
        }
        for _, row in card.set_index("id").loc[list(names)].iterrows()
    )


def as_markdown(card: pd.DataFrame, section: str, differences: bool = True) -> str:
    """One section of a scorecard as a Markdown table; without `differences` where a run has other models or data."""
    return _markdown(
        {
            "claim": f"**{row.claim}** ({row.where})",
            "paper": row.paper,
            "here": "; ".join(filter(None, (row.here, row.note))),
            "difference": row.difference if differences else "",
            "supported if": row.tolerance,
            "verdict": _badge(row.verdict),
            "figure": row.figure,
        }
        for row in card[card["section"] == section].itertuples()
    )


def show(*rows: dict[str, str]) -> Styler:
    """Claims as the table at a chapter's end: whole texts, no row numbers, no column that is empty throughout."""
    table = pd.DataFrame(rows).drop(columns="difference")
    styler = table.loc[:, (table != "").any()].style.hide(axis="index").set_uuid("claims")
    return styler.format(_badge, subset=["verdict"])
