"""Uniform random search: the baseline that every other search must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schedule.measurement import Candidate
from schedule.sketch import Sketch
from search.strategy import Scorer, Seen


class RandomSearch:
    """Draws uniformly from the sketches' choices; takes no notice of scores."""

    def __init__(self, sketches: Sequence[Sketch], scorer: Scorer, rng: np.random.Generator) -> None:
        del scorer  # a search is made with a scorer, and this one has no use for it
        self._seen, self._rng = Seen(sketches), rng

    def ask(self, n: int, explore: bool = False) -> list[Candidate]:
        del explore  # it never does anything else
        return self._seen.take_random(n, self._rng)

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        self._seen.tell(candidates, throughputs)
