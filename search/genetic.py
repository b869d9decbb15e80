"""A genetic algorithm without a model: children of the best measured rows are measured themselves. The baseline that tells what a cost model adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schedule.measurement import Candidate
from schedule.sketch import Sketch
from search.breeding import breed
from search.strategy import Rows, Scorer, Scores, Seen

ATTEMPTS = 8  # to find children that were not measured yet, before random rows fill a batch


@dataclass(frozen=True)
class GeneticOptions:
    parents: int = 64  # the best measured rows, better ones more often
    crossover: float = 0.15  # share of children of two parents, the others are mutants
    epsilon: float = 0.1  # share of random candidates in a batch


class GeneticSearch:
    """Random until something was measured; takes no notice of scores."""

    def __init__(self, sketches: Sequence[Sketch], scorer: Scorer, rng: np.random.Generator, options: GeneticOptions | None = None) -> None:
        del scorer  # a search is made with a scorer, and this one has no use for it
        self._sketches, self._rng = sketches, rng
        self._options = options or GeneticOptions()
        self._seen = Seen(sketches)

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        self._seen.tell(candidates, throughputs)

    def ask(self, n: int, explore: bool = False) -> list[Candidate]:
        del explore  # nothing here is led by scores
        chosen = self._children(n - int(self._rng.binomial(n, self._options.epsilon)))
        return chosen + self._seen.take_random(n - len(chosen), self._rng)

    def _children(self, n: int) -> list[Candidate]:
        """Up to n children that were never asked for."""
        parents = self._seen.elites(self._options.parents)
        chosen: list[Candidate] = []
        for _ in range(ATTEMPTS if parents else 0):
            rows = breed(self._sketches, parents, self._throughputs(parents), 2 * n, self._rng, self._options.crossover)
            chosen += self._seen.take(rows, {i: self._rng.random(len(X)) for i, X in rows.items()}, n - len(chosen))
            if len(chosen) == n:
                break
        return chosen

    def _throughputs(self, rows: Rows) -> dict[int, Scores]:
        """Of measured rows."""
        known = self._seen.throughputs
        return {i: np.array([known[Candidate(self._sketches[i].name, tuple(row))] for row in X.tolist()]) for i, X in rows.items()}
