"""What the next block of a reduction reads is asked for while a thread computes, and so are the lines that a register tile is going to write.

Where the operands of a product lie in memory, or in a cache that many cores share, a thread waits for them at the start of each block, as it packs
them or as it first reads them in place, and does not compute: it sees a few hundred instructions ahead, a block has many thousand. So each step of the
innermost loop of the reduction asks for its share of the lines that the next block has of an operand. It does so

- where a thread's L2 cache does not keep the tensor from one run to the next,
- where what a block has of it fits into half of that cache, and
- where the share is small. A core has places for some tens of lines on their way; with many asked for at once all that follows has to wait, and where
  few updates belong to a line, memory is what everything waits for anyway.

A line that is written has to be fetched, too. The register tile asks for those of its result as it begins, where its reduction is long enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from codegen.stage_scope import Loop, Place, StageScope, decode
from codegen.workspace import ALIGNMENT
from ir.expression import Expr, add, less, mul
from ir.nest import For, If, Prefetch, Statement
from ir.program import Axis
from schedule.sketch import Operand

LINE_BYTES = ALIGNMENT
MOST_LINES = 4  # that a step asks for, of each operand
LEAST_UPDATES = 32  # of vectors, to a line

# The bands whose loops go from one packing of an operand to the next, by the level at which it is packed. Of what is read in place, a block is what a
# register tile has of a slice.
AROUND = {"chunk": ("parallel",), "block": ("parallel", "outer"), "slice": ("parallel", "outer", "slice"), "none": ("parallel", "outer", "slice", "block")}


def next_block(scope: StageScope, place: Place, n_updates: int) -> list[Statement]:
    """What a step asks for that is inside of the loops of `place` and updates so many vectors."""
    return [statement for operand in scope.tiled.operands if _is_far(scope, operand) for statement in _share(scope, operand, place.loops, n_updates)]


def claims_result(scope: StageScope) -> bool:
    """Whether a register tile asks for the lines of its result."""
    n_updates = math.prod(axis.extent for axis in scope.stage.reduce)
    is_far = scope.output.scope == "output" and not scope.target.keeps(scope.tiled.result.n_bytes)
    return is_far and not scope.streams and n_updates >= LEAST_UPDATES and abs(scope.tiled.write.stride(scope.tiled.vector)) == 1


def _is_far(scope: StageScope, operand: Operand) -> bool:
    """Whether the operand comes from where a thread has to wait for it, and not from computing it."""
    if operand.prepared or operand.prologue is not None or scope.level(operand) not in AROUND:
        return False
    return scope.memory(operand.read.tensor).scope == "input" and not scope.target.keeps(operand.read.tensor.n_bytes)


def _share(scope: StageScope, operand: Operand, loops: Sequence[Loop], n_updates: int) -> list[Statement]:
    """A step's share of the lines that the next block has of the operand. The block changes with the innermost of the loops around it along an axis of the
    operand; the steps until then are those of all loops further in."""
    read, buffer = operand.read, scope.memory(operand.read.tensor)
    moving = [i for i, loop in enumerate(loops) if loop.band in AROUND[scope.level(operand)] and loop.axis in read.axes and loop.count > 1]
    if not moving:
        return []
    around, steps = loops[: moving[-1] + 1], loops[moving[-1] + 1 :]
    corner, sizes = _next_box(scope, operand, around)
    counts = [*sizes[:-1], -(-sizes[-1] * buffer.element_bytes // LINE_BYTES)]
    n_lines, n_steps = math.prod(counts), math.prod(loop.count for loop in steps)
    share = -(-n_lines // n_steps)
    if share > MOST_LINES or share * LEAST_UPDATES > n_updates or n_lines * LINE_BYTES > scope.target.l2_bytes / 2:
        return []
    first, each = mul(_number(steps), share), scope.variable(f"{buffer.name}_line", share)
    *outer, line = (digit for _, digit in decode(add(first, each), list(enumerate(counts))))
    place = (*outer, mul(line, LINE_BYTES // buffer.element_bytes))
    ask = For(each, share, (Prefetch(buffer, tuple(map(add, corner, place)), 2),), "unrolled")
    # The last step asks for nothing: were there no branch, the prefetches were in one basic block with the updates, which LLVM then orders badly.
    return [If(less(first, min(n_lines, share * (n_steps - 1))), (ask,))]


def _next_box(scope: StageScope, operand: Operand, around: Sequence[Loop]) -> tuple[list[Expr], list[int]]:
    """First corner and size, along each dimension of the tensor, of what the next block has of an operand."""
    extents = {axis: _extent(scope, operand, axis) for axis in operand.read.axes}
    start = _next_start(around)
    corner: list[Expr] = []
    sizes: list[int] = []
    for index, size in zip(operand.read.indices, operand.read.tensor.shape, strict=True):
        ends = [factor * (extents[axis] - 1) for axis, factor in index.terms]
        corner.append(add(index.at({axis: start.get(axis, 0) for axis in index.axes}), sum(end for end in ends if end < 0)))
        sizes.append(min(size, 1 + sum(map(abs, ends))))
    return corner, sizes


def _extent(scope: StageScope, operand: Operand, axis: Axis) -> int:
    """Positions along the axis of what a block has of an operand."""
    level = scope.level(operand)
    if axis in scope.stage.reduce:
        return min(axis.extent, scope.size(axis, 0)) if level in ("slice", "none") else axis.extent
    return min(axis.extent, scope.size(axis, {"chunk": 2, "none": 0}.get(level, 1)))


def _next_start(loops: Sequence[Loop]) -> dict[Axis, Expr]:
    """Where the next tile of the innermost loop begins, or the first one of the next round of it."""
    start: dict[Axis, Expr] = {}
    for loop, number in decode(add(_number(loops), 1), [(loop, loop.count) for loop in loops]):
        start[loop.axis] = add(start.get(loop.axis, 0), mul(number, loop.size))
    return start


def _number(loops: Sequence[Loop]) -> Expr:
    """Of the place, counted through all of the loops."""
    number: Expr = 0
    for loop in loops:
        number = add(mul(number, loop.count), loop.number)
    return number
