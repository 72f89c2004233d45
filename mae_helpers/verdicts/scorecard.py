"""The paper's claims and this run's verdicts: what was said, what the tables show, and whether that supports it.

`claims.yaml` lists the claims with the tolerance of each verdict and its reason; the rules, one function a claim, stand in
the three files `rules_...` beside it and read tables only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

import pandas as pd
import yaml
from pandas.io.formats.style import Styler

from mae_helpers.figures.style import MODEL_NAMES
from mae_helpers.verdicts import rules_classifier, rules_latent, rules_pretrained
from mae_helpers.verdicts.finding import BESIDE, CLASSIFIER, CONTROL, ENCODER, Finding, NotTestedError, in_roles
from mae_helpers.verdicts.published import as_a_run

CLAIMS: dict[str, dict] = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text())
USUAL = {ENCODER: "mae_pretrained", CLASSIFIER: "mae_finetuned", BESIDE: "vit_supervised"}
NOT_TESTED = "not tested here"
VERDICTS = ("supported", "partly", "inconclusive", "not supported", NOT_TESTED)
COLUMNS = ["claim", "where", "paper", "here", "untrained", "difference", "tolerance", "partly", "reason", "verdict"]
COLUMNS += ["by_the_paper", "note"]


def rule_of(name: str) -> tuple[Callable, list[str]]:
    """The rule behind a claim, and what it takes beside the tables: `classes_separate.cls` -> the function, [`cls`]."""
    stem, *more = name.split(".")
    return (vars(rules_pretrained) | vars(rules_classifier) | vars(rules_latent))[stem], more


def verdict(found: Finding) -> str:
    """The verdict of what was found; *inconclusive* where its intervals leave open whether the claim holds.

    *Partly* and *not supported* are for claims that surely do not hold in full: where their weaker form surely holds, and
    where it does not, or not surely.
    """
    if found.full or found.full is None:
        return VERDICTS[0 if found.full else 2]
    return VERDICTS[1 if found.partly else 3]


def _row(name: str, **shown: object) -> dict[str, str]:
    """A claim with what is known of it: a row of the scorecard, empty where nothing is."""
    known = CLAIMS[name] | {"tolerance": CLAIMS[name]["supported"], "by_the_paper": by_the_paper(name)} | shown
    return {column: known.get(column, "") for column in COLUMNS}


def _found(name: str, tables: Iterable[pd.DataFrame], study: Mapping[str, str]) -> dict[str, str]:
    """What a claim's rule finds of the models in these roles: here, difference, note and verdict."""
    rule, more = rule_of(name)
    try:
        found = rule(*(in_roles(table, study) for table in tables), *more)
    except NotTestedError as missing:
        words = str(missing)
        for role in USUAL:
            named = f"model {study[role]!r}" if role in study else f"model that `study` names as {role}"
            words = words.replace(f"model {role!r}", named)
        return {"verdict": NOT_TESTED, "note": words}
    shown = {key: getattr(found, key) for key in ("here", "difference", "note")}
    for role, model in study.items():
        shown = {key: words.replace(f"[{role}]", MODEL_NAMES.get(model, model)) for key, words in shown.items()}
    return shown | {"verdict": verdict(found)}


@cache
def by_the_paper(name: str) -> str:
    """A claim's verdict by its rule on the paper's published numbers, taken as exact; empty where these do not reach."""
    if not CLAIMS[name].get("published"):
        return ""
    tables, study = as_a_run(), {role: role for role in (CLASSIFIER,)}
    return _found(name, [tables[table] for table in CLAIMS[name]["tables"]], study)["verdict"]


def judge(name: str, *tables: pd.DataFrame, study: Mapping[str, str] = USUAL) -> dict[str, str]:
    """One claim against the tables that it names: a row of the scorecard, with the keys of COLUMNS.

    `study` has the model of each role: encoder, classifier, beside. `untrained` is what the same rule finds of random
    weights in all three.
    """
    untrained = _found(name, tables, dict.fromkeys(USUAL, CONTROL))
    return _row(name, untrained=untrained.get("here", ""), **_found(name, tables, study))


def scorecard(read: Callable[[str], pd.DataFrame], study: Mapping[str, str] = USUAL) -> pd.DataFrame:
    """Every claim in the paper's order: COLUMNS, section, figure, id; `read` gives a table by name."""
    rows = []
    for name, entry in CLAIMS.items():
        try:
            row = judge(name, *map(read, entry["tables"]), study=study)
        except FileNotFoundError:
            row = _row(name, verdict=NOT_TESTED, note=f"this run has no table {' or '.join(entry['tables'])}")
        figure = "" if row["verdict"] == NOT_TESTED else entry["figure"]  # which this run may lack, too
        rows.append(row | {"section": entry["section"], "figure": figure, "id": name})
    return pd.DataFrame(rows)


def _rule(row: Mapping[str, str]) -> str:
    """When a claim is supported, and behind a click when partly, and why so: HTML."""
    more = f"partly: {row['partly']}." + (f" Why: {row['reason']}" if row["reason"] else "")
    return f"{escape(row['tolerance'])} <details><summary>more</summary>{escape(more)}</details>"


def _markdown(rows: Iterable[dict[str, str]]) -> str:
    """Rows with the same keys as a Markdown table, without the columns that are empty throughout."""
    table = pd.DataFrame(rows).astype(str)
    table = table.loc[:, (table != "").any()].replace(r"\|", r"\\|", regex=True)
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _badge(verdict: str) -> str:
    """A verdict that the book's style sheet colours, and that is plain text elsewhere."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span>' if verdict else ""


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
            "claim": f"**{row['claim']}** ({row['where']})",
            "paper": row["paper"],
            "here": "; ".join(filter(None, (row["here"], row["note"]))),
            "untrained": row["untrained"],
            "difference": row["difference"] if differences else "",
            "supported if": _rule(row),
            "verdict": _badge(row["verdict"]),
            "by the published numbers": _badge(row["by_the_paper"]),
            "figure": row["figure"],
        }
        for _, row in card[card["section"] == section].iterrows()
    )


def show(*rows: dict[str, str]) -> Styler:
    """Claims as the table at a chapter's end: whole texts, no row numbers, no column that is empty throughout."""
    table = pd.DataFrame(rows)
    table["tolerance"] = [_rule(row) for row in rows]
    table = table.drop(columns=["difference", "partly", "reason", "by_the_paper"])
    styler = table.loc[:, (table != "").any()].style.hide(axis="index").set_uuid("claims")
    return styler.format(_badge, subset=["verdict"])
