"""What a rule returns, and what rules share: rows of a table, resampled means, 95 % intervals, and verdicts from them."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

ENCODER, CLASSIFIER, BESIDE, CONTROL = "encoder", "classifier", "beside", "random"  # whom the claims are about
RESAMPLES = 1000  # bootstrap samples behind an interval
# Which of four images a condition is right on; see `accuracies`:
MADE_UP = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]])


class NotTestedError(Exception):
    """This run has not what a rule needs: the message says what is missing."""


@dataclass(frozen=True)
class Finding:
    """What a run's tables show: in words, and whether the claim holds fully, or partly; None where that is not certain."""

    here: str
    full: bool | None
    partly: bool | None
    difference: str = ""
    note: str = ""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval, equal to it where nothing is known of its error; NotTestedError for a NaN."""

    value: float
    low: float
    high: float

    def __post_init__(self):
        if not np.isfinite(self.value):
            raise NotTestedError("what this claim is about is not defined on this run's images")

    @classmethod
    def of(cls, resampled: pd.Series) -> "Estimate":
        """The first of a statistic's values is the observed one, the others those of resamples (see `resample`)."""
        low, high = np.nanpercentile(resampled, [2.5, 97.5]) if len(resampled) > 1 else [resampled.iloc[0]] * 2
        return cls(float(resampled.iloc[0]), float(low), float(high))

    def above(self, bound: float) -> bool | None:
        """Whether the value exceeds the bound: True or False where the whole interval says so, else None."""
        return True if self.low > bound else False if self.high <= bound else None

    def below(self, bound: float) -> bool | None:
        """Whether it is under the bound, in the same way."""
        return True if self.high < bound else False if self.low >= bound else None

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference of two that were not resampled together: distances to the ends are added as squares (MOVER)."""
        value = self.value - other.value
        down = np.hypot(self.value - self.low, other.high - other.value)
        up = np.hypot(self.high - self.value, other.value - other.low)
        return Estimate(value, float(value - down), float(value + up))

    def __format__(self, style: str) -> str:
        style = style.replace(".", "z.")  # no -0
        value, low, high = (format(number, style).replace("%", " %") for number in (self.value, self.low, self.high))
        return value if self.low == self.high else f"{value} ({low} to {high})"


def every(*truths: bool | None) -> bool | None:
    """Whether all hold: False if one does not, None if one is uncertain."""
    if any(one is not None and not one for one in truths):
        return False
    return None if None in truths else True


def some(*truths: bool | None) -> bool | None:
    """Whether one of them holds: True if one does, None if one is uncertain."""
    return True if any(truths) else None if None in truths else False


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


def depth(layers: Iterable[int], fewest: int) -> int:
    """The number of layers that a table has; NotTestedError where it is below the `fewest` that a claim speaks of."""
    last = int(max(layers))
    if last < fewest:
        raise NotTestedError(f"the claim is about depth and takes {fewest} layers or more; this model has {last}")
    return last


def needed(values: pd.DataFrame | pd.Series, *labels: object) -> pd.DataFrame | pd.Series:
    """The values as they are; NotTestedError where one of the labels is not among their levels."""
    if missing := [str(label) for label in labels if label not in values.index]:
        raise NotTestedError(f"this run has no level {', '.join(missing)}")
    return values


def in_order(values: pd.DataFrame) -> pd.DataFrame:
    """Levels that are numbers in their order, names as they come."""
    with suppress(ValueError, TypeError):  # names are no numbers
        return values.set_axis(pd.to_numeric(values.index)).sort_index()
    return values


@cache
def _weights(units: int) -> np.ndarray:
    """How often each of so many units is drawn in each of RESAMPLES bootstrap samples, as a share of all."""
    return np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), RESAMPLES) / units


def resample(values: pd.DataFrame, made_up: np.ndarray | None = None) -> pd.DataFrame:
    """Means over units of values (units by conditions): conditions by (observed, resample 1, 2, ...).

    Units are what was sampled: images, classes or heads. Tables of as many units are drawn alike, so that what is
    computed of two of them is paired. A single unit has no resamples. `made_up` units count in the resamples alone.
    """
    observed = values.mean()
    if len(values) < 2:
        return observed.to_frame()
    whole = values.to_numpy(float) if made_up is None else np.vstack([values, made_up])
    means = _weights(len(whole)) @ whole  # [resample, condition]
    return pd.DataFrame(np.vstack([observed, means]).T, index=values.columns)


def redrawn(values: pd.DataFrame, statistic: Callable[..., np.ndarray]) -> pd.DataFrame:
    """As `resample`, for another statistic(values, axis=...) than the mean, such as the median."""
    units = values.to_numpy()
    rows = np.random.default_rng(0).integers(0, len(units), (RESAMPLES if len(units) > 1 else 0, len(units)))
    both = [statistic(units, axis=0)[None], statistic(units[rows], axis=1)]  # [resample, condition]
    return pd.DataFrame(np.vstack(both).T, index=values.columns)


def accuracies(
    table: pd.DataFrame, by: str, *labels: object, model: str = CLASSIFIER, turn: int = 0, **columns: object
) -> pd.DataFrame:
    """Accuracy in percent on clean images, as the first row `clean`, and by the levels of `by`, resampled over images.

    Four made-up images are drawn with the others, two of them right in each condition, another two in the next: so one
    condition's interval is about that of Agresti and Coull, a difference's that of Bonett and Price, and none is without
    width where all images are right; `turn` tells curves apart that are compared. Accuracies without letters (`right`),
    as published ones, are taken as exact.
    """
    rows = select(table, model, **columns)
    if "right" not in rows:
        levels = rows.groupby(by, sort=False)["top1_percent"].mean().to_frame(0)
        clean = pd.DataFrame({0: [rows["clean_percent"].iloc[0]]}, ["clean"])
    else:
        letters = [rows["clean_right"].iloc[0], *rows["right"]]
        right = pd.DataFrame([[100.0 * (letter == "R") for letter in text] for text in letters])  # [row, image]
        levels = right.groupby(["clean", *rows[by]], sort=False).mean()
        turns = turn + (model == BESIDE) + np.append(0, 1 + np.arange(len(levels) - 1) % 2)
        both = resample(levels.T, 100 * MADE_UP[turns % 3].T)
        clean, levels = both.loc[["clean"]], both.drop(index="clean")
    return pd.concat([clean, needed(in_order(levels.drop(index="clean", errors="ignore")), *labels)])


def kept(top1: pd.DataFrame, chance: float) -> pd.DataFrame:
    """Accuracies above chance as shares of the clean one: (accuracy - chance) / (clean accuracy - chance)."""
    return (top1.drop(index="clean") - chance) / (top1.loc["clean"] - chance)


def over(
    table: pd.DataFrame, unit: str, value: str, by: str, *labels: object, model: str, **columns: object
) -> pd.DataFrame:
    """The mean of a column by the levels of `by`, resampled over the table's units: images, classes or heads."""
    rows = select(table, model, **columns)
    wide = rows.pivot_table(index=unit, columns=by, values=value, sort=False)
    return needed(in_order(resample(wide)), *labels)


def rank_correlation(values: pd.DataFrame, other: pd.DataFrame | None = None) -> pd.Series:
    """Spearman's correlation of rows with their order, or with those of another table, for each column."""
    order = pd.DataFrame({column: range(len(values)) for column in values}, values.index)
    return values.rank().corrwith((order if other is None else other).rank())


def beats(table: pd.DataFrame, value: Callable[[str], pd.Series], factor: float, model: str) -> bool | None:
    """Whether a statistic exceeds `factor` times that of the untrained network; True where none was measured."""
    measured = (table["model"] == CONTROL).any()
    return Estimate.of(value(model) - factor * value(CONTROL)).above(0) if measured else True


def in_order_of_depth(values: pd.DataFrame) -> Estimate:
    """The rank correlation of layers (in rows, see `resample`) with their order; 0 where all are equal."""
    return Estimate.of(rank_correlation(values).fillna(0.0))
