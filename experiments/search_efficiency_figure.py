"""The figure of `experiments.search_efficiency`, from its CSVs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.figure_parts import METHOD_COLOURS, save
from tilewright.history import short_name

TITLES = {
    "prior": "evolutionary search, model trained before",
    "learned": "evolutionary search, model from scratch",
    "annealing": "simulated annealing as in AutoTVM",
    "genetic": "genetic algorithm without a model",
    "tpe": "Optuna's TPE",
    "random": "random search",
}


def draw(results: pd.DataFrame, rounds: pd.DataFrame, path: Path) -> None:
    """A column a task; best so far against trials above, against seconds in the middle, as a share of the best that any run found (what is kept is
    chosen and judged by different measurements, so it may fall a little); below, how well the model ordered each batch before it learned from it."""
    tasks = list(dict.fromkeys(results["task"]))
    figure = Figure(figsize=(3.0 * len(tasks), 8.2), dpi=150, layout="constrained")
    axes = figure.subplots(3, len(tasks), squeeze=False, sharey="row")
    for column, name in enumerate(tasks):
        mine = results[results["task"] == name]
        best = mine["best_gflops"].max()
        for method, runs in mine.groupby("method", sort=False):
            _draw_method(axes[0, column], runs, "trial", best, str(method))
            _draw_method(axes[1, column], runs, "elapsed_seconds", best, str(method))
        for method, runs in rounds[(rounds["task"] == name) & rounds["method"].isin(["prior", "learned"])].groupby("method", sort=False):
            _draw_quality(axes[2, column], runs, str(method))
        axes[0, column].set_title(f"{short_name(name)}\nbest {best:.0f} GFLOP/s", fontsize=8)
        for row, label in enumerate(("trials", "seconds, everything included", "trials before the batch")):
            axes[row, column].set_xlabel(label, fontsize=8)
    for row in axes:
        for axis in row:
            axis.grid(alpha=0.25)
            axis.tick_params(labelsize=8)
    for row in axes[:2]:
        row[0].set_ylabel("best so far / best of all", fontsize=8)
        for axis in row:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())  # its labels run into each other where an axis has less than a decade
            axis.set_ylim(0.5, 1.02)  # what is below is a schedule that nobody would keep
    axes[2, 0].set_ylabel("pairs of the next batch\nin the right order", fontsize=8)
    for axis in axes[2]:
        axis.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
        axis.set_ylim(0.2, 1.0)
    figure.legend(*axes[0, -1].get_legend_handles_labels(), fontsize=8, ncols=len(TITLES), loc="outside lower center")
    figure.suptitle(
        "The best that each search has found so far, and how well it orders the next batch (line: mean over seeds, band: lowest to highest; dotted: chance)",
        fontsize=10,
    )
    save(figure, path)


def _draw_quality(axis: Axes, runs: pd.DataFrame, method: str) -> None:
    """Mean and range over seeds of the pairwise accuracy within each batch."""
    starts = runs.assign(start=runs.groupby("seed")["n_measured"].cumsum() - runs["n_measured"])
    accuracy = starts.groupby("start")["pairwise_accuracy"]
    axis.fill_between(accuracy.min().index, accuracy.min(), accuracy.max(), color=METHOD_COLOURS[method], alpha=0.2, linewidth=0)
    axis.plot(accuracy.mean(), color=METHOD_COLOURS[method], linewidth=1.6)


def _draw_method(axis: Axes, runs: pd.DataFrame, over: str, best: float, method: str) -> None:
    """Mean and range over seeds, on a common grid of trials or seconds."""
    start = 1.0 if over == "trial" else max(runs["elapsed_seconds"].min(), 0.1)
    grid = np.geomspace(start, max(runs[over].max() + (over == "trial"), 2 * start), 200)
    curves = []
    for _, one in runs.groupby("seed"):
        at = np.searchsorted(one[over].to_numpy() + (over == "trial"), grid, side="right") - 1
        curves.append(np.where(at >= 0, one["best_gflops"].to_numpy()[np.maximum(at, 0)], np.nan) / best)
    stacked = np.array(curves)
    whole = ~np.isnan(stacked).any(axis=0)
    axis.fill_between(grid[whole], stacked[:, whole].min(axis=0), stacked[:, whole].max(axis=0), color=METHOD_COLOURS[method], alpha=0.2, linewidth=0)
    axis.plot(grid[whole], stacked[:, whole].mean(axis=0), color=METHOD_COLOURS[method], linewidth=1.6, label=TITLES[method])
