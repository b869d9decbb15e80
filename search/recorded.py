"""Search among recorded rows only: with a replaying runner, searches are compared without a clock and without noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from schedule.measurement import Candidate
from schedule.sketch import Sketch
from schedule.space import Population
from search.strategy import Rows, Scorer, Seen, score_all


class RecordedSearch:
    """Asks for the best-scored recorded rows that were not asked for yet, and a share of random ones.

    `recorded`: rows by the name of their sketch.
    """

    def __init__(self, sketches: Sequence[Sketch], scorer: Scorer, rng: np.random.Generator, recorded: Mapping[str, Population], epsilon: float = 0.1) -> None:
        self._sketches, self._scorer, self._rng, self._epsilon = sketches, scorer, rng, epsilon
        self._rows: Rows = {i: recorded[sketch.name] for i, sketch in enumerate(sketches) if sketch.name in recorded}
        self._seen = Seen(sketches)

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        self._seen.tell(candidates, throughputs)

    def ask(self, n: int) -> list[Candidate]:
        n_random = int(self._rng.binomial(n, self._epsilon))
        chosen = self._seen.take(self._rows, score_all(self._sketches, self._rows, self._scorer), n - n_random)
        return chosen + self._seen.take(self._rows, {i: self._rng.random(len(X)) for i, X in self._rows.items()}, n - len(chosen))
