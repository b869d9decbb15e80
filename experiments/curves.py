"""Curves of the best so far: against trials or seconds, of several runs together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

N_POINTS = 200  # of a curve

Values = NDArray[np.float64]


def draw_curve(axis: Axes, runs: pd.DataFrame, over: str, colour: str, label: str) -> None:
    """`runs`: a row a trial, with `task`, `seed`, `best_share` and the column `over`, of trials or seconds. From where all runs have something: geometric mean
    over tasks, of which mean and range over seeds."""
    by_run = [(seed, one[over].to_numpy(), one["best_share"].to_numpy()) for (_, seed), one in runs.groupby(["task", "seed"])]
    start = max(at[0] for _, at, _ in by_run)
    grid = np.geomspace(start, max(runs[over].max(), 1.001 * start), N_POINTS)
    logs = pd.DataFrame([np.log(_so_far(at, shares, grid)) for _, at, shares in by_run], index=[seed for seed, _, _ in by_run])
    draw_band(axis, grid, np.exp(logs.groupby(level=0).mean().to_numpy()), colour, label)


def draw_band(axis: Axes, x: Values, curves: Sequence[Values] | Values, colour: str, label: str | None = None) -> None:
    """(seeds, points) as their mean and range."""
    curves = np.asarray(curves)
    axis.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    axis.plot(x, curves.mean(axis=0), color=colour, linewidth=1.6, label=label)


def scale_by_doubling(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def _so_far(at: Values, shares: Values, grid: Values) -> Values:
    """What a run had at each point; after its end what it had then."""
    return np.asarray(shares[np.searchsorted(at, grid, side="right") - 1])
