"""What each part of the learned search is worth: the search without it, or with more or less of it, on recorded measurements with paired seeds.

    python -m experiments.search_parts [--data DIRECTORY] [--model FILE] [--output DIRECTORY]

`--data` and `--model` as for `experiments.simulation`; how far a model trained before is trusted is tried only with one. Writes results.csv
(`experiments.replayed` says what is in it) and search_parts.png. The figure and the table are made from the CSV alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from costmodel.model import CostModel
from experiments.files import read_results, write_results
from experiments.replayed import EVOLUTION, Method, Recording, best_after, load_prior, recorded_tasks, replay_all
from experiments.simulation import Config as SimulationConfig
from ir.errors import UserError
from ir.files import make_directory
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.learner import Learner
from search.trust import Trust

FULL, PRIOR = "full search", "with a prior"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Config:
    data: Path = SimulationConfig.data
    model: Path | None = None
    min_trials: int = SimulationConfig.min_trials
    n_seeds: int = 10
    trials: tuple[int, ...] = (32, 64, 128)  # after which parts are compared
    evolution: EvolutionOptions = EVOLUTION
    n_processes: int = 2

    def methods(self, tasks: Iterable[str]) -> dict[str, Method]:
        """By name. `UserError` where the model has learned from any of the tasks."""
        found = {
            FULL: self._method(),
            "no roofline draft": replace(self._method(), learner=partial(Recording.learner, draft=False)),
            "any number share a register tile": self._method(alike=sys.maxsize),
            "no crossover": self._method(mutation=1.0),
            "no elites": self._method(elites=0),
            "no random share": self._method(epsilon=0.0),
            "coordinate descent, a quarter of a batch": self._method(descent=0.25),
            "coordinate descent, half a batch": self._method(descent=0.5),
            "batches of 8": replace(self._method(), batches=(8,)),
            "batches of 32": replace(self._method(), batches=(32,)),
            "batches of 4, 4, 8, 16, 32": replace(self._method(), batches=(4, 4, 8, 16, 32)),
        }
        return found | (self._with_prior(load_prior(self.model, tasks)) if self.model is not None else {})

    def _method(self, **changed: float) -> Method:
        options = replace(self.evolution, **changed)
        return Method(partial(EvolutionarySearch, options=options), Recording.learner, self.trials[-1], self.n_seeds)

    def _with_prior(self, prior: CostModel) -> dict[str, Method]:
        def fixed(share: float) -> Method:
            def learner(recording: Recording, seed: int) -> Learner:
                return recording.learner(seed, prior=prior, trust=Trust(True, share, step=0.0))  # a new one for each run, as it remembers

            return replace(self._method(), learner=learner)

        moved = replace(self._method(), learner=partial(Recording.learner, prior=prior))
        return {PRIOR: moved} | {f"{PRIOR}, share of what is learned {share:g}": fixed(share) for share in (0.0, 0.5, 1.0)}


def baseline(method: str) -> str:
    """The method that this one is compared with."""
    return PRIOR if method.startswith(PRIOR) else FULL


def run(config: Config, output: Path) -> pd.DataFrame:
    """Replay everything and write results.csv."""
    make_directory(output)
    tasks = recorded_tasks(config.data, config.min_trials)
    config.methods(tasks)  # refuses a model before anything is replayed
    results = replay_all(tasks, partial(config.methods, tuple(tasks)), config.n_processes)
    write_results(output, results, float_format="%.6g")
    return results


def differences(results: pd.DataFrame, trials: Sequence[int]) -> pd.DataFrame:
    """How much more a method (rows) has reached after so many trials than its baseline with the same tasks and seeds: mean over tasks and seeds, and half the
    confidence interval of it over seeds, on these tasks (columns: trials, and "mean" or "half")."""
    by_run = best_after(results, trials).groupby(["method", "seed"]).mean()  # over tasks
    found = {}
    for method in dict.fromkeys(results["method"]):
        if method != baseline(method):
            paired = by_run.loc[method] - by_run.loc[baseline(method)]
            n = len(paired)
            half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * paired.std() / np.sqrt(n)
            found[method] = pd.concat({"mean": paired.mean(), "half": half}).swaplevel()
    return pd.DataFrame(found).T


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Config.data)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--min-trials", type=int, default=Config.min_trials, help="recorded, of a task that takes part")
    parser.add_argument("--seeds", type=int, default=Config.n_seeds)
    parser.add_argument("--output", type=Path, default=Path("experiments/results/search_parts"))
    parser.add_argument("--plot-only", action="store_true", help="make the figure and the table from an earlier results.csv")
    options = parser.parse_args(arguments)
    config = replace(Config(), data=options.data, model=options.model, min_trials=options.min_trials, n_seeds=options.seeds)
    try:
        if not options.plot_only:
            run(config, options.output)
        results = read_results(options.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from experiments.search_parts_figure import draw

    table = differences(results, config.trials)
    draw(table, options.output / "search_parts.png")
    print((100 * table).round(2).to_string())
    print("percentage points of the best recorded, against the full search, for fixed shares against one that moves; half: of the 95 % confidence interval")
    return 0


if __name__ == "__main__":
    sys.exit(main())
