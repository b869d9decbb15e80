"""Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) as a search: a general optimizer, which knows nothing of programs.

Its parameters are the sketch, and for each of a sketch's columns the place of a choice among the column's choices. What it proposes becomes a valid row of
the space (`Space.row`), or where that was asked for before, a neighbour of it. It learns the row that was measured, not the proposal: that one counts as
failed, which Optuna leaves out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ir.errors import UserError
from schedule.measurement import Candidate
from schedule.sketch import Sketch
from schedule.space import Column
from search.strategy import Scorer, Seen

ATTEMPTS = 8  # proposals for each candidate, before random rows fill a batch


class TPESearch:
    """Takes no notice of scores. `UserError` where Optuna is missing."""

    def __init__(self, sketches: Sequence[Sketch], scorer: Scorer, rng: np.random.Generator) -> None:
        del scorer  # a search is made with a scorer, and this one has no use for it
        self._optuna = import_optuna()
        self._sketches = {sketch.name: sketch for sketch in sketches}
        self._seen, self._rng = Seen(sketches), rng
        self._proposals: list[Any] = []  # Optuna's trials that are under way
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)  # what Optuna 4 says of `constant_liar`
            sampler = self._optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), constant_liar=True)
        self._study = self._optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self, n: int, explore: bool = False) -> list[Candidate]:
        del explore  # nothing here is led by scores
        chosen: list[Candidate] = []
        for _ in range(ATTEMPTS * n):
            if len(chosen) == n:
                break
            chosen += self._propose()
        return chosen + self._seen.take_random(n - len(chosen), self._rng)

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        self._seen.tell(candidates, throughputs)
        for proposal in self._proposals:
            self._study.tell(proposal, state=self._optuna.trial.TrialState.FAIL)
        self._proposals = []
        for candidate, throughput in zip(candidates, throughputs, strict=True):
            self._study.add_trial(self._measured(candidate, throughput))

    def _propose(self) -> list[Candidate]:
        """One new candidate, or none where the proposed row and all its neighbours were asked for."""
        proposal = self._study.ask()
        self._proposals.append(proposal)
        sketch = self._sketches[proposal.suggest_categorical("sketch", list(self._sketches))]
        row = sketch.space.row({column.symbol.name: column.choices[_place(proposal, sketch, column)] for column in sketch.space.columns}, self._rng)
        return self._take(sketch, row) or self._take(sketch, sketch.space.neighbours(row[0]))

    def _take(self, sketch: Sketch, X: np.ndarray) -> list[Candidate]:
        """Any one of these rows that was never asked for."""
        rows = {list(self._sketches).index(sketch.name): X}
        return self._seen.take(rows, {i: self._rng.random(len(X)) for i in rows}, 1)

    def _measured(self, candidate: Candidate, throughput: float) -> Any:
        """A finished trial of Optuna's. A value between two choices stands for the next one above, which is cut to it."""
        sketch, kinds = self._sketches[candidate.sketch], self._optuna.distributions
        values: dict[str, Any] = {"sketch": sketch.name}
        distributions: dict[str, Any] = {"sketch": kinds.CategoricalDistribution(list(self._sketches))}
        for column, value in zip(sketch.space.columns, candidate.row, strict=True):
            name, n = _name(sketch, column), len(column.choices)
            values[name] = int(np.searchsorted(column.choices, value))
            distributions[name] = kinds.IntDistribution(0, n - 1) if column.ordered else kinds.CategoricalDistribution(range(n))
        return self._optuna.trial.create_trial(params=values, distributions=distributions, value=throughput)


def _place(proposal: Any, sketch: Sketch, column: Column) -> int:
    """What Optuna proposes for a column, as the place of a choice."""
    name, n = _name(sketch, column), len(column.choices)
    return proposal.suggest_int(name, 0, n - 1) if column.ordered else proposal.suggest_categorical(name, range(n))


def _name(sketch: Sketch, column: Column) -> str:
    """Of a column as one of Optuna's parameters."""
    return f"{sketch.name} {column.symbol.name}"


def import_optuna() -> Any:
    """`UserError` where it is missing."""
    try:
        import optuna
    except ImportError:
        raise UserError("this search needs Optuna: pip install '.[experiments]' in Tilewright's directory") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
