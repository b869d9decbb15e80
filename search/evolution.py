"""Evolutionary search over the cost model's scores, as in Ansor (Zheng et al., OSDI 2020, section 5.1).

A population of random rows and measured elites is bred for a few generations; the best rows that came up, and a share of random ones, are measured. All
sketches of a task compete in one population. What breeding is worth is measured by `experiments.breeding`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from schedule.measurement import Candidate
from schedule.sketch import Sketch
from search.breeding import breed, valid_children
from search.strategy import EXPLORE, Rows, Scorer, Scores, Seen, merge, sample, score_all, tell_apart


@dataclass(frozen=True)
class EvolutionOptions:
    population: int = 512
    generations: int = 8
    elites: int = 32  # measured rows that take part in breeding
    elite_copies: int = 4  # mutants of each elite in the first generation
    crossover: float = 0.5  # share of children of two parents, the others are mutants
    epsilon: float = 0.1  # share of random candidates in a batch
    # How many of a batch are alike while there are others. A register tile decides most, and a model that errs about one errs about all; of what a model cannot
    # tell apart breeding puts a crowd in front.
    alike: int = 3  # candidates with one register tile
    equal: int = 2  # candidates whose scores are next to the same


class EvolutionarySearch:
    """Ask and tell; `scorer` is asked about whole populations. `asked`: candidates that are never to be asked for, as if they had been."""

    def __init__(
        self, sketches: Sequence[Sketch], scorer: Scorer, rng: np.random.Generator, options: EvolutionOptions | None = None, asked: Iterable[Candidate] = ()
    ) -> None:
        self._sketches, self._scorer, self._rng = sketches, scorer, rng
        self._options = options or EvolutionOptions()
        self._seen = Seen(sketches, asked=set(asked))

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        self._seen.tell(candidates, throughputs)

    def ask(self, n: int, explore: bool = False) -> list[Candidate]:
        n_random = int(self._rng.binomial(n, EXPLORE if explore else self._options.epsilon))
        rows, scores = self._evolve()
        if not tell_apart(scores):
            n_random = n
        chosen: list[Candidate] = []
        for alike, equal in ((self._options.alike, self._options.equal), (self._options.alike, None), (None, None)):  # scores, or register tiles, may be few
            chosen += self._seen.take(rows, scores, n - n_random - len(chosen), alike, equal)
        return chosen + self._seen.take_random(n - len(chosen), self._rng)

    def _evolve(self) -> tuple[Rows, dict[int, Scores]]:
        """All rows that came up in any generation, with their scores."""
        elites = self._seen.elites(self._options.elites)
        copies = {i: np.repeat(X, self._options.elite_copies, axis=0) for i, X in elites.items()}
        n_copies = sum(len(X) for X in copies.values())
        spaces = [sketch.space for sketch in self._sketches]
        mutants = {i: valid_children(spaces[i], spaces[i].mutate(X, self._rng), X, self._rng) for i, X in copies.items()}
        rows = merge(elites, mutants, sample(self._sketches, max(self._options.population - n_copies, 1), self._rng))
        scores = score_all(self._sketches, rows, self._scorer)
        everything, all_scores = rows, scores
        for _ in range(self._options.generations):
            rows = merge(breed(self._sketches, rows, scores, self._options.population, self._rng, self._options.crossover))
            scores = score_all(self._sketches, rows, self._scorer)
            everything = {i: np.concatenate([X for X in (everything.get(i), rows.get(i)) if X is not None]) for i in everything.keys() | rows.keys()}
            all_scores = {i: np.concatenate([s for s in (all_scores.get(i), scores.get(i)) if s is not None]) for i in everything}
        return everything, all_scores
