"""The figure of `experiments.model_quality`, from its CSV and the marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from experiments.figure_parts import BLUE, GREEN, MEASURES, ORANGE, VERMILION, draw_dots, draw_legend, name_rows, save
from experiments.measured import ALL

COLOURS = {"within": GREEN, "task": BLUE, "network": ORANGE}
TITLES = {"within": "other candidates of known tasks", "task": "tasks never seen", "network": "networks never seen"}


def draw(results: pd.DataFrame, marks: Mapping[str, Sequence[float]], path: Path) -> None:
    """Left each measure by split against its mark, then pairs on each machine where there are several; then learning curves on tasks never seen."""
    together, curve = results[results["machine"] == ALL], results[results["part"] == "curve"]
    each = results[results["machine"] != ALL]
    ratios = (1.5, 1, 1, 1) if len(each) else (1.5, 1, 1)
    figure = Figure(figsize=(4 + 3.6 * (len(ratios) - 0.5), 4.9), dpi=150, layout="constrained")
    left, *machines, middle, right = figure.subplots(1, len(ratios), width_ratios=ratios)
    _draw_splits(left, together[together["part"] == "split"], marks)
    for axis in machines:
        _draw_machines(axis, each, marks)
    for axis, measure in ((middle, "pairwise_accuracy"), (right, "top_1")):
        _draw_curve(axis, curve[curve["candidate_share"] == 1], "task_share", measure, BLUE, "fewer tasks, all their candidates")
        _draw_curve(axis, curve[curve["task_share"] == 1], "candidate_share", measure, VERMILION, "fewer candidates of every task")
        axis.set_xscale("log")
        axis.set_xticks(sorted(set(curve["task_share"])))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(f"per cent of {curve['learned_candidates'].max():,} candidates of {curve['learned_tasks'].max()} tasks", fontsize=8)
        axis.set_title(f"{MEASURES[measure]} on tasks never seen", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
    middle.legend(fontsize=8, loc="lower right")
    draw_legend(figure, left)
    figure.suptitle("The cost model on what it has not seen (dots and lines: mean over seeds; bars and bands: lowest to highest)", fontsize=10)
    save(figure, path)


def _draw_splits(axis: Axes, results: pd.DataFrame, marks: Mapping[str, Sequence[float]]) -> None:
    found = _splits(results)
    for place, split in enumerate(found):
        at = np.arange(len(MEASURES)) + _shift(place, len(found))
        mine = results[results["split"] == split]
        draw_dots(axis, [mine[measure] for measure in MEASURES], at, COLOURS[split], label=TITLES[split])
        axis.plot(marks[split], at, "|", color="black", markersize=11, markeredgewidth=1.6, label="mark to reach" if split == found[-1] else None)
        chance = mine["recall_at_30_by_chance"].mean()
        axis.plot(chance, at[1], "x", color=COLOURS[split], markersize=5, label="by chance" if split == found[-1] else None)
    bound = results["pairwise_bound"].mean()
    if np.isfinite(bound):
        axis.vlines(bound, -0.42, 0.42, color=VERMILION, linestyle="--", label="at most, by repeatability")
    name_rows(axis, list(MEASURES.values()), "by what is held out", "score, 1 is best")


def _draw_machines(axis: Axes, results: pd.DataFrame, marks: Mapping[str, Sequence[float]]) -> None:
    """Pairwise accuracy, with what noise allows there."""
    found, machines = _splits(results), results.groupby("machine", sort=False)
    for place, split in enumerate(found):
        at = np.arange(len(machines)) + _shift(place, len(found))
        draw_dots(axis, [runs.loc[runs["split"] == split, "pairwise_accuracy"] for _, runs in machines], at, COLOURS[split])
        axis.plot([marks[split][0]] * len(at), at, "|", color="black", markersize=11, markeredgewidth=1.6)
    for place, bound in enumerate(machines["pairwise_bound"].mean()):
        axis.vlines(bound, place - 0.42, place + 0.42, color=VERMILION, linestyle="--")
    names = [str(name).replace(" ", "\n") for name, _ in machines]
    name_rows(axis, names, "pairwise accuracy by machine", "1 is best")


def _splits(results: pd.DataFrame) -> list[str]:
    return [split for split in COLOURS if split in set(results["split"])]


def _shift(place: int, n: int) -> float:
    """Of a row of dots from the middle of its line."""
    return 0.24 * (place - (n - 1) / 2)


def _draw_curve(axis: Axes, runs: pd.DataFrame, over: str, measure: str, colour: str, label: str) -> None:
    by_share = runs.groupby(over)[measure].agg(["mean", "min", "max"])
    axis.fill_between(by_share.index, by_share["min"], by_share["max"], color=colour, alpha=0.2, linewidth=0)
    axis.plot(by_share.index, by_share["mean"], color=colour, marker="o", markersize=4, linewidth=1.6, label=label)
