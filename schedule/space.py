"""The integer space of a sketch: one row is one candidate, one column one decision; everything works on whole populations.

Notation: n rows, c columns.
  X  (n, c) int64  a population; X[i, j] is the value (a size, a count, a switch) that row i gives to column j's symbol
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ir.errors import Unsupported
from ir.expression import Evaluator, Expr, Symbol

Population = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One decision. `choices` are the values to draw from, ascending; a value above `maximum` (an expression of earlier symbols) means
    `maximum`. `alike` (an expression of earlier symbols and this one) is the value that stands for all values with the same meaning.

    `ordered`: whether neighbouring choices are alike (sizes are, permutations are not).
    """

    symbol: Symbol
    choices: tuple[int, ...]
    maximum: Expr | None = None
    alike: Expr | None = None
    ordered: bool = True


@dataclass(frozen=True)
class Space:
    """All populations of one sketch: a free choice a column, where every expression in `limits` is <= 0."""

    columns: tuple[Column, ...]
    limits: tuple[Expr, ...] = ()

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        return tuple(column.symbol for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.symbol.name for column in self.columns)

    @cached_property
    def _maxima(self) -> dict[int, Evaluator]:
        return {j: Evaluator([column.maximum], self.symbols) for j, column in enumerate(self.columns) if column.maximum is not None}

    @cached_property
    def _alike(self) -> dict[int, Evaluator]:
        return {j: Evaluator([column.alike], self.symbols) for j, column in enumerate(self.columns) if column.alike is not None}

    @cached_property
    def _choices(self) -> list[NDArray[np.int64]]:
        return [np.array(column.choices, dtype=np.int64) for column in self.columns]

    @cached_property
    def _limits(self) -> Evaluator:
        return Evaluator(self.limits, self.symbols)

    def canonical(self, X: Population) -> Population:
        """Equal candidates get equal rows: column by column, values are cut to the maximum and replaced by the one that stands for them."""
        X = X.copy()
        for j in range(X.shape[1]):
            self._settle(X, j, np.minimum(X[:, j], self._most(X, j)))
        return X

    def _settle(self, X: Population, j: int, values: NDArray[np.int64]) -> None:
        """Set column j of `X` to `values`, none above the largest, made canonical; the columns before it are."""
        X[:, j] = values
        if j in self._alike:
            X[:, j] = self._alike[j](X)[:, 0]

    def _most(self, X: Population, j: int) -> NDArray[np.int64]:
        """(n,) the largest value of column j that the earlier columns of each row leave."""
        most: NDArray[np.int64] = np.full(len(X), self._choices[j][-1])
        return most if j not in self._maxima else np.minimum(most, self._maxima[j](X)[:, 0].astype(np.int64))

    def _any(self, most: NDArray[np.int64], j: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) values of column j, uniform over its choices up to `most`."""
        n_open = np.searchsorted(self._choices[j], most) + 1
        return np.minimum(self._choices[j][rng.integers(n_open)], most)

    def _near(self, values: NDArray[np.int64], j: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) choices of column j one or two steps from `values`."""
        choices = self._choices[j]
        at = np.searchsorted(choices, values) + rng.choice([-2, -1, 1, 2], size=len(values))
        near: NDArray[np.int64] = choices[np.clip(at, 0, len(choices) - 1)]
        return near

    def valid(self, X: Population) -> NDArray[np.bool_]:
        return np.asarray((self._limits(X) <= 0).all(axis=1)) if self.limits else np.ones(len(X), dtype=bool)

    def contains(self, X: Population) -> NDArray[np.bool_]:
        """(n,) whether each row, from wherever it comes, is one of this space: canonical, and within all limits."""
        lowest, highest = (np.array([choices[at] for choices in self._choices], dtype=np.int64) for at in (0, -1))
        found: NDArray[np.bool_] = np.all((lowest <= X) & (highest >= X), axis=1)  # expressions are not made for other values
        inside = X[found]
        found[found] = (self.canonical(inside) == inside).all(axis=1) & self.valid(inside)
        return found

    def draw(self, n: int, rng: np.random.Generator) -> Population:
        """(n, c) canonical rows, not checked: each column uniform over the choices that the earlier ones leave.

        (Uniform over all choices and cut afterwards, most tiles of a small axis would be the whole axis.)
        """
        X = np.zeros((n, len(self.columns)), dtype=np.int64)
        for j in range(len(self.columns)):
            self._settle(X, j, self._any(self._most(X, j), j, rng))
        return X

    def sample(self, n: int, rng: np.random.Generator) -> Population:
        """(n, c) valid canonical rows as `draw` finds them; fewer where valid ones are too rare to find."""
        found: list[Population] = []
        total = 0
        for _ in range(128):
            X = self.draw(max(2 * (n - total), 256), rng)
            X = X[self.valid(X)]
            found.append(X[: n - total])
            total += len(found[-1])
            if total == n:
                break
        return np.concatenate(found)

    def mutate(self, X: Population, rng: np.random.Generator) -> Population:
        """Change one to three columns of each row: half to a neighbouring choice, half to any choice. Canonical, not checked."""
        n, c = X.shape
        n_changes = rng.choice([1, 1, 2, 3], size=n)
        changed = rng.random((n, c)).argsort(axis=1).argsort(axis=1) < n_changes[:, None]
        result = X.copy()
        for j, column in enumerate(self.columns):
            most = self._most(result, j)
            new = self._any(most, j, rng)
            if column.ordered:
                new = np.where(rng.random(n) < 0.5, self._near(X[:, j], j, rng), new)
            self._settle(result, j, np.minimum(np.where(changed[:, j], new, X[:, j]), most))
        return result

    def crossover(self, A: Population, B: Population, rng: np.random.Generator) -> Population:
        """Each column from one parent or the other. Canonical, not checked."""
        return self.canonical(np.where(rng.random(A.shape) < 0.5, A, B))

    def neighbours(self, row: NDArray[np.int64]) -> Population:
        """(n, c) distinct valid canonical rows one step from `row` (c,), which is not among them: in one column the next choice up or down, or any other
        one where the choices have no order. Columns that depend on this one may follow."""
        steps = [self._steps(j, int(row[j])) for j in range(len(self.columns))]
        at = np.repeat(np.arange(len(steps)), [len(values) for values in steps])
        X = np.repeat(row[None], len(at), axis=0)
        X[np.arange(len(at)), at] = np.concatenate([np.empty(0, np.int64), *steps])
        X = np.unique(self.canonical(X), axis=0)
        return np.asarray(X[(row != X).any(axis=1) & self.valid(X)])

    def _steps(self, j: int, value: int) -> NDArray[np.int64]:
        """The values of column j one step from this one, which may lie between two choices."""
        choices = self._choices[j]
        if not self.columns[j].ordered:
            return np.asarray(choices[choices != value])
        below, above = np.searchsorted(choices, value, "left"), np.searchsorted(choices, value, "right")
        return np.concatenate([choices[:below][-1:], choices[above:][:1]])

    def row(self, values: dict[str, int], rng: np.random.Generator) -> Population:
        """(1, c) the valid row nearest to the wished values: invalid wishes are mutated until one is valid. `Unsupported` where none is found."""
        X = np.array([[values.get(column.symbol.name, column.choices[0]) for column in self.columns]], dtype=np.int64)
        X = self.canonical(X)
        for _ in range(200):
            valid = self.valid(X)
            if valid.any():
                return X[valid][:1]
            X = self.mutate(np.repeat(X[:64], 8, axis=0), rng)
        rest = self.sample(1, rng)
        if not len(rest):
            raise Unsupported("no sizes of tiles are known that keep code and workspace within their limits: it is too large to be packed")
        return rest


def sizes_up_to(limit: int, extra: Sequence[int] = ()) -> tuple[int, ...]:
    """1..16, then about four sizes a doubling, then `extra`; all at most `limit`."""
    steps = list(range(1, 17)) + [round(2 ** (4 + i / 4)) for i in range(1, 80)]
    return tuple(sorted({size for size in (*steps, *extra, limit) if 1 <= size <= limit}))
