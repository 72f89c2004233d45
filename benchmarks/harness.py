"""Measure pairs of functions side by side, and keep the table: equality first, then A B A B ..., then one ratio a round.

The timers of torch.utils.benchmark, pyperf and pytest-benchmark measure one function after the other. On a machine that
others use as well a ratio needs both within the same seconds, so the loop is here; it is all there is.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch

from mae_helpers.run.tables import write_whole

FOLDER = Path(__file__).parent
COLUMNS = [
    *("name", "measured", "against", "device", "ratio", "low", "high", "goal", "met"),
    *("seconds_ours", "seconds_other", "mb_ours", "mb_other", "difference", "tolerance", "setting", "versions", "load"),
]


class NotEqual(AssertionError):
    """The two sides of a comparison do not give the same results, so that their ratio means nothing."""


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes, a GPU's work included."""
    began = perf_counter()
    function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter() - began


@dataclass(frozen=True)
class Pair:
    """Two ways to the same results: `difference(ours(), other())` is the largest difference, at most `tolerance`.

    `cost` measures one call, in seconds by default; `setting` says on what.
    """

    ours: Callable[[], object]
    other: Callable[[], object]
    difference: Callable[[object, object], float]
    tolerance: float
    setting: str
    cost: Callable[[Callable[[], object]], float] = seconds


@dataclass(frozen=True)
class Row:
    """A row of the table: what is measured against what, the goal by kind of device (`<= 1.15`), and how the pair is made.

    The ratio is ours / other where the goal is an upper bound, other / ours where it is a lower one.
    """

    name: str
    measured: str
    against: str
    goals: Mapping[str, str]
    pair: Callable[[torch.device], Pair] = field(repr=False)
    unit: str = "seconds"
    repeats: int = 5


def largest_difference(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float:
    """The largest absolute difference between arrays of the same names; infinite where names or shapes differ."""
    if set(first) != set(second) or any(np.shape(first[name]) != np.shape(second[name]) for name in first):
        return float("inf")
    gaps = (np.abs(np.subtract(first[name], second[name], dtype=np.float64)).max(initial=0) for name in first)
    return float(np.max(list(gaps), initial=0))


def meets(ratio: float, goal: str) -> bool:
    """Whether a ratio meets a goal such as `<= 1.15` or `>= 8`."""
    sign, bound = goal.split()
    return ratio <= float(bound) if sign == "<=" else ratio >= float(bound)


def device_name(kind: str) -> str:
    """A device as the table names it: the GPU's own name, or the threads that PyTorch uses of the CPU."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def versions() -> str:
    """What the numbers depend on besides the code."""
    named = {name: version(name) for name in ("torch", "timm", "numpy", "scipy")}
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {number}" for name, number in named.items())


def measure(row: Row, kind: str) -> dict[str, object]:
    """One line of the table; NotEqual where the results differ by more than the pair's tolerance.

    The comparison of results is the warm-up too.
    """
    before, pair = os.getloadavg()[0], row.pair(torch.device(kind))
    gap = pair.difference(pair.ours(), pair.other())
    if not gap <= pair.tolerance:
        raise NotEqual(
            f"{row.name}: the results differ by {gap:.3g}, more than {pair.tolerance:.3g}; nothing was timed"
        )
    ours, other = np.array([(pair.cost(pair.ours), pair.cost(pair.other)) for _ in range(row.repeats)]).T
    goal = row.goals[kind]
    ratios = ours / other if goal.startswith("<=") else other / ours
    found = {"ratio": np.median(ratios), "low": ratios.min(), "high": ratios.max()}
    return empty(row, kind) | {
        **{name: float(f"{value:.4g}") for name, value in found.items()},
        "met": meets(found["ratio"], goal),
        f"{row.unit}_ours": float(f"{np.median(ours):.4g}"),
        f"{row.unit}_other": float(f"{np.median(other):.4g}"),
        "difference": float(f"{gap:.3g}"),
        "tolerance": pair.tolerance,
        "setting": f"{pair.setting}; {row.repeats} rounds; {device_name(kind)}",
        "versions": versions(),
        "load": round(before, 1),
    }


def empty(row: Row, kind: str) -> dict[str, object]:
    """The line of a row that was not measured on this kind of device."""
    told = {"name": row.name, "measured": row.measured, "against": row.against, "device": kind}
    return dict.fromkeys(COLUMNS) | told | {"goal": row.goals[kind]}


def merged(rows: Sequence[Row], measured: Sequence[dict], path: Path) -> pd.DataFrame:
    """The whole table in the order of `rows`: what was measured now, else what the file has, else an empty line.

    Name, description and goal are always those of today.
    """
    old = pd.read_csv(path).to_dict("records") if path.exists() else []
    known = {(line["name"], line["device"]): line for line in [*old, *measured]}
    lines = []
    for row in rows:
        for kind, goal in row.goals.items():
            line = empty(row, kind)
            kept = {k: v for k, v in known.get((row.name, kind), {}).items() if line.get(k) is None and k in COLUMNS}
            line |= kept
            if pd.notna(line["ratio"]):
                line["met"] = meets(line["ratio"], goal)
            lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)


def write(table: pd.DataFrame, path: Path) -> None:
    """Write the table, whole or not at all."""
    write_whole(path, table.to_csv(index=False))
