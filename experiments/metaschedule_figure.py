"""The figure of `experiments.metaschedule`: the best so far of both tools, from its CSVs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.curves import draw_curve, scale_by_doubling
from experiments.figure_parts import BLUE, VERMILION, save
from graph.operator_suite import FAMILIES
from tilewright.display import counted

TITLES = {"tilewright": "Tilewright, no model trained before", "metaschedule": "TVM MetaSchedule"}
COLOURS = {"tilewright": BLUE, "metaschedule": VERMILION}
SECONDS = {"tilewright": "min_seconds", "metaschedule": "tvm_min_seconds"}  # columns of results.csv: of the two best kernels, in turns
N_COLUMNS = 4


def draw(runs: pd.DataFrame, n_cases: int, path: Path) -> None:
    """All cases together against trials and against seconds, then a panel a case against seconds. `runs`: what `best_so_far` found, of one case or more; how
    many of the `n_cases` are not in it the title says."""
    families = list(dict.fromkeys(runs["task"]))
    n_rows = -(-(2 + len(families)) // N_COLUMNS)
    figure = Figure(figsize=(3.4 * N_COLUMNS, 2.9 * n_rows + 0.9), dpi=150, layout="constrained")
    axes = figure.subplots(n_rows, N_COLUMNS, squeeze=False).ravel()
    _panel(axes[0], runs, "trial", "all cases (geometric mean)", "trials")
    _panel(axes[1], runs, "elapsed_seconds", "all cases (geometric mean)", "seconds, everything included")
    for axis, family in zip(axes[2:], families, strict=False):
        _panel(axis, runs[runs["task"] == family], "elapsed_seconds", f"{family}, {FAMILIES[family].title}", "seconds, everything included")
    for axis in axes[2 + len(families) :]:
        axis.set_axis_off()
    figure.supylabel("best so far / best of both", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=9, ncols=2, loc="outside lower center", frameon=False)
    left_out = n_cases - len(families)
    told = f"; {left_out} without curves of both left out" if left_out else ""
    figure.suptitle(f"The best that each has found so far: {counted(len(families), 'case')}, one run each{told}", fontsize=10)
    save(figure, path)


def best_so_far(results: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Of the CSVs of `experiments.metaschedule` the trials from each run's first success on, with `trial`, how many were made; `best_share`, of the faster of
    the two kernels that were compared; and `task`, which is the family, and `seed` for `draw_curve`. The tools time trials in ways of their own, so each curve
    is scaled to end at what the comparison in turns found. Without cases that lack trials of either, or a kernel of TVM's."""
    of_family = results[results["ratio"].notna()].set_index("family")
    curves = []
    for (family, tool), mine in trials.groupby(["family", "tool"], sort=False):
        if family not in of_family.index:
            continue
        so_far = mine.sort_values("trial")["seconds"].cummin()
        last, of = so_far.iloc[-1], of_family.loc[family]
        ended_at, best = of[SECONDS[str(tool)]], min(of[name] for name in SECONDS.values())
        shares = best / (ended_at * so_far / last)
        made = mine.assign(trial=mine["trial"] + 1, best_share=shares, task=family, seed=0)
        curves.append(made[np.isfinite(so_far)])
    both = pd.concat(curves) if curves else trials.assign(task="", seed=0, best_share=np.nan)[:0]
    of_both = both.groupby("task")["tool"].transform("nunique") == len(TITLES)
    return both[of_both].reset_index(drop=True)


def _panel(axis: Axes, runs: pd.DataFrame, over: str, title: str, label: str) -> None:
    for tool, mine in runs.groupby("tool", sort=False):
        draw_curve(axis, mine, over, COLOURS[str(tool)], TITLES[str(tool)])
    axis.set_title(title, fontsize=8)
    axis.set_xlabel(label, fontsize=8)
    axis.set_ylim(0.3, 1.02)
    scale_by_doubling(axis)
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)
