"""From a sketch and one row to concrete loop nests: the kernel, and a nest that packs each constant operand beforehand.

Notation: `base[axis]` is the position at which the tile of the enclosing loops begins; tile sizes are register <= block <= chunk along a
spatial axis and slice along a reduce axis (see `schedule.sketch`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from codegen.transform import apply_tables
from ir.errors import IllegalCandidate, InternalError
from ir.expression import (
    Expr,
    Op,
    Symbol,
    add,
    both,
    ceil_div,
    equal,
    floor_div,
    interval,
    less,
    maximum,
    minimum,
    mod,
    mul,
    sub,
    substitute,
    symbol,
    symbols_of,
)
from ir.nest import Across, Buffer, Call, For, Guarded, If, Load, Nest, NestValue, Statement, Store, Turn
from ir.program import REDUCTIONS, Affine, Apply, Axis, Constant, Read, Tensor, Value
from schedule.sketch import EPILOGUE_LEVELS, PACK_LEVELS, Dimension, Operand, Sketch, TiledStage, handed_on, turned_axis
from schedule.target import Target

Position = Mapping[Axis, Expr]
Key = TypeVar("Key")
MAX_VECTOR_LOOP = 4  # vectors of a vector loop written out one by one when copying; longer ones become a loop over vectors


@dataclass(frozen=True)
class Lowered:
    """`kernel` computes the task; `prepare` makes, by tensor name, the prepared form of each constant operand; `streams`: the kernel's result goes past
    the caches."""

    kernel: Nest
    prepare: Mapping[str, Nest]
    streams: bool = False


def lower(sketch: Sketch, row: NDArray[np.int64], target: Target) -> Lowered:
    """The loop nests of one candidate; `IllegalCandidate` if the row breaks a limit of its space."""
    if len(row) != len(sketch.space.columns):
        raise IllegalCandidate(f"sketch {sketch.name} has {len(sketch.space.columns)} columns, the row has {len(row)}: {[int(v) for v in row]}")
    if any(v < min(c.choices) for v, c in zip(row, sketch.space.columns, strict=True)):
        raise IllegalCandidate(f"row {[int(v) for v in row]} of sketch {sketch.name} has a value below its column's choices")
    if not sketch.space.valid(row[None, :])[0]:
        raise IllegalCandidate(f"row {[int(v) for v in row]} breaks a limit of sketch {sketch.name}")
    stages = sketch.instantiate(sketch.space.canonical(row[None, :])[0])
    between = {access.tensor.name: _intermediate(stage, access) for stage, access in handed_on(stages)}
    between |= {made.result.name: _intermediate(made, made.write) for made in sketch.beforehand}
    lowerings = [_StageLowering(stage, target, between, sketch.fused, f"s{number}_" if len(stages) > 1 else "") for number, stage in enumerate(stages)]
    body: list[Statement] = []
    for lowering in lowerings:
        body += lowering.before()
        if not sketch.fused:
            body.append(_parallel([lowering]))
    if sketch.fused:
        body.append(_parallel(lowerings))
    buffers: dict[str, Buffer] = {}
    prepare: dict[str, Nest] = {}
    for lowering in lowerings:
        buffers |= lowering.buffers
        prepare |= lowering.prepare
    for made in sketch.beforehand:
        name, nest = _with_stage_before(prepare.pop(made.stage.output.name), _StageLowering(made, target, between, (), ""))
        prepare[name] = nest
    order = ("input", "output", "prepared", "shared", "private")
    ordered = sorted(buffers.values(), key=lambda b: order.index(b.scope))
    return Lowered(Nest("kernel", tuple(ordered), tuple(body)), prepare, any(stage.streams == 1 for stage in stages))


def _intermediate(stage: TiledStage, access: Read) -> Buffer:
    """Memory of what the stage hands on by this access: of fused stages a thread's own."""
    shape = []
    for size in stage.memory_shape(access):
        assert isinstance(size, int)
        shape.append(size)
    return Buffer(access.tensor.name, tuple(shape), "private" if stage.fused else "shared", dtype=access.tensor.dtype)


def _parallel(lowerings: Sequence[_StageLowering]) -> For:
    """The parallel loop over chunks, in each of them the stages one after the other."""
    chunks = [lowering.chunk() for lowering in lowerings]
    if len(set(chunks)) > 1:
        raise InternalError(f"fused stages have chunks of their own: {chunks}")
    variable, total = chunks[0]
    return For(variable, total, tuple(statement for lowering in lowerings for statement in lowering.in_chunk()), "parallel")


def _with_stage_before(packing: Nest, stage: _StageLowering) -> tuple[str, Nest]:
    """The nest that makes the operand that another one packs and then packs it, and the tensor that it makes it of."""
    body = [*stage.before(), _parallel([stage])]
    made, packed = packing.buffers
    (source,) = (buffer for buffer in stage.buffers.values() if buffer != made)
    return source.name, Nest(f"prepare_{source.name}", (source, packed, made), (*body, *packing.body))


@dataclass(frozen=True)
class _Place:
    """Where the nest stands: `base` in absolute positions, and the same relative to the start of the chunk and of the block."""

    absolute: dict[Axis, Expr] = field(default_factory=dict)
    in_chunk: dict[Axis, Expr] = field(default_factory=dict)
    in_block: dict[Axis, Expr] = field(default_factory=dict)

    def moved(self, axis: Axis, by: Expr, *, chunk: bool = True, block: bool = True) -> _Place:
        def shift(position: dict[Axis, Expr], moves: bool) -> dict[Axis, Expr]:
            return {**position, axis: add(position.get(axis, 0), by)} if moves else position

        return _Place(shift(self.absolute, True), shift(self.in_chunk, chunk), shift(self.in_block, block))


class _StageLowering:
    """Lowers one tiled stage. `between`: the memory of intermediate tensors by name; `fused`: the axes of the parallel loop that it shares with other
    stages, if it does; `prefix` keeps names of several stages apart."""

    def __init__(self, tiled: TiledStage, target: Target, between: Mapping[str, Buffer], fused: tuple[Axis, ...], prefix: str) -> None:
        self.tiled, self.stage, self.target, self.between, self.fused, self.prefix = tiled, tiled.stage, target, between, fused, prefix
        self.buffers: dict[str, Buffer] = {}
        self.prepare: dict[str, Nest] = {}
        self.ranges: dict[Symbol, tuple[int, int]] = {}
        self.vector_variables: set[Symbol] = set()
        self.output = self._memory(tiled.result, "output")
        self.operands = {operand.read: operand for operand in tiled.operands}
        self.packed = {operand.read: self._packed_buffer(operand) for operand in tiled.operands if operand.level != 0}

    # -- names and sizes

    def _memory(self, tensor: Tensor, scope: str = "input") -> Buffer:
        return self.buffers.setdefault(tensor.name, self.between.get(tensor.name) or Buffer(tensor.name, tensor.shape, scope, dtype=tensor.dtype))

    def _at(self, tensor: Tensor, indices: Sequence[Affine], absolute: Position, in_chunk: Position) -> tuple[Expr, ...]:
        """Where in its memory an element is: an intermediate tensor of fused stages begins with the chunk."""
        if not self.fused or tensor.name not in self.between:
            return tuple(index.at(absolute) for index in indices)
        return tuple(index.at(in_chunk if index.axes and index.axes[0] in self.fused else absolute) for index in indices)

    def _variable(self, name: str, extent: Expr) -> Symbol:
        variable = symbol(self.prefix + name)
        self.ranges[variable] = (0, max(0, interval(extent, self.ranges)[1] - 1))
        return variable

    def _size(self, axis: Axis, level: int) -> int:
        size = self.tiled.tilings[axis].sizes[level]
        assert isinstance(size, int)
        return size

    def _packed_buffer(self, operand: Operand) -> Buffer:
        scope = "prepared" if operand.prepared else "shared" if self._level(operand) == "root" else "private"
        shape = tuple(self._number(self.tiled.packed_extent(operand, dimension)) for dimension in self._dimensions(operand))
        name = f"{self.prefix}{operand.read.tensor.name}_packed"
        whole = self.tiled.vector in operand.read.axes and shape[-1] % self.target.lanes == 0
        buffer = Buffer(name, shape, scope, whole, operand.read.tensor.dtype)
        if name in self.buffers and self.buffers[name] != buffer:
            raise InternalError(f"two packings of {operand.read.tensor.name} in one stage")
        self.buffers[name] = buffer
        return buffer

    def _level(self, operand: Operand) -> str:
        return PACK_LEVELS[self._number(operand.level)]

    def _dimensions(self, operand: Operand) -> tuple[Dimension, ...]:
        return operand.dimensions(self._number(operand.layout), self.tiled.vector, self.tiled.ordered("inner"))

    @staticmethod
    def _number(expression: Expr) -> int:
        if not isinstance(expression, int):
            raise InternalError(f"{expression} is still open after the row was substituted")
        return expression

    # -- the bands, outside in

    def before(self) -> list[Statement]:
        """Packing at the root, before the parallel loop over chunks."""
        before: list[Statement] = []
        for operand in self.tiled.operands:
            packing = self._pack_at_root(operand) if self._level(operand) == "root" else None
            if packing is None:
                continue
            if operand.prepared:
                tensor = operand.read.tensor
                packed = self.packed[operand.read]
                buffers = (self.buffers.pop(tensor.name), Buffer(packed.name, packed.shape, "output", dtype=packed.dtype))
                self.prepare[tensor.name] = Nest(f"prepare_{tensor.name}", buffers, tuple(_renamed(packing, buffers[1])))
            else:
                before += packing
        return before

    def chunk(self) -> tuple[Symbol, int]:
        """Variable and extent of the parallel loop."""
        total = math.prod(count for _, count in self._chunk_counts)
        variable = symbol("chunk" if self.fused else f"{self.prefix}chunk")
        self.ranges[variable] = (0, total - 1)
        return variable, total

    @property
    def _chunk_counts(self) -> list[tuple[Axis, int]]:
        return [(axis, self._number(self.tiled.tilings[axis].count(2))) for axis in self.tiled.ordered("parallel")]

    def in_chunk(self) -> list[Statement]:
        """What the parallel loop does of this stage."""
        place = _Place()
        for axis, index in _decode(self.chunk()[0], self._chunk_counts):
            place = place.moved(axis, mul(index, self._size(axis, 2)), chunk=False, block=False)
        return [*self._pack("chunk", place), *self._outer(list(self.tiled.ordered("outer")), place)]

    def _outer(self, axes: list[Axis], place: _Place) -> list[Statement]:
        if not axes:
            return self._block_tile(place)
        axis, rest = axes[0], axes[1:]
        count = self._tiles_within(axis, place, 2, 1)
        if count == 1:
            return self._outer(rest, place)
        variable = self._variable(f"{axis.name}1", count)
        moved = place.moved(axis, mul(variable, self._size(axis, 1)), block=False)
        return [For(variable, count, tuple(self._outer(rest, moved)))]

    def _block_tile(self, place: _Place) -> list[Statement]:
        """One block: packing, the slices of the reduction, and an epilogue of its own if the schedule wants one."""
        body = [*self._pack("block", place), *self._slices(list(self.stage.reduce), place, 1, 1)]
        if self.tiled.epilogue is not None and not self._in_registers:
            body += self._block_epilogue(list(self.stage.spatial), place)
        return body

    def _slices(self, axes: list[Axis], place: _Place, first: Expr, last: Expr) -> list[Statement]:
        if not axes:
            return [*self._pack("slice", place), *self._block(list(self.tiled.ordered("block")), place, first, last)]
        axis, rest = axes[0], axes[1:]
        count = self._number(self.tiled.tilings[axis].count(0))
        if count == 1:
            return self._slices(rest, place, first, last)
        variable = self._variable(f"{axis.name}0", count)
        moved = place.moved(axis, mul(variable, self._size(axis, 0)), chunk=False, block=False)
        return [For(variable, count, tuple(self._slices(rest, moved, both(first, equal(variable, 0)), both(last, equal(variable, count - 1)))))]

    def _block(self, axes: list[Axis], place: _Place, first: Expr, last: Expr) -> list[Statement]:
        if not axes:
            return self._variants(list(self.stage.spatial), place, {}, first, last)
        axis, rest = axes[0], axes[1:]
        count = self._tiles_within(axis, place, 1, 0)
        if count == 1:
            return self._block(rest, place, first, last)
        variable = self._variable(f"{axis.name}2", count)
        return [For(variable, count, tuple(self._block(rest, place.moved(axis, mul(variable, self._size(axis, 0))), first, last)))]

    def _tiles_within(self, axis: Axis, place: _Place, outer: int, inner: int) -> Expr:
        """How many tiles of the inner size lie in the tile of the outer size that begins at `place`."""
        whole, part = min(self._size(axis, outer), _round_up(axis.extent, self._size(axis, inner))), self._size(axis, inner)
        count = whole // part
        if count == 1 or axis.extent % whole == 0 or whole >= axis.extent:
            return count
        return minimum(count, ceil_div(sub(axis.extent, place.absolute.get(axis, 0)), part))

    # -- the register tile

    def _variants(self, axes: list[Axis], place: _Place, sizes: dict[Axis, int], first: Expr, last: Expr) -> list[Statement]:
        """The register tile for each combination of full and remaining sizes that occurs."""
        if not axes:
            return self._register_tile(place, sizes, first, last)
        axis, rest = axes[0], axes[1:]
        full, rest_size = self._size(axis, 0), axis.extent % self._size(axis, 0)
        if axis.extent <= full:
            return self._variants(rest, place, {**sizes, axis: axis.extent}, first, last)
        whole = self._variants(rest, place, {**sizes, axis: full}, first, last)
        if rest_size == 0:
            return whole
        cut = self._variants(rest, place, {**sizes, axis: rest_size}, first, last)
        return [If(less(place.absolute.get(axis, 0), axis.extent - rest_size), tuple(whole), tuple(cut))]

    @property
    def _in_registers(self) -> bool:
        return EPILOGUE_LEVELS[self._number(self.tiled.epilogue_level)] == "register"

    @property
    def _streams(self) -> bool:
        return bool(self._number(self.tiled.streams))

    def _register_tile(self, place: _Place, sizes: Mapping[Axis, int], first: Expr, last: Expr) -> list[Statement]:
        if self.tiled.is_across:
            return self._across_tile(place, sizes)
        if self.stage.tables:
            return [self._transform(place, sizes)]
        lanes, vector = self.target.lanes, self.tiled.vector
        axes = [*(axis for axis in self.stage.spatial if axis != vector), vector]
        shape = tuple(_round_up(sizes[axis], lanes) if axis == vector else sizes[axis] for axis in axes)
        tile = Buffer(f"{self.prefix}accumulator", shape, "register", whole_vectors=True)
        inside = {axis: self._variable(f"{axis.name}3", sizes[axis]) for axis in axes}
        at = tuple(inside[axis] for axis in axes)

        def over(*statements: Statement) -> list[Statement]:
            result: tuple[Statement, ...] = statements
            for axis in reversed(axes):
                result = (For(inside[axis], sizes[axis], result, "vector" if axis == vector else "unrolled"),)
            return list(result)

        corner = place
        for axis, variable in inside.items():
            place = place.moved(axis, variable)
        out = self._at(self.tiled.result, self.stage.indices, place.absolute, place.in_chunk)
        guard = self._inside(self.stage.write, tuple(index.at(place.absolute) for index in self.stage.indices))

        def finished(value: NestValue) -> Store:
            return Store(self.output, out, value, guard=guard, streamed=self._streams)

        if not self.stage.reduce:
            turned, before = self._turned(corner, sizes, inside)

            def store(straight: Symbol | None) -> Store:
                read = {each: turned.get(each) or self._load(each, place, {}, straight) for each in self.operands}
                return finished(self._with_epilogue(self._value(self.stage.body, read.__getitem__), place))

            return [*before, *over(*self._by_vector(self.operands.keys() - turned.keys(), place, inside[vector], store))]
        _, identity = REDUCTIONS[self.stage.reduction or "sum"]
        start = over(Store(tile, at, Constant(identity)))
        if first != 1:
            start = [If(first, tuple(start), tuple(over(Store(tile, at, Load(self.output, out, guard)))))]

        def update(inside: bool, here: Position) -> list[Statement]:
            value = self._value(self.stage.body, lambda read: self._load(read, place, here, inside=inside))
            return over(Store(tile, at, value, self.stage.reduction), *self._kept(value, place, here))

        interior = self._interior(corner, sizes)
        inner = partial(self._inner, list(self.tiled.ordered("inner")), corner)
        loops = inner(partial(update, True))
        if interior != 1:
            loops = [If(interior, tuple(loops), tuple(inner(partial(update, False))))]
        finish = over(finished(Load(tile, at)))
        if self.tiled.epilogue is not None and self._in_registers:
            whole = over(finished(self._with_epilogue(Load(tile, at), place)))
            finish = whole if last == 1 else [If(last, tuple(whole), tuple(finish))]
        return [*start, *loops, *finish]

    def _interior(self, corner: _Place, sizes: Mapping[Axis, int]) -> Expr:
        """Whether all that the register tile reads in place lies inside of its tensor; where the loops visit the positions inside alone it does."""
        reach = {**sizes, **{axis: axis.extent for axis in self.stage.reduce}}
        base = {axis: corner.absolute.get(axis, 0) if axis in sizes else 0 for axis in reach}
        confined = {window.reduce for window in self.tiled.windows if self.tiled.is_confined(window)}
        guards: list[Expr] = []
        for operand in (operand for operand in self.tiled.operands if self.tiled.is_guarded(operand)):
            for index, size, leaves in zip(operand.read.indices, operand.read.tensor.shape, operand.read.leaves, strict=True):
                if leaves and confined.isdisjoint(index.axes):
                    ends = [sorted((0, factor * (reach[axis] - 1))) for axis, factor in index.terms]
                    low, high = (add(index.at(base), sum(end[i] for end in ends)) for i in (0, 1))
                    guards += self._guards((low, high), (size, size))
        return _all(guards)

    def _turned(self, corner: _Place, sizes: Mapping[Axis, int], inside: Mapping[Axis, Symbol]) -> tuple[dict[Read, Load], list[Statement]]:
        """Reads whose elements lie apart along the vector axis: loaded in vectors along another axis, then turned over."""
        vector = self.tiled.vector
        found: dict[Read, Load] = {}
        statements: list[Statement] = []
        for read in self.operands:
            along = turned_axis(read, self.stage, vector)
            if along is None or sizes[along] == 1:
                continue
            others = [axis for axis in read.axes if axis not in (vector, along)]
            order = (*others, vector, along)
            fill = partial(self._load_rows, read, corner, order)
            columns, made = self._turn(f"{read.tensor.name}{len(found)}", {f"{axis.name}t": sizes[axis] for axis in order}, fill)
            statements += made
            found[read] = Load(columns, tuple(inside[axis] for axis in (*others, along, vector)))
        return found, statements

    def _load_rows(self, read: Read, corner: _Place, order: Sequence[Axis], rows: Buffer, at: Sequence[Symbol]) -> list[Statement]:
        """What fills an element of a register tile that is to be turned over, `at` the positions of the axes `order` in it."""
        place = corner
        for axis, variable in zip(order, at, strict=True):
            place = place.moved(axis, variable)
        return self._by_vector([read], place, at[-1], lambda straight: Store(rows, tuple(at), self._load(read, place, {}, straight)))

    def _turn(self, name: str, sizes: Mapping[str, int], fill: Callable[[Buffer, Sequence[Symbol]], list[Statement]]) -> tuple[Buffer, list[Statement]]:
        """A register tile with its last two dimensions turned over, and the statements that make it: `fill` says what an element of it is, and is run in
        vectors along the last dimension. `sizes`: of each dimension, by the name of its variable."""
        *others, n_rows, n_columns = sizes.values()
        whole = tuple(_round_up(size, self.target.lanes) for size in (n_rows, n_columns))
        rows = Buffer(f"{self.prefix}{name}_rows", (*others, *whole), "register", whole_vectors=True)
        columns = Buffer(f"{self.prefix}{name}_columns", (*others, *whole[::-1]), "register", whole_vectors=True)
        variables = [self._variable(each, size) for each, size in sizes.items()]
        self.vector_variables.add(variables[-1])
        loops = tuple(fill(rows, variables))
        for variable, size in reversed(list(zip(variables, sizes.values(), strict=True))):
            loops = (For(variable, size, loops, "vector" if variable == variables[-1] else "unrolled"),)
        return columns, [*loops, Turn(rows, columns)]

    def _by_vector(self, reads: Iterable[Read], place: _Place, variable: Symbol, store: Callable[[Symbol | None], Store]) -> list[Statement]:
        """A store in a vector loop; where the value reads indices that are folded along the vector, a plain one for vectors that lie inside.

        `store` makes it, with indices that move with the symbol given taken as they are."""
        guards: list[Expr] = []
        for read in (read for read in reads if read.beyond != "value"):
            for index, size in zip(read.indices, read.tensor.shape, strict=True):
                first = index.at(place.absolute)
                if variable in symbols_of(first):
                    last = add(first, substitute(first, {variable: self.target.lanes - 1}), mul(substitute(first, {variable: 0}), -1))
                    guards += self._guards((first, last), (size, size))
        inside = _all(guards)
        return [store(None)] if inside == 1 else [If(inside, (store(variable),), (store(None),))]

    def _across_tile(self, place: _Place, sizes: Mapping[Axis, int]) -> list[Statement]:
        """A register tile whose vectors lie along a reduce axis, the innermost one: rows times copies of accumulators, combined at the end."""
        vector, lanes = self.tiled.vector, self.target.lanes
        if self.stage.write.padded:
            raise InternalError(f"{self.tiled.result.name}: a reduction across lanes writes outside of it")
        width = min(self._number(self.tiled.unroll), -(-vector.extent // lanes)) * lanes
        rows = {axis: self._variable(f"{axis.name}3", size) for axis, size in sizes.items()}
        tile = Buffer(f"{self.prefix}accumulator", (*sizes.values(), width), "register")
        for axis, variable in rows.items():
            place = place.moved(axis, variable)
        reduction = self.stage.reduction or "sum"
        _, identity = REDUCTIONS[reduction]

        def over(statement: Statement) -> Statement:
            for axis, variable in reversed(rows.items()):
                statement = For(variable, sizes[axis], (statement,), "unrolled")
            return statement

        def vectors(extent: int, statements: Callable[[Expr], list[Statement]]) -> Statement:
            lane = self._variable(f"{vector.name}3", extent)
            return over(For(lane, extent, tuple(statements(lane)), "vector"))

        def along(here: Position) -> list[Statement]:
            """All of the vector axis, whole widths first."""
            count, left = divmod(vector.extent, width)
            step = self._variable(f"{vector.name}1", count)

            def update_at(base: Expr, lane: Expr) -> list[Statement]:
                at = {**here, vector: add(base, lane)}
                value = self._value(self.stage.body, lambda read: self._load(read, place, at))
                return [Store(tile, (*rows.values(), lane), value, reduction), *self._kept(value, place, at)]

            result: list[Statement] = [For(step, count, (vectors(width, partial(update_at, mul(step, width))),))] if count else []
            return result + ([vectors(left, partial(update_at, count * width))] if left else [])

        start = vectors(width, lambda lane: [Store(tile, (*rows.values(), lane), Constant(identity))])
        others = [axis for axis in self.tiled.ordered("inner") if axis != vector]
        variables = {axis: self._variable(f"{axis.name}1", axis.extent) for axis in others}
        loops = along(variables)
        for axis in reversed(others):
            loops = [For(variables[axis], axis.extent, tuple(loops))]
        total = Across(tile, tuple(rows.values()), reduction)
        out = self._at(self.tiled.result, self.stage.indices, place.absolute, place.in_chunk)
        return [start, *loops, over(Store(self.output, out, self._with_epilogue(total, place)))]

    def _transform(self, place: _Place, sizes: Mapping[Axis, int]) -> Statement:
        """A transform of one vector of tiles, written out."""
        vector, stage = self.tiled.vector, self.stage
        lane = self._variable(f"{vector.name}3", sizes[vector])
        self.vector_variables.add(lane)
        place = place.moved(vector, lane)
        position = {axis: place.absolute.get(axis, 0) for axis in stage.looped}
        (read,) = self.operands
        statements, value = apply_tables(
            stage.tables, lambda at: self._load_inside(read, _Place({**position, **at})), lane, _round_up(sizes[vector], self.target.lanes)
        )  # fmt: skip
        rows = [table.row for table in stage.tables]
        for numbers in itertools.product(*(range(axis.extent) for axis in rows)):
            at = dict(zip(rows, numbers, strict=True))
            out = tuple(index.at({**position, **at}) for index in stage.indices)
            if (guard := self._inside(stage.write, out)) != 0:
                statements.append(Store(self.output, out, self._with_epilogue(value(at), _Place({**position, **at})), guard=guard))
        return For(lane, sizes[vector], tuple(statements), "vector")

    def _absolute(self, place: _Place, here: Position) -> dict[Axis, Expr]:
        """Positions of all axes; `here`: those of the reduce axes within their slice."""
        return {**place.absolute, **{axis: add(place.absolute.get(axis, 0), here.get(axis, 0)) for axis in self.stage.reduce}}

    def _kept(self, value: NestValue, place: _Place, here: Position) -> list[Statement]:
        """The store of a value of the body, if the stage keeps them; `here`: positions of the reduce axes within their slice."""
        keeps = self.tiled.keeps
        if keeps is None:
            return []
        absolute = self._absolute(place, here)
        return [Store(self._memory(keeps.tensor), self._at(keeps.tensor, keeps.indices, absolute, place.in_chunk), value)]

    def _inner(self, axes: list[Axis], place: _Place, body: Callable[[Position], list[Statement]], here: Position | None = None) -> list[Statement]:
        """Loops over the reduce axes within a slice; `here` maps each axis to its position in the slice."""
        here = here or {}
        axis, rest = axes[0], axes[1:]
        first, extent, lengths = self._reduce_range(axis, place)
        if rest:
            variable = self._variable(f"{axis.name}1", extent)
            return [For(variable, extent, tuple(self._inner(rest, place, body, {**here, axis: add(first, variable)})))]
        return self._unrolled(axis, extent, lengths, lambda index: body({**here, axis: add(first, index)}))

    def _reduce_range(self, axis: Axis, place: _Place) -> tuple[Expr, Expr, Sequence[int]]:
        """(first, count, all counts that occur) of the axis' positions in its slice that the register tile at `place` needs."""
        for window in self.tiled.windows:
            if window.reduce == axis and self.tiled.is_confined(window):
                return *window.bounds(place.absolute.get(window.spatial, 0)), window.lengths
        size = self._size(axis, 0)
        extent = size if axis.extent % size == 0 else minimum(size, sub(axis.extent, place.absolute.get(axis, 0)))
        return 0, extent, (size, axis.extent % size)

    def _unrolled(self, axis: Axis, extent: Expr, lengths: Sequence[int], body: Callable[[Expr], list[Statement]]) -> list[Statement]:
        """The innermost reduce loop with `unroll` copies of its body, and the iterations left over; `lengths` are its extents that occur."""
        copies = min(self._number(self.tiled.unroll), self._size(axis, 0))
        if copies == 1:
            variable = self._variable(f"{axis.name}1", extent)
            return [For(variable, extent, tuple(body(variable)))]
        outer, inner = self._variable(f"{axis.name}1", floor_div(extent, copies)), self._variable(f"{axis.name}u", copies)
        result: list[Statement] = [
            For(outer, floor_div(extent, copies), (For(inner, copies, tuple(body(add(mul(outer, copies), inner))), "unrolled"),)),
        ]
        if any(length % copies for length in lengths):
            left = self._variable(f"{axis.name}r", mod(extent, copies))
            result.append(For(left, mod(extent, copies), tuple(body(add(mul(floor_div(extent, copies), copies), left)))))
        return result

    # -- values

    def _value(self, value: Value, load: Callable[[Read], NestValue]) -> NestValue:
        """`value` inside the register tile."""
        match value:
            case Constant():
                return value
            case Apply(function, args):
                return Call(function, tuple(self._value(arg, load) for arg in args))
            case Read():
                return load(value)
        raise InternalError(f"cannot lower {value!r}")

    def _load(self, read: Read, place: _Place, here: Position, straight: Symbol | None = None, *, inside: bool = False) -> NestValue:
        """`here`: positions of the reduce axes within their slice; indices that move with `straight` lie inside, or all do."""
        operand = self.operands[read]
        absolute = self._absolute(place, here)
        level = self._level(operand)
        if level == "none":
            if read.padded and not inside:
                return self._load_inside(read, replace(place, absolute=absolute), straight)
            return Load(self._memory(read.tensor), self._at(read.tensor, read.indices, absolute, place.in_chunk))
        spatial = {"root": place.absolute, "chunk": place.in_chunk}.get(level, place.in_block)
        relative = {**spatial, **{axis: here.get(axis, 0) if level == "slice" else absolute[axis] for axis in self.stage.reduce}}
        indices = []
        for dimension in self._dimensions(operand):
            axis = dimension.axes[0]
            position = relative[axis]
            if dimension.kind == "tiles":
                first = substitute(position, {symbol(f"{self.prefix}{axis.name}3"): 0})
                indices.append(_divide_exactly(first, self._size(axis, 0)))
            elif dimension.kind == "register":
                indices.append(symbol(f"{self.prefix}{axis.name}3"))
            elif dimension.kind == "reduce":
                indices.append(position)
            else:
                index = read.indices[dimension.source]
                indices.append(add(*(mul(relative[a], index.factor(a)) for a in dimension.axes)))
        return Load(self.packed[read], tuple(indices))

    def _load_inside(self, read: Read, place: _Place, straight: Symbol | None = None) -> NestValue:
        """The element of the tensor itself, or what is outside of it; indices that move with `straight` lie inside."""
        indices = tuple(index.at(place.absolute) for index in read.indices)
        if read.beyond != "value":
            folded = (
                index if straight in symbols_of(index) else self._folded(index, size, read.beyond)
                for index, size in zip(indices, read.tensor.shape, strict=True)
            )
            return Load(self._memory(read.tensor), tuple(folded))
        if (guard := self._inside(read, indices)) == 0:
            return Constant(read.outside, read.tensor.dtype)
        return Load(self._memory(read.tensor), self._at(read.tensor, read.indices, place.absolute, place.in_chunk), guard, read.outside)

    def _folded(self, index: Expr, size: int, beyond: str) -> Expr:
        """The index of the element that stands for one beyond the tensor."""
        low, high = interval(index, self.ranges)
        if low < 0:
            index = maximum(index, 0 if beyond == "edge" else mul(index, -1))
        if high >= size:
            index = minimum(index, size - 1 if beyond == "edge" else sub(2 * (size - 1), index))
        return index

    def _inside(self, access: Read, indices: Sequence[Expr]) -> Expr:
        """Whether the indices lie inside the tensor."""
        where = [(index, size) for index, size, leaves in zip(indices, access.tensor.shape, access.leaves, strict=True) if leaves]
        return _all(self._guards([index for index, _ in where], [size for _, size in where]))

    def _with_epilogue(self, total: NestValue, place: _Place) -> NestValue:
        """The epilogue's value for a finished element of the reduction."""
        epilogue = self.tiled.epilogue
        if epilogue is None:
            return total

        def value(node: Value) -> NestValue:
            match node:
                case Read(tensor):
                    if tensor == self.stage.output:
                        return total
                    return self._load_inside(node, place)
                case Apply(function, args):
                    return Call(function, tuple(value(arg) for arg in args))
                case Constant():
                    return node
            raise InternalError(f"cannot lower {node!r}")

        return value(epilogue.body)

    def _block_epilogue(self, axes: list[Axis], place: _Place, done: Position | None = None) -> list[Statement]:
        """The epilogue over a finished block, in place."""
        done = done or {}
        if axes:
            axis = next((a for a in axes if a != self.tiled.vector), axes[0])
            rest = [a for a in axes if a != axis]
            size = min(self._size(axis, 1), axis.extent)
            base = place.absolute.get(axis, 0)
            extent = size if axis.extent % size == 0 else minimum(size, sub(axis.extent, base))
            if axis == self.tiled.vector:
                return self._vector_loop(f"{axis.name}e", extent, lambda index: self._block_epilogue(rest, place, {**done, axis: add(base, index)}))
            variable = self._variable(f"{axis.name}e", extent)
            return [For(variable, extent, tuple(self._block_epilogue(rest, place, {**done, axis: add(base, variable)})))]
        out = tuple(index.at(done) for index in self.stage.indices)
        guard = self._inside(self.stage.write, out)
        return [Store(self.output, out, self._with_epilogue(Load(self.output, out, guard), _Place(dict(done))), guard=guard)]

    def _vector_loop(self, name: str, extent: Expr, body: Callable[[Expr], list[Statement]]) -> list[Statement]:
        """A loop of any length in vectors, and what is left over one element at a time if the length is not constant."""
        lanes = self.target.lanes
        if isinstance(extent, int) and extent <= MAX_VECTOR_LOOP * lanes:
            variable = self._variable(name, extent)
            self.vector_variables.add(variable)
            return [_hoisted(For(variable, extent, tuple(body(variable)), "vector"))]
        outer, inner = self._variable(f"{name}o", floor_div(extent, lanes)), self._variable(f"{name}i", lanes)
        self.vector_variables.add(inner)
        result: list[Statement] = [
            _hoisted(For(outer, floor_div(extent, lanes), (_hoisted(For(inner, lanes, tuple(body(add(mul(outer, lanes), inner))), "vector")),))),
        ]
        left = mod(extent, lanes)
        if left != 0:
            variable = self._variable(f"{name}r", left)
            kind = "vector" if isinstance(left, int) else "serial"
            if kind == "vector":
                self.vector_variables.add(variable)
            result.append(_hoisted(For(variable, left, tuple(body(add(mul(floor_div(extent, lanes), lanes), variable))), kind)))
        return result

    # -- packing

    def _pack(self, level: str, place: _Place) -> list[Statement]:
        """Packing of all operands whose schedule wants it at this level."""
        result: list[Statement] = []
        for operand in self.tiled.operands:
            if self._level(operand) == level:
                result += self._copy(operand, self._copied(operand), place, {})
        return result

    def _pack_at_root(self, operand: Operand) -> list[Statement]:
        """Packing of the whole tensor, its outer dimensions shared by the threads."""
        dimensions = self._copied(operand)
        extents = [self._number(self.tiled.packed_extent(operand, dimension)) for dimension in dimensions]
        most_outer = len(dimensions) - (1 if self._turned_dimension(operand) is None else 2)
        n_outer = min(1, most_outer)
        while n_outer < most_outer and math.prod(extents[:n_outer]) < 8 * self.target.threads:
            n_outer += 1
        counts = list(zip(dimensions[:n_outer], extents[:n_outer], strict=True))
        total = math.prod(count for _, count in counts)
        variable = self._variable(f"{operand.read.tensor.name}_pack", total)
        done = dict(_decode(variable, counts))
        return [For(variable, total, tuple(self._copy(operand, dimensions[n_outer:], _Place(), done)), "parallel")]

    def _turned_dimension(self, operand: Operand) -> Dimension | None:
        dimensions = self._dimensions(operand)
        along = operand.turned(dimensions[-1], dimensions) if dimensions else None
        return along if along is not None and self.tiled.packed_extent(operand, along) != 1 else None

    def _copied(self, operand: Operand) -> tuple[Dimension, ...]:
        """The packed dimensions in the order of the loops that copy them, outermost first: as in the copy, but last the two of blocks that are turned over."""
        dimensions = self._dimensions(operand)
        along = self._turned_dimension(operand)
        return dimensions if along is None else (*(dimension for dimension in dimensions[:-1] if dimension != along), dimensions[-1], along)

    def _copy(self, operand: Operand, left: tuple[Dimension, ...], place: _Place, done: Mapping[Dimension, Expr]) -> list[Statement]:
        """Loops over the dimensions that are `left`, around one guarded copy or that of a block which is turned over."""
        if not left:
            return self._guarded_copy(operand, place, done)
        dimension, rest = left[0], left[1:]
        if rest == (self._turned_dimension(operand),):
            return self._turned_copy(operand, dimension, rest[0], place, done)
        extent: Expr = self._number(self.tiled.packed_extent(operand, dimension))
        if dimension.kind == "tiles":
            extent = self._tiles_to_pack(operand, dimension.axes[0], place)
        name = _copying(operand, dimension)
        if not rest and operand.step(dimension) == 1:
            return self._vector_loop(name, extent, lambda index: self._copy(operand, rest, place, {**done, dimension: index}))
        if extent == 1:
            return self._copy(operand, rest, place, {**done, dimension: 0})
        variable = self._variable(name, extent)
        return [For(variable, extent, tuple(self._copy(operand, rest, place, {**done, dimension: variable})))]

    def _turned_copy(self, operand: Operand, across: Dimension, along: Dimension, place: _Place, done: Mapping[Dimension, Expr]) -> list[Statement]:
        """Blocks of as many vectors along `along`, where the tensor is contiguous, as a vector has lanes, stored as vectors along `across`, the innermost
        packed dimension."""
        packed, tensor = self.packed[operand.read], operand.read.tensor
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
                within = [index if j in symbols_of(index) else self._folded(index, size, "edge") for index, size in zip(indices, tensor.shape, strict=True)]
                return [Store(rows, (i, j), self._packed_value(operand, within))]

            sizes = {f"{names[0]}t": n_rows, f"{names[1]}t": n_columns}
            columns, statements = self._turn(f"{operand.read.tensor.name}_{n_rows}x{n_columns}", sizes, fill)
            i, j = (self._variable(name, size) for name, size in zip(names, (n_rows, n_columns), strict=True))
            placed = at(add(row, i), add(column, j))
            store = Store(packed, tuple(placed[dimension] for dimension in self._dimensions(operand)), Load(columns, (j, i)))
            return [*statements, For(j, n_columns, (For(i, n_rows, (store,), "vector"),), "unrolled")]

        extents = [self._number(self.tiled.packed_extent(operand, dimension)) for dimension in (across, along)]
        return self._by_lanes(f"{names[0]}o", extents[0], lambda row, n: self._by_lanes(f"{names[1]}o", extents[1], partial(block, row, n)))

    def _by_lanes(self, name: str, extent: int, body: Callable[[Expr, int], list[Statement]]) -> list[Statement]:
        """`body` of the first position and the number of those in each whole vector, and in what is left over."""
        lanes = self.target.lanes
        n_whole, left = divmod(extent, lanes)
        variable = self._variable(name, n_whole)
        whole: list[Statement] = [For(variable, n_whole, tuple(body(mul(variable, lanes), lanes)))] if n_whole else []
        return [*whole, *(body(n_whole * lanes, left) if left else [])]

    def _tiles_to_pack(self, operand: Operand, axis: Axis, place: _Place) -> Expr:
        level = {"root": 3, "chunk": 2}.get(self._level(operand), 1)
        return self._tiles_within(axis, place, level, 0) if level < 3 else self._number(self.tiled.tilings[axis].count(0))

    def _source(self, operand: Operand, place: _Place, done: Mapping[Dimension, Expr]) -> list[Expr]:
        """The indices in the tensor of an element of the packed copy."""
        read, level = operand.read, self._level(operand)
        base = {axis: place.absolute.get(axis, 0) if axis in self.stage.spatial or level == "slice" else 0 for axis in read.axes}
        position = dict(base)
        boxes: dict[int, Expr] = {}
        for dimension, index in done.items():
            axis = dimension.axes[0]
            if dimension.kind == "box":
                boxes[dimension.source] = index
            else:
                step = mul(index, self._size(axis, 0)) if dimension.kind == "tiles" else index
                position[axis] = add(position[axis], step)
        return [add(index.at(base), boxes[source]) if source in boxes else index.at(position) for source, index in enumerate(read.indices)]

    def _guarded_copy(self, operand: Operand, place: _Place, done: Mapping[Dimension, Expr]) -> list[Statement]:
        """What holds or not for a whole vector is decided by a branch; the rest masks single lanes."""
        read = operand.read
        indices = self._source(operand, place, done)
        branch = _all(guard for guard in self._guards(indices, read.tensor.shape) if not symbols_of(guard) & self.vector_variables)
        at = tuple(done[dimension] for dimension in self._dimensions(operand))
        copy = Store(self.packed[read], at, self._packed_value(operand, indices))
        return [copy] if branch == 1 else [If(branch, (copy,), (Store(copy.buffer, at, Constant(read.outside, read.tensor.dtype)),))]

    def _packed_value(self, operand: Operand, indices: Sequence[Expr], *, everywhere: bool = False) -> NestValue:
        """The element of the operand at these indices, read from memory or made by its prologue; what is outside of it in lanes whose indices leave it, or
        wherever they do."""
        read, prologue = operand.read, operand.prologue

        def load(each: Read, at: Sequence[Expr]) -> Load:
            return Load(self._memory(each.tensor), tuple(at), self._mask(each, at, everywhere), each.outside)

        if prologue is None:
            return load(read, indices)
        position = {index.axes[0]: at for index, at in zip(prologue.indices, indices, strict=True) if index.axes}
        value = self._value(prologue.body, lambda each: load(each, [index.at(position) for index in each.indices]))
        mask = self._mask(read, indices, everywhere)
        return value if mask == 1 else Guarded(value, mask, read.outside)

    def _mask(self, read: Read, indices: Sequence[Expr], everywhere: bool) -> Expr:
        """Whether the indices lie inside the tensor, as far as it differs between the lanes of a vector, or `everywhere`."""
        return _all(guard for guard in self._guards(indices, read.tensor.shape) if everywhere or symbols_of(guard) & self.vector_variables)

    def _guards(self, indices: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
        """What must hold so that the indices lie inside the tensor; nothing where that is certain."""
        guards: list[Expr] = []
        for index, size in zip(indices, shape, strict=True):
            low, high = interval(index, self.ranges)
            if low < 0:
                guards.append(less(-1, index))
            if high >= size:
                guards.append(less(index, size))
        return guards


def _all(conditions: Iterable[Expr]) -> Expr:
    """Whether all of them hold."""
    result: Expr = 1
    for condition in conditions:
        result = both(result, condition)
    return result


def _copying(operand: Operand, dimension: Dimension) -> str:
    """Name of the loop over a packed dimension."""
    return f"{operand.read.tensor.name}_{dimension.kind[0]}{dimension.axes[0].name}"


def _decode(variable: Expr, counts: Sequence[tuple[Key, int]]) -> list[tuple[Key, Expr]]:
    """Digits of a fused index, first the most significant."""
    result: list[tuple[Key, Expr]] = []
    inner = math.prod(count for _, count in counts)
    outermost = True
    for key, count in counts:
        inner //= count
        digit = floor_div(variable, inner)
        if count == 1:
            digit = 0
        elif not outermost:
            digit = mod(digit, count)
        outermost = outermost and count == 1
        result.append((key, digit))
    return result


def _divide_exactly(expression: Expr, size: int) -> Expr:
    """`expression / size` for a sum of multiples of `size`."""
    match expression:
        case int() if expression % size == 0:
            return expression // size
        case Op("add", (a, b)):
            return add(_divide_exactly(a, size), _divide_exactly(b, size))
        case Op("mul", (a, int(factor))) if factor % size == 0:
            return mul(a, factor // size)
        case _ if size == 1:
            return expression
    raise InternalError(f"{expression} is no multiple of {size}")


def _hoisted(loop: For) -> For | If:
    """A branch that is the whole body of a loop and does not depend on it, moved around the loop."""
    match loop.body:
        case (If(condition, then, otherwise),) if loop.variable not in symbols_of(condition):
            return If(condition, (_hoisted(replace(loop, body=then)),), (_hoisted(replace(loop, body=otherwise)),) if otherwise else ())
    return loop


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _renamed(statements: Sequence[Statement], output: Buffer) -> list[Statement]:
    """The statements with their stores into the packed buffer going to `output`."""
    result: list[Statement] = []
    for statement in statements:
        match statement:
            case For(variable, extent, body, kind):
                result.append(For(variable, extent, tuple(_renamed(body, output)), kind))
            case If(condition, then, otherwise):
                result.append(If(condition, tuple(_renamed(then, output)), tuple(_renamed(otherwise, output))))
            case Store():
                result.append(replace(statement, buffer=output))
            case _:
                raise InternalError(f"{output.name}: not what packing is made of: {statement!r}")
    return result
