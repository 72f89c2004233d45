"""The paper's published numbers, as data, and a run's numbers beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler
from scipy.stats import spearmanr

from mae_helpers.figures.style import MODEL_NAMES
from mae_helpers.measures.accuracy import mean_and_interval

PUBLISHED = Path(__file__).parent / "published"
INTERVALS = {  # columns with the ends of a value's interval, where they are not <value>_low and <value>_high
    "top1_percent": ("top1_low", "top1_high"),
    "mean_cosine": ("cosine_low", "cosine_high"),
    "mean_drop": ("low", "high"),
}
SIDES = ("", "_low", "_high")  # of a value: itself, and the ends of its interval
GREY = "var(--pst-color-text-muted, #6B6B6B)"  # of published values that this run need not meet; light and dark
ANOTHER = "another model and data"


def published(name: str) -> pd.DataFrame:
    """A published table: table1_blur, table2_imagenet_c, table3_cosine, fig5_occlusion, or one of `released_*`."""
    path = PUBLISHED / f"{name}.csv"
    if not path.exists():
        known = sorted(file.stem for file in PUBLISHED.glob("*.csv"))
        raise ValueError(f"no published table {name!r}; there are {', '.join(known)}")
    return pd.read_csv(path)


def paper(name: str, value: str, **keys: object) -> float:
    """One published value: `paper("table1_blur", "psnr_db", level="X")`."""
    table = published(name)
    return float(table.loc[(table[list(keys)] == pd.Series(keys)).all(axis=1), value].item())


def as_a_run() -> dict[str, pd.DataFrame]:
    """The published numbers in the form of a run's tables, of one model called `classifier`, without intervals."""
    clean = {"model": "classifier", "clean_percent": paper("fig5_occlusion", "top1_percent", occlusion_percent=0)}
    clean |= {"chance_percent": 0.1}
    images = published("table3_cosine").rename(columns={"mean_cosine": "cosine"})
    return {
        "table1_blur": published("table1_blur").assign(**clean),
        "fig5_occlusion": published("fig5_occlusion").assign(ranking="cls_rollout", **clean),
        "table2_imagenet_c": published("table2_imagenet_c").assign(**clean),
        "table3_images": images.assign(model="classifier", image="all"),
        "fig6_fig7_features": published("released_head_features").assign(**{"model": "classifier", "class": "one"}),
    }


def _text(value: object, style: str = "{:g}") -> str:
    """A value as text: nothing where it is missing, real signs for minus and infinity; text stays as it is."""
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else style.format(value).replace("-", "−").replace("inf", "∞").replace("%", " %")


def _as_text(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The table with its `keys` as text: `50.0` is `50`."""
    return table.assign(**{key: table[key].map(_text) for key in keys})


def ends(table: pd.DataFrame, value: str) -> tuple[str, ...]:
    """The columns of `table` with the ends of a value's 95 % interval, none where it has none."""
    low, high = INTERVALS.get(value, (f"{value}_low", f"{value}_high"))
    return (low, high) if low in table and high in table else ()


def compare(table: pd.DataFrame, name: str, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """The first model's rows with the published ones of the same `keys`: for each value v, v_paper and v_difference.

    v_difference_low and _high are the ends of v's interval, where it has one, less the published value. The other models'
    first value stands beside, v_of_<model>. Rows that the paper lacks stay, with missing values.
    """
    keys = list(keys)
    paper, table = (_as_text(rows, keys) for rows in (published(name), table))
    first, *others = table["model"].unique()
    both = table[table["model"] == first]
    for other in others:
        beside = table.loc[table["model"] == other, [*keys, values[0]]]
        both = both.merge(beside, on=keys, how="left", suffixes=("", f"_of_{other}"))
    both = both.merge(paper[[*keys, *values]], on=keys, how="left", suffixes=("", "_paper"))
    for value in values:
        for side, column in zip(SIDES, (value, *ends(both, value)), strict=False):
            both[f"{value}_difference{side}"] = both[column] - both[f"{value}_paper"]
    return both


def released_active(width: int) -> int:
    """How many features of a head of `width` are the share that the released counts take, 10 of 64; at least 1."""
    return max(1, int(width * 10 / 64 + 0.5))


def compare_features(counts: pd.DataFrame) -> pd.DataFrame:
    """One class's counts with the released ones: released_clean_count, released_retained_count and difference.

    `counts` is `features.feature_table` with its perturbation; `difference` is that of the retained counts. The level
    `clean`, where nothing is lost, is left out; heads and levels that the release lacks stay, with missing values.
    """
    keys, here = ["perturbation", "level", "layer", "head"], _as_text(counts, ["level"])
    released = _as_text(published("released_head_features"), ["level"]).set_index(keys).add_prefix("released_")
    both = here[here["level"] != "clean"].merge(released, on=keys, how="left")
    return both.assign(difference=both["retained_count"] - both["released_retained_count"])


def feature_agreement(compared: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How far `compare_features` agrees over the heads, a row a perturbation and level.

    perturbation, level, heads, mean retained_count, and retained_count_paper of all released heads; both as
    retained_percent of the clean counts, which other widths of heads leave comparable; over the heads that both have:
    retained_count_difference with its 95 % bootstrap, within_one_percent (of the counts), and Spearman's rank_correlation,
    missing where either side is constant.
    """
    keys, agreement = ["perturbation", "level"], []
    released = _as_text(published("released_head_features"), ["level"]).groupby(keys)
    released = released[["retained_count", "clean_count"]].mean()
    for key, rows in compared.groupby(keys, sort=False):
        both = rows.dropna(subset="difference")
        here, there, off = both["retained_count"], both["released_retained_count"], both["difference"]
        means = pd.DataFrame([rows[released.columns].mean(), released.reindex([key]).iloc[0]])
        shares = 100 * means["retained_count"] / means["clean_count"]
        around = mean_and_interval(off, seed) if len(both) else [np.nan] * 3
        varied = min(here.nunique(), there.nunique()) > 1
        correlation = float(spearmanr(here, there).statistic) if varied else np.nan
        counts = len(rows), *means["retained_count"], *shares
        agreement.append((*key, *counts, *around, 100 * (off.abs() <= 1).mean(), correlation))
    difference = [f"retained_count_difference{side}" for side in SIDES]
    columns = [f"{name}{side}" for name in ("retained_count", "retained_percent") for side in ("", "_paper")]
    columns = ["heads", *columns, *difference, "within_one_percent", "rank_correlation"]
    return pd.DataFrame(agreement, columns=[*keys, *columns])


def _column(table: pd.DataFrame, name: str, style: str, to: str = "\u00a0to\u00a0") -> list[str]:
    """A column as text, each value with its interval where it has one: `1.2 (0.4 to 2.0)`."""
    texts = [[_text(value, style) for value in table[column]] for column in (name, *ends(table, name))]
    return [f"{text} ({to.join(around)})" if text and around else text for text, *around in zip(*texts, strict=True)]


def _signed(style: str) -> str:
    """The style of differences, with signs and without a `−0.0`."""
    return style.replace("{:", "{:+z")


def _greyed(styler: Styler, cells: object, headings: Sequence[str], **where: object) -> Styler:
    """The table with these cells and these of its headings in grey."""
    styler = styler.set_properties(subset=cells, color=GREY)
    return styler.map_index(lambda heading: f"color: {GREY}" if heading in headings else "", **where)


def show(
    table: pd.DataFrame, formats: dict[str, str], same_data: bool, headings: dict | None = None, source: str = "paper"
) -> Styler:
    """The columns of `formats` for a page, with intervals; other models, `_paper` and `_difference` follow theirs.

    Unless this run uses the `same_data`, published values are grey under a heading that says so, and no difference is
    shown. `source` is what the published values are called, such as paper or released.
    """
    texts, called = {}, f" ({source})" if same_data else f" ({source}: {ANOTHER})"
    for name, style in formats.items():
        heading = (headings or {}).get(name, name.replace("_", " "))
        texts[heading] = _column(table, name, style)
        beside = {f"{name}_of_{model}": f"{heading} ({title})" for model, title in MODEL_NAMES.items()}
        beside |= {f"{name}_paper": heading + called}
        texts |= {words: _column(table, column, style) for column, words in beside.items() if column in table}
        if same_data and f"{name}_difference" in table:
            texts[f"{heading} (difference)"] = _column(table, f"{name}_difference", _signed(style))
    grey = [] if same_data else [heading for heading in texts if heading.endswith(called)]
    styler = pd.DataFrame(texts).style.hide(axis="index")
    return _greyed(styler, grey, grey, axis="columns") if grey else styler


def arrange(table: pd.DataFrame, value: str, down: str, across: Sequence[str], style: str, same_data: bool) -> Styler:
    """A `compare`d value laid out as the paper does: the key `down` in rows, the keys `across` in columns.

    Each row of the paper becomes this run's, the published one and the difference with its interval; unless this run
    uses the `same_data`, the published one is grey under a caption that says so, and there is no difference.
    """
    rows = {"here": [_text(v, style) for v in table[value]], "paper": _column(table, f"{value}_paper", style)}
    if same_data:
        rows["difference"] = _column(table, f"{value}_difference", _signed(style), to="\u00a0to ")
    columns = pd.MultiIndex.from_frame(table[list(across)].drop_duplicates())
    levels = pd.MultiIndex.from_product([table[down].unique(), rows], names=[down, None])
    long = pd.concat([table.assign(kind=kind, text=texts) for kind, texts in rows.items()])
    wide = long.pivot(index=[down, "kind"], columns=list(across), values="text").reindex(index=levels, columns=columns)
    wide = wide.rename(columns=lambda name: name.replace("_", " ")).rename_axis(columns=[None] * len(across))
    styler = wide.style.format(na_rep="")
    if same_data:
        return styler
    styler = _greyed(styler, pd.IndexSlice[pd.IndexSlice[:, "paper"], :], ["paper"], axis="index", level=1)
    return styler.set_caption(f"Rows in grey: paper, {ANOTHER}")
