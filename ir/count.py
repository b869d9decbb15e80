"""What a loop nest does when it runs, counted one execution at a time: the oracle for counts that are derived symbolically.

Every loop is expanded, vector lanes included, so nests must be small: memory grows with the number of executed stores.

Notation: n executions of a statement, v loops around it.
  points  (n, v) int64  the values of the variables of the loops around a statement, outermost first, a row for each execution in order
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ir.expression import Evaluator, Expr, add, mul
from ir.nest import Buffer, Call, For, Guarded, If, Load, Nest, NestValue, Prefetch, Statement, Store, Turn, loads

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Executions:
    """All executions of one store. `loops` are those around it."""

    store: Store
    loops: tuple[For, ...]
    points: Ints

    def __len__(self) -> int:
        return len(self.points)

    def evaluate(self, expression: Expr) -> Ints:
        """(n,) values of an index or a condition."""
        return _evaluate(expression, self.loops, self.points)

    def addresses(self, buffer: Buffer, indices: Sequence[Expr]) -> Ints:
        """(n,) flat element indices of an access."""
        return self.evaluate(add(*(mul(index, stride) for index, stride in zip(indices, buffer.strides, strict=True))))

    def first_lanes(self, lanes: int) -> NDArray[np.bool_]:
        """(n,) whether an execution is the first lane of its vector; without a vector loop each is on its own."""
        vector = [i for i, loop in enumerate(self.loops) if loop.kind == "vector"]
        return self.points[:, vector[-1]] % lanes == 0 if vector else np.ones(len(self), dtype=bool)


@dataclass(frozen=True)
class LoopRuns:
    """All runs of one loop. `extents` (n,): its iterations in each."""

    loop: For
    around: tuple[For, ...]
    extents: Ints


@dataclass(frozen=True)
class Trace:
    """Everything that a nest executes, statement by statement in the order of the text."""

    stores: tuple[Executions, ...]
    loops: tuple[LoopRuns, ...]


@dataclass
class Counts:
    """Totals of a run. `vector_updates` are combinations into register tiles in whole vectors; the dictionaries are by buffer name.

    `loaded_bytes` and `stored_bytes` count every access of every lane, `touched_bytes` each address once; register tiles are no memory.
    """

    flops: int = 0
    vector_updates: int = 0
    iterations: dict[str, int] = field(default_factory=dict)  # by loop variable
    loaded_bytes: dict[str, int] = field(default_factory=dict)
    stored_bytes: dict[str, int] = field(default_factory=dict)
    touched_bytes: dict[str, int] = field(default_factory=dict)


def trace(nest: Nest) -> Trace:
    """Runs the loops of a nest without computing any value."""
    stores: list[Executions] = []
    runs: list[LoopRuns] = []
    _walk(nest.body, (), np.zeros((1, 0), dtype=np.int64), stores, runs)
    return Trace(tuple(stores), tuple(runs))


def count(nest: Nest, lanes: int) -> Counts:
    """Totals of one run of the nest on vectors of `lanes` elements."""
    found, counts, touched = trace(nest), Counts(), dict[Buffer, list[Ints]]()
    for run in found.loops:
        _add(counts.iterations, run.loop.variable.name, int(run.extents.sum()))
    for execution in found.stores:
        store = execution.store
        counts.flops += len(execution) * (n_calls(store.value) + (store.reduction is not None))
        if store.buffer.scope == "register":
            counts.vector_updates += int(execution.first_lanes(lanes).sum()) if store.reduction else 0
        else:
            addresses = stored_addresses(execution)
            _add(counts.stored_bytes, store.buffer.name, store.buffer.element_bytes * len(addresses))
            touched.setdefault(store.buffer, []).append(addresses)
        for load, addresses in memory_loads(execution):
            _add(counts.loaded_bytes, load.buffer.name, load.buffer.element_bytes * len(addresses))
            touched.setdefault(load.buffer, []).append(addresses)
    counts.touched_bytes = {buffer.name: buffer.element_bytes * len(np.unique(np.concatenate(parts))) for buffer, parts in touched.items()}
    return counts


def memory_loads(execution: Executions) -> Iterator[tuple[Load, Ints]]:
    """Each load from memory in a store's value with the addresses that it reads, those whose guard fails left out."""
    for load in loads(execution.store.value):
        if load.buffer.scope != "register":
            yield load, execution.addresses(load.buffer, load.indices)[execution.evaluate(load.guard) != 0]


def stored_addresses(execution: Executions) -> Ints:
    """The addresses that a store writes, those whose guard fails left out."""
    store = execution.store
    addresses = execution.addresses(store.buffer, store.indices)
    written: Ints = addresses[execution.evaluate(store.guard) != 0]
    return written


def n_calls(value: NestValue) -> int:
    """Functions applied in one evaluation of `value`."""
    match value:
        case Call(_, args):
            return 1 + sum(map(n_calls, args))
        case Guarded(guarded):
            return n_calls(guarded)
    return 0


def _walk(body: Sequence[Statement], around: tuple[For, ...], points: Ints, stores: list[Executions], runs: list[LoopRuns]) -> None:
    for statement in body:
        match statement:
            case Store():
                stores.append(Executions(statement, around, points))
            case Turn() | Prefetch():
                pass  # the one stays in registers, the other reads no value
            case If(condition, then, otherwise):
                holds = _evaluate(condition, around, points) != 0
                _walk(then, around, points[holds], stores, runs)
                _walk(otherwise, around, points[~holds], stores, runs)
            case For(_, extent, inner, _):
                extents = np.maximum(_evaluate(extent, around, points), 0)
                runs.append(LoopRuns(statement, around, extents))
                first = np.cumsum(extents) - extents
                position = np.arange(extents.sum()) - np.repeat(first, extents)
                _walk(inner, (*around, statement), np.column_stack([np.repeat(points, extents, axis=0), position]), stores, runs)


def _evaluate(expression: Expr, around: Sequence[For], points: Ints) -> Ints:
    return Evaluator([expression], [loop.variable for loop in around])(points)[:, 0].astype(np.int64)


def _add(totals: dict[str, int], name: str, amount: int) -> None:
    totals[name] = totals.get(name, 0) + amount


__all__ = ["Counts", "Executions", "LoopRuns", "Trace", "count", "memory_loads", "n_calls", "stored_addresses", "trace"]
