"""The figure of `experiments.simulation`, from its CSV alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figure_parts import GREY, METHOD_COLOURS, save
from experiments.replayed import best_after
from experiments.simulation import ANNEALED, LEARNED, PRIOR, QUALITIES, RANDOM, trials_to_reach

# Markers tell the methods apart without any colour.
MARKERS = {LEARNED: "o", PRIOR: "*", ANNEALED: "s", "genetic": "D", "TPE": "^", RANDOM: "x"}


def draw(results: pd.DataFrame, path: Path) -> None:
    """Best so far against trials, and trials needed for a quality."""
    figure = Figure(figsize=(11.0, 4.4), dpi=150, layout="constrained")
    curves, needed = figure.subplots(1, 2, width_ratios=(3, 2))
    for method in (name for name in MARKERS if name in set(results["method"])):
        _draw_curve(curves, results[results["method"] == method], method)
    _draw_needed(needed, trials_to_reach(results))
    curves.set_xscale("log", base=2)
    curves.set_ylim(0.5, 1.01)  # what is below is a schedule that nobody would keep
    curves.set(xlabel="trials", ylabel="best so far / best recorded")
    curves.legend(fontsize=8, loc="lower right")
    for axis in (curves, needed):
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_formatter("{x:.0f}")
    n_tasks, n_seeds = results["task"].nunique(), results["seed"].nunique()
    figure.suptitle(f"Replayed on {n_tasks} tasks with up to {n_seeds} seeds: mean over tasks (line: mean over seeds, band: lowest to highest)", fontsize=10)
    save(figure, path)


def _draw_curve(axis: Axes, runs: pd.DataFrame, method: str) -> None:
    grid = np.unique(np.geomspace(1, runs["trial"].max(), 200).round().astype(int))
    by_seed = best_after(runs, grid).groupby("seed").mean()  # over tasks
    axis.fill_between(grid, by_seed.min(), by_seed.max(), color=METHOD_COLOURS[method], alpha=0.2, linewidth=0)
    axis.plot(grid, by_seed.mean(), color=METHOD_COLOURS[method], linewidth=1.6, marker=MARKERS[method], markevery=25, markersize=5, label=method)


def _draw_needed(axis: Axes, table: pd.DataFrame) -> None:
    """A band a quality, in it the median of each method, one above the other; those that are never there are left out."""
    for height, (method, row) in zip(np.linspace(0.3, -0.3, len(table)), table.iterrows(), strict=True):
        there = [(n, line + height) for line, n in enumerate(row) if math.isfinite(n)]
        if there:
            axis.plot(*zip(*there, strict=True), linestyle="none", color=METHOD_COLOURS[str(method)], marker=MARKERS[str(method)], markersize=7)
    axis.set_xscale("log", base=2)
    axis.set_yticks(range(len(QUALITIES)), [f"{quality:.0%}" for quality in QUALITIES])
    axis.set_ylim(-0.5, len(QUALITIES) - 0.5)
    for line in range(1, len(QUALITIES)):
        axis.axhline(line - 0.5, color=GREY, linewidth=0.8)
    axis.set(xlabel="trials, median over tasks and seeds", ylabel="share of the best recorded")
