"""What figures of several experiments are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ir.files import write_file
from tilewright.figures import png

# Okabe and Ito's, and grey: safe for the colour-blind
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#7F7F7F"

# Of ways to search; two of them have one name in the results of search_efficiency and another in those of simulation.
METHOD_COLOURS = {
    "learned": BLUE, "prior": VERMILION, "learned, with a prior": VERMILION, "annealing": ORANGE, "genetic": GREEN,
    "tpe": PURPLE, "TPE": PURPLE, "random": GREY,
}  # fmt: skip

MEASURES = {"pairwise_accuracy": "pairwise accuracy", "recall_at_30": "recall@30", "top_1": "top-1", "top_5": "top-5"}


def draw_dots(axis: Axes, runs: Sequence[pd.Series], at: Sequence[float], colour: str, **style: object) -> None:
    """At each height of `at` a dot, the mean of the values of the runs with all seeds, and a line from the lowest to the highest."""
    means, lows, highs = (np.array([measure(values) for values in runs]) for measure in (np.mean, np.min, np.max))
    axis.hlines(at, lows, highs, color=colour, linewidth=1.6, alpha=0.6)
    axis.plot(means, at, **{"marker": "o", "markersize": 6, "linestyle": "none", "color": colour} | style)


def name_rows(axis: Axes, names: Sequence[str], title: str, label: str) -> None:
    """A panel of rows, the first on top."""
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(label, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.25)


def draw_legend(figure: Figure, axis: Axes) -> None:
    """Below the panels, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)


def save(figure: Figure, path: Path) -> None:
    """In one step, as PNG; `UserError` where that cannot be."""
    write_file(path, png(figure))
