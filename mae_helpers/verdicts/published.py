"""The paper's published numbers, as data, and a run's numbers beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler
from scipy.stats import spearmanr

from mae_helpers.measures.accuracy import mean_and_interval

PUBLISHED = Path(__file__).parent / "published"
INTERVALS = {  # columns with the ends of a value's interval, where they are not <value>_low and <value>_high
    "top1_percent": ("top1_low", "top1_high"),
    "mean_cosine": ("cosine_low", "cosine_high"),
    "mean_drop": ("low", "high"),
}
RELEASED_FEATURES = (10, 64)  # the released counts: the 10 largest of 64 features are active
GREY = "var(--pst-color-text-muted, #6B6B6B)"  # of published values that this run need not meet; light and dark
ANOTHER = "another model and data"


def published(name: str) -> pd.DataFrame:
    """A published table: table1_blur, table2_imagenet_c, table3_cosine, fig5_occlusion, or one of `released_*`."""
    path = PUBLISHED / f"{name}.csv"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in PUBLISHED.glob("*.csv")))
        raise ValueError(f"no published table {name!r}; there are {known}")
    return pd.read_csv(path)


def _text(level: object) -> str:
    """A level as text: `50.0` is `50`."""
    return f"{level:g}" if isinstance(level, (int, float)) else str(level)


def _as_text(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    return table.assign(**{key: table[key].map(_text) for key in keys})


def ends(table: pd.DataFrame, value: str) -> tuple[str, str] | None:
    """The columns of `table` with the ends of a value's 95 % interval, or None where it has none."""
    low, high = INTERVALS.get(value, (f"{value}_low", f"{value}_high"))
    return (low, high) if low in table and high in table else None


def compare(table: pd.DataFrame, name: str, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """The fine-tuned MAE's rows with the published ones of the same `keys`: for each value v, v_paper and v_difference.

    A value with an interval has v_difference_low and _high as well: its ends less the published value, which is taken
    as exact. Where the table has the supervised ViT, its first value stands beside as v_vit. Rows that the paper lacks
    stay, with missing values. Levels are compared as text: `10` is `10`, `I` is `I`.
    """
    paper, table = (_as_text(rows, keys) for rows in (published(name), table))
    both = table[table["model"] == "mae_finetuned"]
    vit = table[table["model"] == "vit_supervised"]
    if len(vit):
        both = both.merge(vit[[*keys, values[0]]], on=list(keys), how="left", suffixes=("", "_vit"))
    both = both.merge(paper[[*keys, *values]], on=list(keys), how="left", suffixes=("", "_paper"))
    for value in values:
        columns = dict(zip(("_low", "_high"), ends(both, value) or (), strict=False))
        for end, column in ({"": value} | columns).items():
            both[f"{value}_difference{end}"] = both[column] - both[f"{value}_paper"]
    return both


def released_active(width: int) -> int:
    """How many features of a head of `width` are the share that the released counts take, 10 of 64; at least 1."""
    most, of = RELEASED_FEATURES
    return max(1, int(width * most / of + 0.5))


def compare_features(counts: pd.DataFrame) -> pd.DataFrame:
    """One class's counts with the released ones: released_clean_count, released_retained_count and difference.

    `counts` has perturbation, level, class, layer, head, clean_count, retained_count (`features.feature_table`). The
    level `clean`, where nothing is lost, is left out; heads and levels that the release lacks stay, with missing
    values. `difference` is that of the retained counts.
    """
    keys = ["perturbation", "level", "layer", "head"]
    names = {name: f"released_{name}" for name in ("clean_count", "retained_count")}
    released = _as_text(published("released_head_features"), ["level"]).rename(columns=names)
    here = _as_text(counts, ["level"])
    both = here[here["level"] != "clean"].merge(released, on=keys, how="left")
    return both.assign(difference=both["retained_count"] - both["released_retained_count"])


def feature_agreement(compared: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How far `compare_features` agrees over the heads, a row a perturbation and level.

    perturbation, level, heads; the mean retained_count, and retained_count_paper of all released heads; then over the
    heads that both have: retained_count_difference with its 95 % bootstrap over heads, within_one_percent (counts that
    differ by 1 at most), and rank_correlation (Spearman's; missing where either side is constant).
    """
    keys, found = ["perturbation", "level"], []
    released = _as_text(published("released_head_features"), ["level"]).groupby(keys)["retained_count"].mean()
    for key, rows in compared.groupby(keys, sort=False):
        both = rows.dropna(subset="difference")
        row = dict(zip(keys, key, strict=True)) | {"heads": len(rows), "retained_count": rows["retained_count"].mean()}
        row["retained_count_paper"] = released.get(key, np.nan)
        names = [f"retained_count_difference{end}" for end in ("", "_low", "_high")]
        row |= dict(zip(names, mean_and_interval(both["difference"], seed) if len(both) else [np.nan] * 3, strict=True))
        row["within_one_percent"] = 100 * (both["difference"].abs() <= 1).mean()
        sides = both["retained_count"], both["released_retained_count"]
        varied = min(side.nunique() for side in sides) > 1
        row["rank_correlation"] = float(spearmanr(*sides).statistic) if varied else np.nan
        found.append(row)
    return pd.DataFrame(found)


def _written(values: pd.Series, style: str) -> list[str]:
    """Values as text: nothing where one is missing, real signs for minus and infinity; text stays as it is."""
    return [
        value
        if isinstance(value, str)
        else ""
        if pd.isna(value)
        else style.format(value).replace("-", "−").replace("inf", "∞")
        for value in values
    ]


def _column(table: pd.DataFrame, name: str, style: str) -> list[str]:
    """A column as text, each value with its interval where it has one: `1.2 (0.4 to 2.0)`."""
    texts, around = _written(table[name], style), ends(table, name)
    if around is None:
        return texts
    bounds = (_written(table[end], style) for end in around)
    return [
        f"{text} ({low}\u00a0to\u00a0{high})" if text else "" for text, low, high in zip(texts, *bounds, strict=True)
    ]


def _difference(table: pd.DataFrame, name: str, style: str) -> list[str]:
    """The difference of a value as text with signs: `+1.2 (−0.8 to +3.1)`, never `−0.0`."""
    return _column(table, f"{name}_difference", style.replace("{:", "{:+z"))


def _css(grey: bool) -> str:
    return f"color: {GREY}" if grey else ""


def show(
    table: pd.DataFrame,
    formats: dict[str, str],
    same_data: bool,
    headings: dict[str, str] | None = None,
    source: str = "paper",
) -> Styler:
    """A table for a page: columns named in words, values and differences with their 95 % intervals.

    `formats` chooses and orders the columns; those that end in `_vit`, `_paper` or `_difference` follow their value.
    Unless this run uses the `same_data`, published values are grey under a heading that says so, and no difference is
    shown. `source` is what the published values are called, such as paper or released.
    """
    texts, grey = {}, []
    for name, style in formats.items():
        heading = (headings or {}).get(name, name.replace("_", " "))
        texts[heading] = _column(table, name, style)
        if f"{name}_vit" in table:
            texts[f"{heading} (ViT)"] = _column(table, f"{name}_vit", style)
        if f"{name}_paper" in table:
            grey.append(f"{heading} ({source if same_data else f'{source}: {ANOTHER}'})")
            texts[grey[-1]] = _column(table, f"{name}_paper", style)
        if same_data and f"{name}_difference" in table:
            texts[f"{heading} (difference)"] = _difference(table, name, style)
    styler = pd.DataFrame(texts).style.hide(axis="index")
    if same_data or not grey:
        return styler
    styler = styler.set_properties(subset=grey, color=GREY)
    return styler.map_index(lambda heading: _css(heading in grey), axis="columns")


def arrange(
    table: pd.DataFrame,
    value: str,
    down: str,
    across: Sequence[str],
    style: str,
    same_data: bool,
    source: str = "paper",
) -> Styler:
    """A `compare`d value laid out as the paper does: the key `down` in rows, the keys `across` in columns.

    Each row of the paper is this run's row, the published one and the difference with its interval. Unless this run uses
    the `same_data`, the published row is grey under a caption that says so, and there is no difference.
    """
    rows = {"here": _written(table[value], style), source: _written(table[f"{value}_paper"], style)}
    if same_data:
        rows["difference"] = [
            text.replace("to\u00a0", "to ") for text in _difference(table, value, style)
        ]  # narrow columns
    columns = list(dict.fromkeys(zip(*(table[key] for key in across), strict=True)))
    levels = pd.MultiIndex.from_product([dict.fromkeys(table[down]), rows], names=[down, None])
    long = pd.concat([table.assign(kind=kind, text=texts) for kind, texts in rows.items()])
    wide = long.pivot(index=[down, "kind"], columns=list(across), values="text").reindex(index=levels, columns=columns)
    wide.columns = pd.MultiIndex.from_tuples([tuple(name.replace("_", " ") for name in names) for names in columns])
    styler = wide.style.format(na_rep="")
    if same_data:
        return styler
    styler = styler.set_properties(subset=pd.IndexSlice[pd.IndexSlice[:, source], :], color=GREY)
    styler = styler.map_index(lambda kind: _css(kind == source), axis="index", level=1)
    return styler.set_caption(f"Rows in grey: {source}, {ANOTHER}")
