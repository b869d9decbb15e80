"""What each part of the learned search is worth: the search without it, or with more or less of it, on recorded measurements with paired seeds.

    python -m experiments.search_parts [--data DIRECTORY] [--model FILE] [--output DIRECTORY]

`--data` and `--model` as for `experiments.simulation`; how far a model trained before is trusted is tried only with one. Writes results.csv
(`experiments.replayed` says what is in it) and search_parts.png. The figure and the table are made from the CSV alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from costmodel.model import CostModel
from experiments.files import read_results
from experiments.methods import Method, learner_alone
from experiments.paired import differences
from experiments.replayed import ANNEALING, COLUMNS, EVOLUTION, ReplayConfig, best_after, load_prior, replay_command
from schedule.target import Target
from search.annealing import AnnealingOptions, AnnealingSearch
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.learner import Learner, MakeDescribe, describer
from search.trust import Trust

FULL, PRIOR = "full search", "with a prior"


@dataclass(frozen=True)
class Config(ReplayConfig):
    trials: tuple[int, ...] = (32, 64, 128)  # after which parts are compared
    evolution: EvolutionOptions = EVOLUTION
    annealing: AnnealingOptions = ANNEALING

    def methods(self, tasks: Iterable[str]) -> dict[str, Method]:
        found = {
            FULL: self._method(),
            "annealing instead of evolution": replace(self._method(), search=partial(AnnealingSearch, options=self.annealing)),
            "no roofline": replace(self._method(), learner=learner_alone),
            "any number share a register tile": self._method(alike=sys.maxsize),
            "any number share a score": self._method(equal=sys.maxsize),
            "no crossover": self._method(crossover=0.0),
            "no elites": self._method(elites=0),
            "no random share": self._method(epsilon=0.0),
            "batches of 8": replace(self._method(), batches=(8,)),
            "batches of 32": replace(self._method(), batches=(32,)),
            "batches of 4, 4, 8, 16, 32": replace(self._method(), batches=(4, 4, 8, 16, 32)),
        }
        return found | (self._with_prior(load_prior(self.model, tasks)) if self.model is not None else {})

    def _method(self, **changed: float) -> Method:
        options = replace(self.evolution, **changed)
        return Method(partial(EvolutionarySearch, options=options), Learner.from_scratch, self.trials[-1], self.n_seeds)

    def _with_prior(self, prior: CostModel) -> dict[str, Method]:
        def fixed(share: float) -> Method:
            def learner(target: Target, seed: int, *, make_describe: MakeDescribe = describer) -> Learner:
                trust = Trust(True, share, step=0.0)  # a new one for each run, as it remembers
                return Learner.with_prior(prior, target, seed, trust=trust, make_describe=make_describe)

            return replace(self._method(), learner=learner)

        moved = replace(self._method(), learner=partial(Learner.with_prior, prior))
        return {PRIOR: moved} | {f"{PRIOR}, share of what is learned {share:g}": fixed(share) for share in (0.0, 0.5, 1.0)}


CONFIG = Config()


def baseline(method: str) -> str:
    """The method that this one is compared with."""
    return PRIOR if method.startswith(PRIOR) else FULL


def gains(results: pd.DataFrame, trials: Sequence[int]) -> pd.DataFrame:
    """How much more a method has reached after so many trials than its baseline with the same tasks and seeds, in percentage points of the best recorded:
    `experiments.paired.differences` of the means over tasks."""
    by_run = best_after(results, trials).groupby(["method", "seed"], sort=False).mean()
    return differences(100 * by_run, baseline)


def report(output: Path) -> str:
    from experiments.paired_figure import draw_differences

    table = gains(read_results(output, COLUMNS), CONFIG.trials)
    compared = "less that of the full search; fixed shares: less that of a share that moves"
    draw_differences(table, output / "search_parts.png", f"Best so far over best recorded, {compared}", "percentage points")
    meaning = "percentage points of the best recorded, against the full search, for fixed shares against one that moves; half: of the 95 % confidence interval"
    return f"{table.round(2).to_string()}\n{meaning}"


def main(arguments: Sequence[str] | None = None) -> int:
    return replay_command("search_parts", __doc__, CONFIG, report, arguments)


if __name__ == "__main__":
    sys.exit(main())
