"""How many trials each way to search needs, on recorded measurements with many seeds: learned search from scratch and with a model trained before, simulated
annealing as in AutoTVM (a model from scratch that knows no roofline, 64 trials a batch), a genetic algorithm without a model, random search, and Optuna's TPE.

    python -m experiments.simulation [--data DIRECTORY] [--model FILE] [--output DIRECTORY]

`--data`: what `tilewright record` wrote, thousands of candidates of each of a few tasks. `--model`: what `tilewright train` wrote, from other tasks; without it
there is no search with a model trained before. Writes results.csv (`experiments.replayed` says what is in it) and simulation.png, and prints how many trials
each method needs. The figure and the summary are made from the CSV alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.files import read_results
from experiments.methods import Method, learner_alone, no_learner
from experiments.replayed import ANNEALING, ANNEALING_BATCH, COLUMNS, EVOLUTION, RUN, ReplayConfig, best_after, load_prior, replay_command
from experiments.tables import geometric_mean
from experiments.tpe import TPESearch, import_optuna
from search.annealing import AnnealingOptions, AnnealingSearch
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.genetic import GeneticSearch
from search.learner import Learner
from search.random_search import RandomSearch

QUALITIES = (0.90, 0.95, 0.98)  # of the best recorded
LEARNED, PRIOR, ANNEALED, RANDOM = "learned", "learned, with a prior", "annealing", "random"


@dataclass(frozen=True)
class Config(ReplayConfig):
    n_trials: int = 512
    random_trials: int = 2048
    tpe_seeds: int = 3  # its time grows with the square of the trials: 256 of them take 11 s, where 512 of learned search take 3
    tpe_trials: int = 256
    evolution: EvolutionOptions = EVOLUTION
    annealing: AnnealingOptions = ANNEALING

    def methods(self, tasks: Iterable[str]) -> dict[str, Method]:
        """`UserError` also where Optuna is missing."""
        prior = None if self.model is None else load_prior(self.model, tasks)
        import_optuna()
        evolution, annealing = partial(EvolutionarySearch, options=self.evolution), partial(AnnealingSearch, options=self.annealing)
        found = {
            LEARNED: Method(evolution, Learner.from_scratch, self.n_trials, self.n_seeds),
            ANNEALED: Method(annealing, learner_alone, self.n_trials, self.n_seeds, (ANNEALING_BATCH,)),
            "genetic": Method(GeneticSearch, no_learner, self.n_trials, self.n_seeds),
            RANDOM: Method(RandomSearch, no_learner, self.random_trials, self.n_seeds, (64,)),
            "TPE": Method(TPESearch, no_learner, self.tpe_trials, min(self.tpe_seeds, self.n_seeds)),
        }
        if prior is not None:
            found[PRIOR] = Method(evolution, partial(Learner.with_prior, prior), self.n_trials, self.n_seeds)
        return found


def trials_to_reach(results: pd.DataFrame) -> pd.DataFrame:
    """For each method (rows, in order) and each of `QUALITIES` (columns): trials until the best so far is that share of the best recorded, the median over
    tasks and seeds; infinite where more than half of the runs never are."""
    runs = {quality: _first(results, quality) for quality in QUALITIES}
    table = pd.DataFrame({quality: trials.groupby("method").median() for quality, trials in runs.items()})
    return table.loc[list(dict.fromkeys(results["method"]))]


def _first(results: pd.DataFrame, quality: float | pd.Series) -> pd.Series:
    """Of each run, the first trial with which it had this quality (one for all rows of `results`, or one for each); infinite where it never had."""
    reached = results[results["best_share"] >= quality].groupby(RUN, sort=False)["trial"].min().astype(float)
    return reached.reindex(pd.MultiIndex.from_frame(results[RUN].drop_duplicates()), fill_value=math.inf)


@dataclass(frozen=True)
class Ratio:
    """How many times as many trials one method needs for what another one reaches; at least so many where on some tasks it never reached it."""

    times: float
    n_tasks: int
    n_never: int

    def __str__(self) -> str:
        never = f" (at least: never on {self.n_never} of {self.n_tasks} tasks)" if self.n_never else ""
        return f"{self.times:.1f} times as many{never}"


def ratio(results: pd.DataFrame, method: str, n_trials: int, other: str) -> Ratio:
    """Trials of `other` until it has what `method` has after `n_trials`, over these: both as medians over seeds, and of the tasks the geometric mean.

    (Of means a single seed would decide where a method finds the very best: all of the other's would have to.)
    """
    others = results[results["method"] == other]
    needed = _first(others, others["task"].map(_reached(results, method, n_trials))).groupby("task").median()
    never = np.isinf(needed)
    return Ratio(geometric_mean(needed.where(~never, others["trial"].max()) / n_trials), len(needed), int(never.sum()))


def _reached(results: pd.DataFrame, method: str, n_trials: int) -> pd.Series:
    """Best so far after so many trials, by task: the median over seeds."""
    return best_after(results[results["method"] == method], [n_trials]).groupby("task").median()[n_trials]


def summary(results: pd.DataFrame, n_scratch: int = 64, n_prior: int = 16) -> str:
    """Two lines: what learned search saves against the baselines, and what a model trained before saves of that."""
    annealing, random = (ratio(results, LEARNED, n_scratch, other) for other in (ANNEALED, RANDOM))
    reached = f"learned search reaches {_reached(results, LEARNED, n_scratch).mean():.1%} of the best recorded with {n_scratch} trials"
    line = f"{reached}; annealing needs {annealing}, random search {random}"
    if PRIOR not in set(results["method"]):
        return f"{line}\nnothing was searched with a model trained before (--model)"
    reached = f"with a model trained before it reaches {_reached(results, PRIOR, n_prior).mean():.1%} with {n_prior} trials"
    return f"{line}\n{reached}; from scratch it needs {ratio(results, PRIOR, n_prior, LEARNED)}"


def report(output: Path) -> str:
    from experiments.simulation_figure import draw

    results = read_results(output, COLUMNS)
    draw(results, output / "simulation.png")
    table = trials_to_reach(results).rename(columns="{:.0%}".format)
    return f"{table.to_string(float_format=lambda n: 'never' if math.isinf(n) else f'{n:.0f}')}\n{summary(results)}"


def main(arguments: Sequence[str] | None = None) -> int:
    return replay_command("simulation", __doc__, Config(), report, arguments)


if __name__ == "__main__":
    sys.exit(main())
