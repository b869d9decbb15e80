"""How many trials, and seconds, a search needs: learned search against annealing and random search, live, on several tasks and seeds.

    python -m experiments.search_efficiency [--output DIRECTORY]

Writes results.csv (a row a trial), machine.json and search_efficiency.png, and prints a line a task. The figure and the summary are made from the CSV
alone. Takes about 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from codegen.machine import detect_machine
from codegen.runner import LiveRunner
from costmodel.model import CostModel, RandomModel
from costmodel.roofline import RooflineModel
from experiments.files import read_results, write_machine, write_results
from experiments.kernels import geometric_mean
from ir.errors import UserError
from ir.files import make_directory
from ir.task import task
from search.annealing import AnnealingSearch
from search.evolution import EvolutionarySearch
from search.learner import Learner
from search.random_search import RandomSearch
from search.tuner import Progress, SearchFactory, TuneOptions, Tuner


@dataclass(frozen=True)
class Method:
    """A way to search: which search, whether its cost model learns, and how many trials it gets."""

    search: SearchFactory
    learns: bool
    n_trials: int
    batch: int


@dataclass(frozen=True)
class Config:
    tasks: tuple[str, ...] = (
        "matmul:m=512,n=512,k=512",
        "matmul:m=128,n=768,k=3072,b=variable",
        "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1,epilogue=relu",
        "conv2d:c=256,h=14,w=14,k=256,r=3,s=3,pad=1,epilogue=relu",
        "conv2d:c=64,h=56,w=56,k=256,r=1,s=1",
        "conv2d:c=96,h=112,w=112,k=96,r=3,s=3,pad=1,groups=96",
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    learned_trials: int = 128
    random_trials: int = 1024
    batch: int = 16

    def methods(self) -> dict[str, Method]:
        return {
            "learned": Method(EvolutionarySearch, True, self.learned_trials, self.batch),
            "annealing": Method(AnnealingSearch, True, self.learned_trials, self.batch),
            "random": Method(RandomSearch, False, self.random_trials, 64),
        }


CONFIG = Config()


def run(config: Config, output: Path) -> pd.DataFrame:
    """Measure everything and write results.csv; the rows of a run are there when the run is done."""
    make_directory(output)
    machine = detect_machine()
    write_machine(output, machine.to_json())
    rows: list[dict[str, object]] = []
    with LiveRunner(machine.target) as runner:
        for text in config.tasks:
            for seed in config.seeds:  # methods take turns, so that drift of the machine hits all alike
                for name, method in config.methods().items():
                    rows += trace(text, name, method, seed, runner, machine.target)
                    write_results(output, pd.DataFrame(rows), float_format="%.6g")
    return pd.DataFrame(rows)


def trace(text: str, name: str, method: Method, seed: int, runner: LiveRunner, target) -> list[dict[str, object]]:
    """The trials of one run, in order, with the time at which each was known."""
    of = task(text)
    known_at: list[float] = []
    learner = Learner(CostModel(seed=seed), target, draft=RooflineModel()) if method.learns else Learner(RandomModel(seed), target)
    options = TuneOptions(max_trials=method.n_trials, batch=method.batch, seed=seed)
    tuner = Tuner(
        [of], target, runner, learner, method.search, None, options, machine={}, versions={},
        watch=lambda progress: known_at.append(progress.elapsed_seconds) if isinstance(progress, Progress) else None,
    )  # fmt: skip
    state = tuner.run().tasks[0]
    best = math.inf
    rows: list[dict[str, object]] = []
    for trial, (seconds, elapsed) in enumerate(zip(state.measured.values(), known_at, strict=True)):
        best = min(best, seconds)
        gflops = of.flops / best / 1e9 if math.isfinite(best) else 0.0
        rows.append({"task": text, "method": name, "seed": seed, "trial": trial, "elapsed_seconds": elapsed, "seconds": seconds, "best_gflops": gflops})
    return rows


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Per task: the best of each method (mean over seeds), and what learned search reached over what random search reached."""
    reached = results.groupby(["task", "method", "seed"], as_index=False)["best_gflops"].max()
    final = reached.pivot_table(index="task", columns="method", values="best_gflops")
    final["learned / random"] = final["learned"] / final["random"]
    final["learned / annealing"] = final["learned"] / final["annealing"]
    return final


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("experiments/results/search_efficiency"))
    parser.add_argument("--plot-only", action="store_true", help="make the figure and the summary from an earlier results.csv")
    options = parser.parse_args(arguments)
    try:
        results = read_results(options.output) if options.plot_only else run(CONFIG, options.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from experiments.search_efficiency_figure import draw

    draw(results, options.output / "search_efficiency.png")
    table = summary(results)
    print(table.round(2).to_string())
    print(f"learned search within {CONFIG.learned_trials} trials reaches {geometric_mean(table['learned / random']):.3f} of what random search")
    print(f"reaches within {CONFIG.random_trials} (geometric mean over {len(table)} tasks, {len(CONFIG.seeds)} seeds each)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
