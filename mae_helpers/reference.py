"""The paper's published numbers, as data, and a run's numbers beside them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

PUBLISHED = Path(__file__).parent / "published"


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


def compare(table: pd.DataFrame, name: str, keys: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """The fine-tuned MAE's rows with the published ones of the same `keys`: for each value v, v_paper and v_difference.

    Where the table has the supervised ViT as well, its first value stands beside as v_vit. Rows that the paper lacks stay,
    with missing values. Levels are compared as text: `10` is `10`, `I` is `I`.
    """
    paper, table = (rows.assign(**{key: rows[key].map(_text) for key in keys}) for rows in (published(name), table))
    both = table[table["model"] == "mae_finetuned"]
    vit = table[table["model"] == "vit_supervised"]
    if len(vit):
        both = both.merge(vit[[*keys, values[0]]], on=list(keys), how="left", suffixes=("", "_vit"))
    both = both.merge(paper[[*keys, *values]], on=list(keys), how="left", suffixes=("", "_paper"))
    for value in values:
        both[f"{value}_difference"] = both[value] - both[f"{value}_paper"]
    return both


def show(
    table: pd.DataFrame, formats: dict[str, str], same_data: bool, headings: dict[str, str] | None = None
) -> Styler:
    """A table for a page: columns named in words, published values in grey unless this run uses the `same_data`.

    `formats` chooses and orders the columns; those that end in `_vit`, `_paper` or `_difference` follow their value.
    """
    columns = [
        column
        for name in formats
        for column in (name, f"{name}_vit", f"{name}_paper", f"{name}_difference")
        if column in table and not (column.endswith("_difference") and not same_data)
    ]
    ends = {"_vit": " (ViT)", "_paper": " (paper)", "_difference": " (difference)"}
    words, grey, styles = {}, [], {}
    for column in columns:
        end = next((end for end in ends if column.endswith(end)), "")
        stem = column.removesuffix(end)
        words[column] = (headings or {}).get(stem, stem.replace("_", " ")) + ends.get(end, "")
        styles[words[column]] = formats[stem].replace("{:", "{:+") if end == "_difference" else formats[stem]
        grey += [words[column]] if end == "_paper" and not same_data else []
    styler = table[columns].rename(columns=words).style.hide(axis="index").format(styles, na_rep="")
    return styler.set_properties(subset=grey, **{"color": "#767676"}) if grey else styler
