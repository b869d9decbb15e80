"""The figure of `experiments.objectives`, from its CSV alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.figure_parts import BLUE, GREY, MEASURES, ORANGE, draw_dots, draw_legend, name_rows, save

COLOURS = {"task": BLUE, "network": ORANGE}
TITLES = {"task": "tasks never seen", "network": "networks never seen"}


def draw(results: pd.DataFrame, path: Path) -> None:
    """A row a method, the best on top; a panel a measure."""
    found = [split for split in COLOURS if split in set(results["split"])]
    first = results[results["split"] == found[0]]
    methods = first.groupby("method")["pairwise_accuracy"].mean().sort_values(ascending=False).index.tolist()
    figure = Figure(figsize=(10, 0.36 * len(methods) + 1.8), dpi=150, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, measure in zip(axes, ("pairwise_accuracy", "top_1"), strict=True):
        for place, split in enumerate(found):
            runs = results[results["split"] == split].groupby("method")[measure]
            at = np.arange(len(methods)) + 0.2 * (place - (len(found) - 1) / 2)
            draw_dots(axis, [runs.get_group(method) for method in methods], at, COLOURS[split], label=TITLES[split])
        name_rows(axis, methods, MEASURES[measure], "1 is best")
    axes[0].axvline(0.5, color=GREY, linewidth=0.8, linestyle=":", label="by chance")
    bound = results["pairwise_bound"].mean()
    if np.isfinite(bound):
        axes[0].axvline(bound, color="black", linewidth=0.8, linestyle="--", label="at most, by repeatability")
    draw_legend(figure, axes[0])
    figure.suptitle("Objectives and other models, learned from the same candidates (dot: mean over seeds, bar: lowest to highest)", fontsize=10)
    save(figure, path)
