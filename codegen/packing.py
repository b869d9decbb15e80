"""Packed copies of operands: the loops that fill them, beforehand, by all threads together, or by each for its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from codegen.stage_scope import Place, StageScope, all_of, as_number, decode
from codegen.stage_values import StageValues
from ir.errors import InternalError
from ir.expression import Expr, Symbol, add, mul, symbols_of
from ir.nest import Buffer, For, Guarded, If, Load, NestValue, Statement, Store
from ir.program import Axis, Constant, Read
from schedule.sketch import Dimension, Operand


class Packing:
    """Packs the operands of one stage."""

    def __init__(self, scope: StageScope, values: StageValues) -> None:
        self.scope, self.tiled, self.stage, self.values = scope, scope.tiled, scope.stage, values

    def at_level(self, level: str, place: Place) -> list[Statement]:
        """Packing of all operands whose schedule wants it at this level."""
        result: list[Statement] = []
        for operand in self.tiled.operands:
            if self.scope.level(operand) == level:
                result += self._copy(operand, self._copied(operand), place, {})
        return result

    def at_root(self, operand: Operand) -> list[Statement]:
        """Packing of the whole tensor, its outer dimensions shared by the threads."""
        dimensions = self._copied(operand)
        extents = [as_number(self.tiled.packed_extent(operand, dimension)) for dimension in dimensions]
        most_outer = len(dimensions) - (1 if self._turned_dimension(operand) is None else 2)
        n_outer = min(1, most_outer)
        while n_outer < most_outer and math.prod(extents[:n_outer]) < 8 * self.scope.target.threads:
            n_outer += 1
        counts = list(zip(dimensions[:n_outer], extents[:n_outer], strict=True))
        total = math.prod(count for _, count in counts)
        variable = self.scope.variable(f"{operand.read.tensor.name}_pack", total)
        done = dict(decode(variable, counts))
        return [For(variable, total, tuple(self._copy(operand, dimensions[n_outer:], Place(), done)), "parallel")]

    def _turned_dimension(self, operand: Operand) -> Dimension | None:
        dimensions = self.scope.dimensions(operand)
        along = operand.turned(dimensions[-1], dimensions) if dimensions else None
        return along if along is not None and self.tiled.packed_extent(operand, along) != 1 else None

    def _copied(self, operand: Operand) -> tuple[Dimension, ...]:
        """The packed dimensions in the order of the loops that copy them, outermost first: as in the copy, but last the two of blocks that are turned over."""
        dimensions = self.scope.dimensions(operand)
        along = self._turned_dimension(operand)
        return dimensions if along is None else (*(dimension for dimension in dimensions[:-1] if dimension != along), dimensions[-1], along)

    def _copy(self, operand: Operand, left: tuple[Dimension, ...], place: Place, done: Mapping[Dimension, Expr]) -> list[Statement]:
        """Loops over the dimensions that are `left`, around one guarded copy or that of a block which is turned over."""
        if not left:
            return self._guarded_copy(operand, place, done)
        dimension, rest = left[0], left[1:]
        if rest == (self._turned_dimension(operand),):
            return self._turned_copy(operand, dimension, rest[0], place, done)
        extent: Expr = as_number(self.tiled.packed_extent(operand, dimension))
        if dimension.kind == "tiles":
            extent = self._tiles_to_pack(operand, dimension.axes[0], place)
        name = _copying(operand, dimension)
        if not rest and operand.step(dimension) == 1:
            return self.scope.vector_loop(name, extent, lambda index: self._copy(operand, rest, place, {**done, dimension: index}))
        if extent == 1:
            return self._copy(operand, rest, place, {**done, dimension: 0})
        variable = self.scope.variable(name, extent)
        return [For(variable, extent, tuple(self._copy(operand, rest, place, {**done, dimension: variable})))]

    def _turned_copy(self, operand: Operand, across: Dimension, along: Dimension, place: Place, done: Mapping[Dimension, Expr]) -> list[Statement]:
        """Blocks of as many vectors along `along`, where the tensor is contiguous, as a vector has lanes, stored as vectors along `across`, the innermost
        packed dimension."""
        packed, tensor = self.scope.packed[operand.read], operand.read.tensor
        names = [_copying(operand, dimension) for dimension in (across, along)]

        def at(row: Expr, column: Expr) -> dict[Dimension, Expr]:
            return {**done, across: row, along: column}

        def block(row: Expr, n_rows: int, column: Expr, n_columns: int) -> list[Statement]:
            def fill(rows: Buffer, inside: Sequence[Symbol]) -> list[Statement]:
                i, j = inside
                indices = self._source(operand, place, at(add(row, i), add(column, j)))
                if operand.read.padded:
                    return [Store(rows, (i, j), self._packed_value(operand, indices, everywhere=True))]
                # What lies beyond is not used: along the rows it may be anything that is there.
                within = [
                    index if j in symbols_of(index) else self.scope.folded(index, size, "edge") for index, size in zip(indices, tensor.shape, strict=True)
                ]
                return [Store(rows, (i, j), self._packed_value(operand, within))]

            sizes = {f"{names[0]}t": n_rows, f"{names[1]}t": n_columns}
            columns, statements = self.scope.turn(f"{operand.read.tensor.name}_{n_rows}x{n_columns}", sizes, fill)
            i, j = (self.scope.variable(name, size) for name, size in zip(names, (n_rows, n_columns), strict=True))
            placed = at(add(row, i), add(column, j))
            store = Store(packed, tuple(placed[dimension] for dimension in self.scope.dimensions(operand)), Load(columns, (j, i)))
            return [*statements, For(j, n_columns, (For(i, n_rows, (store,), "vector"),), "unrolled")]

        extents = [as_number(self.tiled.packed_extent(operand, dimension)) for dimension in (across, along)]
        return self.scope.by_lanes(f"{names[0]}o", extents[0], lambda row, n: self.scope.by_lanes(f"{names[1]}o", extents[1], partial(block, row, n)))

    def _tiles_to_pack(self, operand: Operand, axis: Axis, place: Place) -> Expr:
        level = {"root": 3, "chunk": 2}.get(self.scope.level(operand), 1)
        return self.scope.tiles_within(axis, place, level, 0) if level < 3 else as_number(self.tiled.tilings[axis].count(0))

    def _source(self, operand: Operand, place: Place, done: Mapping[Dimension, Expr]) -> list[Expr]:
        """The indices in the tensor of an element of the packed copy."""
        read, level = operand.read, self.scope.level(operand)
        base = {axis: place.absolute.get(axis, 0) if axis in self.stage.spatial or level == "slice" else 0 for axis in read.axes}
        position = dict(base)
        boxes: dict[int, Expr] = {}
        for dimension, index in done.items():
            axis = dimension.axes[0]
            if dimension.kind == "box":
                boxes[dimension.source] = index
            else:
                step = mul(index, self.scope.size(axis, 0)) if dimension.kind == "tiles" else index
                position[axis] = add(position[axis], step)
        return [add(index.at(base), boxes[source]) if source in boxes else index.at(position) for source, index in enumerate(read.indices)]

    def _guarded_copy(self, operand: Operand, place: Place, done: Mapping[Dimension, Expr]) -> list[Statement]:
        """What holds or not for a whole vector is decided by a branch; the rest masks single lanes."""
        read = operand.read
        indices = self._source(operand, place, done)
        branch = all_of(guard for guard in self.scope.guards(indices, read.tensor.shape) if not symbols_of(guard) & self.scope.vector_variables)
        at = tuple(done[dimension] for dimension in self.scope.dimensions(operand))
        copy = Store(self.scope.packed[read], at, self._packed_value(operand, indices))
        return [copy] if branch == 1 else [If(branch, (copy,), (Store(copy.buffer, at, Constant(read.outside, read.tensor.dtype)),))]

    def _packed_value(self, operand: Operand, indices: Sequence[Expr], *, everywhere: bool = False) -> NestValue:
        """The element of the operand at these indices, read from memory or made by its prologue; what is outside of it in lanes whose indices leave it, or
        wherever they do."""
        read, prologue = operand.read, operand.prologue

        def load(each: Read, at: Sequence[Expr]) -> Load:
            return Load(self.scope.memory(each.tensor), tuple(at), self.scope.mask(each, at, everywhere), each.outside)

        if prologue is None:
            return load(read, indices)
        position = {index.axes[0]: at for index, at in zip(prologue.indices, indices, strict=True) if index.axes}
        value = self.values.value(prologue.body, lambda each: load(each, [index.at(position) for index in each.indices]))
        mask = self.scope.mask(read, indices, everywhere)
        return value if mask == 1 else Guarded(value, mask, read.outside)


def _copying(operand: Operand, dimension: Dimension) -> str:
    """Name of the loop over a packed dimension."""
    return f"{operand.read.tensor.name}_{dimension.kind[0]}{dimension.axes[0].name}"


def renamed(statements: Sequence[Statement], output: Buffer) -> list[Statement]:
    """The statements with their stores into the packed buffer going to `output`."""
    result: list[Statement] = []
    for statement in statements:
        match statement:
            case For(variable, extent, body, kind):
                result.append(For(variable, extent, tuple(renamed(body, output)), kind))
            case If(condition, then, otherwise):
                result.append(If(condition, tuple(renamed(then, output)), tuple(renamed(otherwise, output))))
            case Store():
                result.append(replace(statement, buffer=output))
            case _:
                raise InternalError(f"{output.name}: not what packing is made of: {statement!r}")
    return result
