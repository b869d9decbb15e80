"""The figures of `experiments.search_efficiency`, from its CSVs alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.curves import draw_band, draw_curve, scale_by_doubling
from experiments.figure_parts import METHOD_COLOURS, save
from ir.task import task
from tilewright.history import short_name

TITLES = {
    "prior": "evolutionary search, model trained before",
    "learned": "evolutionary search, model from scratch",
    "annealing": "simulated annealing as in AutoTVM",
    "genetic": "genetic algorithm without a model",
    "tpe": "Optuna's TPE",
    "random": "random search",
}
N_COLUMNS = 4  # of the figure of tasks


def draw(runs: pd.DataFrame, rounds: pd.DataFrame, path: Path) -> None:
    """All tasks together: best so far against trials and against seconds, and how well the model ordered each batch before it learned from it. `runs`: as
    `search_efficiency.to_their_ends` makes them."""
    figure = Figure(figsize=(13.0, 4.6), dpi=150, layout="constrained")
    over_trials, over_seconds, quality = figure.subplots(1, 3)
    for method, mine in runs.groupby("method", sort=False):
        draw_curve(over_trials, mine, "trial", METHOD_COLOURS[str(method)], TITLES[str(method)])
        draw_curve(over_seconds, mine, "elapsed_seconds", METHOD_COLOURS[str(method)], TITLES[str(method)])
    for method, mine in rounds[rounds["method"].isin(["prior", "learned"])].groupby("method", sort=False):
        _draw_quality(quality, mine, str(method))
    over_trials.set(xlabel="trials", ylabel="best so far / best of all", ylim=(0.5, 1.01))
    over_seconds.set(xlabel="seconds, everything included", ylabel="best so far / best of all", ylim=(0.5, 1.01))
    quality.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    quality.set(xlabel="trials before the batch", ylabel="pairs of the next batch in the right order", ylim=(0.4, 1.0))
    for axis in (over_trials, over_seconds):
        scale_by_doubling(axis)
    for axis in (over_trials, over_seconds, quality):
        axis.grid(alpha=0.25)
    figure.legend(*over_trials.get_legend_handles_labels(), fontsize=9, ncols=3, loc="outside lower center", frameon=False)
    n_tasks, n_seeds = runs["task"].nunique(), runs["seed"].nunique()
    figure.suptitle(
        f"Live search on {n_tasks} tasks, {n_seeds} seeds: geometric mean over tasks (line: mean over seeds, band: lowest to highest; dotted: chance)",
        fontsize=10,
    )
    save(figure, path)


def draw_tasks(runs: pd.DataFrame, path: Path) -> None:
    """A panel a task: best so far against trials, as a share of the best that any run found (what is kept is chosen and judged by different measurements, so
    it may fall a little). `runs` as for `draw`."""
    tasks = list(dict.fromkeys(runs["task"]))
    n_rows = -(-len(tasks) // N_COLUMNS)
    figure = Figure(figsize=(3.4 * N_COLUMNS, 2.7 * n_rows + 0.8), dpi=150, layout="constrained")
    axes = figure.subplots(n_rows, N_COLUMNS, squeeze=False, sharey=True).ravel()
    for axis, name in zip(axes, tasks, strict=False):
        mine = runs[runs["task"] == name]
        for method, some in mine.groupby("method", sort=False):
            draw_curve(axis, some, "trial", METHOD_COLOURS[str(method)], TITLES[str(method)])
        axis.set_title(f"{short_name(name)}\nbest {mine['best_speed'].max():.0f} {task(name).speed_unit}", fontsize=8)
        axis.set_xlabel("trials", fontsize=8)
        axis.set_ylim(0.3, 1.02)  # what is below is a schedule that nobody would keep
        scale_by_doubling(axis)
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=8)
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    figure.supylabel("best so far / best of all", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside lower center", frameon=False)
    figure.suptitle("The best that each search has found so far (line: mean over seeds, band: lowest to highest)", fontsize=10)
    save(figure, path)


def _draw_quality(axis: Axes, rounds: pd.DataFrame, method: str) -> None:
    """The pairwise accuracy within each batch: means over tasks, of which mean and range over seeds."""
    starts = rounds.assign(start=rounds.groupby(["task", "seed"])["n_measured"].cumsum() - rounds["n_measured"])
    by_run = starts.pivot_table(index=["task", "seed"], columns="start", values="pairwise_accuracy", dropna=False)
    of_all = by_run.dropna(axis="columns")  # means over other tasks at each place would say nothing of the model
    draw_band(axis, of_all.columns.to_numpy(), of_all.groupby("seed").mean().to_numpy(), METHOD_COLOURS[method])
