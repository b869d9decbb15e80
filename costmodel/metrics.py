"""How well a cost model orders candidates. One group holds the candidates of one task; only these are ever compared with each other.

Notation, for one group of n candidates.
  s  (n,) scores, predicted, any unit; higher is better
  y  (n,) throughput, measured, any unit; higher is better, 0 where the candidate failed

  pairwise accuracy  of the pairs with y_i > y_j, the share with s_i > s_j; a pair with s_i = s_j counts half, so that constant or random scores
                     have 0.5 (Harrell's concordance index). Ansor (Zheng et al., OSDI 2020) and TenSet (Zheng et al., NeurIPS 2021, Datasets
                     and Benchmarks) report it as pairwise comparison accuracy.
  recall@k           share of the k fastest by y that are among the k first by s (Ansor, with k = 30); k is at most the number of candidates
                     that did not fail, for to find a failed one is no merit.
  top-k score        best y among the k first by s, over the best y of the group (TenSet's top-k and peak@k, for one task). 0.9 means: whoever
                     measures the k first gets 90 % of the speed that is there.

Of equal scores the slower candidate stands first: a model that cannot tell candidates apart gets no credit for the order in which they came.
Of candidates exactly as fast as the k-th fastest all count as among the k fastest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """The measures of one group, or their means over groups. 1 is best, 0 is worst."""

    pairwise_accuracy: float
    recall_at_k: float
    top_1: float
    top_5: float


@dataclass(frozen=True)
class GroupedQuality:
    """The measures of each group that can be judged, their means (None where no group can be), and how many groups were left out."""

    mean: Quality | None
    per_group: Mapping[Any, Quality]
    n_left_out: int


def grouped_quality(scores: ArrayLike, throughput: ArrayLike, groups: ArrayLike, k: int = 30) -> GroupedQuality:
    """The measures of each group, and their means over groups, which all count the same; `groups` (n,) names the group of each candidate. Errors as in
    `quality`."""
    s, y = _checked(scores, throughput)
    names, ids = np.unique(np.asarray(groups), return_inverse=True)
    if ids.shape != s.shape:
        raise ValueError(f"groups have shape {ids.shape}, the scores {s.shape}")
    order = np.argsort(ids, kind="stable")
    starts = np.searchsorted(ids[order], np.arange(1, len(names)))
    found = {name: quality(s[part], y[part], k) for name, part in zip(names.tolist(), np.split(order, starts), strict=False)}
    judged = {name: measures for name, measures in found.items() if measures is not None}
    mean = Quality(*np.mean([astuple(measures) for measures in judged.values()], axis=0).tolist()) if judged else None
    return GroupedQuality(mean, judged, len(found) - len(judged))


def quality(scores: ArrayLike, throughput: ArrayLike, k: int = 30) -> Quality | None:
    """The measures of one group; None where fewer than two distinct throughputs leave nothing to order.

    `scores` and `throughput` are (n,) and finite, no throughput is negative, k is at least 1; `ValueError` if not.
    """
    s, y = _checked(scores, throughput)
    if not len(y) or y.min() == y.max():
        return None
    return Quality(pairwise_accuracy(s, y), recall_at_k(s, y, k), top_k_score(s, y, 1), top_k_score(s, y, 5))


def pairwise_accuracy(scores: ArrayLike, throughput: ArrayLike) -> float:
    """As defined above, for one group with two distinct throughputs or more; in O(n log n)."""
    s, y = _checked_distinct(scores, throughput)
    n_told_apart, n_judged = _n_unequal_pairs(s), _n_unequal_pairs(y)
    if not n_told_apart:
        return 0.5
    # Kendall's tau-b is (right - wrong) / sqrt(n_told_apart · n_judged), counted by merging; right + wrong + half of the equal scores is wanted.
    tau = stats.kendalltau(s, y).statistic
    right_minus_wrong = round(float(tau) * np.sqrt(n_told_apart) * np.sqrt(n_judged))
    return float(0.5 + right_minus_wrong / (2 * n_judged))


def recall_at_k(scores: ArrayLike, throughput: ArrayLike, k: int = 30) -> float:
    """As defined above, for one group with two distinct throughputs or more."""
    s, y = _checked_distinct(scores, throughput)
    k = min(_checked_k(k), int(np.count_nonzero(y)))
    kth_fastest = np.partition(y, -k)[-k]
    return float(np.mean(y[_first(s, y, k)] >= kth_fastest))


def top_k_score(scores: ArrayLike, throughput: ArrayLike, k: int) -> float:
    """As defined above, for one group with two distinct throughputs or more."""
    s, y = _checked_distinct(scores, throughput)
    return float(y[_first(s, y, _checked_k(k))].max() / y.max())


def _first(s: Values, y: Values, k: int) -> NDArray[np.intp]:
    """Which candidates the scores put first, at most k; of equal scores the slower."""
    return np.lexsort((y, -s))[:k]


def _n_unequal_pairs(values: Values) -> int:
    counts = np.unique(values, return_counts=True)[1]
    return int(len(values) ** 2 - (counts**2).sum()) // 2


def _checked(scores: ArrayLike, throughput: ArrayLike) -> tuple[Values, Values]:
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(throughput, dtype=np.float64)
    if s.ndim != 1 or s.shape != y.shape:
        raise ValueError(f"scores and throughput must be vectors of one length, they have shapes {s.shape} and {y.shape}")
    for name, values in (("score", s), ("throughput", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} {name} values are NaN or infinite")
    if (y < 0).any():
        raise ValueError(f"throughput must not be negative, found {y.min():g}")
    return s, y


def _checked_distinct(scores: ArrayLike, throughput: ArrayLike) -> tuple[Values, Values]:
    s, y = _checked(scores, throughput)
    if not len(y) or y.min() == y.max():
        raise ValueError(f"a group needs two distinct throughputs to be judged, found {len(np.unique(y))} in {len(y)} candidates")
    return s, y


def _checked_k(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return k
