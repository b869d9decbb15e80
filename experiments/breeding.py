"""How high evolutionary search climbs in the scores of a cost model: the same search with other shares of crossover, without elites, with larger and smaller
populations, and without breeding at all, in whole spaces, with paired seeds.

    python -m experiments.breeding [--model FILE] [--seeds N] [--output DIRECTORY]

Nothing is measured but the time, and the scores themselves stand for throughput, so there is no noise, and no row is missing, as it is from recordings.
`--model`: what `tilewright train` wrote, by default the model that is shipped. Writes results.csv (a row a batch), machine.json and breeding.png; the figure
and the table are made from the CSV alone. Scores are told in standard deviations above the mean of the task's random candidates.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from codegen.machine import detect_machine
from costmodel.model import CostModel
from costmodel.trained import shipped_model, trained_model
from experiments.command import command, count
from experiments.files import model_learned_from, read_results, write_machine, write_results
from experiments.paired import differences
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches
from schedule.sketch import Sketch
from schedule.target import Target
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.learner import Learner
from search.strategy import Scorer, Scores, by_sketch, sample, score_all
from tilewright import api

FULL = "search as it is"


@dataclass(frozen=True)
class Config:
    """`options`: those of the search as it is; a method changes some of them."""

    tasks: tuple[str, ...] = (
        "matmul:m=128,n=384,k=384,b=constant,epilogue=bias",
        "batch_matmul:batch=12,m=128,n=128,k=32,b=variable,epilogue=none",
        "conv2d:n=1,c=96,h=46,w=46,k=24,r=3,s=3,stride=1,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=none",
        "conv2d:n=1,c=192,h=46,w=46,k=192,r=5,s=5,stride=1,pad=2,groups=192,dilation=1,layout=nhwc,epilogue=bias",
        "conv2d:n=1,c=256,h=14,w=14,k=256,r=3,s=3,stride=2,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=bias+relu",
        "softmax:shape=1x12x128x128,axis=3",
    )
    n_seeds: int = 10
    batch: int = 16
    n_batches: int = 4
    random_rows: int = 2048  # that say what scores a task has
    options: EvolutionOptions = field(default_factory=lambda: EvolutionOptions(epsilon=0.0))

    def methods(self) -> Mapping[str, EvolutionOptions]:
        n_rows = self.options.population * (1 + self.options.generations)
        changed = {
            "no crossover": {"crossover": 0.0},
            "crossover 0.15": {"crossover": 0.15},
            "crossover 0.3": {"crossover": 0.3},
            "crossover 0.7": {"crossover": 0.7},
            "no elites": {"elites": 0},
            "twice the elites": {"elites": 2 * self.options.elites},
            "population 256, 16 generations": {"population": 256, "generations": 16},
            "population 1024, 4 generations": {"population": 1024, "generations": 4},
            "population 1024, 8 generations": {"population": 1024, "generations": 8},
            "population 2048, 4 generations": {"population": 2048, "generations": 4},
            "as many random rows, no breeding": {"population": n_rows, "generations": 0, "elites": 0},
        }
        return {FULL: self.options} | {name: replace(self.options, **each) for name, each in changed.items()}


CONFIG = Config()


def run(config: Config, output: Path, model: CostModel) -> pd.DataFrame:
    """Search everything and write results.csv, which is also what is returned, and machine.json."""
    machine = detect_machine()
    results = pd.concat([_search_task(text, config, model, machine.target) for text in config.tasks], ignore_index=True)
    write_results(output, results, float_format="%.5g")
    write_machine(output, {"machine": machine.to_json(), "versions": api.versions(), "config": asdict(config), **model_learned_from(model)})
    return results


def _search_task(text: str, config: Config, model: CostModel, target: Target) -> pd.DataFrame:
    of = task(text)
    known = sketches(of.program, target)
    scorer = Learner.with_prior(model, target, seed=0).scorer(of)
    scores = np.concatenate(list(score_all(known, sample(known, config.random_rows, np.random.default_rng(0)), scorer).values()))
    rows = []
    for seed in range(config.n_seeds):  # methods take turns, so that drift of the machine hits the times of all alike
        for name, options in config.methods().items():
            for found in climb(known, scorer, options, config, seed):
                rows.append({"task": text, "method": name, "seed": seed, **found})
    print(f"searched {text}", file=sys.stderr, flush=True)
    results = pd.DataFrame(rows)
    columns = ["best_score", "mean_score"]
    results[columns] = (results[columns] - scores.mean()) / scores.std()
    return results


def climb(known: Sequence[Sketch], scorer: Scorer, options: EvolutionOptions, config: Config, seed: int) -> list[dict[str, float]]:
    """Of each batch: trials until its end, the best score so far, the mean score of the batch, and the seconds that asking took."""
    search = EvolutionarySearch(known, scorer, np.random.default_rng(seed), options)
    found: list[dict[str, float]] = []
    best = -np.inf
    for number in range(config.n_batches):
        start = time.perf_counter()
        candidates = search.ask(config.batch)
        seconds = time.perf_counter() - start
        scores = scores_of(known, candidates, scorer)
        search.tell(candidates, list(np.exp(scores)))  # a throughput is positive
        best = max(best, float(scores.max()))
        found.append({"trials": (number + 1) * config.batch, "best_score": best, "mean_score": float(scores.mean()), "ask_seconds": seconds})
    return found


def scores_of(known: Sequence[Sketch], candidates: Sequence[Candidate], scorer: Scorer) -> Scores:
    """(n,) in the order of the candidates."""
    scores = np.empty(len(candidates))
    for places, sketch, X in by_sketch(known, candidates):
        scores[places] = scorer(sketch, X)
    return scores


def gains(results: pd.DataFrame, trials: Sequence[int]) -> pd.DataFrame:
    """How much higher a method has climbed after so many trials than the search as it is: `experiments.paired.differences` of the means over tasks."""
    by_run = results.pivot_table(index=["method", "seed"], columns="trials", values="best_score", sort=False)
    return differences(by_run[list(trials)], lambda method: FULL)


def report(output: Path) -> str:
    from experiments.paired_figure import draw_differences

    results = read_results(output, ("task", "method", "seed", "trials", "best_score", "ask_seconds"))
    trials = (results["trials"].min(), results["trials"].max())
    table = gains(results, trials)
    draw_differences(table, output / "breeding.png", "Best score so far less that of the search as it is", "standard deviations of random candidates")
    seconds = results.groupby("method", sort=False)["ask_seconds"].median()
    table["time", "ratio"] = seconds / seconds[FULL]
    reached = results[(results["method"] == FULL) & (results["trials"] == trials[-1])]["best_score"].mean()
    meaning = "standard deviations of random candidates more than the search as it is; half: of the 95 % confidence interval; time: of asking, over its time"
    return f"{table.round(2).to_string()}\n{meaning}, {seconds[FULL]:.2f} s\nas it is it climbs {reached:.2f} above their mean within {trials[-1]} trials"


def main(arguments: Sequence[str] | None = None) -> int:
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--model", type=Path, help="what tilewright train wrote, by default the model that is shipped")
        parser.add_argument("--seeds", type=count, default=CONFIG.n_seeds)

    def run_changed(options: Namespace) -> None:
        model = shipped_model() if options.model is None else trained_model(options.model)
        run(replace(CONFIG, n_seeds=options.seeds), options.output, model)

    return command("breeding", __doc__, run_changed, report, arguments, data=None, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main())
