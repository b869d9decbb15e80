"""What every search has in common: ask for candidates, tell how they measured; no candidate twice.

A search sees spaces and scores, never a clock: a `Scorer` ranks rows of a sketch, higher is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from schedule.measurement import Candidate
from schedule.sketch import Sketch
from schedule.space import Population

EXPLORE = 0.5  # share of random candidates in a batch where scores are no better than chance
SCORE_STEP = 0.02  # of the standard deviation of all scores: those that differ by less say the same

Scores: TypeAlias = NDArray[np.float64]
Scorer: TypeAlias = Callable[[Sketch, Population], Scores]

# Rows by the number of their sketch; the unit in which searches think, since the rows of one sketch are one array.
Rows: TypeAlias = dict[int, Population]


class Search(Protocol):
    """Ask and tell. `ask` may give fewer than n when the space is used up. `explore`: the scores have been no better than chance, so trust them less."""

    def ask(self, n: int, explore: bool = False) -> list[Candidate]: ...

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None: ...


@dataclass
class Seen:
    """What was measured: throughput by candidate, 0 where it failed; and what was asked for and is still out."""

    sketches: Sequence[Sketch]
    throughputs: dict[Candidate, float] = field(default_factory=dict)
    asked: set[Candidate] = field(default_factory=set)

    def tell(self, candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        self.throughputs.update(zip(candidates, throughputs, strict=True))
        self.asked.update(candidates)

    def elites(self, n: int) -> Rows:
        """The best n measured rows."""
        best = sorted((c for c in self.throughputs if self.throughputs[c] > 0), key=lambda c: -self.throughputs[c])[:n]
        return self.rows(best)

    def rows(self, candidates: Sequence[Candidate]) -> Rows:
        return {
            i: np.array(rows, dtype=np.int64)
            for i, sketch in enumerate(self.sketches)
            if (rows := [candidate.row for candidate in candidates if candidate.sketch == sketch.name])
        }

    def take(self, rows: Rows, scores: Mapping[int, Scores], n: int, alike: int | None = None, equal: int | None = None) -> list[Candidate]:
        """The n best-scored rows that were never asked for; from now on they count as asked. At most `alike` of them share a register tile, and `equal` a
        step of scores, so there may be fewer."""
        flat_scores = np.concatenate([scores[i] for i in rows]) if rows else np.empty(0)
        owner = np.repeat(list(rows), [len(X) for X in rows.values()])
        place = np.concatenate([np.arange(len(X)) for X in rows.values()]) if rows else owner
        step = _steps(flat_scores)
        chosen: list[Candidate] = []
        n_alike: Counter[tuple[object, ...]] = Counter()
        n_equal: Counter[int] = Counter()
        for at in np.argsort(-flat_scores, kind="stable"):
            if len(chosen) == n:
                break
            if equal is not None and n_equal[step[at]] >= equal:
                continue
            sketch, row = self.sketches[owner[at]], rows[owner[at]][place[at]]
            tile = (sketch.name, *row[list(sketch.register_columns)].tolist())
            candidate = Candidate(sketch.name, tuple(row.tolist()))
            if candidate not in self.asked and (alike is None or n_alike[tile] < alike):
                self.asked.add(candidate)
                n_alike[tile] += 1
                n_equal[step[at]] += 1
                chosen.append(candidate)
        return chosen

    def take_random(self, n: int, rng: np.random.Generator) -> list[Candidate]:
        """Up to n new candidates, drawn as `sample` draws them."""
        chosen: list[Candidate] = []
        for _ in range(8):
            rows = sample(self.sketches, 2 * (n - len(chosen)) + 8, rng)
            chosen += self.take(rows, {i: rng.random(len(X)) for i, X in rows.items()}, n - len(chosen))
            if len(chosen) == n:
                break
        return chosen


def _steps(scores: Scores) -> list[int]:
    """The step of `SCORE_STEP` that each score is on."""
    width = SCORE_STEP * float(scores.std()) if len(scores) else 0.0
    steps: list[int] = np.round((scores - scores.max()) / width).astype(np.int64).tolist() if width else [0] * len(scores)
    return steps


def sample(sketches: Sequence[Sketch], n: int, rng: np.random.Generator) -> Rows:
    """About n random valid rows, the first sketch twice as often as any other, since the others are variations for special cases."""
    weights = np.array([2.0] + [1.0] * (len(sketches) - 1))
    counts = rng.multinomial(n, weights / weights.sum())
    return {i: sketch.space.sample(int(count), rng) for i, (sketch, count) in enumerate(zip(sketches, counts, strict=True)) if count}


def merge(*parts: Rows) -> Rows:
    """All rows of all parts, each distinct row once."""
    merged: dict[int, list[Population]] = {}
    for part in parts:
        for i, X in part.items():
            merged.setdefault(i, []).append(X)
    return {i: np.unique(np.concatenate(arrays), axis=0) for i, arrays in merged.items()}


def score_all(sketches: Sequence[Sketch], rows: Rows, scorer: Scorer) -> dict[int, Scores]:
    return {i: scorer(sketches[i], X) for i, X in rows.items()}


def tell_apart(scores: Mapping[int, Scores]) -> bool:
    """Whether any two rows have different scores. Where none have, as before anything is known, the best rows are but the first: draw at random instead."""
    every = np.concatenate(list(scores.values()))
    return bool(len(every) and np.ptp(every) > 0)


def by_sketch(sketches: Sequence[Sketch], candidates: Sequence[Candidate]) -> Iterator[tuple[list[int], Sketch, Population]]:
    """(places among the candidates, their sketch, their rows in that order) of each sketch that has any."""
    found: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        found.setdefault(candidate.sketch, []).append(i)
    by_name = {sketch.name: sketch for sketch in sketches}
    for name, places in found.items():
        yield places, by_name[name], np.array([candidates[i].row for i in places], dtype=np.int64)
