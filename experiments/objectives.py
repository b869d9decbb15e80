"""The cost model's objective and structure against others, and against models of other kinds, on tasks and networks never seen.

    python -m experiments.objectives [--data data/measured] [--output DIRECTORY] [--plot-only]

Fits every ranker to the same candidates, with several seeds. Writes results.csv (a row a fit), machine.json and objectives.png, which is made from the CSV
alone. LightGBM takes part where it is installed (`pip install '.[experiments]'`). Takes about nine minutes for 71,000 candidates on two fast cores.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from costmodel.model import RandomModel, Ranker
from costmodel.roofline import RooflineModel
from costmodel.training import pretraining_model
from experiments.baselines import SumOverStages, light_gbm, neural_network, ridge
from experiments.command import command
from experiments.files import read_results
from experiments.measured import Measurements, Row, fit_and_judge, load, splits, write
from tilewright.splits import NETWORKS

LIGHT_GBM = "LightGBM"


@dataclass(frozen=True)
class Config:
    splits: tuple[str, ...] = ("task", "network")
    networks: tuple[str, ...] = NETWORKS
    seeds: tuple[int, ...] = (0, 1)
    n_threads: int = 2


CONFIG = Config()


def rankers(seed: int, n_threads: int) -> dict[str, Ranker]:
    """By the name that stands in the figure; without LightGBM where it is not installed."""
    boosted = partial(pretraining_model, seed, n_threads, n_throughput_trees=0)
    found: dict[str, Ranker | None] = {
        "squared error": boosted(objective="squared"),
        "squared error, weight ½ z": boosted(objective="squared", throughput_weight=0.5),
        "squared error, weight z": boosted(objective="squared", throughput_weight=1.0),
        "rank:pairwise and squared error": pretraining_model(seed, n_threads),
        "rank:pairwise": boosted(objective="pairwise"),
        "rank:pairwise, all features": boosted(objective="pairwise", n_features=0),
        "rank:ndcg": boosted(objective="ndcg"),
        "sum over stages": SumOverStages(**boosted(objective="squared").get_params()),
        "sum over stages, weight z": SumOverStages(**boosted(objective="squared", throughput_weight=1.0).get_params()),
        LIGHT_GBM: light_gbm(seed, n_threads),
        "neural network": neural_network(seed),
        "ridge": ridge(),
        "roofline": RooflineModel(),
        "random": RandomModel(seed),
    }
    return {name: ranker for name, ranker in found.items() if ranker is not None}


def run(config: Config, data: Path, output: Path) -> pd.DataFrame:
    if LIGHT_GBM not in rankers(0, config.n_threads):
        print("LightGBM is not installed, so it is left out; pip install '.[experiments]' brings it")
    measured = load(data)
    return write(output, list(_rows(config, measured)), measured, config)


def _rows(config: Config, measured: Measurements) -> Iterator[Row]:
    for split, seed, hold, networks in splits(measured.data, config.splits, config.seeds, config.networks):
        for name, ranker in rankers(seed, config.n_threads).items():
            yield {"method": name, "split": split, "seed": seed, **fit_and_judge(ranker, measured.data, ~hold, hold, networks)}


def report(output: Path) -> str:
    from experiments.objectives_figure import draw

    results = read_results(output, ("method", "split", "pairwise_accuracy", "top_1", "pairwise_bound"))
    draw(results, output / "objectives.png")
    return summary(results)


def summary(results: pd.DataFrame) -> str:
    """A line for each of two measures: the methods on the first split, best first."""
    split = results["split"].iloc[0]
    means = results[results["split"] == split].groupby("method")[["pairwise_accuracy", "top_1"]].mean()
    lines = []
    for measure, words in (("pairwise_accuracy", "pairwise accuracy"), ("top_1", "top-1")):
        found = means[measure].sort_values(ascending=False)
        lines.append(f"{words}, split {split}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    return command("objectives", __doc__, lambda options: run(CONFIG, options.data, options.output), report, arguments)


if __name__ == "__main__":
    sys.exit(main())
