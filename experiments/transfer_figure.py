"""The figure of `experiments.transfer`, from its CSVs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figure_parts import BLUE, ORANGE, draw_dots, draw_legend, name_rows, save

COLOURS = {"nothing like it": ORANGE, "the like": BLUE}


def draw(results: pd.DataFrame, predicted: pd.DataFrame, path: Path) -> None:
    """Families left out, sizes and machines left out, and scores against what was measured."""
    is_family = results["part"] == "families"
    families, others = results[is_family], results[~is_family]
    figure = Figure(figsize=(14, max(4.2, 0.24 * families["held_out"].nunique() + 2)), dpi=150, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1.2))
    _draw_pairs(left, families, "pairwise_accuracy", "an operator family left out (number of its tasks)")
    _draw_pairs(middle, others, "pairwise_accuracy", "a half by size, or a machine, left out\n(tasks judged, on each machine)")
    cells = right.hexbin(
        predicted["rank"], predicted["normalized_throughput"], gridsize=45, bins="log", mincnt=1, cmap="viridis", extent=(0, 1, 0, 1), linewidths=0
    )
    tenths = pd.cut(predicted["rank"], np.linspace(0, 1, 11))
    medians = predicted.groupby(tenths, observed=True)["normalized_throughput"].median()
    right.plot([tenth.mid for tenth in medians.index], medians, color=ORANGE, marker="o", markersize=4, label="median of a tenth")
    right.legend(loc="lower right", fontsize=8)
    right.set_title(f"{len(predicted):,} candidates of tasks never seen", fontsize=9)
    right.set_xlabel("predicted: share of the task's candidates that score no higher", fontsize=8)
    right.set_ylabel("measured: throughput over the best of the task", fontsize=8)
    right.tick_params(labelsize=8)
    figure.colorbar(cells, ax=right).set_label("candidates in a cell", fontsize=8)
    draw_legend(figure, middle)
    figure.suptitle("Does it know what it has never seen the like of? (dot: mean over seeds, bar: lowest to highest)", fontsize=10)
    save(figure, path)


def _draw_pairs(axis: Axes, results: pd.DataFrame, measure: str, title: str) -> None:
    """A row a part that is held out, if there is any, most tasks on top: without the like of it, and with it."""
    if results.empty:
        axis.set_title(f"{title}: there is none", fontsize=9)
        return
    counted = "n_programs" if "n_programs" in results and results["n_programs"].notna().all() else "n_tasks"  # a task counts once, or once on each machine
    tasks = results.groupby("held_out")[counted].mean().sort_values(ascending=False)
    runs = {learned: [mine.loc[mine["held_out"] == name, measure] for name in tasks.index] for learned, mine in results.groupby("learned")}
    at = np.arange(len(tasks))
    axis.hlines(at, *([values.mean() for values in runs[learned]] for learned in COLOURS), color="#BBBBBB", linewidth=1)
    for learned, colour in COLOURS.items():
        draw_dots(axis, runs[learned], at, colour, label=f"has seen {learned}")
    name_rows(axis, [f"{name} ({n:.0f})" for name, n in tasks.items()], title, "pairwise accuracy, 1 is best")
