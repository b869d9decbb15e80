"""A sketch: the loop structure of a program with its sizes still open.

Read symbolically it is described by features (`costmodel.features`); read with one row substituted it is lowered to a loop nest
(`codegen.lower`). Each stage of reduction is tiled as SSRSRS; from the outside in its bands of loops are

  parallel   one fused loop over the chunks of all spatial axes, shared by the threads
  outer      blocks of a chunk
  slice      slices of the reduce axes; accumulators are kept in the output between slices
  block      register tiles of a block
  inner      the reduce axes within a slice; of a padded input those positions alone that lie inside, where a register tile has one position there
  register   one register tile, fully unrolled; its innermost axis is made of vectors

A tile may have any size: a loop over tiles has `ceil(extent / size)` iterations and the last one is cut short.

Where the data are contiguous along a reduce axis alone, that may be the vector axis: each accumulator is then a vector of partial results, a step takes
one vector of the axis, copies of the innermost loop's body have accumulators of their own, and all of them are combined at the end.

Stages of a fused sketch share the parallel loop: each iteration runs all of them, one after the other, on its chunk of the axes that they have in
common, and what they hand on stays in memory of the thread's own, or lies where the result will.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ir.errors import InternalError
from ir.expression import (
    Expr,
    Symbol,
    add,
    both,
    ceil_div,
    equal,
    floor_div,
    maximum,
    minimum,
    mul,
    sub,
    substitute,
    symbols_of,
    take,
    where,
)
from ir.program import FLOAT, Apply, Axis, Read, Stage, Tensor, reads
from schedule.space import Space

BANDS = ("parallel", "outer", "slice", "block", "inner")

# Where a variable operand is packed: not at all, before the parallel loop, or at the start of the named loop level.
PACK_LEVELS = ("none", "root", "chunk", "block", "slice")
EPILOGUE_LEVELS = ("register", "block")


@dataclass(frozen=True)
class Tiling:
    """Sizes of the nested tiles of one axis, innermost first, the last one the whole extent; each a multiple of the one before
    (but for the extent). Spatial: (register, block, chunk, extent). Reduce: (slice, extent)."""

    axis: Axis
    sizes: tuple[Expr, ...]

    def count(self, level: int) -> Expr:
        """How many tiles of size `sizes[level]` cover the axis."""
        return ceil_div(self.axis.extent, self.sizes[level])


@dataclass(frozen=True)
class Dimension:
    """A dimension of a packed operand.

    "tiles": index of the register tile along `axes[0]`; "register": position inside it; "reduce": position along a reduce axis;
    "box": the range that dimension `source` of the tensor takes, where several axes overlap there (the windows of a convolution).
    """

    kind: str
    axes: tuple[Axis, ...]
    source: int


@dataclass(frozen=True)
class Operand:
    """An input of a reduction as the register tile sees it. `level` indexes PACK_LEVELS; a prepared operand is packed once, before any
    timing. `layout` 0 has reduce dimensions outside of box and register ones, 1 inside; the dimension of the vector axis is always the innermost one. Where
    a `prologue` makes the operand, that is computed as it is packed, and the tensor that is read is never stored."""

    read: Read
    prepared: bool = False
    level: Expr = 0
    layout: Expr = 0
    prologue: Stage | None = None

    @cached_property
    def parts(self) -> tuple[tuple[int, tuple[Axis, ...]], ...]:
        """(source dimension, axes) of what packing keeps together: one axis, or all axes of a dimension where they overlap."""
        found: list[tuple[int, tuple[Axis, ...]]] = []
        for source, index in enumerate(self.read.indices):
            reach, separable = 0, True
            for axis, factor in sorted(index.terms, key=lambda term: abs(term[1])):
                separable &= abs(factor) > reach
                reach += abs(factor) * (axis.extent - 1)
            if not separable and any(factor < 0 for _, factor in index.terms):
                raise InternalError(f"{self.read.tensor.name}: an index that overlaps runs backwards along one of {[axis.name for axis in index.axes]}")
            found.extend([(source, (axis,)) for axis in index.axes] if separable else [(source, index.axes)])
        return tuple(found)

    def dimensions(self, layout: int, vector: Axis, reduce: tuple[Axis, ...]) -> tuple[Dimension, ...]:
        """The packed dimensions, outermost first. `reduce`: the reduce axes in the order of the inner loops."""
        single = {axes[0]: source for source, axes in self.parts if len(axes) == 1}
        spatial = [axis for axis in single if axis not in reduce]
        tiles = [Dimension("tiles", (axis,), single[axis]) for axis in spatial]
        boxes = [Dimension("box", axes, source) for source, axes in self.parts if len(axes) > 1 and vector not in axes]
        registers = [Dimension("register", (axis,), single[axis]) for axis in spatial if axis != vector]
        reduces = [Dimension("reduce", (axis,), single[axis]) for axis in reduce if axis in single]
        lanes = [Dimension("register", (axis,), single[axis]) for axis in spatial if axis == vector]
        lanes += [Dimension("box", axes, source) for source, axes in self.parts if len(axes) > 1 and vector in axes]
        middle = [*boxes, *registers, *reduces] if layout else [*reduces, *boxes, *registers]
        return (*tiles, *middle, *lanes)

    def step(self, dimension: Dimension) -> int:
        """Elements from one neighbour along a packed dimension to the next in the tensor."""
        stride = self.read.tensor.strides[dimension.source]
        return stride if dimension.kind == "box" else stride * self.read.indices[dimension.source].factor(dimension.axes[0])

    def turned(self, innermost: Dimension, dimensions: Sequence[Dimension]) -> Dimension | None:
        """The packed dimension along which vectors are loaded to be turned over into vectors along the innermost one: the one along which the tensor is
        contiguous. None where there is no such dimension or no need, as for what is packed beforehand; register tiles are of fp32."""
        if self.read.tensor.constant or self.read.tensor.dtype != FLOAT or abs(self.step(innermost)) <= 1:
            return None
        return next((dimension for dimension in dimensions if dimension.kind != "tiles" and dimension != innermost and self.step(dimension) == 1), None)


@dataclass(frozen=True)
class Window:
    """The positions of `reduce` at which `factor * spatial + step * reduce + constant` lies in 0..size-1, where a padded input is read: an
    interval for each position of the spatial axis, maybe an empty one. Outside of it only zeros are added up.
    """

    reduce: Axis
    spatial: Axis
    factor: int
    step: int
    constant: int
    size: int

    def bounds(self, position: Expr) -> tuple[Expr, Expr]:
        """(first, count) of the interval at one position of the spatial axis."""
        start = add(mul(position, -self.factor), self.step - 1 - self.constant)
        low, high = (floor_div(maximum(0, end), self.step) for end in (start, add(start, self.size)))
        count = sub(minimum(high, self.reduce.extent), low)
        return low, maximum(0, count) if self.lengths[0] == 0 else count

    @cached_property
    def _counts(self) -> dict[int, int]:
        """For each length that the interval has anywhere, in order: at how many positions of the spatial axis."""
        first = np.arange(self.spatial.extent) * self.factor + self.constant
        low, high = (np.maximum(-((first - end) // self.step), 0) for end in (0, self.size))
        lengths, counts = np.unique(np.maximum(np.minimum(high, self.reduce.extent) - low, 0), return_counts=True)
        return dict(zip(lengths.tolist(), counts.tolist(), strict=True))

    @property
    def lengths(self) -> tuple[int, ...]:
        """That the interval has at some position of the spatial axis, each once, the shortest first."""
        return tuple(self._counts)

    def inside(self, quantity: Expr) -> Expr:
        """The part of a quantity, the same for every pair of positions of the two axes, that falls on pairs inside; exact where it is
        a multiple of all pairs."""
        n_inside = sum(length * count for length, count in self._counts.items())
        return floor_div(mul(quantity, n_inside), self.spatial.extent * self.reduce.extent)


@dataclass(frozen=True)
class TiledStage:
    """One reduction (or elementwise) stage with its epilogue, tiled. Every `Expr` may be a symbol of the space or a number."""

    stage: Stage
    epilogue: Stage | None
    vector: Axis
    tilings: Mapping[Axis, Tiling]
    orders: Mapping[str, Expr]  # band -> index of a permutation of its axes
    unroll: Expr  # copies of the innermost inner loop's body
    operands: tuple[Operand, ...]
    epilogue_level: Expr  # indexes EPILOGUE_LEVELS
    lanes: int  # elements of a vector
    fused: tuple[Axis, ...] = ()  # axes whose chunks it shares with other stages
    between: Mapping[str, Expr] = field(default_factory=dict)  # what such stages hand on: whether memory holds a chunk of it, or it lies in the result
    keeps: Read | None = None  # where each value of the body is stored, too
    streams: Expr = 0  # whether the result is stored past the caches

    @property
    def result(self) -> Tensor:
        """What is stored: the epilogue's output where there is one."""
        return (self.epilogue or self.stage).output

    @property
    def write(self) -> Read:
        """The access to what is stored, in the form of a read."""
        return Read(self.result, self.stage.indices)

    @property
    def is_across(self) -> bool:
        """Whether the vector axis is a reduce axis."""
        return self.vector in self.stage.reduce

    def step(self, axis: Axis) -> int:
        """Elements of a reduce axis that one step takes."""
        return min(self.lanes, axis.extent) if axis == self.vector else 1

    def in_chunks(self, tensor: Tensor) -> Expr:
        """Whether memory holds a chunk of the tensor at a time, as it does of what fused stages hand on if that does not lie in the result."""
        return self.between.get(tensor.name, 0)

    def memory_shape(self, access: Read) -> tuple[Expr, ...]:
        """Of the tensor, or of a chunk of it."""
        in_chunks = self.in_chunks(access.tensor)
        if in_chunks == 0:
            return access.tensor.shape
        sizes = zip(access.tensor.shape, access.indices, strict=True)
        return tuple(
            where(in_chunks, minimum(self.tilings[index.axes[0]].sizes[2], size), size) if index.axes and index.axes[0] in self.fused else size
            for size, index in sizes
        )

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The windows that a sum of products may be confined to, at most one a reduce axis and one a spatial axis."""
        if self.stage.tables or self.stage.reduction != "sum" or not (isinstance(self.stage.body, Apply) and self.stage.body.function == "mul"):
            return ()
        found: list[Window] = []
        for read in (arg for arg in self.stage.body.args if isinstance(arg, Read)):
            for index, size in zip(read.indices, read.tensor.shape, strict=True):
                low, high = index.range
                spatial, reduce = ([axis for axis in index.axes if axis in axes] for axes in (self.stage.spatial, self.stage.reduce))
                if (low < 0 or high >= size) and len(spatial) == len(reduce) == 1 and all(factor > 0 for _, factor in index.terms):
                    taken = {axis for window in found for axis in (window.reduce, window.spatial)}
                    if not taken & {*spatial, *reduce}:
                        found.append(Window(reduce[0], spatial[0], index.factor(spatial[0]), index.factor(reduce[0]), index.constant, size))
        return tuple(found)

    def is_confined(self, window: Window) -> Expr:
        """Whether the loop over the window's reduce axis visits the positions inside alone: where a register tile has one position of its
        spatial axis, and so one interval, and a slice has all of the reduce axis."""
        return both(equal(self.tilings[window.spatial].sizes[0], 1), equal(self.tilings[window.reduce].sizes[0], window.reduce.extent))

    def is_guarded(self, operand: Operand) -> Expr:
        """Whether a reduction reads the operand in place though it is padded: register tiles at the edge ask of each element whether there is one."""
        return equal(operand.level, PACK_LEVELS.index("none")) if operand.read.padded and self.stage.reduce and not self.stage.tables else 0

    def axes(self, band: str) -> tuple[Axis, ...]:
        """The axes that have a loop in this band, in program order."""
        if band in ("slice", "inner"):
            return tuple(axis for axis in self.stage.reduce if axis not in self.stage.written_out)
        return self.stage.looped

    def by_order(self, band: str, number: Callable[[tuple[int, ...]], int]) -> Expr:
        """`number` of the order of the band's loops, outermost first, each as its place among `axes`; where the order is open, of all that there may be."""
        axes = self.axes(band)
        if isinstance(self.orders[band], int):
            return int(number(tuple(map(axes.index, self.ordered(band)))))
        return take(self.orders[band], [int(number(order)) for order in _permutations(len(axes))])

    def position(self, band: str, axis: Axis) -> Expr:
        """Place of the axis' loop in its band, 0 the outermost."""
        if (band, axis) not in self._positions:
            place = self.axes(band).index(axis)
            self._positions[band, axis] = self.by_order(band, lambda order: order.index(place))
        return self._positions[band, axis]

    @cached_property
    def _positions(self) -> dict[tuple[str, Axis], Expr]:
        """Those that were asked for, as most are many times."""
        return {}

    def ordered(self, band: str) -> tuple[Axis, ...]:
        """The axes of the band, outermost first; the order must be a number."""
        order = self.orders[band]
        assert isinstance(order, int)
        return next(itertools.islice(itertools.permutations(self.axes(band)), order, None))

    def region(self, operand: Operand, axis: Axis) -> Expr:
        """Extent of the axis that one packing of the operand covers."""
        tiling = self.tilings[axis]
        whole = tiling.sizes[-1]
        if operand.prepared:
            return whole
        if axis in self.stage.reduce:
            return where(equal(operand.level, PACK_LEVELS.index("slice")), minimum(tiling.sizes[0], whole), whole)
        chunk = where(equal(operand.level, PACK_LEVELS.index("chunk")), tiling.sizes[2], tiling.sizes[1])
        return minimum(where(equal(operand.level, PACK_LEVELS.index("root")), whole, chunk), whole)

    def packed_extent(self, operand: Operand, dimension: Dimension) -> Expr:
        """Size of one dimension of the packed operand."""
        axis = dimension.axes[0]
        match dimension.kind:
            case "tiles":
                return ceil_div(self.region(operand, axis), self.tilings[axis].sizes[0])
            case "register":
                return self.tilings[axis].sizes[0]
            case "reduce":
                return self.region(operand, axis)
        index = operand.read.indices[dimension.source]
        return add(*(mul(abs(index.factor(a)), add(self.region(operand, a), -1)) for a in dimension.axes), 1)


@dataclass(frozen=True)
class Sketch:
    """A way to run a task: its stages in order and the space of its open choices. Each stage has a parallel loop of its own, or all share one over
    chunks of the axes `fused`, which all of them have.

    `name` is the word by which records and messages refer to it; it is unique among the sketches of a task, and tells the algorithm
    (`schedule.algorithms`). `beforehand`: stages of constants alone, with all sizes chosen; they run when a constant operand is prepared.
    """

    name: str
    stages: tuple[TiledStage, ...]
    space: Space
    default: Mapping[str, int]  # wished values of the default schedule
    work: int  # flops of the task, however many the stages have, or the elements that it moves
    beforehand: tuple[TiledStage, ...] = ()
    fused: tuple[Axis, ...] = ()

    @cached_property
    def register_columns(self) -> tuple[int, ...]:
        """The columns that size register tiles."""
        sizes = [stage.tilings[axis].sizes[0] for stage in self.stages for axis in stage.stage.spatial]
        return tuple(j for j, symbol in enumerate(self.space.symbols) if symbol in symbols_of(*sizes))

    def default_row(self) -> NDArray[np.int64]:
        """(c,) the schedule that is tried first; always valid, always the same."""
        row: NDArray[np.int64] = self.space.row(dict(self.default), np.random.default_rng(0))[0]
        return row

    def instantiate(self, row: NDArray[np.int64]) -> tuple[TiledStage, ...]:
        """The stages with the row's numbers in place of symbols."""
        values: dict[Symbol, Expr] = {symbol: int(number) for symbol, number in zip(self.space.symbols, row, strict=True)}
        return tuple(_substitute(stage, values) for stage in self.stages)


def turned_axis(read: Read, stage: Stage, vector: Axis) -> Axis | None:
    """The axis along which a stage without reduction loads vectors of an input whose elements lie apart along the vector axis, to turn rows and columns
    of the register tile over: the one along which the input is contiguous. None as for `Operand.turned`."""
    if stage.reduce or read.tensor.constant or read.tensor.dtype != FLOAT or abs(read.stride(vector)) <= 1:
        return None
    return next((axis for axis in read.axes if axis != vector and read.stride(axis) == 1), None)


def handed_on(stages: Sequence[TiledStage]) -> list[tuple[TiledStage, Read]]:
    """What the stages of a sketch store for one another: results other than the last stage's, and what they keep."""
    return [(stage, stage.write) for stage in stages if stage.result != stages[-1].result] + [(stage, stage.keeps) for stage in stages if stage.keeps]


def overwritten(stages: Sequence[TiledStage]) -> Tensor | None:
    """What one of fused stages keeps and may keep in the place of the result, if that is not stored past the caches: the last stage, which alone writes the
    result, reads an element of it where it writes one, and no other. What is left of a chunk beside the axes that all share must be contiguous there."""
    *others, last = stages
    leading = {axis for index in last.stage.indices[: len(last.fused)] for axis in index.axes}
    if last.stage.reduce or not last.fused or leading != set(last.fused) or any(stage.result == last.result for stage in others):
        return None
    read = {read for stage in (last.stage, last.epilogue) if stage is not None for read in reads(stage.body)}
    for tensor in (stage.keeps.tensor for stage in others if stage.keeps is not None):
        is_alike = (tensor.shape, tensor.dtype) == (last.result.shape, last.result.dtype)
        if is_alike and {each for each in read if each.tensor == tensor} == {Read(tensor, last.stage.indices)}:
            return tensor
    return None


@cache
def _permutations(n: int) -> tuple[tuple[int, ...], ...]:
    return tuple(itertools.permutations(range(n)))


@cache
def alike_permutations(n: int) -> tuple[int, ...]:
    """For each set of n axes (one bit an axis), for each permutation: the first one that has the axes of the set in the same order."""
    table = []
    for moving in range(1 << n):
        first: dict[tuple[int, ...], int] = {}
        for number, order in enumerate(_permutations(n)):
            table.append(first.setdefault(tuple(axis for axis in order if moving >> axis & 1), number))
    return tuple(table)


def _substitute(stage: TiledStage, values: Mapping[Symbol, Expr]) -> TiledStage:
    return TiledStage(
        stage.stage,
        stage.epilogue,
        stage.vector,
        {axis: Tiling(axis, tuple(substitute(size, values) for size in tiling.sizes)) for axis, tiling in stage.tilings.items()},
        {band: substitute(order, values) for band, order in stage.orders.items()},
        substitute(stage.unroll, values),
        tuple(replace(operand, level=substitute(operand.level, values), layout=substitute(operand.layout, values)) for operand in stage.operands),
        substitute(stage.epilogue_level, values),
        stage.lanes,
        stage.fused,
        {name: substitute(in_chunks, values) for name, in_chunks in stage.between.items()},
        stage.keeps,
        substitute(stage.streams, values),
    )
