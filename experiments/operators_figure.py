"""The figure of `experiments.operators`, from its CSV alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figure_parts import save
from graph.operator_suite import FAMILIES

COLOURS = {1: "#56B4E9", 16: "#0072B2"}  # Okabe and Ito's: safe for the colour-blind
LIMIT_COLOUR = "#D55E00"
COLUMNS = 4
HEADROOM = 1.25  # of a panel, above its highest bar; limits beyond it are triangles at the upper edge


def draw(results: pd.DataFrame, path: Path) -> None:
    """A panel a family: how many times as fast as the best peer each case is, a pair of bars (batch 1 and 16) a shape, each with the machine's limit."""
    tuned = results[results["contender"] == "tuned"]
    families = list(dict.fromkeys(tuned["family"]))
    n_rows = -(-len(families) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.3 * n_rows + 0.6), dpi=150, layout="constrained")
    axes = figure.subplots(n_rows, COLUMNS, squeeze=False)
    for axis in axes.ravel()[len(families) :]:
        axis.axis("off")
    for axis, family in zip(axes.ravel(), families, strict=False):
        mine = tuned[tuned["family"] == family]
        batches = sorted(set(mine["batch"]))
        width, top = 0.8 / len(batches), HEADROOM * mine["ratio_to_best_peer"].max()
        for place, batch in enumerate(batches):
            cases = mine[mine["batch"] == batch]
            ratios = cases["ratio_to_best_peer"].to_numpy()
            numbers = [of.key for of in FAMILIES[family].tasks(batch)]
            at = np.array([numbers.index(key) for key in cases["task"]]) + (place - (len(batches) - 1) / 2) * width
            axis.bar(at, ratios, width, color=COLOURS.get(int(batch), "#999999"), label=f"batch {batch}")
            for x, ratio in zip(at, ratios, strict=True):
                axis.annotate(f"{ratio:.1f}", (x, 0), (0, 2), textcoords="offset points", ha="center", fontsize=6, color="white" if batch > 1 else "black")
            in_a_row = (cases["min_seconds"] / cases["kernel_seconds"]).to_numpy()  # the limit is asked of the kernel without the call
            _draw_limits(axis, at, ratios * in_a_row / cases["limit_fraction"].to_numpy(), top, width)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_title(f"{family}: {FAMILIES[family].title}", fontsize=8)
        axis.set_xticks(range(len(FAMILIES[family].shapes)), [f"shape {i + 1}" for i in range(len(FAMILIES[family].shapes))], fontsize=7)
        axis.tick_params(axis="y", labelsize=7)
        axis.set_ylim(0, top)
    for row in axes:
        row[0].set_ylabel("× best peer", fontsize=8)
    axes[0, 0].legend(fontsize=7, loc="upper left")
    figure.suptitle(
        "Speed over the fastest of numpy, PyTorch and ONNX Runtime (line: as fast). Orange: the limit of the machine for direct algorithms, the longest of\n"
        "multiply-adds at peak, memory traffic at full bandwidth, and powers of two; a triangle where it lies above the panel",
        fontsize=10,
    )
    save(figure, path)


def _draw_limits(axis: Axes, at: NDArray[np.float64], limits: NDArray[np.float64], top: float, width: float) -> None:
    inside = limits < top
    axis.hlines(limits[inside], at[inside] - width / 2, at[inside] + width / 2, color=LIMIT_COLOUR, linewidth=1.5)
    axis.plot(at[~inside], np.full((~inside).sum(), 0.98 * top), "^", color=LIMIT_COLOUR, markersize=3)
