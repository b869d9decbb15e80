"""Packing of a variable operand as expressions: how often, how much, and in how many instructions. All are 0 where nothing is packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from costmodel.arithmetic import STORE_HALF_CYCLES, value_half_cycles
from ir.expression import Expr, add, ceil_div, equal, floor_div, less, maximum, mul, where
from ir.program import Axis, n_applies
from schedule.sketch import PACK_LEVELS, Dimension, Operand, TiledStage

SOURCE_BYTES_PER_HALF_CYCLE = 8  # that arrive from the last-level cache, where a source mostly is


def packed_elements(tiled: TiledStage, operand: Operand) -> Expr:
    """Size of the packed copy of an operand; layouts differ in order only."""
    return mul(*(tiled.packed_extent(operand, dimension) for dimension in operand.dimensions(0, tiled.vector, tiled.stage.reduce)))


@dataclass(frozen=True)
class Packing:
    """The packing of `operand`, a variable one, in one run of the stage."""

    tiled: TiledStage
    operand: Operand
    lanes: int
    threads: int

    def quantities(self) -> dict[str, Expr]:
        stores, instructions, element_bytes = self.stores, self.instructions, self.operand.read.tensor.element_bytes
        private = less(PACK_LEVELS.index("root"), self.operand.level)
        buffer_bytes = mul(element_bytes, self._buffer_elements)
        made = 0 if self.operand.prologue is None else value_half_cycles(self.operand.prologue.body)
        # A store, of a vector or of one element, and a load beside it; one more for each round of shuffles that turns blocks of vectors over.
        copy_half_cycles = add(STORE_HALF_CYCLES, mul(self._of_innermost(self._is_turned), self.lanes.bit_length() - 1), made)
        half_cycles = maximum(mul(instructions, copy_half_cycles), ceil_div(mul(stores, element_bytes), SOURCE_BYTES_PER_HALF_CYCLE))
        return {
            "level": self.operand.level,
            "layout": where(self._is("none"), 0, self.operand.layout),
            "executions": self.executions,
            "buffer_bytes": buffer_bytes,
            "private_bytes": where(private, mul(buffer_bytes, self.threads), 0),
            "shared_bytes": where(self._is("root"), buffer_bytes, 0),
            "stores": stores,
            "stored_bytes": mul(stores, element_bytes),
            "tensor_bytes": where(self._is("none"), 0, self.operand.read.tensor.n_bytes),
            "instructions": instructions,
            "operations": 0 if self.operand.prologue is None else mul(stores, n_applies(self.operand.prologue.body)),
            "source_stride": where(self._is("none"), 0, self._of_innermost(self._source_stride)),
            "run": where(self._is("none"), 0, self._of_innermost(self._extent)),
            "half_cycles": half_cycles,
            "private_half_cycles": where(private, half_cycles, 0),
            "shared_half_cycles": where(self._is("root"), half_cycles, 0),
            "shared_parts": where(self._is("root"), self._of_innermost(self._parts), 0),
        }

    def _is(self, level: str) -> Expr:
        return equal(self.operand.level, PACK_LEVELS.index(level))

    # -- how often and how much

    def _tiles(self, axis: Axis) -> Expr:
        """In how many parts the loops around the packing cut a spatial axis."""
        tiling = self.tiled.tilings[axis]
        return where(self._is("root"), 1, where(self._is("chunk"), tiling.count(2), tiling.count(1)))

    @property
    def _slices(self) -> Expr:
        return where(self._is("slice"), mul(*(self.tiled.tilings[axis].count(0) for axis in self.tiled.stage.reduce)), 1)

    @property
    def executions(self) -> Expr:
        """How often the operand, or a part of it, is packed."""
        return where(self._is("none"), 0, mul(self._slices, *(self._tiles(axis) for axis in self.tiled.stage.spatial)))

    @property
    def _dimensions(self) -> tuple[Dimension, ...]:
        return self.operand.dimensions(0, self.tiled.vector, self.tiled.stage.reduce)

    @property
    def _buffer_elements(self) -> Expr:
        return where(self._is("none"), 0, packed_elements(self.tiled, self.operand))

    @property
    def stores(self) -> Expr:
        """Elements stored in one run of the stage. Register tiles are stored whole, but only those that the part has."""
        tiled = {dimension.axes[0] for dimension in self._dimensions if dimension.kind == "tiles"}
        tilings = self.tiled.tilings
        of_axes = [mul(tilings[a].count(0), tilings[a].sizes[0]) if a in tiled else self._tiles(a) for a in self.tiled.stage.spatial]
        of_dimensions = [self.tiled.packed_extent(self.operand, dimension) for dimension in self._dimensions if dimension.kind in ("box", "reduce")]
        return where(self._is("none"), 0, mul(self._slices, *of_axes, *of_dimensions))

    # -- how

    @property
    def instructions(self) -> Expr:
        """Copies of a vector or, where the tensor is not contiguous along the innermost packed dimension, nor turned over, of one element."""
        extent = self._of_innermost(self._extent)
        in_vectors = mul(floor_div(self.stores, extent), ceil_div(extent, self.lanes))
        return where(add(equal(self._of_innermost(self._source_stride), 1), self._of_innermost(self._is_turned)), in_vectors, self.stores)

    def _is_turned(self, innermost: Dimension) -> Expr:
        along = self.operand.turned(innermost, self._dimensions)
        return 0 if along is None else less(1, self._extent(along))

    def _parts(self, innermost: Dimension) -> Expr:
        """What threads may share of the whole copy: rows along the innermost dimension or, where blocks are turned over, such blocks."""
        along = self.operand.turned(innermost, self._dimensions)
        return mul(*(self._extent(dimension) for dimension in self._dimensions if dimension not in (innermost, along)))

    def _extent(self, dimension: Dimension) -> Expr:
        return self.tiled.packed_extent(self.operand, dimension)

    def _source_stride(self, dimension: Dimension) -> Expr:
        """Elements between neighbours along a packed dimension in the tensor."""
        return abs(self.operand.step(dimension))

    def _of_innermost(self, quantity: Callable[[Dimension], Expr]) -> Expr:
        """`quantity` of the innermost packed dimension."""
        if isinstance(self.operand.layout, int):
            return self._of_innermost_in(self.operand.layout, quantity)
        return where(self.operand.layout, self._of_innermost_in(1, quantity), self._of_innermost_in(0, quantity))

    def _of_innermost_in(self, layout: int, quantity: Callable[[Dimension], Expr]) -> Expr:
        dimensions = self.operand.dimensions(layout, self.tiled.vector, self.tiled.stage.reduce)
        if not dimensions:  # a single element
            return 1
        result = quantity(dimensions[-1])
        if dimensions[-1].kind == "reduce":  # the reduce dimensions stand in the order of the inner loops
            reduces = {dimension.axes[0]: dimension for dimension in dimensions if dimension.kind == "reduce"}
            for axis, dimension in reduces.items():
                result = where(self._is_last(axis, tuple(reduces)), quantity(dimension), result)
        return result

    def _is_last(self, axis: Axis, among: tuple[Axis, ...]) -> Expr:
        places = [self.tiled.axes("inner").index(each) for each in among]
        return self.tiled.by_order("inner", lambda order: max(places, key=order.index) == places[among.index(axis)])
