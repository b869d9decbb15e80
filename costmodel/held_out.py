"""The four numbers by which cost models are compared, over all held-out tasks together, each task weighted as in the paper that the number is from.

For each task the measures are those of `costmodel.metrics`; over tasks

  pairwise accuracy, recall@30  are means weighted by the number of the task's candidates, as published for Ansor's and TenSet's models.
  top-k                         is TenSet's: for one network, the sum of uses × best seconds over the sum of uses × found seconds, where a task's best is its
                                fastest candidate, and found the fastest of the k that the model puts first; then the mean over networks. An operator
                                family is a network here, each of its tasks used once, and a network on another machine is another: in a sum of seconds of
                                several, the slowest would count most. Where all k failed, found is the slowest candidate that did not.
                                TenSet's own program does the same for a network; it takes a failed candidate as 10⁵ times slower than the best, which one
                                task would then decide alone. TLP prints one ratio of sums over all networks together, which the slowest of them decides.

Recall@30 means little where hardly more than 30 candidates are held out; what chance would reach stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from costmodel.metrics import Quality, grouped_quality

RECALL_K = 30
TOPS = (1, 5)


@dataclass(frozen=True)
class HeldOutScores:
    """As defined above. 1 is best."""

    pairwise_accuracy: float
    recall_at_30: float
    recall_at_30_by_chance: float
    top_1: float
    top_5: float
    n_tasks: int  # that could be judged
    n_candidates: int  # of these tasks
    n_tasks_left_out: int  # with nothing to order

    def to_json(self) -> dict[str, float | int]:
        return asdict(self)


def held_out_scores(
    scores: NDArray[np.float32], seconds: NDArray[np.float64], groups: NDArray[np.intp], uses: Sequence[Mapping[str, int]]
) -> HeldOutScores | None:
    """`scores`, `seconds` (infinite where it failed) and `groups` are (n,); `uses[g]` says how often each network uses the task that is group g.

    None where no task has two candidates of different speed.
    """
    judged = grouped_quality(scores, 1 / seconds, groups, RECALL_K)
    found = [_judged(measures, scores[groups == group], seconds[groups == group], uses[group]) for group, measures in judged.per_group.items()]
    if not found:
        return None
    weights = [task.n for task in found]
    top_1, top_5 = (_top(found, place) for place in range(len(TOPS)))
    return HeldOutScores(
        pairwise_accuracy=float(np.average([task.quality.pairwise_accuracy for task in found], weights=weights)),
        recall_at_30=float(np.average([task.quality.recall_at_k for task in found], weights=weights)),
        recall_at_30_by_chance=float(np.average([task.chance for task in found], weights=weights)),
        top_1=top_1,
        top_5=top_5,
        n_tasks=len(found),
        n_candidates=sum(weights),
        n_tasks_left_out=judged.n_left_out,
    )


@dataclass(frozen=True)
class _Task:
    quality: Quality
    n: int
    chance: float  # recall that can be expected of any order
    best_seconds: float
    found_seconds: tuple[float, ...]  # for each of `TOPS`
    uses: Mapping[str, int]


def _judged(measures: Quality, scores: NDArray[np.float32], seconds: NDArray[np.float64], uses: Mapping[str, int]) -> _Task:
    valid = np.isfinite(seconds)
    order = np.lexsort((-seconds, -scores))  # of equal scores the slower first
    found = tuple(float(min(seconds[order[:k]].min(), seconds[valid].max())) for k in TOPS)
    return _Task(measures, len(seconds), min(RECALL_K, int(valid.sum())) / len(seconds), float(seconds.min()), found, uses)


def _top(tasks: Sequence[_Task], place: int) -> float:
    networks = dict.fromkeys(name for task in tasks for name in task.uses)
    ratios = []
    for name in networks:
        best = sum(task.uses.get(name, 0) * task.best_seconds for task in tasks)
        found = sum(task.uses.get(name, 0) * task.found_seconds[place] for task in tasks)
        ratios.append(best / found)
    return float(np.mean(ratios))
