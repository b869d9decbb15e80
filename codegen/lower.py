"""From a sketch and one row to concrete loop nests: the kernel, and a nest that packs each constant operand beforehand.

Here are the bands of loops around the register tile (`codegen.register_tile`) and the packing (`codegen.packing`). Tile sizes are register <= block <= chunk
along a spatial axis and slice along a reduce axis (see `schedule.sketch`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codegen.packing import Packing, renamed
from codegen.prefetch_chunk import with_prefetches
from codegen.register_tile import RegisterTile
from codegen.stage_scope import Loop, Place, Position, StageScope, as_number, decode
from codegen.stage_values import StageValues
from ir.errors import IllegalCandidate, InternalError
from ir.expression import Expr, Symbol, add, both, equal, less, minimum, sub, symbol
from ir.nest import Buffer, For, If, Load, Nest, Statement, Store
from ir.program import Axis, Read, Tensor
from schedule.sketch import Sketch, TiledStage, handed_on
from schedule.target import Target


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
    canonical = sketch.space.canonical(row[None, :])
    if not sketch.space.valid(canonical)[0]:
        raise IllegalCandidate(f"row {[int(v) for v in row]} breaks a limit of sketch {sketch.name}")
    stages = sketch.instantiate(canonical[0])
    between = {access.tensor.name: _intermediate(stage, access, stages[-1].result) for stage, access in handed_on(stages)}
    between |= {made.result.name: _intermediate(made, made.write, made.result) for made in sketch.beforehand}
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
        buffers |= {buffer.name: buffer for buffer in lowering.scope.buffers.values()}
        prepare |= lowering.prepare
    for made in sketch.beforehand:
        name, nest = _with_stage_before(prepare.pop(made.stage.output.name), _StageLowering(made, target, between, (), ""))
        prepare[name] = nest
    order = ("input", "output", "prepared", "shared", "private")
    ordered = sorted(buffers.values(), key=lambda b: order.index(b.scope))
    return Lowered(Nest("kernel", tuple(ordered), tuple(body)), prepare, any(stage.streams == 1 for stage in stages))


def _intermediate(stage: TiledStage, access: Read, result: Tensor) -> Buffer:
    """Memory of what the stage hands on by this access: of fused stages a thread's own, or the result's."""
    if stage.between.get(access.tensor.name) == 0:
        return Buffer(result.name, result.shape, "output", dtype=result.dtype)
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
    stages = [lowering.in_chunk() for lowering in lowerings]
    return For(variable, total, tuple(with_prefetches(stages, variable, total, lowerings[0].scope.target)), "parallel")


def _with_stage_before(packing: Nest, stage: _StageLowering) -> tuple[str, Nest]:
    """The nest that makes the operand that another one packs and then packs it, and the tensor that it makes it of."""
    body = [*stage.before(), _parallel([stage])]
    made, packed = packing.buffers
    (source,) = (buffer for buffer in stage.scope.buffers.values() if buffer != made)
    return source.name, Nest(f"prepare_{source.name}", (source, packed, made), (*body, *packing.body))


class _StageLowering:
    """Lowers one tiled stage; the arguments are those of its `StageScope`. `prepare`: by tensor name the nests that pack constant operands beforehand."""

    def __init__(self, tiled: TiledStage, target: Target, between: Mapping[str, Buffer], fused: tuple[Axis, ...], prefix: str) -> None:
        self.scope = StageScope(tiled, target, between, fused, prefix)
        self.tiled, self.stage = tiled, tiled.stage
        self.values = StageValues(self.scope)
        self.packing = Packing(self.scope, self.values)
        self.register_tile = RegisterTile(self.scope, self.values)
        self.prepare: dict[str, Nest] = {}

    def before(self) -> list[Statement]:
        """Packing at the root, before the parallel loop over chunks."""
        before: list[Statement] = []
        for operand in self.tiled.operands:
            packing = self.packing.at_root(operand) if self.scope.level(operand) == "root" else None
            if packing is None:
                continue
            if operand.prepared:
                tensor = operand.read.tensor
                packed = self.scope.packed[operand.read]
                buffers = (self.scope.buffers.pop(tensor.name), Buffer(packed.name, packed.shape, "output", dtype=packed.dtype))
                self.prepare[tensor.name] = Nest(f"prepare_{tensor.name}", buffers, tuple(renamed(packing, buffers[1])))
            else:
                before += packing
        return before

    def chunk(self) -> tuple[Symbol, int]:
        """Variable and extent of the parallel loop."""
        total = math.prod(count for _, count in self._chunk_counts)
        variable = symbol("chunk" if self.scope.fused else f"{self.scope.prefix}chunk")
        self.scope.ranges[variable] = (0, total - 1)
        return variable, total

    @property
    def _chunk_counts(self) -> list[tuple[Axis, int]]:
        return [(axis, as_number(self.tiled.tilings[axis].count(2))) for axis in self.tiled.ordered("parallel")]

    def in_chunk(self) -> list[Statement]:
        """What the parallel loop does of this stage."""
        place = Place()
        counts = dict(self._chunk_counts)
        for axis, number in decode(self.chunk()[0], list(counts.items())):
            place = place.inside(Loop("parallel", axis, number, counts[axis], self.scope.size(axis, 2)))
        return [*self.packing.at_level("chunk", place), *self._outer(list(self.tiled.ordered("outer")), place)]

    def _outer(self, axes: list[Axis], place: Place) -> list[Statement]:
        if not axes:
            return self._block_tile(place)
        axis, rest = axes[0], axes[1:]
        count = self.scope.tiles_within(axis, place, 2, 1)
        if count == 1:
            return self._outer(rest, place)
        variable = self.scope.variable(f"{axis.name}1", count)
        loop = Loop("outer", axis, variable, self.scope.most(count), self.scope.size(axis, 1))
        return [For(variable, count, tuple(self._outer(rest, place.inside(loop))))]

    def _block_tile(self, place: Place) -> list[Statement]:
        """One block: packing, the slices of the reduction, and an epilogue of its own if the schedule wants one."""
        body = [*self.packing.at_level("block", place), *self._slices(list(self.stage.reduce), place, 1, 1)]
        if self.tiled.epilogue is not None and not self.scope.in_registers:
            body += self._block_epilogue(list(self.stage.spatial), place)
        return body

    def _slices(self, axes: list[Axis], place: Place, first: Expr, last: Expr) -> list[Statement]:
        if not axes:
            return [*self.packing.at_level("slice", place), *self._block(list(self.tiled.ordered("block")), place, first, last)]
        axis, rest = axes[0], axes[1:]
        count = as_number(self.tiled.tilings[axis].count(0))
        if count == 1:
            return self._slices(rest, place, first, last)
        variable = self.scope.variable(f"{axis.name}0", count)
        inside = place.inside(Loop("slice", axis, variable, count, self.scope.size(axis, 0)))
        return [For(variable, count, tuple(self._slices(rest, inside, both(first, equal(variable, 0)), both(last, equal(variable, count - 1)))))]

    def _block(self, axes: list[Axis], place: Place, first: Expr, last: Expr) -> list[Statement]:
        if not axes:
            return self._variants(list(self.stage.spatial), place, {}, first, last)
        axis, rest = axes[0], axes[1:]
        count = self.scope.tiles_within(axis, place, 1, 0)
        if count == 1:
            return self._block(rest, place, first, last)
        variable = self.scope.variable(f"{axis.name}2", count)
        loop = Loop("block", axis, variable, self.scope.most(count), self.scope.size(axis, 0))
        return [For(variable, count, tuple(self._block(rest, place.inside(loop), first, last)))]

    def _variants(self, axes: list[Axis], place: Place, sizes: dict[Axis, int], first: Expr, last: Expr) -> list[Statement]:
        """The register tile for each combination of full and remaining sizes that occurs."""
        if not axes:
            return self.register_tile.tile(place, sizes, first, last)
        axis, rest = axes[0], axes[1:]
        full, rest_size = self.scope.size(axis, 0), axis.extent % self.scope.size(axis, 0)
        if axis.extent <= full:
            return self._variants(rest, place, {**sizes, axis: axis.extent}, first, last)
        whole = self._variants(rest, place, {**sizes, axis: full}, first, last)
        if rest_size == 0:
            return whole
        cut = self._variants(rest, place, {**sizes, axis: rest_size}, first, last)
        return [If(less(place.absolute.get(axis, 0), axis.extent - rest_size), tuple(whole), tuple(cut))]

    def _block_epilogue(self, axes: list[Axis], place: Place, done: Position | None = None) -> list[Statement]:
        """The epilogue over a finished block, in place."""
        done = done or {}
        if axes:
            axis = next((a for a in axes if a != self.tiled.vector), axes[0])
            rest = [a for a in axes if a != axis]
            size = min(self.scope.size(axis, 1), axis.extent)
            base = place.absolute.get(axis, 0)
            extent = size if axis.extent % size == 0 else minimum(size, sub(axis.extent, base))
            if axis == self.tiled.vector:
                return self.scope.vector_loop(f"{axis.name}e", extent, lambda index: self._block_epilogue(rest, place, {**done, axis: add(base, index)}))
            variable = self.scope.variable(f"{axis.name}e", extent)
            return [For(variable, extent, tuple(self._block_epilogue(rest, place, {**done, axis: add(base, variable)})))]
        out = tuple(index.at(done) for index in self.stage.indices)
        guard = self.scope.inside(self.stage.write, out)
        return [Store(self.scope.output, out, self.values.with_epilogue(Load(self.scope.output, out, guard), Place(dict(done))), guard=guard)]
