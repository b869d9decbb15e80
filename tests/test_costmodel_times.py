"""Estimated times where they can be told by hand."""

import numpy as np
import pytest

from costmodel.stage import StageQuantities
from costmodel.times import StageTimes
from ir.expression import Evaluator
from ir.task import task
from schedule.rules import sketches
from schedule.target import Target

ONE_THREAD = Target("generic", "", lanes=16, vector_registers=32, l1_bytes=1 << 15, l2_bytes=1 << 20, l3_bytes=1 << 25, threads=1)


def times(text: str, target: Target = ONE_THREAD, **wanted: int) -> dict[str, float]:
    """Of the default schedule with some columns as wanted, of the first stage of the first sketch."""
    sketch = sketches(task(text).program, target)[0]
    row = dict(zip(sketch.space.names, sketch.default_row().tolist(), strict=True)) | wanted
    X = sketch.space.canonical(np.array([[row[name] for name in sketch.space.names]]))
    stage = StageQuantities(sketch.stages[0], target)
    quantities = StageTimes(stage).quantities()
    return dict(zip(quantities, Evaluator(list(quantities.values()), sketch.space.symbols)(X)[0].tolist(), strict=True))


def test_a_multiply_add_takes_half_a_cycle_where_nothing_else_is_in_the_way():
    found = times("matmul:m=64,n=64,k=4096", **{"n.register": 64, "m.register": 6})
    assert found["half_cycles.updates"] == pytest.approx(64 * 64 * 4096 / 16, rel=0.05)


def test_a_long_sum_waits_for_its_accumulator_and_a_short_one_does_not():
    long, short = (
        times("reduce:function=sum,shape=10000x16,axes=0", unroll=1),
        times("max_pool2d:c=16,h=60,w=60,r=3,s=3,stride=2", **{"ow.register": 1, "oh.register": 1}),
    )
    assert long["half_cycles.updates"] > 4 * 10000  # more than two cycles for each addition, of which two could be done a cycle
    assert short["half_cycles.updates"] < 2 * (29 * 29 * 9 + 29 * 29 * 3)


@pytest.mark.parametrize(("size", "missing"), [(0.7, 0.0), (1.125, 0.5), (1.6, 1.0)])
def test_what_fits_a_cache_is_there_from_the_run_before(size, missing):
    n = int(size * ONE_THREAD.l3_bytes / 4 / 16 / 2)
    found = times(f"transpose:shape={n}x16x1,axes=0x2x1")  # as many bytes read as written
    whole = 2 * n * 16 * 4 / 4  # four bytes in half a cycle
    assert found["half_cycles.l3"] == pytest.approx(missing * whole, rel=0.01, abs=1)


def test_lanes_that_lie_apart_in_the_output_are_stored_one_by_one():
    apart = [sketch for sketch in sketches(task("concat:shapes=64x48.64x16,axis=1").program, ONE_THREAD) if sketch.name == "fused_tile_d0"]
    together = [sketch for sketch in sketches(task("concat:shapes=64x48.64x16,axis=1").program, ONE_THREAD) if sketch.name == "fused_tile_d1x0"]
    stores = [StageTimes(StageQuantities(sketch.stages[0], ONE_THREAD))._stores_of_vector() for (sketch,) in (apart, together)]
    assert stores == [16, 1]
