"""The figure of the scorecard."""

import pandas as pd
from matplotlib.axes import Axes

COLOURS = {
    **{"supported": "#009E73", "partly": "#F0E442", "inconclusive": "#56B4E9", "not supported": "#D55E00"},
    "not tested here": "#BBBBBB",
}


def verdict_bars(counts: pd.DataFrame, ax: Axes) -> Axes:
    """How many claims have which verdict, stacked, a bar a section; `counts` has sections by verdicts."""
    counts.plot.barh(stacked=True, color=COLOURS, ax=ax, width=0.65)
    for bars in ax.containers:
        ax.bar_label(bars, [f"{value:.0f}" if value else "" for value in bars.datavalues], label_type="center")
    ax.set(xlabel="claims", ylabel="")
    ax.invert_yaxis()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=len(counts.columns), title=None, fontsize=9)
    return ax
