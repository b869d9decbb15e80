"""The register tile of a stage: its accumulators, the loops of the reduction around its updates, and the stores of what is finished.

Three kinds: updates of whole vectors along an axis of the output; vectors along a reduce axis, combined at the end; transforms written out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from codegen.prefetch_block import claims_result, next_block
from codegen.stage_scope import Loop, Place, Position, StageScope, all_of, as_number, round_up
from codegen.stage_values import StageValues
from codegen.transform import apply_tables
from ir.errors import InternalError
from ir.expression import Expr, Symbol, add, floor_div, minimum, mod, mul, sub, substitute, symbols_of
from ir.nest import Across, Buffer, For, If, Load, NestValue, Prefetch, Statement, Store
from ir.program import REDUCTIONS, Axis, Constant, Read
from schedule.sketch import turned_axis


@dataclass(frozen=True)
class _Points:
    """The points of one register tile that begins at `corner`: how many there are along each axis, and `at` the loop variables that go over them. The vector
    axis comes last."""

    corner: Place
    sizes: Mapping[Axis, int]
    at: dict[Axis, Symbol]

    @cached_property
    def place(self) -> Place:
        place = self.corner
        for axis, variable in self.at.items():
            place = place.moved(axis, variable)
        return place

    def over(self, *statements: Statement) -> list[Statement]:
        """The loops over all of them."""
        *_, vector = self.at
        result: tuple[Statement, ...] = statements
        for axis, variable in reversed(self.at.items()):
            result = (For(variable, self.sizes[axis], result, "vector" if axis == vector else "unrolled"),)
        return list(result)


class RegisterTile:
    """Lowers the register tiles of one stage."""

    def __init__(self, scope: StageScope, values: StageValues) -> None:
        self.scope, self.tiled, self.stage, self.values = scope, scope.tiled, scope.stage, values

    @property
    def _n_vectors(self) -> int:
        """Of a whole register tile."""
        steps = {self.tiled.vector: self.scope.target.lanes}
        return math.prod(-(-self.scope.size(axis, 0) // steps.get(axis, 1)) for axis in self.stage.spatial)

    def tile(self, place: Place, sizes: Mapping[Axis, int], first: Expr, last: Expr) -> list[Statement]:
        """The tile of these sizes that begins at `place`; `first` and `last` say whether it is of the first and the last slice of the reduction."""
        if self.tiled.is_across:
            return self._across_tile(place, sizes)
        if self.stage.tables:
            return [self._transform(place, sizes)]
        lanes, vector = self.scope.target.lanes, self.tiled.vector
        axes = (*(axis for axis in self.stage.spatial if axis != vector), vector)
        points = _Points(place, {axis: sizes[axis] for axis in axes}, {axis: self.scope.variable(f"{axis.name}3", sizes[axis]) for axis in axes})
        if not self.stage.reduce:
            return self._mapped(points)
        shape = tuple(round_up(sizes[axis], lanes) if axis == vector else sizes[axis] for axis in axes)
        accumulators = Load(Buffer(f"{self.scope.prefix}accumulator", shape, "register", whole_vectors=True), tuple(points.at.values()))
        return [
            *self._claim(points),
            *self._start(points, accumulators, first),
            *self._updates(points, accumulators),
            *self._finish(points, accumulators, last),
        ]

    def _mapped(self, points: _Points) -> list[Statement]:
        """A tile of a stage without reduction."""
        turned, before = self._turned(points)

        def store(straight: Symbol | None) -> Store:
            read = {each: turned.get(each) or self.values.load(each, points.place, {}, straight) for each in self.scope.operands}
            return self._finished(points, self.values.with_epilogue(self.values.value(self.stage.body, read.__getitem__), points.place))

        others = self.scope.operands.keys() - turned.keys()
        return [*before, *points.over(*self._by_vector(others, points.place, points.at[self.tiled.vector], store))]

    def _claim(self, points: _Points) -> list[Statement]:
        """Asks for the lines that are stored at the end."""
        result = self._result(points)
        return points.over(Prefetch(result.buffer, result.indices, 1, writes=True)) if claims_result(self.scope) else []

    def _start(self, points: _Points, accumulators: Load, first: Expr) -> list[Statement]:
        _, identity = REDUCTIONS[self.stage.reduction or "sum"]
        start = points.over(Store(accumulators.buffer, accumulators.indices, Constant(identity)))
        if first == 1:
            return start
        return [If(first, tuple(start), tuple(points.over(Store(accumulators.buffer, accumulators.indices, self._result(points)))))]

    def _updates(self, points: _Points, accumulators: Load) -> list[Statement]:
        def update(inside: bool, here: Position) -> list[Statement]:
            value = self.values.value(self.stage.body, lambda read: self.values.load(read, points.place, here, inside=inside))
            store = Store(accumulators.buffer, accumulators.indices, value, self.stage.reduction)
            return points.over(store, *self.values.kept(value, points.place, here))

        interior = self._interior(points)
        inner = partial(self._inner, list(self.tiled.ordered("inner")), points.corner)
        if isinstance(interior, int):
            return inner(partial(update, bool(interior)))
        return [If(interior, *(tuple(inner(partial(update, inside))) for inside in (True, False)))]

    def _finish(self, points: _Points, accumulators: Load, last: Expr) -> list[Statement]:
        finish = points.over(self._finished(points, accumulators))
        if self.tiled.epilogue is None or not self.scope.in_registers:
            return finish
        whole = points.over(self._finished(points, self.values.with_epilogue(accumulators, points.place)))
        return whole if last == 1 else [If(last, tuple(whole), tuple(finish))]

    def _result(self, points: _Points) -> Load:
        """What the stage has stored for these points before."""
        out = self.scope.at(self.tiled.result, self.stage.indices, points.place.absolute, points.place.in_chunk)
        return Load(self.scope.output, out, self.scope.inside(self.stage.write, tuple(index.at(points.place.absolute) for index in self.stage.indices)))

    def _finished(self, points: _Points, value: NestValue) -> Store:
        result = self._result(points)
        return Store(result.buffer, result.indices, value, guard=result.guard, streamed=self.scope.streams)

    def _interior(self, points: _Points) -> Expr:
        """Whether all that the register tile reads in place lies inside of its tensor; where the loops visit the positions inside alone it does."""
        reach = {**points.sizes, **{axis: axis.extent for axis in self.stage.reduce}}
        base = {axis: points.corner.absolute.get(axis, 0) if axis in points.sizes else 0 for axis in reach}
        confined = {window.reduce for window in self.tiled.windows if self.tiled.is_confined(window)}
        guards: list[Expr] = []
        for operand in (operand for operand in self.tiled.operands if self.tiled.is_guarded(operand)):
            for index, size, leaves in zip(operand.read.indices, operand.read.tensor.shape, operand.read.leaves, strict=True):
                if leaves and confined.isdisjoint(index.axes):
                    ends = [sorted((0, factor * (reach[axis] - 1))) for axis, factor in index.terms]
                    low, high = (add(index.at(base), sum(end[i] for end in ends)) for i in (0, 1))
                    guards += self.scope.guards((low, high), (size, size))
        return all_of(guards)

    def _turned(self, points: _Points) -> tuple[dict[Read, Load], list[Statement]]:
        """Reads whose elements lie apart along the vector axis: loaded in vectors along another axis, then turned over."""
        vector = self.tiled.vector
        found: dict[Read, Load] = {}
        statements: list[Statement] = []
        for read in self.scope.operands:
            along = turned_axis(read, self.stage, vector)
            if along is None or points.sizes[along] == 1:
                continue
            others = [axis for axis in read.axes if axis not in (vector, along)]
            order = (*others, vector, along)
            fill = partial(self._load_rows, read, points.corner, order)
            columns, made = self.scope.turn(f"{read.tensor.name}{len(found)}", {f"{axis.name}t": points.sizes[axis] for axis in order}, fill)
            statements += made
            found[read] = Load(columns, tuple(points.at[axis] for axis in (*others, along, vector)))
        return found, statements

    def _load_rows(self, read: Read, corner: Place, order: Sequence[Axis], rows: Buffer, at: Sequence[Symbol]) -> list[Statement]:
        """What fills an element of a register tile that is to be turned over, `at` the positions of the axes `order` in it."""
        place = corner
        for axis, variable in zip(order, at, strict=True):
            place = place.moved(axis, variable)
        return self._by_vector([read], place, at[-1], lambda straight: Store(rows, tuple(at), self.values.load(read, place, {}, straight)))

    def _by_vector(self, reads: Iterable[Read], place: Place, variable: Symbol, store: Callable[[Symbol | None], Store]) -> list[Statement]:
        """A store in a vector loop; where the value reads indices that are folded along the vector, a plain one for vectors that lie inside.

        `store` makes it, with indices that move with the symbol given taken as they are."""
        guards: list[Expr] = []
        for read in (read for read in reads if read.beyond != "value"):
            for index, size, leaves in zip(read.indices, read.tensor.shape, read.leaves, strict=True):
                first = index.at(place.absolute)
                if leaves and variable in symbols_of(first):
                    last = add(first, substitute(first, {variable: self.scope.target.lanes - 1}), mul(substitute(first, {variable: 0}), -1))
                    guards += self.scope.guards((first, last), (size, size))
        inside = all_of(guards)
        return [store(None)] if inside == 1 else [If(inside, (store(variable),), (store(None),))]

    def _across_tile(self, place: Place, sizes: Mapping[Axis, int]) -> list[Statement]:
        """A register tile whose vectors lie along a reduce axis, the innermost one: rows times copies of accumulators, combined at the end."""
        vector, lanes = self.tiled.vector, self.scope.target.lanes
        if self.stage.write.padded:
            raise InternalError(f"{self.tiled.result.name}: a reduction across lanes writes outside of it")
        width = min(as_number(self.tiled.unroll), -(-vector.extent // lanes)) * lanes
        rows = {axis: self.scope.variable(f"{axis.name}3", size) for axis, size in sizes.items()}
        tile = Buffer(f"{self.scope.prefix}accumulator", (*sizes.values(), width), "register")
        for axis, variable in rows.items():
            place = place.moved(axis, variable)
        reduction = self.stage.reduction or "sum"
        _, identity = REDUCTIONS[reduction]

        def over(statement: Statement) -> Statement:
            for axis, variable in reversed(rows.items()):
                statement = For(variable, sizes[axis], (statement,), "unrolled")
            return statement

        def vectors(extent: int, statements: Callable[[Expr], list[Statement]]) -> Statement:
            lane = self.scope.variable(f"{vector.name}3", extent)
            return over(For(lane, extent, tuple(statements(lane)), "vector"))

        def along(here: Position) -> list[Statement]:
            """All of the vector axis, whole widths first."""
            count, left = divmod(vector.extent, width)
            step = self.scope.variable(f"{vector.name}1", count)

            def update_at(base: Expr, lane: Expr) -> list[Statement]:
                at = {**here, vector: add(base, lane)}
                value = self.values.value(self.stage.body, lambda read: self.values.load(read, place, at))
                return [Store(tile, (*rows.values(), lane), value, reduction), *self.values.kept(value, place, at)]

            result: list[Statement] = [For(step, count, (vectors(width, partial(update_at, mul(step, width))),))] if count else []
            return result + ([vectors(left, partial(update_at, count * width))] if left else [])

        start = vectors(width, lambda lane: [Store(tile, (*rows.values(), lane), Constant(identity))])
        others = [axis for axis in self.tiled.ordered("inner") if axis != vector]
        variables = {axis: self.scope.variable(f"{axis.name}1", axis.extent) for axis in others}
        loops = along(variables)
        for axis in reversed(others):
            loops = [For(variables[axis], axis.extent, tuple(loops))]
        total = Across(tile, tuple(rows.values()), reduction)
        out = self.scope.at(self.tiled.result, self.stage.indices, place.absolute, place.in_chunk)
        return [start, *loops, over(Store(self.scope.output, out, self.values.with_epilogue(total, place)))]

    def _transform(self, place: Place, sizes: Mapping[Axis, int]) -> Statement:
        """A transform of one vector of tiles, written out."""
        vector, stage = self.tiled.vector, self.stage
        lane = self.scope.variable(f"{vector.name}3", sizes[vector])
        self.scope.vector_variables.add(lane)
        place = place.moved(vector, lane)
        position = {axis: place.absolute.get(axis, 0) for axis in stage.looped}
        (read,) = self.scope.operands
        statements, value = apply_tables(
            stage.tables, lambda at: self.values.load_inside(read, Place({**position, **at})), lane, round_up(sizes[vector], self.scope.target.lanes)
        )  # fmt: skip
        rows = [table.row for table in stage.tables]
        for numbers in itertools.product(*(range(axis.extent) for axis in rows)):
            at = dict(zip(rows, numbers, strict=True))
            out = tuple(index.at({**position, **at}) for index in stage.indices)
            if (guard := self.scope.inside(stage.write, out)) != 0:
                statements.append(Store(self.scope.output, out, self.values.with_epilogue(value(at), Place({**position, **at})), guard=guard))
        return For(lane, sizes[vector], tuple(statements), "vector")

    def _inner(self, axes: list[Axis], place: Place, body: Callable[[Position], list[Statement]], here: Position | None = None) -> list[Statement]:
        """Loops over the reduce axes within a slice; `here` maps each axis to its position in the slice."""
        here = here or {}
        axis, rest = axes[0], axes[1:]
        first, extent, lengths = self._reduce_range(axis, place)
        if rest:
            variable = self.scope.variable(f"{axis.name}1", extent)
            inside = place.inside(_inner_loop(axis, variable, lengths, 1))
            return [For(variable, extent, tuple(self._inner(rest, inside, body, {**here, axis: add(first, variable)})))]
        return self._unrolled(axis, extent, lengths, place, lambda index: body({**here, axis: add(first, index)}))

    def _reduce_range(self, axis: Axis, place: Place) -> tuple[Expr, Expr, Sequence[int]]:
        """(first, count, all counts that occur) of the axis' positions in its slice that the register tile at `place` needs."""
        for window in self.tiled.windows:
            if window.reduce == axis and self.tiled.is_confined(window):
                return *window.bounds(place.absolute.get(window.spatial, 0)), window.lengths
        size = self.scope.size(axis, 0)
        extent = size if axis.extent % size == 0 else minimum(size, sub(axis.extent, place.absolute.get(axis, 0)))
        return 0, extent, (size, axis.extent % size)

    def _unrolled(self, axis: Axis, extent: Expr, lengths: Sequence[int], place: Place, body: Callable[[Expr], list[Statement]]) -> list[Statement]:
        """The innermost reduce loop with `unroll` copies of its body, and the iterations left over; `lengths` are its extents that occur."""
        copies = min(as_number(self.tiled.unroll), self.scope.size(axis, 0))

        def asked(variable: Symbol) -> list[Statement]:
            return next_block(self.scope, place.inside(_inner_loop(axis, variable, lengths, copies)), copies * self._n_vectors)

        if copies == 1:
            variable = self.scope.variable(f"{axis.name}1", extent)
            return [For(variable, extent, (*asked(variable), *body(variable)))]
        outer, inner = self.scope.variable(f"{axis.name}1", floor_div(extent, copies)), self.scope.variable(f"{axis.name}u", copies)
        result: list[Statement] = [
            For(outer, floor_div(extent, copies), (*asked(outer), For(inner, copies, tuple(body(add(mul(outer, copies), inner))), "unrolled"))),
        ]
        if any(length % copies for length in lengths):
            left = self.scope.variable(f"{axis.name}r", mod(extent, copies))
            result.append(For(left, mod(extent, copies), tuple(body(add(mul(floor_div(extent, copies), copies), left)))))
        return result


def _inner_loop(axis: Axis, variable: Symbol, lengths: Sequence[int], step: int) -> Loop:
    """A loop over the positions of a reduce axis in a slice; `lengths` are the numbers of them that occur."""
    return Loop("inner", axis, variable, max(1, max(lengths) // step), step)
