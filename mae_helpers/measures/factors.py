"""What two choices of training do to a classifier, each and together, from a two by two of classifiers (chapter 13)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mae_helpers.measures.accuracy import mean_and_interval


def two_by_two(trainings: Mapping[str, tuple[str, str]]) -> pd.DataFrame | None:
    """Names of models by their start (rows) and augmentation (columns), in their order; None unless all four are there."""
    rows = pd.DataFrame([(name, *how) for name, how in trainings.items()], columns=["model", "start", "augmentation"])
    if rows.duplicated(["start", "augmentation"]).any():
        return None
    order = [rows[column].unique() for column in ("start", "augmentation")]
    grid = rows.pivot(index="start", columns="augmentation", values="model").reindex(index=order[0], columns=order[1])
    return grid if grid.shape == (2, 2) and grid.notna().all(axis=None) else None


def effects(values: Mapping[str, np.ndarray], grid: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    r"""Main effects and interaction of two choices, means over images with 95 % intervals: effect, points, low, high.

    With $a_{su}$ the value of start s and augmentation u, the first of each (1) against the second (0):
    $E_s = (a_{11} - a_{01} + a_{10} - a_{00}) / 2$, $E_u = (a_{11} - a_{10} + a_{01} - a_{00}) / 2$ and
    $I = (a_{11} - a_{10}) - (a_{01} - a_{00})$. `values` has one value an image for each model of `grid`, (images,), of the
    same images: so all three are means of a value an image, and their intervals are paired (a bootstrap of the images).
    """
    both, start, augmentation, neither = (np.asarray(values[name], float) for name in grid.to_numpy().flat)
    each = {
        "start": (both + start - augmentation - neither) / 2,
        "augmentation": (both - start + augmentation - neither) / 2,
        "interaction": both - start - augmentation + neither,
    }
    found = [(name, *mean_and_interval(value, seed)) for name, value in each.items()]
    return pd.DataFrame(found, columns=["effect", "points", "low", "high"])
