"""Rules that make the sketches of a tensor program; none of them knows an operator by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from ir.errors import InternalError
from ir.expression import (
    Expr,
    Symbol,
    add,
    both,
    ceil_div,
    equal,
    floor_div,
    less,
    maximum,
    minimum,
    mod,
    mul,
    sub,
    symbol,
    take,
    where,
)
from ir.program import FLOAT_BYTES, Axis, Program, Read, Stage, reads
from ir.simplify import simplify
from schedule.algorithms import WINOGRAD
from schedule.sketch import (
    PACK_LEVELS,
    Operand,
    Sketch,
    TiledStage,
    Tiling,
    alike_permutations,
)
from schedule.space import Column, Space, sizes_up_to
from schedule.split_reduction import split_reduction
from schedule.target import Target
from schedule.winograd import PRODUCTS, winograd

MAX_REGISTER_TILE = 32  # elements of a register tile along an axis that is not the vector axis
MAX_VECTORS = 8  # vectors of a register tile along the vector axis
MAX_UPDATES = 768  # vector updates in the text of one kernel; more only costs compile time
MAX_WORKSPACE_BYTES = 1 << 28
WHOLE_REDUCE_EXTENT = 12  # reduce axes up to here (the windows of convolutions) are not sliced
SMALL_OUTPUT = 1024  # elements; below this a long reduction is worth splitting
LONG_REDUCE = 64
UNROLLS = (1, 2, 3, 4, 5, 7, 8)


def sketches(program: Program, target: Target) -> tuple[Sketch, ...]:
    """All sketches of the program for this machine; the first one holds the default schedule."""
    program = simplify(program)
    found = [_sketch(f"tile_{vector.name}", program, target, vector) for vector in _vector_axes(program.stages[0], target)]
    for name, split, vector in _split_programs(program, target):
        found.append(_sketch(name, split, target, vector))
    return tuple(replace(sketch, flops=program.flops) for sketch in (*found, *_winograd_sketches(program, target)))


def _winograd_sketches(program: Program, target: Target) -> Iterator[Sketch]:
    """Where there are input and output channels enough to fill vectors, and memory enough for what lies between the stages."""
    for algorithm, m in WINOGRAD.items():
        transformed = winograd(program, m)
        if transformed is None:
            continue
        make_u, *stages = transformed.stages
        n_inputs = math.prod(axis.extent for axis in stages[PRODUCTS].reduce)
        n_outputs = math.prod(axis.extent for axis in make_u.looped) // n_inputs
        if min(n_inputs, n_outputs) < target.lanes or sum(stage.output.n_bytes for stage in stages[: PRODUCTS + 1]) > MAX_WORKSPACE_BYTES:
            continue
        alone = _sketch(algorithm, Program(program.inputs, (make_u,)), target, _transform_vector(make_u))
        beforehand = alone.instantiate(alone.default_row())
        for vector in (axis for axis in _vector_axes(stages[PRODUCTS], target) if axis != stages[PRODUCTS].spatial[0]):
            sketch = _sketch(f"{algorithm}_tile_{vector.name}", Program(program.inputs, tuple(stages)), target, vector, PRODUCTS)
            yield replace(sketch, beforehand=beforehand)


def _sketch(name: str, program: Program, target: Target, vector: Axis, main: int = 0) -> Sketch:
    """`vector`: of the stage number `main`; the others choose for themselves."""
    columns: list[Column] = []
    limits: list[Expr] = []
    stages: list[TiledStage] = []
    default: dict[str, int] = {}
    for number, (stage, epilogue) in enumerate(_groups(program)):
        own = vector if number == main else _transform_vector(stage) if stage.tables else _vector_axes(stage, target)[0]
        builder = _StageRule(stage, epilogue, own, target, f"s{number}." if number else "")
        stages.append(builder.tiled())
        columns += builder.columns
        limits += builder.limits
        default |= builder.default
    return Sketch(name, tuple(stages), Space(tuple(columns), tuple(limits)), default, program.flops)


def _groups(program: Program) -> Iterator[tuple[Stage, Stage | None]]:
    """Each stage together with an elementwise stage that follows it and reads it point by point."""
    stages = list(program.stages)
    while stages:
        stage = stages.pop(0)
        follower = stages[0] if stages else None
        if follower is not None and follower.reduction is None and stage.write in set(reads(follower.body)) and follower.spatial == stage.spatial:
            stages.pop(0)
            yield stage, follower
        else:
            yield stage, None


def _vector_axes(stage: Stage, target: Target) -> list[Axis]:
    """Axes worth vectorizing, best first: the output is contiguous along them and every input is, may be packed so, or does not move.

    Where such an axis leaves the constant inputs untouched (as in nchw), an axis along which they are packed is tried too.
    """
    inputs = list(reads(stage.body))

    def fits(read: Read, axis: Axis) -> bool:
        if read.stride(axis) in (0, 1):
            return True
        alone = [axes for _, axes in Operand(read, read.tensor.constant, 0, 0).parts if axis in axes]
        return all(len(axes) == 1 for axes in alone)

    fitting = [axis for axis in reversed(stage.spatial) if all(fits(read, axis) for read in inputs)]
    contiguous = [axis for axis in fitting if stage.write.stride(axis) == 1]
    constants = [read for read in inputs if read.tensor.constant]
    packed = [axis for axis in fitting if axis.extent >= target.lanes and any(axis in read.axes for read in constants)]
    if any(axis in read.axes for axis in contiguous for read in constants):
        packed = []
    return list(dict.fromkeys([*contiguous, *packed])) or list(stage.spatial[-1:])


def _transform_vector(stage: Stage) -> Axis:
    """The axis along which the neighbours of what a transform reads and writes are nearest in memory."""
    (source,) = reads(stage.body)
    return min(stage.looped, key=lambda axis: abs(source.stride(axis)) + stage.write.stride(axis))


def _split_programs(program: Program, target: Target) -> Iterator[tuple[str, Program, Axis]]:
    """Split reductions: in parts, for outputs too small to occupy the machine; in lanes, where no other axis fills a vector, or where the one
    tensor that is reduced is contiguous along the reduction alone; in both."""
    stage = program.stages[0]
    axis = max(stage.reduce, key=lambda a: a.extent, default=None)
    if stage.reduction is None or axis is None:
        return
    is_small = math.prod(a.extent for a in stage.spatial) <= SMALL_OUTPUT
    counts = [parts for parts in (2, 4, 8, 16) if parts >= target.threads] if is_small and axis.extent >= LONG_REDUCE else []
    for parts in counts:
        if axis.extent % parts == 0:
            split = split_reduction(program, axis, parts=parts)
            for vector in _vector_axes(split.stages[0], target)[:1]:
                yield f"split{parts}_{axis.name}_tile_{vector.name}", split, vector
    inputs = list(reads(stage.body))
    is_narrow = is_small and axis.extent >= LONG_REDUCE and max((a.extent for a in _vector_axes(stage, target)), default=1) < target.lanes
    is_along = len(inputs) == 1 and inputs[0].stride(axis) == 1
    if not is_narrow and not is_along:
        return
    for parts in (1, *counts):
        if axis.extent % (parts * target.lanes) == 0:
            split = split_reduction(program, axis, parts=parts, lanes=target.lanes)
            yield f"{f'split{parts}_' if parts > 1 else ''}lanes_{axis.name}", split, split.stages[0].spatial[-1]


class _StageRule:
    """Builds the tiled stage, its columns, limits and default wishes. `prefix` keeps symbols of several stages apart."""

    def __init__(self, stage: Stage, epilogue: Stage | None, vector: Axis, target: Target, prefix: str) -> None:
        self.stage, self.epilogue, self.vector, self.target, self.prefix = stage, epilogue, vector, target, prefix
        self.columns: list[Column] = []
        self.limits: list[Expr] = []
        self.default: dict[str, int] = {}

    def tiled(self) -> TiledStage:
        stage = self.stage
        tilings = self._spatial() | {axis: self._reduce(axis) for axis in stage.reduce}
        sizes = [tilings[axis].sizes for axis in stage.looped]
        orders: dict[str, Expr] = {
            "parallel": self._order("parallel", [tilings[axis].count(2) for axis in stage.looped]),
            "outer": self._order("outer", [floor_div(chunk, block) for _, block, chunk, _ in sizes]),
            "slice": 0,
            "block": self._order("block", [floor_div(block, register) for register, block, _, _ in sizes]),
            "inner": self._order("inner", [tilings[axis].sizes[0] for axis in stage.reduce if axis not in stage.written_out]),
        }
        operands = tuple(self._operand(read, tilings) for read in reads(stage.body))
        level: Expr = 0
        if self.epilogue is not None and stage.reduce and not stage.tables:
            level = self._switch("epilogue", (0, 1))
        result = TiledStage(stage, self.epilogue, self.vector, tilings, orders, 1, operands, level)
        unroll = self._unroll(result)
        result = TiledStage(stage, self.epilogue, self.vector, tilings, orders, unroll, operands, level)
        self._limit(result)
        return result

    def _order(self, band: str, counts: list[Expr]) -> Symbol | int:
        """Which permutation of its axes a band of loops has; those that only move loops with a single iteration are alike."""
        if all(count == 1 for count in counts):
            return 0
        n = math.factorial(len(counts))
        moving = add(0, *(mul(less(1, count), 1 << i) for i, count in enumerate(counts)))
        return self._switch(f"order.{band}", tuple(range(n)), lambda order: take(add(mul(moving, n), order), alike_permutations(len(counts))))

    def _switch(self, name: str, choices: tuple[int, ...], alike: Callable[[Symbol], Expr] | None = None, wish: int | None = None) -> Symbol | int:
        """A column of unordered choices; `alike` gives the one that stands for all with the same meaning."""
        own = symbol(self.prefix + name)
        return self._add(Column(own, choices, None, alike(own) if alike else None, ordered=False), wish)

    def _column(self, name: str, choices: tuple[int, ...], maximum: Expr | None = None, *, wish: int | None = None) -> Symbol | int:
        """A column of ordered choices."""
        return self._add(Column(symbol(self.prefix + name), choices, maximum), wish)

    def _add(self, column: Column, wish: int | None) -> Symbol | int:
        """The symbol of the new column, or the number if there is no choice."""
        if len(column.choices) == 1:
            return column.choices[0]
        self.columns.append(column)
        self.default[column.symbol.name] = column.choices[0] if wish is None else wish
        return column.symbol

    def _registers(self) -> dict[Axis, Expr]:
        """Extents of the register tile.

        Each axis takes at most what the ones before it leave, so that all accumulators, one row of vectors and one broadcast fit the
        registers: with one vector more LLVM spills an accumulator in every step (7×64 ran at a third of the speed of 6×64). A transform has one vector for
        each element of a tile.
        """
        lanes, registers = self.target.lanes, self.target.vector_registers
        if self.stage.tables:
            return {axis: lanes if axis == self.vector else axis.extent if axis in self.stage.written_out else 1 for axis in self.stage.spatial}
        most = min(MAX_VECTORS, (registers - 1) // 2, -(-self.vector.extent // lanes))
        tile: dict[Axis, Expr] = {
            self.vector: self._column(f"{self.vector.name}.register", tuple(lanes * n for n in range(1, most + 1)), wish=lanes * min(2, most))
        }
        vectors = floor_div(tile[self.vector], lanes)
        room = sub(registers - 1, vectors)
        for number, axis in enumerate(axis for axis in reversed(self.stage.spatial) if axis != self.vector):
            sizes = tuple(range(1, min(axis.extent, MAX_REGISTER_TILE, registers - 2) + 1))
            tile[axis] = self._column(f"{axis.name}.register", sizes, floor_div(room, vectors), wish=1 if number else min(8, axis.extent))
            vectors = mul(vectors, tile[axis])
        return tile

    def _spatial(self) -> dict[Axis, Tiling]:
        """Register tiles, blocks of them, chunks of blocks; the inner axes choose first.

        Each axis joins at most so many tiles that every thread still gets a chunk, as long as there are tiles enough.
        """
        axes, lanes, threads = self.stage.looped, self.target.lanes, self.target.threads
        first = next((axis for axis in axes if axis.extent >= 2 * threads), axes[0])  # what the default schedule spreads over the threads
        sizes: dict[Axis, tuple[Expr, ...]] = {axis: (register,) for axis, register in self._registers().items()}
        tiles = {axis: ceil_div(axis.extent, sizes[axis][0]) for axis in axes}
        wanted = minimum(mul(*tiles.values()), threads)
        for level in ("block", "chunk"):
            for axis in reversed(axes):
                most_tiles = -(-axis.extent // (lanes if axis == self.vector else 1))
                wish = (4 if axis == self.vector else 1) if level == "block" else 1 if axis == first else most_tiles
                choices = sizes_up_to(most_tiles, [-(-axis.extent // size) for size in range(1, 33)])
                if level == "block" and self.stage.tables:  # nothing in a transform is used twice
                    choices = (1,)
                most = _most_joined(tiles[axis], mul(*(tiles[other] for other in axes if other != axis)), wanted)
                size = mul(sizes[axis][-1], self._column(f"{axis.name}.{level}", choices, most, wish=wish))
                sizes[axis] = (*sizes[axis], size)
                tiles[axis] = ceil_div(axis.extent, size)
        whole = {axis: Tiling(axis, (axis.extent,) * 4) for axis in self.stage.spatial if axis not in axes}
        return whole | {axis: Tiling(axis, (*sizes[axis], axis.extent)) for axis in axes}

    def _reduce(self, axis: Axis) -> Tiling:
        if axis.extent <= WHOLE_REDUCE_EXTENT:
            return Tiling(axis, (axis.extent, axis.extent))
        divisors = [size for low in range(1, math.isqrt(axis.extent) + 1) if axis.extent % low == 0 for size in (low, axis.extent // low)]
        choices = tuple(size for size in sizes_up_to(axis.extent, divisors) if size >= 8)
        return Tiling(axis, (self._column(f"{axis.name}.slice", choices, wish=min(256, axis.extent)), axis.extent))

    def _operand(self, read: Read, tilings: dict[Axis, Tiling]) -> Operand:
        name = read.tensor.name
        probe = Operand(read, read.tensor.constant, 0, 0)
        if self.stage.tables:
            return Operand(read, False, PACK_LEVELS.index("none"), 0)
        if read.tensor.constant:
            return Operand(read, True, PACK_LEVELS.index("root"), 0)
        boxes = {axis for _, axes in probe.parts if len(axes) > 1 for axis in axes}
        levels = tuple(range(len(PACK_LEVELS)))
        if all(tiling.sizes[0] == tiling.sizes[-1] for axis, tiling in tilings.items() if axis in self.stage.reduce):
            levels = levels[:-1]  # one slice: the same as packing for a block
        if read.padded or (self.vector in read.axes and read.stride(self.vector) != 1):
            levels = levels[1:]  # packing is what brings the padding in, and what makes lanes contiguous
        block = PACK_LEVELS.index("block")
        n_slices = mul(*(tilings[axis].count(0) for axis in self.stage.reduce))
        n_blocks = mul(*(floor_div(tilings[axis].sizes[2], tilings[axis].sizes[1]) for axis in self.stage.spatial))

        def alike(level: Symbol) -> Expr:
            """A single slice is packed as its block is, a single block as its chunk is."""
            single_slice = both(equal(level, PACK_LEVELS.index("slice")), equal(n_slices, 1))
            single_block = both(equal(level, PACK_LEVELS.index("chunk")), equal(n_blocks, 1))
            return where(single_slice, block, where(single_block, block, level))

        level = self._switch(f"{name}.pack", levels, alike, wish=levels[0] if levels[0] == 0 else block)
        two_layouts = self.vector not in boxes and self.vector not in read.axes and any(axis in read.axes for axis in self.stage.reduce)
        layout = self._switch(f"{name}.layout", (0, 1), lambda layout: where(equal(level, 0), 0, layout), wish=1) if two_layouts else 0
        return Operand(read, False, level, layout)

    def _unroll(self, tiled: TiledStage) -> Expr:
        reduce = tiled.axes("inner")
        if not reduce:
            return 1
        innermost: Expr = tiled.tilings[reduce[-1]].sizes[0]
        for axis in reduce[:-1]:
            innermost = where(equal(tiled.position("inner", axis), len(reduce) - 1), tiled.tilings[axis].sizes[0], innermost)
        return self._column("unroll", UNROLLS, innermost)

    def _limit(self, tiled: TiledStage) -> None:
        """What every row must keep: code and workspace stay small."""
        target, lanes = self.target, self.target.lanes
        vectors = mul(*(ceil_div(tiled.tilings[a].sizes[0], lanes if a == self.vector else 1) for a in self.stage.spatial))
        variants: Expr = 1
        for axis in self.stage.spatial:
            variants = mul(variants, add(minimum(mod(axis.extent, tiled.tilings[axis].sizes[0]), 1), 1))
        self.limits.append(sub(mul(vectors, tiled.unroll, variants), MAX_UPDATES))
        for operand in tiled.operands:
            if not operand.prepared:
                dims = operand.dimensions(0, self.vector, self.stage.reduce)
                size = mul(FLOAT_BYTES * target.threads, *(tiled.packed_extent(operand, d) for d in dims))
                self.limits.append(where(equal(operand.level, 0), 0, sub(size, MAX_WORKSPACE_BYTES)))
        self.limits = [limit for limit in self.limits if not (isinstance(limit, int) and limit <= 0)]
        if any(isinstance(limit, int) for limit in self.limits):
            raise InternalError(f"a limit of {self.stage.output.name} can never hold")


def _most_joined(count: Expr, others: Expr, wanted: Expr) -> Expr:
    """The largest q with ceil(count / q) * others >= wanted, where count * others >= wanted."""
    least = ceil_div(wanted, others)
    return where(less(1, least), sub(ceil_div(count, maximum(sub(least, 1), 1)), 1), count)


__all__ = ["sketches"]
