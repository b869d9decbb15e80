"""What each group of features is worth: the cost model without it, and with it alone, on tasks never seen.

    python -m experiments.feature_groups [--data data/measured] [--output DIRECTORY] [--plot-only]

Groups are those of `costmodel.feature_table`, and across them "relative": features against what is usual for the task (`costmodel.task_features`). Much of
what a group says others say too, so what is lost without it is less than what it says alone. Writes results.csv (a row a fit), machine.json and
feature_groups.png, which is made from the CSV alone. Takes about five minutes for 50,000 candidates on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from costmodel.feature_table import GROUPS
from costmodel.task_features import RELATIVE, TaskFeatures
from costmodel.training import pretraining_model
from experiments.command import command
from experiments.files import read_results
from experiments.measured import Measurements, Row, fit_and_judge, load, splits, write

ALL, WITHOUT, ALONE = "all", "without", "alone"
AGAINST_USUAL = "relative"


@dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1)
    groups: tuple[str, ...] = (*GROUPS, AGAINST_USUAL)
    n_threads: int = 2


CONFIG = Config()


def run(config: Config, data: Path, output: Path) -> pd.DataFrame:
    measured = load(data)
    return write(output, list(_rows(config, measured)), measured, config)


def _rows(config: Config, measured: Measurements) -> Iterator[Row]:
    data = measured.data
    for split, seed, hold, _ in splits(data, ("task",), config.seeds, ()):
        for features, group, columns in _choices(config.groups):
            found = fit_and_judge(pretraining_model(seed, config.n_threads), data, ~hold, hold, columns=columns)
            yield {"features": features, "group": group, "n_features": len(columns), "split": split, "seed": seed, **found}


def _choices(groups: Sequence[str]) -> Iterator[tuple[str, str, list[int]]]:
    """(which features, the group in question, their columns)."""
    columns = list(range(len(TaskFeatures.names)))
    yield ALL, "", columns
    for group in groups:
        yield WITHOUT, group, [i for i in columns if not _is_in(group, i)]
        yield ALONE, group, [i for i in columns if _is_in(group, i)]


def _is_in(group: str, column: int) -> bool:
    return TaskFeatures.names[column].endswith(RELATIVE) if group == AGAINST_USUAL else TaskFeatures.groups[column] == group


def losses(results: pd.DataFrame) -> pd.DataFrame:
    """A row a group and seed: by how much measures fall where the group is left out."""
    measures = ["pairwise_accuracy", "top_1"]
    whole = results[results["features"] == ALL].set_index("seed")[measures]
    without = results[results["features"] == WITHOUT].set_index(["group", "seed"])[measures]
    return (whole - without).reset_index()


def report(output: Path) -> str:
    from experiments.feature_groups_figure import draw

    results = read_results(output, ("features", "group", "n_features", "seed", "pairwise_accuracy", "top_1"))
    lost = losses(results)
    draw(results, lost, output / "feature_groups.png")
    return summary(results, lost)


def summary(results: pd.DataFrame, lost: pd.DataFrame) -> str:
    without = lost.groupby("group")["pairwise_accuracy"].mean().sort_values(ascending=False)
    alone = results[results["features"] == ALONE].groupby("group")["pairwise_accuracy"].mean().sort_values(ascending=False)
    whole = results.loc[results["features"] == ALL, "pairwise_accuracy"].mean()
    return (
        f"pairwise accuracy {whole:.3f} with all features; points lost without: {', '.join(f'{name} {100 * value:.2f}' for name, value in without.items())}\n"
        f"pairwise accuracy with one group alone: {', '.join(f'{name} {value:.3f}' for name, value in alone.items())}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    return command("feature_groups", __doc__, lambda options: run(CONFIG, options.data, options.output), report, arguments)


if __name__ == "__main__":
    sys.exit(main())
