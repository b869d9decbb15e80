"""Where register tiles lie that read a padded input in place: those at its edge run a piece of code that asks of each element whether there is one."""

from __future__ import annotations

from ir.expression import Expr, ceil_div, floor_div, maximum, minimum, mul, sub, where
from ir.program import Affine, Axis
from schedule.sketch import Operand, TiledStage


def interior_points(tiled: TiledStage) -> Expr:
    """Positions of the output in register tiles that read nothing beyond an edge. Where several spatial axes move along the same dimension of an input, as in
    transposed convolutions by phases, none is counted to be at its edge."""
    along: dict[Axis, Expr] = {axis: axis.extent for axis in tiled.stage.spatial}
    some: Expr = 1  # 0 where an element may be missing whatever the position
    for operand in (operand for operand in tiled.operands if tiled.is_guarded(operand) != 0):
        for index, size, leaves in zip(operand.read.indices, operand.read.tensor.shape, operand.read.leaves, strict=True):
            axes = [axis for axis in index.axes if axis in along]
            if leaves and not axes:
                some = where(tiled.is_guarded(operand), 0, some)
            if leaves and len(axes) == 1 and index.factor(axes[0]) > 0:
                along[axes[0]] = minimum(along[axes[0]], _along(tiled, operand, index, size, axes[0]))
    return mul(some, *along.values())


def _along(tiled: TiledStage, operand: Operand, index: Affine, size: int, axis: Axis) -> Expr:
    """Positions of the axis in register tiles all of whose elements along a dimension of `size` are there."""
    factor, tile = index.factor(axis), minimum(tiled.tilings[axis].sizes[0], axis.extent)
    ends = [sorted((0, step * (reduce.extent - 1))) for reduce, step in index.terms if reduce != axis]
    low, high = (index.constant + sum(end[i] for end in ends) for i in (0, 1))
    # Tile i reads from factor·i·tile + low to factor·((i + 1)·tile - 1) + high.
    first = ceil_div(max(0, -low), mul(factor, tile))
    leaves_at_end = factor * (axis.extent - 1) + high >= size
    end = mul(floor_div(max(0, size - 1 - high + factor), mul(factor, tile)), tile) if leaves_at_end else axis.extent
    inside = maximum(0, sub(minimum(end, axis.extent), mul(first, tile)))
    asks = tiled.is_guarded(operand)
    for window in tiled.windows:
        if window.reduce in index.axes:
            asks = mul(asks, sub(1, tiled.is_confined(window)))
    return where(asks, inside, axis.extent)
