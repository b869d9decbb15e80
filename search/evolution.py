"""Evolutionary search over the cost model's scores, as in Ansor (Zheng et al., OSDI 2020, section 5.1).

A population of random rows and measured elites is bred for a few generations; the best rows that came up, and a share of random
ones, are measured. All sketches of a task compete in one population.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from schedule.measurement import Candidate
from schedule.sketch import Sketch
from schedule.space import Population
from search.strategy import EXPLORE, Rows, Scorer, Scores, Seen, merge, sample, score_all


@dataclass(frozen=True)
class EvolutionOptions:
    population: int = 2048
    generations: int = 4
    elites: int = 64  # measured rows that take part in breeding
    elite_copies: int = 8  # mutants of each elite in the first generation
    mutation: float = 0.85  # share of children by mutation, the rest by crossover
    epsilon: float = 0.1  # share of random candidates in a batch
    alike: int = 3  # candidates of a batch that may share a register tile: it decides most, and a model that errs about one errs about all


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
        chosen = self._seen.take(rows, scores, n - n_random, self._options.alike)
        chosen += self._seen.take(rows, scores, n - n_random - len(chosen))  # where there are few register tiles
        return chosen + self._seen.take_random(n - len(chosen), self._rng)

    def _evolve(self) -> tuple[Rows, dict[int, Scores]]:
        """All rows that came up in any generation, with their scores."""
        elites = self._seen.elites(self._options.elites)
        copies = {i: np.repeat(X, self._options.elite_copies, axis=0) for i, X in elites.items()}
        n_copies = sum(len(X) for X in copies.values())
        mutants = {i: self._valid(i, self._sketches[i].space.mutate(X, self._rng), X) for i, X in copies.items()}
        rows = merge(elites, mutants, sample(self._sketches, max(self._options.population - n_copies, 1), self._rng))
        scores = score_all(self._sketches, rows, self._scorer)
        everything, all_scores = rows, scores
        for _ in range(self._options.generations):
            rows = merge(self._breed(rows, scores))
            scores = score_all(self._sketches, rows, self._scorer)
            everything = {i: np.concatenate([X for X in (everything.get(i), rows.get(i)) if X is not None]) for i in everything.keys() | rows.keys()}
            all_scores = {i: np.concatenate([s for s in (all_scores.get(i), scores.get(i)) if s is not None]) for i in everything}
        return everything, all_scores

    def _breed(self, rows: Rows, scores: dict[int, Scores]) -> Rows:
        """The next generation: parents drawn by rank, better ones more often, then mutated or crossed within their sketch."""
        owner = np.concatenate([np.full(len(X), i) for i, X in rows.items()])
        place = np.concatenate([np.arange(len(X)) for X in rows.values()])
        flat = np.concatenate([scores[i] for i in rows])
        rank = np.empty(len(flat))
        rank[np.argsort(-flat, kind="stable")] = np.arange(len(flat))
        weight = (1.0 - rank / len(flat)) ** 4
        parents = self._rng.choice(len(flat), size=self._options.population, p=weight / weight.sum())
        children: Rows = {}
        for i, X in rows.items():
            own = X[place[parents[owner[parents] == i]]]
            if len(own):
                children[i] = self._children(i, own)
        return children

    def _children(self, i: int, parents: Population) -> Population:
        space, rng = self._sketches[i].space, self._rng
        mates = parents[rng.permutation(len(parents))]
        mutated = rng.random(len(parents)) < self._options.mutation
        children = np.where(mutated[:, None], space.mutate(parents, rng), space.crossover(parents, mates, rng))
        return self._valid(i, children, parents)

    def _valid(self, i: int, children: Population, parents: Population) -> Population:
        """Children that break a limit are mutated anew a few times, then dropped."""
        space = self._sketches[i].space
        valid = space.valid(children)
        for _ in range(2):
            if valid.all():
                break
            children = np.where(valid[:, None], children, space.mutate(parents, self._rng))
            valid = space.valid(children)
        return children[valid]
