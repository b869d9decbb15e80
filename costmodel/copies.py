"""What copies of the innermost loop's body share: where windows overlap, one copy reads again what another has read.

LLVM keeps such a value in a register from its first use to its last. Where these and the accumulators do not fit together it spills accumulators, with a store
and a load for each of their updates: of two schedules of a 3×3 convolution with stride 2 that have the same register tile, the one whose copies lie along the
overlap took 447 µs, the other 185 (AVX2).
"""

from __future__ import annotations

import math

from costmodel.loops import is_at
from ir.expression import Expr, add, ceil_div, less, maximum, minimum, mul, sub, where
from ir.program import Affine, Axis
from schedule.sketch import Operand, TiledStage


def shared_vectors(tiled: TiledStage, copies: Expr) -> Expr:
    """Vectors, broadcasts included, that registers hold from one of `copies` copies of a step to a later one, of operands that move along the innermost axis;
    others stay where they are for the whole loop."""
    result: Expr = 0
    for innermost in tiled.axes("inner"):
        shared = add(0, *(_shared(tiled, operand, index, innermost, copies) for operand in tiled.operands for index in operand.read.indices))
        result = where(is_at(tiled, "inner", innermost, -1), shared, result)
    return result


def _shared(tiled: TiledStage, operand: Operand, index: Affine, innermost: Axis, copies: Expr) -> Expr:
    """Of an operand, along the dimension that has this index: position t of copy j reads factor·t + step·j."""
    along = [axis for axis in index.axes if axis in tiled.stage.spatial]
    if innermost not in index.axes or len(along) != 1 or along[0] == tiled.vector:
        return 0
    factor, step = abs(index.factor(along[0])), abs(index.factor(innermost))
    apart, shift = factor // math.gcd(factor, step), step // math.gcd(factor, step)  # copy j + apart reads at t what copy j reads at t + shift
    extent = minimum(tiled.tilings[innermost].sizes[0], innermost.extent)
    written = where(less(extent, mul(copies, 2)), extent, copies)  # a loop of one iteration is none, and what is left over follows it
    overlap = maximum(0, sub(tiled.tilings[along[0]].sizes[0], shift))
    others = [
        ceil_div(tiled.tilings[axis].sizes[0], tiled.lanes) if axis == tiled.vector else tiled.tilings[axis].sizes[0]
        for axis in operand.read.axes
        if axis in tiled.stage.spatial and axis != along[0]
    ]
    return mul(minimum(apart, maximum(0, sub(written, apart))), overlap, *others)
