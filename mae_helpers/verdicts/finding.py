"""What a rule returns, and what several rules read alike from a run's tables."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
from scipy.stats import spearmanr

ENCODER, CLASSIFIER, BESIDE, CONTROL = "encoder", "classifier", "beside", "random"  # whom the claims are about


class NotTestedError(Exception):
    """This run has not what a rule needs: the message says what is missing."""


@dataclass(frozen=True)
class Finding:
    """What a run's tables show: in words, whether the claim holds fully, or partly; the difference from the paper."""

    here: str
    full: bool
    partly: bool
    difference: str = ""
    note: str = ""


def in_roles(table: pd.DataFrame, study: Mapping[str, str]) -> pd.DataFrame:
    """The rows of a run's models under the roles that `study` gives them, and the control's; a model may have two."""
    if "model" not in table:
        return table
    roles = study | {CONTROL: CONTROL}
    return pd.concat([table[table["model"] == name].assign(model=role) for role, name in roles.items()])


def select(table: pd.DataFrame, model: str = CLASSIFIER, **columns: object) -> pd.DataFrame:
    """The rows with these values; NotTestedError where there are none, or of a classifier that is not above chance."""
    for name, value in {"model": model, **columns}.items():
        table = table[table[name] == value]
        if table.empty:
            raise NotTestedError(f"this run has no {name} {value!r}")
    if "clean_low" in table and (table["clean_low"] <= table["chance_percent"]).any():
        clean, low, chance = table[["clean_percent", "clean_low", "chance_percent"]].iloc[0]
        words = f"{clean:.1f} % on clean images (95 % interval from {low:.1f} %), where chance gives {chance:.1f} %"
        raise NotTestedError(f"this run's classifier is not above chance: {words}")
    return table


def needed(values: pd.Series, *labels: object) -> pd.Series:
    """The values as they are; NotTestedError where one of the labels is not among their levels."""
    if missing := [str(label) for label in labels if label not in values.index]:
        raise NotTestedError(f"this run has no level {', '.join(missing)}")
    return values


def levels(
    table: pd.DataFrame, value: str, *labels: object, by: str = "level", model: str = CLASSIFIER, **columns: object
) -> pd.Series:
    """Means of a column by level, `labels` among them: levels that are numbers in their order, names as they come."""
    values = select(table, model, **columns).groupby(by, sort=False)[value].mean()
    with suppress(ValueError):  # names are no numbers
        values = values.set_axis(pd.to_numeric(values.index)).sort_index()
    return needed(values, *labels)


def kept(values: pd.Series, clean: float) -> pd.Series:
    """Accuracies as shares of the clean one; NotTestedError where that is 0, of which no share can be kept."""
    if clean == 0:
        raise NotTestedError("this run's accuracy on clean images is 0 %")
    return values / clean


def spearman(values: pd.Series) -> float:
    """The rank correlation of values with their index."""
    return float(spearmanr(values.index, values).statistic)


def thirds(table: pd.DataFrame, column: str) -> tuple[float, float]:
    """Means of a column over the first and the last third of the layers."""
    means = table.groupby((table["layer"] - 1) // (table["layer"].max() / 3))[column].mean()
    return float(means.iloc[0]), float(means.iloc[-1])


def steps(values: pd.Series, knee: int = 60) -> tuple[float, float]:
    """Mean change a step of 10 up to `knee`, and beyond it; `values` are indexed by percent."""
    needed(values, 0, knee)
    if values.index[-1] <= knee:
        raise NotTestedError(f"this run has no level beyond {knee}")
    before, after = (values[knee] - values[0]) / knee, (values.iloc[-1] - values[knee]) / (values.index[-1] - knee)
    return 10 * float(before), 10 * float(after)
