"""How much a model that learns while tuning may change what a prior says (a model trained before, or the roofline), by how well each would have ordered
what was measured.

The score of a candidate is prior + share · local, the local model being fitted to what the prior leaves unexplained. Every batch is scored by both before
anyone learns from it, so the last few batches tell which share would have ordered their candidates best.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodel.metrics import pairwise_accuracy

Values = NDArray[np.float64]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
START_SHARE = 0.5  # before anything speaks for more or less
STEP = 0.5  # of the way to the best share, at each batch: a batch of sixteen says little
WINDOW = 6  # batches that are remembered; older ones were judged by another model
MIN_PAIRS = 360  # of candidates, before scores are called no better than chance: three batches of sixteen, each of which may be bad luck


@dataclass(frozen=True)
class _Batch:
    prior: Values
    local: Values
    throughputs: Values

    @property
    def n_pairs(self) -> int:
        return len(self.throughputs) * (len(self.throughputs) - 1) // 2


class Trust:
    """`share`: of the local model's say. It stays 1 where there is no prior (`has_prior`), and what it starts as where `step` is 0."""

    def __init__(self, has_prior: bool, start: float = START_SHARE, step: float = STEP) -> None:
        self.share = start if has_prior else 1.0
        self._has_prior, self._step = has_prior, step
        self._batches: deque[_Batch] = deque(maxlen=WINDOW)

    def judge(self, prior: Values, local: Values, throughputs: Values) -> None:
        """Take note of a batch of one task: (n,) scores of both models before they learned from it, and what was measured, 0 where it failed."""
        if len(throughputs) < 2 or throughputs.min() == throughputs.max():
            return
        self._batches.append(_Batch(prior, local, throughputs))
        if self._has_prior and any(batch.local.any() for batch in self._batches):
            best = max(SHARES, key=lambda share: (self.accuracy(share), -abs(share - self.share)))
            self.share += self._step * (best - self.share)

    def accuracy(self, share: float | None = None) -> float:
        """Pairwise accuracy within the batches that are remembered, of scores with this share, or the present one; 0.5 where there are none."""
        share = self.share if share is None else share
        found = [(batch.n_pairs, pairwise_accuracy(batch.prior + share * batch.local, batch.throughputs)) for batch in self._batches]
        return float(np.average([accuracy for _, accuracy in found], weights=[n for n, _ in found])) if found else 0.5

    @property
    def is_lost(self) -> bool:
        """Whether scores order what is measured no better than chance does."""
        return sum(batch.n_pairs for batch in self._batches) >= MIN_PAIRS and self.accuracy() <= 0.5
