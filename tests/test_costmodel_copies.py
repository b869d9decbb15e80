"""What copies of the innermost loop's body share, against the elements that each of them reads."""

import itertools

import numpy as np
import pytest

from costmodel.copies import shared_vectors
from ir.expression import Evaluator
from ir.program import Axis
from ir.task import task
from schedule.rules import sketches
from schedule.sketch import Operand, TiledStage
from schedule.target import Target

TARGET = Target("generic", "", lanes=4, vector_registers=16, l1_bytes=32 << 10, l2_bytes=512 << 10, l3_bytes=8 << 20, threads=2)
TASKS = (
    "conv2d:c=5,h=14,w=15,k=8,r=3,s=3,stride=1",
    "conv2d:c=5,h=14,w=15,k=8,r=3,s=5,stride=2",
    "conv2d:c=5,h=14,w=15,k=8,r=3,s=3,dilation=2",
    "conv2d:c=5,h=14,w=18,k=8,r=2,s=4,stride=2x3,dilation=1x2",
    "conv2d:c=8,h=14,w=15,k=8,r=3,s=3,groups=8",
    "max_pool2d:c=8,h=14,w=15,r=3,s=3,stride=2",
    "matmul:m=9,n=8,k=20",
)


def held(operand: Operand, tiled: TiledStage, innermost: Axis, copies: int) -> int:
    """The most vectors that are read by one copy, or an earlier one, and by a later one."""
    tile = {axis: range(0, tiled.tilings[axis].sizes[0], tiled.lanes if axis == tiled.vector else 1) for axis in tiled.stage.spatial}
    axes = [axis for axis in tiled.stage.spatial if axis in operand.read.axes]
    by_copy = []
    for copy in range(copies):
        positions = (dict(zip(axes, at, strict=True)) | {innermost: copy} for at in itertools.product(*(tile[axis] for axis in axes)))
        by_copy.append({tuple(index.at({axis: at.get(axis, 0) for axis in index.axes}) for index in operand.read.indices) for at in positions})
    return max((len(set().union(*by_copy[:n]) & set().union(*by_copy[n:])) for n in range(1, copies)), default=0)


@pytest.mark.parametrize("text", TASKS)
def test_registers_hold_what_a_later_copy_reads_again(text: str) -> None:
    sketch = sketches(task(text).program, TARGET)[0]
    X = sketch.space.sample(60, np.random.default_rng(0))
    (open_stage,) = sketch.stages
    described = Evaluator([shared_vectors(open_stage, open_stage.unroll)], sketch.space.symbols)(X)[:, 0]
    expected = []
    for row in X:
        (tiled,) = sketch.instantiate(row)
        innermost = tiled.ordered("inner")[-1]
        extent, unroll = min(tiled.tilings[innermost].sizes[0], innermost.extent), tiled.unroll
        copies = extent if 2 * unroll > extent else unroll  # no loop is left
        expected.append(sum(held(operand, tiled, innermost, copies) for operand in tiled.operands))
    np.testing.assert_array_equal(described, expected)
    assert max(expected) > 0 or text.startswith("matmul")
