"""Which task of a network gets the next batch: the one whose expected gain times its weight is largest.

After Ansor's task scheduler (Zheng et al., OSDI 2020, section 6): the gain of one more trial is guessed from what the last batches
gained, and from how far the task is from the best throughput that any task of the network reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

TRUST_IN_HISTORY = 0.3  # weight of the slope seen so far against the hope for more; Ansor's alpha is 0.2
WINDOW = 3  # batches over which the slope is taken, as in Ansor
EXPLORE = 0.05  # share of batches that go to any open task
HOPELESS_TRIALS = 64  # none of them valid; from then on the task gets what others leave, for each of its trials may take as long as a timeout


@dataclass
class TaskProgress:
    """How far one task is: its best seconds after each batch, and whether it may still be given trials."""

    weight: float  # times the network runs it
    work: float  # of which throughput is the rate
    best_seconds: list[float] = field(default_factory=list)
    n_trials: list[int] = field(default_factory=list)
    open: bool = True

    def gain(self, best_throughput: float) -> float:
        """Expected seconds saved in the network by one more trial."""
        now = self.best_seconds[-1]
        if not math.isfinite(now):
            return math.inf if self.n_trials[-1] < HOPELESS_TRIALS else 0.0
        back = max(0, len(self.best_seconds) - 1 - WINDOW)
        trials = max(self.n_trials[-1] - self.n_trials[back], 1)
        earlier = self.best_seconds[back] if math.isfinite(self.best_seconds[back]) else now
        slope = (earlier - now) / trials
        hope = max(now - self.work / best_throughput, 0.02 * now) / max(self.n_trials[-1], 1)
        return self.weight * (TRUST_IN_HISTORY * slope + (1 - TRUST_IN_HISTORY) * hope)


def choose_task(progress: Sequence[TaskProgress], rng: np.random.Generator) -> int | None:
    """Number of the task to work on next; None when all are closed. Tasks without any batch come first, in order."""
    opened = [i for i, task in enumerate(progress) if task.open]
    if not opened:
        return None
    for i in opened:
        if not progress[i].best_seconds:
            return i
    if rng.random() < EXPLORE:
        return int(rng.choice(opened))
    best = max((p.work / p.best_seconds[-1] for p in progress if p.best_seconds and math.isfinite(p.best_seconds[-1])), default=1.0)
    return max(opened, key=lambda i: progress[i].gain(best))
