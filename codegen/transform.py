"""Transforms written out: sums of the elements of a small tile, table by table, the ones between tables in registers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from ir.expression import Symbol
from ir.nest import Buffer, Call, Load, NestValue, Store
from ir.program import Axis, Constant, Table

Source = Callable[[Mapping[Axis, int]], NestValue]  # the value at a position of the tables' axes


def apply_tables(tables: Sequence[Table], source: Source, lane: Symbol, width: int) -> tuple[list[Store], Source]:
    """Statements inside a vector loop over `lane` < `width`, and the values that they lead to by position along the tables' rows. `source`: by position
    along their columns."""
    statements: list[Store] = []
    for place, table in enumerate(tables):
        value = _row(table, source)
        if place == len(tables) - 1:
            return statements, value
        axes = [*(done.row for done in tables[: place + 1]), *(later.column for later in tables[place + 1 :])]
        buffer = Buffer(f"after_{table.column.name}", (*(axis.extent for axis in axes), width), "register")
        for at in itertools.product(*(range(axis.extent) for axis in axes)):
            statements.append(Store(buffer, (*at, lane), value(dict(zip(axes, at, strict=True)))))
        source = _register(buffer, axes, lane)
    return statements, source


def _row(table: Table, source: Source) -> Source:
    """The sum that a row of the table makes of its columns."""
    sums = tuple(table.sums())

    def value(at: Mapping[Axis, int]) -> NestValue:
        (column, number), *others = sums[at[table.row]]
        total = source({**at, table.column: column})
        if number != 1:
            total = Call("mul", (Constant(number), total))
        for column, number in others:
            term = source({**at, table.column: column})
            signed = Call("add" if number > 0 else "sub", (total, term))
            total = signed if abs(number) == 1 else Call("add", (Call("mul", (Constant(number), term)), total))
        return total

    return value


def _register(buffer: Buffer, axes: Sequence[Axis], lane: Symbol) -> Source:
    return lambda at: Load(buffer, (*(at[axis] for axis in axes), lane))
