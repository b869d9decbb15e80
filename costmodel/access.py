"""What an access touches in memory when its axes run over a box: distinct elements, cache lines, runs, vector loads, strides.

The access of a variable operand reads the tensor itself or a packed copy, in one of two layouts, as the schedule chose; both readings are
worked out and the symbols of that choice select one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ir.expression import Expr, add, both, ceil_div, equal, less, maximum, minimum, mul, sub, where
from ir.program import Affine, Axis, Read
from schedule.sketch import PACK_LEVELS, Dimension, Operand, TiledStage, turned_axis

LINE_BYTES = 64
SET_PERIOD_BYTES = 4096  # addresses this far apart fall on the same set of the first-level cache of x86 CPUs, of some ARM ones those 16 KiB apart

Box = Mapping[Axis, Expr]


@dataclass(frozen=True)
class Term:
    """`factor` times a position that takes `extent` values from 0 on, never more than `most`."""

    factor: int
    extent: Expr
    most: int


def are_apart(terms: Sequence[Term]) -> bool:
    """Whether different positions always give different sums, as digits do. `terms` begin with the smallest factor."""
    reach, apart = 0, True
    for term in terms:
        apart &= abs(term.factor) > reach
        reach += abs(term.factor) * (term.most - 1)
    return apart


def distinct(terms: Sequence[Term]) -> Expr:
    """How many values a sum of terms takes: exactly, but for three terms that overlap, where it may be less.

    Two terms f*x + g*y with f, g coprime take x*y values less the pairs that some other pair repeats: (x + g, y) meets (x, y + f).
    """
    product = mul(*(term.extent for term in terms))
    if are_apart(terms):
        return product
    if len(terms) > 2:
        return minimum(product, span(terms))
    first, second = terms
    common = math.gcd(first.factor, second.factor)
    repeated = mul(maximum(sub(first.extent, abs(second.factor) // common), 0), maximum(sub(second.extent, abs(first.factor) // common), 0))
    return sub(product, repeated)


def span(terms: Sequence[Term]) -> Expr:
    """From the lowest to the highest value of a sum of terms, both included."""
    return add(*(mul(sub(term.extent, 1), abs(term.factor)) for term in terms), 1)


@dataclass(frozen=True)
class Row:
    """`count` positions in memory, or boxes of the rows before it, within `reach` neighbouring ones that are `stride` elements apart."""

    count: Expr
    reach: Expr
    stride: Expr


def lines(rows: Sequence[Row], line_elements: int) -> Expr:
    """Cache lines of so many elements that a box touches at least, if it begins on one. `rows` begin with the innermost and do not overlap."""
    result: Expr = 1
    reach: Expr = 1
    for row in rows:
        if row.reach == 1:
            continue
        reach = add(mul(sub(row.reach, 1), row.stride), reach)
        dense = ceil_div(reach, line_elements)
        result = mul(row.count, result)
        if row.stride == 1 and row.count is row.reach:
            result = dense
        elif not (isinstance(row.stride, int) and row.stride % line_elements == 0):  # neighbours may share lines
            result = minimum(result, dense)
    return result


def runs(rows: Sequence[Row]) -> Expr:
    """Pieces without gaps that a box is made of; those that windows leave which are dilated, or moved by more than one, do not count as gaps. `rows` as in
    `lines`."""
    result: Expr = 1
    reach: Expr = 1
    for row in rows:
        if row.reach == 1:
            continue
        together = both(equal(result, 1), less(row.stride, add(reach, 1)))
        result = where(together, result, mul(row.count, result))
        reach = add(mul(sub(row.reach, 1), row.stride), reach)
    return result


@dataclass(frozen=True)
class PackedRow:
    """Neighbouring dimensions of a packed operand: `size` indices, `stride` elements apart."""

    dimensions: tuple[Dimension, ...]
    size: Expr
    stride: Expr


@dataclass(frozen=True)
class Access:
    """One operand of a stage, or its output (then `operand` is None)."""

    tiled: TiledStage
    read: Read
    operand: Operand | None
    lanes: int

    @property
    def element_bytes(self) -> int:
        return self.read.tensor.element_bytes

    @property
    def line_elements(self) -> int:
        return LINE_BYTES // self.element_bytes

    # -- what a box of the axes touches

    def elements(self, box: Box) -> Expr:
        """Distinct elements, as if all were inside the tensor; of a packed copy, those that it has at a time."""
        box = self._moving(box)
        return self._where_packed(self._elements(self._in_memory(box)), [self._elements(self._in_copy(box)) for _ in self._packed_layouts[:1]])

    def lines(self, box: Box) -> Expr:
        """Distinct cache lines, as if all were inside the tensor. The box is one register tile or more."""
        return self._of_rows("lines", box, lambda rows: lines(rows, self.line_elements))

    def runs(self, box: Box) -> Expr:
        """Pieces without gaps; otherwise as `lines`."""
        return self._of_rows("runs", box, runs)

    def _of_rows(self, name: str, box: Box, quantity: Callable[[Sequence[Row]], Expr]) -> Expr:
        """A quantity, of that name, of the rows that the box touches."""
        box = self._moving(box)
        key = (name, tuple(box.items()))
        if key not in self._known:
            packed = [quantity(self._packed_memory_rows(rows, self._in_copy(box))) for rows in self._packed_layouts]
            self._known[key] = self._where_packed(quantity(self._memory_rows(self._in_memory(box))), packed)
        return self._known[key]

    @cached_property
    def _known(self) -> dict[tuple[str, tuple[tuple[Axis, Expr], ...]], Expr]:
        """By name and what is in `_moving`: most loops leave most accesses where they are, so the boxes of many places are the same."""
        return {}

    def _moving(self, box: Box) -> Box:
        """Of the box what moves the access."""
        return {axis: box[axis] for axis in self.read.axes if axis in box}

    def loads(self, tile: Box) -> Expr:
        """Load instructions of one step of a register tile of these extents; those of equal addresses are one."""
        vector = self.tiled.vector
        starts = mul(*(distinct(_terms(index, tile, vector, self.lanes)) for index in self.read.indices))
        if self._turned is not None:
            rows = mul(*(extent for axis, extent in tile.items() if axis in self.read.axes and axis != self._turned))
            return where(less(1, tile[self._turned]), mul(rows, ceil_div(tile[self._turned], self.lanes)), mul(starts, self.lanes))
        return mul(starts, where(less(1, self.stride(vector)), self.lanes, 1))

    # -- strides

    def stride(self, axis: Axis) -> Expr:
        """Elements between neighbours along the axis in one register tile; along a reduce axis, if its loop is the innermost."""
        in_tensor = add(*(mul(abs(index.factor(axis)), stride) for index, stride in zip(self.read.indices, self._strides, strict=True)))
        turned = self._turned
        if turned is not None and axis == self.tiled.vector:  # loaded along that axis, if a register tile has several positions along it
            in_tensor = where(less(1, minimum(self.tiled.tilings[turned].sizes[0], turned.extent)), 1, in_tensor)
        return self._where_packed(in_tensor, [self._packed_stride(rows, axis) for rows in self._packed_layouts])

    def set_conflicts(self, extents: Box) -> Expr:
        """How many of the tensor's rows that the axes walk begin on the same set of the first-level cache; 1 when packed, or a chunk of its own."""
        result: Expr = 1
        in_chunks = self.tiled.in_chunks(self.read.tensor)
        if in_chunks == 1:
            return result
        for axis, extent in extents.items():
            stride_bytes = abs(self.read.stride(axis)) * self.element_bytes
            if stride_bytes >= LINE_BYTES:
                result = mul(result, ceil_div(extent, SET_PERIOD_BYTES // math.gcd(SET_PERIOD_BYTES, stride_bytes)))
        return where(in_chunks, 1, self._where_packed(result, [1 for _ in self._packed_layouts]))

    # -- the two readings

    @cached_property
    def in_place(self) -> Expr:
        """1 where the tensor itself is accessed, 0 where a packed copy is."""
        return 1 if self.operand is None else equal(self.operand.level, PACK_LEVELS.index("none"))

    @cached_property
    def _turned(self) -> Axis | None:
        return turned_axis(self.read, self.tiled.stage, self.tiled.vector) if self.operand is not None else None

    def _where_packed(self, tensor: Expr, packed: Sequence[Expr]) -> Expr:
        """`tensor` or, by layout, one of `packed`."""
        if self.operand is None:
            return tensor
        by_layout = packed[0] if len(packed) == 1 else where(self.operand.layout, packed[1], packed[0])
        return where(self.in_place, tensor, by_layout)

    @cached_property
    def _packed_layouts(self) -> list[tuple[PackedRow, ...]]:
        """The dimensions of the packed copy in each layout that the schedule may choose, innermost first."""
        if self.operand is None:
            return []
        layouts = (self.operand.layout,) if isinstance(self.operand.layout, int) else (0, 1)
        return [self._packed_rows(self.operand, layout) for layout in layouts]

    def _packed_rows(self, operand: Operand, layout: int) -> tuple[PackedRow, ...]:
        """Reduce dimensions are one row: they stand side by side, in the order of their loops."""
        groups: list[list[Dimension]] = []
        for dimension in reversed(operand.dimensions(layout, self.tiled.vector, self.tiled.stage.reduce)):
            if groups and dimension.kind == groups[-1][0].kind == "reduce":
                groups[-1].append(dimension)
            else:
                groups.append([dimension])
        rows: list[PackedRow] = []
        stride: Expr = 1
        for group in groups:
            size = mul(*(self.tiled.packed_extent(operand, dimension) for dimension in group))
            rows.append(PackedRow(tuple(group), size, stride))
            stride = mul(stride, size)
        return tuple(rows)

    @cached_property
    def _strides(self) -> tuple[Expr, ...]:
        """Elements between neighbours along each dimension of the memory."""
        shape = self.tiled.memory_shape(self.read)
        return tuple(mul(*shape[place + 1 :]) for place in range(len(shape)))

    def _in_memory(self, box: Box) -> Box:
        """The part of the box that memory has at a time."""
        in_chunks, tilings = self.tiled.in_chunks(self.read.tensor), self.tiled.tilings
        if in_chunks == 0:
            return box
        return {axis: where(in_chunks, minimum(extent, tilings[axis].sizes[2]), extent) if axis in self.tiled.fused else extent for axis, extent in box.items()}

    def _in_copy(self, box: Box) -> Box:
        """The part of the box that the packed copy has at a time; what lies beyond takes its place in turn."""
        return {axis: extent if self._regions[axis] == axis.extent else minimum(extent, self._regions[axis]) for axis, extent in box.items()}

    @cached_property
    def _regions(self) -> Box:
        """Of what moves the access, how much a packed copy has."""
        assert self.operand is not None
        return {axis: self.tiled.region(self.operand, axis) for axis in self.read.axes}

    def _elements(self, box: Box) -> Expr:
        return mul(*(distinct(_terms(index, box)) for index in self.read.indices))

    def _memory_rows(self, box: Box) -> list[Row]:
        rows: list[Row] = []
        for index, stride in zip(reversed(self.read.indices), reversed(self._strides), strict=True):
            terms = _terms(index, box)
            if are_apart(terms):
                rows.extend(Row(term.extent, term.extent, mul(stride, abs(term.factor))) for term in terms)
            else:
                rows.append(Row(distinct(terms), span(terms), stride))
        return rows

    def _packed_memory_rows(self, rows: Sequence[PackedRow], box: Box) -> list[Row]:
        return [Row(*self._touched(row, box), row.stride) for row in rows]

    def _touched(self, row: PackedRow, box: Box) -> tuple[Expr, Expr]:
        """(indices touched, from the first to the last of them) along a row."""
        axis = row.dimensions[0].axes[0]
        register = self.tiled.tilings[axis].sizes[0]
        count: Expr
        match row.dimensions[0].kind:
            case "tiles":
                count = ceil_div(box[axis], register)
            case "register":
                count = minimum(register, axis.extent)
            case "reduce":
                count = mul(*(box[dimension.axes[0]] for dimension in row.dimensions))
            case _:
                terms = _terms(self.read.indices[row.dimensions[0].source], box)
                return distinct(terms), span(terms)
        return count, count

    def _packed_stride(self, rows: Sequence[PackedRow], axis: Axis) -> Expr:
        for row in rows:
            for dimension in row.dimensions:
                if axis in dimension.axes and dimension.kind != "tiles":
                    factor = abs(self.read.indices[dimension.source].factor(axis)) if dimension.kind == "box" else 1
                    return mul(row.stride, factor)
        return 0


def _terms(index: Affine, box: Box, vector: Axis | None = None, lanes: int = 1) -> list[Term]:
    """The terms of an index over a box, the vector axis in whole vectors; those with the smallest factor first."""
    terms = [
        Term(factor * lanes, ceil_div(box[axis], lanes), -(-axis.extent // lanes)) if axis == vector else Term(factor, box[axis], axis.extent)
        for axis, factor in index.terms
    ]
    return sorted(terms, key=lambda term: abs(term.factor))
