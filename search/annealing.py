"""Simulated annealing over the cost model's scores, many chains at once, as AutoTVM does (Chen et al., NeurIPS 2018): a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schedule.measurement import Candidate
from schedule.sketch import Sketch
from search.strategy import EXPLORE, Rows, Scorer, Scores, Seen, sample, score_all, tell_apart


@dataclass(frozen=True)
class AnnealingOptions:
    chains: int = 128
    steps: int = 64
    start_temperature: float = 1.0  # in standard deviations of the first scores; falls linearly to 0
    epsilon: float = 0.05  # share of random candidates in a batch


class AnnealingSearch:
    """Each chain walks in the space of one sketch; chains go on from where the last round left them."""

    def __init__(self, sketches: Sequence[Sketch], scorer: Scorer, rng: np.random.Generator, options: AnnealingOptions | None = None) -> None:
        self._sketches, self._scorer, self._rng = sketches, scorer, rng
        self._options = options or AnnealingOptions()
        self._seen = Seen(sketches)
        self._chains: Rows = sample(sketches, self._options.chains, rng)

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        self._seen.tell(candidates, throughputs)

    def ask(self, n: int, explore: bool = False) -> list[Candidate]:
        n_random = int(self._rng.binomial(n, EXPLORE if explore else self._options.epsilon))
        rows, scores = self._walk()
        if not tell_apart(scores):
            n_random = n
        chosen = self._seen.take(rows, scores, n - n_random)
        return chosen + self._seen.take_random(n - len(chosen), self._rng)

    def _walk(self) -> tuple[Rows, dict[int, Scores]]:
        """All rows visited, with their scores."""
        chains, scores = self._chains, score_all(self._sketches, self._chains, self._scorer)
        scale = float(np.std(np.concatenate(list(scores.values())))) if tell_apart(scores) else 1.0
        visited = {i: [X] for i, X in chains.items()}
        visited_scores = {i: [s] for i, s in scores.items()}
        for step in range(self._options.steps):
            temperature = scale * self._options.start_temperature * (1.0 - step / self._options.steps)
            for i, X in chains.items():
                space = self._sketches[i].space
                proposed = space.mutate(X, self._rng)
                proposed = np.where(space.valid(proposed)[:, None], proposed, X)
                proposed_scores = self._scorer(self._sketches[i], proposed)
                gain = np.minimum((proposed_scores - scores[i]) / max(temperature, 1e-12), 0.0)
                accepted = self._rng.random(len(X)) < np.exp(gain)
                chains[i] = np.where(accepted[:, None], proposed, X)
                scores[i] = np.where(accepted, proposed_scores, scores[i])
                visited[i].append(proposed)
                visited_scores[i].append(proposed_scores)
        self._chains = chains
        return {i: np.concatenate(arrays) for i, arrays in visited.items()}, {i: np.concatenate(s) for i, s in visited_scores.items()}
