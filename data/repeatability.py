"""How well a measurement repeats, and what that means for any model that is judged by measurements.

agreement  of the pairs of candidates of one task that were both measured twice, the share that stands in the same order both times; pairs with equal
           times count half. A task counts as much as it has pairs.
bound      the pairwise accuracy that even a model which knew the true speeds could reach on single measurements. Where a measurement puts a pair in
           its true order with chance p, two of them agree with chance p² + (1-p)² = a, so p = (1 + √(2a-1)) / 2; this being concave in a, the mean
           agreement gives an upper bound for all pairs of successful candidates together. Pairwise accuracy judges pairs of a successful and a failed
           candidate too; which of these failed is taken as certain. So the bound is this p for the share of successful pairs, and 1 for the mixed share.
mixed      of all pairs of one task that can be judged, repeated or not, the share with one candidate that failed; the mean over tasks, each weighted by its
           candidates, as pairwise accuracy is.
noise      by how much a candidate's second measurement differs from its first, as a part of it: the median.
spread     by how much the slower half of the repeats inside one measurement is above the fastest: (median - fastest) / fastest, the median over all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from data.record import Record, Setting

CandidateKey = tuple[Setting, str, tuple[int, ...]]


@dataclass(frozen=True)
class Repeatability:
    """As defined above; None where nothing was measured twice, or no two candidates of one task were."""

    n_candidates: int  # measured twice, successful both times
    n_pairs: int  # of these, of one task
    n_failed_once: int  # measured twice, failed one time and not the other
    agreement: float | None
    mixed_share: float
    pairwise_bound: float | None
    noise: float | None
    spread: float | None

    def to_json(self) -> dict[str, int | float | None]:
        return dict(vars(self))


def repeatability(records: Iterable[Record]) -> Repeatability:
    """Of each candidate the last record of kind "repeat" against the first of any other kind."""
    first: dict[CandidateKey, Record] = {}
    again: dict[CandidateKey, Record] = {}
    spreads = []
    for record in records:
        key = (record.setting, record.sketch, record.row)
        if record.kind == "repeat":
            again[key] = record
        elif record.kind != "final":
            first.setdefault(key, record)
        if record.ok and len(record.seconds) > 1:
            spreads.append(record.median_seconds / record.best_seconds - 1)
    both = [(key, first[key], second) for key, second in again.items() if key in first]
    times: dict[Setting, list[tuple[float, float]]] = defaultdict(list)
    for (setting, _, _), one, two in both:
        if one.ok and two.ok:
            times[setting].append((one.best_seconds, two.best_seconds))
    agreed = [_agreement(a, b) for each in times.values() for a, b in combinations(each, 2)]
    agreement = sum(agreed) / len(agreed) if agreed else None
    differences = [abs(two / one - 1) for each in times.values() for one, two in each]
    mixed = _mixed_share(first.values())
    bound = None if agreement is None else mixed + (1 - mixed) * successful_bound(agreement)
    return Repeatability(
        len(differences), len(agreed), sum(one.ok != two.ok for _, one, two in both), agreement, mixed, bound,
        median(differences) if differences else None, median(spreads) if spreads else None,
    )  # fmt: skip


def _mixed_share(first: Iterable[Record]) -> float:
    """0 where no pair can be judged."""
    counts: dict[Setting, list[int]] = defaultdict(lambda: [0, 0])
    for record in first:
        counts[record.setting][record.ok] += 1
    shares = []
    for n_failed, n_ok in counts.values():
        mixed, successful = n_failed * n_ok, n_ok * (n_ok - 1) // 2
        if mixed + successful:
            shares.append((n_failed + n_ok, mixed / (mixed + successful)))
    return sum(n * share for n, share in shares) / sum(n for n, _ in shares) if shares else 0.0


def successful_bound(agreement: float) -> float:
    """Of pairs of successful candidates. Half where the agreement is that of chance or less."""
    return (1 + math.sqrt(max(2 * agreement - 1, 0.0))) / 2


def _agreement(a: tuple[float, float], b: tuple[float, float]) -> float:
    product = (a[0] - b[0]) * (a[1] - b[1])
    return 0.5 if product == 0 else float(product > 0)
