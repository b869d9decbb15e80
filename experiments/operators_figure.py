"""The figure of `experiments.operators`, from its CSV alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from graph.operator_suite import FAMILIES

COLOURS = {1: "#56B4E9", 16: "#0072B2"}  # Okabe and Ito's: safe for the colour-blind
COLUMNS = 4


def draw(results: pd.DataFrame, path: Path) -> None:
    """A panel a family: how many times as fast as the best peer each case is, a pair of bars (batch 1 and 16) a shape."""
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
        width = 0.8 / len(batches)
        for place, batch in enumerate(batches):
            ratios = mine.loc[mine["batch"] == batch, "ratio_to_best_peer"].to_numpy()
            at = np.arange(len(ratios)) + (place - (len(batches) - 1) / 2) * width
            bars = axis.bar(at, ratios, width, color=COLOURS.get(int(batch), "#999999"), label=f"batch {batch}")
            axis.bar_label(bars, fmt="%.1f", fontsize=6, padding=1)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_title(f"{family}: {FAMILIES[family].title}", fontsize=8)
        axis.set_xticks(range(len(FAMILIES[family].shapes)), [f"shape {i + 1}" for i in range(len(FAMILIES[family].shapes))], fontsize=7)
        axis.tick_params(axis="y", labelsize=7)
        axis.margins(y=0.15)
    for row in axes:
        row[0].set_ylabel("× best peer", fontsize=8)
    axes[0, 0].legend(fontsize=7, loc="best")
    figure.suptitle("Speed over the fastest of numpy, PyTorch and ONNX Runtime (line: as fast; above: faster)", fontsize=10)
    figure.savefig(path)
