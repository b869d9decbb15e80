"""The figure of `experiments.feature_groups`, from its CSV alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.figure_parts import BLUE, MEASURES, ORANGE, draw_dots, draw_legend, name_rows, save

COLOURS = {"pairwise_accuracy": BLUE, "top_1": ORANGE}


def draw(results: pd.DataFrame, lost: pd.DataFrame, path: Path) -> None:
    """A row a group, that without which most pairs are put in the wrong order on top: left what is lost without it, right what it reaches alone.

    `lost`: a row a group and seed, by how much measures fall.
    """
    groups = lost.groupby("group")["pairwise_accuracy"].mean().sort_values(ascending=False).index.tolist()
    n_features = results[results["features"] == "alone"].groupby("group")["n_features"].first()
    alone, whole = results[results["features"] == "alone"].groupby("group"), results[results["features"] == "all"]
    figure = Figure(figsize=(10, 0.36 * len(groups) + 2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, (measure, colour) in enumerate(COLOURS.items()):
        at = np.arange(len(groups)) + 0.24 * (place - 0.5)
        draw_dots(left, [100 * lost.loc[lost["group"] == group, measure] for group in groups], at, colour, label=MEASURES[measure])
        draw_dots(right, [alone.get_group(group)[measure] for group in groups], at, colour, label=MEASURES[measure])
        right.axvline(whole[measure].mean(), color=colour, linewidth=0.8, linestyle="--", label=f"{MEASURES[measure]}, all features")
    left.axvline(0, color="black", linewidth=0.8)
    names = [f"{group} ({n_features[group]})" for group in groups]
    name_rows(left, names, "lost without the group (number of its features)", "points of a hundred; more is worse")
    name_rows(right, names, "reached with the group alone", "1 is best")
    draw_legend(figure, right)
    figure.suptitle("What each group of features is worth on tasks never seen (dot: mean over seeds, bar: lowest to highest)", fontsize=10)
    save(figure, path)
