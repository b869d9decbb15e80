"""The rule that tiles one stage: its open sizes, orders and levels, what limits them, and what the default schedule wishes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

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
from ir.program import FLOAT_BYTES, TRANSCENDENTAL, Apply, Axis, Read, Stage, Value, reads
from schedule.fusion import Group
from schedule.sketch import (
    PACK_LEVELS,
    Operand,
    TiledStage,
    Tiling,
    alike_permutations,
    turned_axis,
)
from schedule.space import Column, sizes_up_to
from schedule.target import Target

MAX_REGISTER_TILE = 32  # elements of a register tile along an axis that is not the vector axis
MAX_VECTORS = 8  # vectors of a register tile along the vector axis
MAX_UPDATES = 768  # vector updates in the text of one stage; more only costs compile time
MAX_FUNCTIONS = 96  # updates that the body of one counts as; not more, so that every program has rows
TRANSCENDENTAL_UPDATES = 16  # that a function of `TRANSCENDENTAL` counts as
MAX_WORKSPACE_BYTES = 1 << 28
SERIAL_UPDATES = 1 << 16  # vectors updated; with fewer, starting the threads may take longer than what they do
WHOLE_REDUCE_EXTENT = 12  # reduce axes up to here (the windows of convolutions) are not sliced
MAX_ORDERED = 6  # axes of a band whose order is open
UNROLLS = (1, 2, 3, 4, 5, 7, 8)
ACROSS_UNROLLS = (1, 2, 4, 8)
STREAMED_PART = 4  # results of at least 1/4 of the last cache may be stored past the caches


@dataclass(frozen=True)
class Chunk:
    """The chunks of an axis that fused stages share: `count` times `unit` elements; `count` is a number or the symbol of a column with these choices."""

    count: Expr
    unit: int
    choices: tuple[int, ...]

    @property
    def size(self) -> Expr:
        return mul(self.count, self.unit)

    def dividing(self, size: Symbol, unit: int, most: int) -> Expr:
        """The largest multiple of `unit` up to `size`, at most `most` of them, that divides the chunk."""
        units = self.unit // unit
        table = [0] * ((self.choices[-1] + 1) * (most + 1))
        for count in self.choices:
            for wish in range(1, most + 1):
                table[count * (most + 1) + wish] = unit * max(d for d in range(1, wish + 1) if count * units % d == 0)
        return take(add(mul(self.count, most + 1), floor_div(size, unit)), table)


class StageRule:
    """Builds the tiled stage, its columns, limits and default wishes. `prefix` keeps symbols of several stages apart; `chunks` are those of the axes that
    fused stages share, `between` the tensors that stay within a chunk then; `is_result`: what it stores is the program's result."""

    def __init__(
        self,
        group: Group,
        vector: Axis,
        target: Target,
        prefix: str,
        is_result: bool,
        chunks: Mapping[Axis, Chunk] | None = None,
        between: frozenset[str] = frozenset(),
    ) -> None:
        stage, self.prologue, self.epilogue, self.keeps = group.stage, group.prologue, group.epilogue, group.keeps
        self.is_across = vector in stage.reduce
        if self.is_across:  # its loop is the innermost one
            stage = replace(stage, reduce=(*(axis for axis in stage.reduce if axis != vector), vector))
        self.stage, self.vector, self.target, self.prefix, self.is_result = stage, vector, target, prefix, is_result
        self.chunks, self.between = chunks or {}, between
        self.columns: list[Column] = []
        self.limits: list[Expr] = []
        self.default: dict[str, int] = {}

    def tiled(self) -> TiledStage:
        stage = self.stage
        copies = self._copies() if self.is_across else 1
        tilings = (self._fused(copies) if self.chunks else self._spatial(copies)) | {axis: self._reduce(axis) for axis in stage.reduce}
        sizes = [tilings[axis].sizes for axis in stage.looped]
        orders: dict[str, Expr] = {
            "parallel": 0 if self.chunks else self._order("parallel", [tilings[axis].count(2) for axis in stage.looped]),
            "outer": self._order("outer", [floor_div(chunk, block) for _, block, chunk, _ in sizes]),
            "slice": 0,
            "block": self._order("block", [floor_div(block, register) for register, block, _, _ in sizes]),
            "inner": 0 if self.is_across else self._order("inner", [tilings[axis].sizes[0] for axis in stage.reduce if axis not in stage.written_out]),
        }
        operands = tuple(self._operand(read, tilings) for read in reads(stage.body))
        level: Expr = 0
        if self.epilogue is not None and stage.reduce and not (self.chunks or self.is_across or stage.tables):
            level = self._switch("epilogue", (0, 1))
        fused = tuple(self.chunks), dict.fromkeys(self.between, 1)
        streams = self._streams(mul(*(tilings[axis].count(0) for axis in stage.reduce)), level)
        self.limit(where(streams, mod(tilings[self.vector].sizes[0], self.target.lanes), 0))  # so every tile begins where a vector may be stored
        result = TiledStage(stage, self.epilogue, self.vector, tilings, orders, copies, operands, level, self.target.lanes, *fused, self.keeps, streams)
        if not self.is_across:
            result = replace(result, unroll=self._unroll(result))
        self._limit(result)
        return result

    def _streams(self, n_slices: Expr, epilogue_level: Expr) -> Expr:
        """Whether results too large to be in a cache when they are read are stored past the caches: they are written once, in aligned vectors."""
        write, lanes = self.stage.write, self.target.lanes
        is_wide = write.tensor.element_bytes >= FLOAT_BYTES  # smaller elements LLVM stores as it cuts them to size, through the caches
        is_large = self.is_result and is_wide and write.tensor.n_bytes * STREAMED_PART >= self.target.l3_bytes
        offsets = [stride * index.constant for index, stride in zip(write.indices, write.tensor.strides, strict=True)]
        steps = [write.stride(axis) for axis in self.stage.spatial if axis != self.vector]
        is_aligned = write.stride(self.vector) == 1 and not any(step % lanes for step in (self.vector.extent, sum(offsets), *steps))
        if not is_large or not is_aligned or write.padded or self.is_across or self.stage.tables:
            return 0
        once = both(equal(n_slices, 1), equal(epilogue_level, 0))
        return self._switch("stream", (0, 1), lambda stream: where(once, stream, 0))

    def _copies(self) -> Expr:
        """Vectors of accumulators along a reduce axis."""
        n_vectors = -(-self.vector.extent // self.target.lanes)
        most = min(n_vectors, self.target.vector_registers - 2)
        return self._column("unroll", tuple(n for n in ACROSS_UNROLLS if n <= most), wish=min(4, most))

    def _order(self, band: str, counts: list[Expr]) -> Symbol | int:
        """Which permutation of its axes a band of loops has; those that only move loops with a single iteration are alike. Nothing in a transform is used
        twice."""
        if all(count == 1 for count in counts) or self.stage.tables or len(counts) > MAX_ORDERED:
            return 0
        n = math.factorial(len(counts))
        moving = add(0, *(mul(less(1, count), 1 << i) for i, count in enumerate(counts)))
        return self._switch(f"order.{band}", tuple(range(n)), lambda order: take(add(mul(moving, n), order), alike_permutations(len(counts))))

    def _switch(self, name: str, choices: tuple[int, ...], alike: Callable[[Symbol], Expr] | None = None, wish: int | None = None) -> Symbol | int:
        """A column of unordered choices; `alike` gives the one that stands for all with the same meaning."""
        own = symbol(self.prefix + name)
        return self._add(Column(own, choices, None, alike(own) if alike else None, ordered=False), wish)

    def _column(
        self, name: str, choices: tuple[int, ...], maximum: Expr | None = None, *, wish: int | None = None, alike: Callable[[Symbol], Expr] | None = None
    ) -> Symbol | int:
        """A column of ordered choices."""
        own = symbol(self.prefix + name)
        return self._add(Column(own, choices, maximum, alike(own) if alike else None), wish)

    def _add(self, column: Column, wish: int | None) -> Symbol | int:
        """The symbol of the new column, or the number if there is no choice."""
        if len(column.choices) == 1:
            return column.choices[0]
        self.columns.append(column)
        self.default[column.symbol.name] = column.choices[0] if wish is None else wish
        return column.symbol

    def _registers(self, copies: Expr) -> dict[Axis, Expr]:
        """Extents of the register tile.

        Each axis takes at most what the ones before it leave, so that all accumulators, one row of vectors and one broadcast fit the
        registers: with one vector more LLVM spills an accumulator in every step (7×64 ran at a third of the speed of 6×64). Across a reduce axis each
        row has `copies` accumulators. A transform has one vector for each element of a tile.
        """
        lanes, registers = self.target.lanes, self.target.vector_registers
        if self.stage.tables:
            return {axis: lanes if axis == self.vector else axis.extent if axis in self.stage.written_out else 1 for axis in self.stage.spatial}
        tile: dict[Axis, Expr] = {}
        turned = {axis for read in reads(self.stage.body) if (axis := turned_axis(read, self.stage, self.vector))}
        vectors: Expr = copies
        room: Expr = registers - 2
        if not self.is_across:
            most = min(MAX_VECTORS, (registers - 1) // 2, -(-self.vector.extent // lanes))
            tile[self.vector] = self._register(self.vector, tuple(lanes * n for n in range(1, most + 1)), None, lanes * (1 if turned else min(2, most)))
            vectors = floor_div(tile[self.vector], lanes)
            room = sub(registers - 1, vectors)
        for number, axis in enumerate(axis for axis in reversed(self.stage.spatial) if axis != self.vector):
            sizes = tuple(range(1, min(axis.extent, MAX_REGISTER_TILE, registers - 2) + 1))
            first = 1 if number or not self.stage.reduce or self.is_across else 8
            tile[axis] = self._register(axis, sizes, floor_div(room, vectors), min(lanes if axis in turned else first, sizes[-1]))
            vectors = mul(vectors, tile[axis])
        return tile

    def _register(self, axis: Axis, sizes: tuple[int, ...], maximum: Expr | None, wish: int) -> Expr:
        """Extent of the register tile along one axis; where fused stages share its chunks, one that divides them."""
        chunk, unit = self.chunks.get(axis), sizes[0]
        alike = (lambda size: chunk.dividing(size, unit, sizes[-1] // unit)) if chunk else None
        return self._column(f"{axis.name}.register", sizes, maximum, wish=wish, alike=alike)

    def _fused(self, copies: Expr) -> dict[Axis, Tiling]:
        """Of a stage that shares its chunks with others: a block is a chunk along the shared axes; along the others the chunk is everything."""
        found: dict[Axis, Tiling] = {}
        for axis, register in self._registers(copies).items():
            if axis in self.chunks:
                block = chunk = self.chunks[axis].size
            else:
                most = -(-axis.extent // (self.target.lanes if axis == self.vector else 1))
                block = mul(register, self._column(f"{axis.name}.block", sizes_up_to(most), ceil_div(axis.extent, register), wish=most))
                chunk = mul(block, ceil_div(axis.extent, block))
            found[axis] = Tiling(axis, (register, block, chunk, axis.extent))
        return found

    def _spatial(self, copies: Expr) -> dict[Axis, Tiling]:
        """Register tiles, blocks of them, chunks of blocks; the inner axes choose first.

        Each axis joins at most so many tiles that every thread still gets a chunk, as long as there are tiles enough, and work enough for several threads.
        """
        axes, lanes = self.stage.looped, self.target.lanes
        first = next((axis for axis in axes if axis.extent >= 2 * self.target.threads), axes[0])  # what the default schedule spreads over the threads
        sizes: dict[Axis, tuple[Expr, ...]] = {axis: (register,) for axis, register in self._registers(copies).items()}
        tiles = {axis: ceil_div(axis.extent, sizes[axis][0]) for axis in axes}
        wanted = minimum(mul(*tiles.values()), least_chunks([self.stage], self.target))
        for level in ("block", "chunk"):
            for axis in reversed(axes):
                most_tiles = -(-axis.extent // (lanes if axis == self.vector else 1))
                wish = (4 if axis == self.vector else 1) if level == "block" else 1 if axis == first else most_tiles
                choices = sizes_up_to(most_tiles, [-(-axis.extent // size) for size in range(1, 33)])
                if level == "block" and self.stage.tables:  # nothing in a transform is used twice
                    choices = (1,)
                most = most_joined(tiles[axis], mul(*(tiles[other] for other in axes if other != axis)), wanted)
                size = mul(sizes[axis][-1], self._column(f"{axis.name}.{level}", choices, most, wish=wish))
                sizes[axis] = (*sizes[axis], size)
                tiles[axis] = ceil_div(axis.extent, size)
        whole = {axis: Tiling(axis, (axis.extent,) * 4) for axis in self.stage.spatial if axis not in axes}
        return whole | {axis: Tiling(axis, (*sizes[axis], axis.extent)) for axis in axes}

    def _reduce(self, axis: Axis) -> Tiling:
        if axis.extent <= WHOLE_REDUCE_EXTENT or self.is_across:
            return Tiling(axis, (axis.extent, axis.extent))
        divisors = [size for low in range(1, math.isqrt(axis.extent) + 1) if axis.extent % low == 0 for size in (low, axis.extent // low)]
        choices = tuple(size for size in sizes_up_to(axis.extent, divisors) if size >= 8)
        return Tiling(axis, (self._column(f"{axis.name}.slice", choices, wish=min(256, axis.extent)), axis.extent))

    def _operand(self, read: Read, tilings: dict[Axis, Tiling]) -> Operand:
        name = read.tensor.name
        probe = Operand(read)
        if self.is_across or self.stage.tables or (self.chunks and name in self.between):
            return probe
        if read.tensor.constant:
            return Operand(read, True, PACK_LEVELS.index("root"))
        prologue = self.prologue if self.prologue is not None and self.prologue.output == read.tensor else None
        boxes = {axis for _, axes in probe.parts if len(axes) > 1 for axis in axes}
        levels = tuple(range(len(PACK_LEVELS)))
        if all(tiling.sizes[0] == tiling.sizes[-1] for axis, tiling in tilings.items() if axis in self.stage.reduce):
            levels = levels[:-1]  # one slice: the same as packing for a block
        is_contiguous = self.vector not in read.axes or read.stride(self.vector) == 1
        is_reused = set(read.axes) != {*self.stage.spatial, *self.stage.reduce}
        if self.stage.reduce and (not is_contiguous or prologue is not None or (read.padded and is_reused)):
            levels = levels[
                1:
            ]  # packing makes lanes contiguous, computes a prologue, and brings the padding in, for which else every tile at the edge has to ask
        elif not self.stage.reduce or not is_reused:
            levels = levels[:1]  # nothing makes up for packing
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
        return Operand(read, False, level, layout, prologue)

    def _unroll(self, tiled: TiledStage) -> Expr:
        reduce = tiled.axes("inner")
        if not reduce:
            return 1
        innermost: Expr = tiled.tilings[reduce[-1]].sizes[0]
        for axis in reduce[:-1]:
            innermost = where(equal(tiled.position("inner", axis), len(reduce) - 1), tiled.tilings[axis].sizes[0], innermost)
        return self._column("unroll", UNROLLS, innermost)

    def limit(self, excess: Expr) -> None:
        """Every row must keep it at 0 or below."""
        if not isinstance(excess, int):
            self.limits.append(excess)
        elif excess > 0:
            raise InternalError(f"a limit of {self.stage.output.name} can never hold")

    def _limit(self, tiled: TiledStage) -> None:
        """What every row must keep: code and workspace stay small."""
        target, lanes = self.target, self.target.lanes
        vectors = mul(_updates(self.stage.body), *(ceil_div(tiled.tilings[a].sizes[0], lanes if a == self.vector else 1) for a in self.stage.spatial))
        variants: Expr = 1
        for axis in self.stage.spatial:
            variants = mul(variants, add(minimum(mod(axis.extent, minimum(tiled.tilings[axis].sizes[0], axis.extent)), 1), 1))
        for operand in tiled.operands:
            variants = mul(variants, add(1, tiled.is_guarded(operand)))
        self.limit(sub(mul(vectors, tiled.unroll, variants), MAX_UPDATES))
        for operand in tiled.operands:
            if not operand.prepared:
                dims = operand.dimensions(0, self.vector, self.stage.reduce)
                copies = where(equal(operand.level, PACK_LEVELS.index("root")), 1, target.threads)  # what is packed before all chunks is shared
                size = mul(operand.read.tensor.element_bytes, copies, *(tiled.packed_extent(operand, d) for d in dims))
                self.limit(where(equal(operand.level, 0), 0, sub(size, MAX_WORKSPACE_BYTES)))


def least_chunks(stages: Iterable[Stage], target: Target) -> int:
    """Chunks that a parallel loop has at least, as long as there are tiles enough: one a thread, or a single one where all of it is soon done."""
    updates = sum(stage.n_points * _updates(stage.body) for stage in stages)
    return target.threads if updates > SERIAL_UPDATES * target.lanes else 1


def _updates(body: Value) -> int:
    """How many multiply-adds are as much text as the body."""

    def count(value: Value) -> int:
        match value:
            case Apply(function, args) if function in TRANSCENDENTAL:
                return TRANSCENDENTAL_UPDATES + sum(map(count, args))
            case Apply(_, args):
                return 1 + sum(map(count, args))
        return 0

    return max(1, min(count(body), MAX_FUNCTIONS))


def most_joined(count: Expr, others: Expr, wanted: Expr) -> Expr:
    """The largest q with ceil(count / q) * others >= wanted, where count * others >= wanted."""
    least = ceil_div(wanted, others)
    return where(less(1, least), sub(ceil_div(count, maximum(sub(least, 1), 1)), 1), count)
