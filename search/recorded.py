"""Spaces that hold recorded rows only: with a replaying runner any search runs on them without a clock and without noise.

A row that a search makes up stands for the recorded row nearest to it. Rows are points of which each ordered column gives one coordinate, log2(1 + value) over
the column's range, and each other column one for every value, a half where it has it: two rows that differ in such a column are one apart in it. Distances
are sums over coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from schedule.sketch import Sketch
from schedule.space import Column, Population, Space

N_NEAR = 4  # recorded rows that are looked at: the parents of a row, which are the nearest as a rule, and as many others


@dataclass(frozen=True, eq=False)
class RecordedSpace(Space):
    """`recorded` (n, c): distinct rows of the space; nothing else is in this one."""

    recorded: Population = field(kw_only=True)
    __eq__, __hash__ = object.__eq__, object.__hash__  # those of a space look at its columns and limits alone

    def valid(self, X: Population) -> NDArray[np.bool_]:
        """Whatever comes out of this space is."""
        return np.ones(len(X), dtype=bool)

    def draw(self, n: int, rng: np.random.Generator) -> Population:
        return self.recorded[rng.integers(len(self.recorded), size=n)]

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        return self.draw(n, rng)

    def mutate(self, X: Population, rng: np.random.Generator) -> Population:
        """The recorded row that is nearest to a mutant, but not the row itself."""
        return self._nearest(Space.mutate(self, X, rng), (X,))

    def crossover(self, A: Population, B: Population, rng: np.random.Generator) -> Population:
        """The recorded row that is nearest to a child, but none of its parents."""
        return self._nearest(Space.crossover(self, A, B, rng), (A, B))

    def neighbours(self, row: NDArray[np.int64]) -> Population:
        """(n, c) the recorded rows nearest to the neighbours that the row has in the whole space, but not the row itself."""
        X = self._whole.neighbours(row)
        X = np.unique(self._nearest(X, (np.repeat(row[None], len(X), axis=0),)), axis=0)
        return np.asarray(X[(row != X).any(axis=1)])

    def row(self, values: dict[str, int], rng: np.random.Generator) -> Population:
        """(1, c) the recorded row nearest to the valid one nearest to the wished values."""
        return self._nearest(self._whole.row(values, rng), ())

    def places(self, X: Population) -> NDArray[np.intp]:
        """(n,) where each row of this space is in `recorded`."""
        return np.asarray(self._tree.query(self._points(X), p=1)[1])

    @cached_property
    def _whole(self) -> Space:
        """The space of which rows were recorded."""
        return Space(self.columns, self.limits)

    def _nearest(self, X: Population, others: Sequence[Population]) -> Population:
        """(n, c) of each row the nearest recorded one that is not the same row of `others`; where there is no other, the nearest."""
        n_near = min(N_NEAR, len(self.recorded))
        near = self._tree.query(self._points(X), k=list(range(1, n_near + 1)), p=1)[1]
        rows = self.recorded[near]  # (n, near, c)
        taken = np.zeros(near.shape, dtype=bool)
        for other in others:
            taken |= (rows == other[:, None]).all(axis=2)
        first = np.argmin(taken, axis=1)  # the first that is free
        return np.asarray(rows[np.arange(len(X)), first])

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._points(self.recorded))

    def _points(self, X: Population) -> NDArray[np.float64]:
        """(n, coordinates)"""
        return np.concatenate([_coordinates(column, X[:, j]) for j, column in enumerate(self.columns)], axis=1)


def _coordinates(column: Column, values: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 1) of an ordered column, (n, choices) of another."""
    if not column.ordered:
        return np.asarray(0.5 * (values[:, None] == np.array(column.choices)))
    lowest, highest = np.log2(1.0 + column.choices[0]), np.log2(1.0 + column.choices[-1])
    return np.asarray((np.log2(1.0 + values) - lowest) / max(highest - lowest, 1e-9))[:, None]


def recorded_sketches(sketches: Sequence[Sketch], recorded: Mapping[str, Population]) -> tuple[Sketch, ...]:
    """The sketches of which there are recorded rows, by name, with no other rows in their spaces."""
    return tuple(
        replace(sketch, space=RecordedSpace(sketch.space.columns, sketch.space.limits, recorded=recorded[sketch.name]))
        for sketch in sketches
        if len(recorded.get(sketch.name, ()))
    )
