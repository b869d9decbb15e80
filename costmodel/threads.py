"""How the threads share the chunks of a stage: each takes as many neighbouring ones, in the order of the parallel loop, as any other, or one more.

Chunks at the end of an axis may be cut short, so as many chunks need not be as much work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial

from costmodel.access import LINE_BYTES
from costmodel.loops import of_loop
from ir.expression import Expr, add, both, ceil_div, floor_div, less, maximum, minimum, mod, mul, sub, where
from ir.program import Axis
from schedule.sketch import TiledStage


@dataclass(frozen=True)
class ThreadShares:
    """Of a stage with so many chunks for so many threads."""

    tiled: TiledStage
    chunks: Expr
    threads: int

    @cached_property
    def busy(self) -> Expr:
        """Threads that get a chunk."""
        return minimum(self.chunks, self.threads)

    @cached_property
    def turns(self) -> Expr:
        """Chunks that the thread with the most of them executes."""
        return ceil_div(self.chunks, self.busy)

    @cached_property
    def points(self) -> int:
        """Positions of the axes that have chunks."""
        return math.prod(axis.extent for axis in self.tiled.axes("parallel"))

    @cached_property
    def busiest_points(self) -> Expr:
        """Those of them that the busiest thread visits: exactly, where chunks of one axis alone are cut short; of several axes and more than two threads, the
        most that the first thread with one chunk more than others and the last thread visit, and at least the mean."""
        more = mod(self.chunks, self.busy)  # threads that have one chunk more than others
        first_with_more = where(more, sub(ceil_div(self.busy, maximum(more, 1)), 1), 0)
        result = ceil_div(self.points, self.busy)
        for number in (first_with_more, sub(self.busy, 1)):
            first, end = (floor_div(mul(turn, self.chunks), self.busy) for turn in (number, add(number, 1)))
            result = maximum(result, sub(self._points_before(end), self._points_before(first)))
        return result

    def of_busiest(self, quantity: Expr) -> Expr:
        """The share of a quantity, spread evenly over the points, that the busiest thread has."""
        if self.threads == 1:
            return quantity
        return ceil_div(mul(quantity, self.busiest_points), self.points)

    @cached_property
    def shared_lines(self) -> Expr:
        """Cache lines of the output that two threads write, each of which waits again and again until the other one has written: of the border in the middle of
        the chunks, one line at each position of the axes along which the output's elements are further apart; none where all of these are borders of lines."""
        write = self.tiled.write
        in_chunks = self.tiled.in_chunks(write.tensor)
        if self.threads == 1 or in_chunks == 1:
            return 0
        axes = [axis for axis in self.tiled.axes("parallel") if axis.extent > 1]
        lines = add(0, *(mul(self._has_border(axis), self._border_lines(axis)) for axis in axes))
        return where(both(less(1, self.busy), sub(1, in_chunks)), lines, 0)

    def _has_border(self, axis: Axis) -> Expr:
        """Whether the border in the middle lies between chunks of the axis."""
        inside = mul(*(where(is_inside, self.tiled.tilings[other].count(2), 1) for other, is_inside in self._are_inside(axis).items()))  # chunks
        count = self.tiled.tilings[axis].count(2)
        before = floor_div(mul(self.chunks, floor_div(self.busy, 2)), self.busy)
        return both(less(1, count), less(0, mod(before, mul(count, inside))))

    def _border_lines(self, axis: Axis) -> Expr:
        """Lines that a border along the axis cuts."""
        write, tilings = self.tiled.write, self.tiled.tilings
        line, stride = LINE_BYTES // write.tensor.element_bytes, abs(write.stride(axis))
        steps = {other: abs(write.stride(other)) for other in self.tiled.stage.spatial if other.extent > 1}
        apart = {other: step for other, step in steps.items() if step > stride}
        offset = sum(index.constant * step for index, step in zip(write.indices, write.tensor.strides, strict=True))
        is_ragged = 1 if any(step % line for step in (offset, *apart.values())) else less(0, mod(mul(tilings[axis].sizes[2], stride), line))
        are_inside = self._are_inside(axis)
        positions = (where(are_inside.get(other, 1), other.extent, minimum(tilings[other].sizes[2], other.extent)) for other in apart)
        return mul(is_ragged, *positions)

    def _are_inside(self, axis: Axis) -> dict[Axis, Expr]:
        """Of the other axes with chunks, whether their loop is inside of that of the axis."""
        place = partial(self.tiled.position, "parallel")
        return {other: less(place(axis), place(other)) for other in self.tiled.axes("parallel") if other != axis}

    def _points_before(self, chunks: Expr) -> Expr:
        """Positions in the first so many chunks."""
        points: Expr = 0
        width: Expr = 1  # of the axes outside, what the chunk that comes next covers
        for number, (size, _, extent) in enumerate(self._loops):
            chunks_inside, points_inside = self._inside(number)
            at = floor_div(chunks, chunks_inside)
            before, after = (minimum(mul(turn, size), extent) for turn in (at, add(at, 1)))
            points = add(points, mul(width, before, points_inside))
            width = mul(width, sub(after, before))
            chunks = sub(chunks, mul(at, chunks_inside))
        return points

    def _inside(self, number: int) -> tuple[Expr, Expr]:
        """(chunks, positions) of the loops inside of one."""
        inside = self._loops[number + 1 :]
        return mul(*(count for _, count, _ in inside)), mul(*(extent for _, _, extent in inside))

    @cached_property
    def _loops(self) -> list[tuple[Expr, Expr, Expr]]:
        """Of each loop over chunks, the outermost first: (size of a chunk, chunks, extent) of its axis."""
        tilings = {axis: self.tiled.tilings[axis] for axis in self.tiled.axes("parallel")}
        by_axis: tuple[dict[Axis, Expr], ...] = (
            {axis: minimum(tiling.sizes[2], axis.extent) for axis, tiling in tilings.items()},
            {axis: tiling.count(2) for axis, tiling in tilings.items()},
            {axis: axis.extent for axis in tilings},
        )
        found = [[of_loop(self.tiled, "parallel", number, values) for values in by_axis] for number in range(len(tilings))]
        return [(size, count, extent) for size, count, extent in found]
