"""What a change of the search is worth: runs with it less the runs without it that have the same seeds, and the figure of such differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from experiments.figure_parts import BLUE, GREY

CONFIDENCE = 0.95


def differences(by_run: pd.DataFrame, baseline: Callable[[str], str]) -> pd.DataFrame:
    """Of each method (rows) less its baseline, which is no row: the mean over seeds, and half the confidence interval of it (columns: those of `by_run`, and
    "mean" or "half"). `by_run`: a row a method and seed, in which all methods have the same seeds."""
    found = {}
    for method in dict.fromkeys(by_run.index.get_level_values(0)):
        if method != baseline(method):
            paired = by_run.loc[method] - by_run.loc[baseline(method)]
            n = len(paired)
            half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * paired.std() / np.sqrt(n)
            found[method] = pd.concat({"mean": paired.mean(), "half": half}).swaplevel()
    return pd.DataFrame(found).T


def draw_differences(table: pd.DataFrame, path: Path, title: str, unit: str) -> None:
    """`table` as `differences` gives it, its columns numbers of trials. A panel a number of trials, a line a method."""
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
        axis.set_xlabel(unit, fontsize=8)
    axis.invert_yaxis()
    figure.suptitle(f"{title} (bars: {CONFIDENCE:.0%} confidence over seeds)", fontsize=10)
    figure.savefig(path)
