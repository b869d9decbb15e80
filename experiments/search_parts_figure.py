"""The figure of `experiments.search_parts`, from the table that it makes of its CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.figure_parts import BLUE, GREY


def draw(table: pd.DataFrame, path: Path) -> None:
    """`table` as `experiments.search_parts.differences` gives it. A panel a number of trials, a line a part."""
    table = 100 * table
    trials = list(dict.fromkeys(table.columns.get_level_values(0)))
    lines = range(len(table))
    figure = Figure(figsize=(10.0, 1.4 + 0.3 * len(table)), dpi=150, layout="constrained")
    for axis, n in zip(figure.subplots(1, len(trials), sharey=True, sharex=True), trials, strict=True):
        axis.axvline(0.0, color=GREY, linewidth=1)
        axis.errorbar(table[n, "mean"], lines, xerr=table[n, "half"], fmt="o", color=BLUE, markersize=4, capsize=2)
        axis.set_title(f"after {n} trials", fontsize=9)
        axis.grid(axis="x", alpha=0.25)
        axis.tick_params(labelsize=8)
        axis.set_yticks(lines, table.index)
        axis.set_xlabel("percentage points", fontsize=8)
    axis.invert_yaxis()
    compared = "less that of the full search; fixed shares: less that of a share that moves"
    figure.suptitle(f"Best so far over best recorded, {compared} (bars: 95 % confidence over seeds)", fontsize=10)
    figure.savefig(path)
