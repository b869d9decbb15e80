"""What fused stages hand on lies where the result will, but only where that changes no result and costs nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machines import Machine
from operator_samples import random_inputs, target
from test_codegen_kernel import expected, run_guarded

from codegen.check import check_output
from codegen.lower import lower
from ir.program import Apply, Read, affine, reads
from ir.task import task
from schedule.rules import sketches
from schedule.sketch import Sketch, TiledStage, overwritten
from schedule.target import Target

ROWS = ["softmax:shape=40x512,axis=1", "softmax:shape=3x7x37,axis=2"]


def fused(text: str, machine: Target) -> dict[str, Sketch]:
    return {sketch.name: sketch for sketch in sketches(task(text).program, machine) if sketch.fused}


def own_memory(sketch: Sketch, **wishes: int) -> set[str]:
    row = sketch.space.row({**sketch.default, **wishes}, np.random.default_rng(0))[0]
    return {buffer.name for buffer in lower(sketch, row, target()).kernel.in_scope("private")}


@pytest.mark.parametrize(
    ("text", "name", "has_own"),
    [
        (ROWS[0], "fused_across_d1", False),
        (ROWS[1], "fused_across_d2", False),
        ("softmax:shape=9x9,axis=1", "fused_tile_d0", True),  # lies the other way
        ("softmax:shape=4x40x16,axis=1", "fused_tile_d2", True),  # a chunk is in pieces in the result
        ("softmax:shape=40x16,axis=0", "fused_tile_d1", True),
    ],
)
def test_powers_lie_in_the_result_of_a_softmax(text: str, name: str, has_own: bool) -> None:
    assert ("power" in own_memory(fused(text, target())[name])) == has_own


def test_not_in_a_result_that_goes_past_the_caches() -> None:
    """Or they would be brought into the caches, where it is not wanted."""
    sketch = fused(ROWS[0], replace(target(), l3_bytes=64 << 10))["fused_across_d1"]
    (stream,) = (name for name in sketch.space.names if name.endswith("stream"))
    assert "power" in own_memory(sketch, **{stream: 1})
    assert "power" not in own_memory(sketch, **{stream: 0})


def test_not_what_is_read_elsewhere_or_unlike_the_result() -> None:
    *others, last = fused(ROWS[0], target())["fused_across_d1"].stages
    rows, _ = last.stage.spatial
    power = next(read for read in reads(last.stage.body) if read.tensor.name == "power")
    assert overwritten([*others, last]) == power.tensor

    def changed(**fields: object) -> list[TiledStage]:
        return [*others, replace(last, stage=replace(last.stage, **fields))]

    diagonal = Read(power.tensor, (affine(rows), affine(rows)))
    assert overwritten(changed(body=Apply("add", (last.stage.body, diagonal)))) is None
    assert overwritten(changed(output=replace(last.result, dtype="int32"))) is None
    assert overwritten([last, *others, last]) is None, "another stage writes the result, too"


@pytest.mark.parametrize("text", ROWS)
def test_results_are_right(machine: Machine, text: str) -> None:
    """Whatever the last stage does of a row at once, and where chunks and vectors are cut short."""
    two = machine.with_threads(2)
    problem, rng = task(text), np.random.default_rng(0)
    inputs = random_inputs(problem.program)
    for sketch in fused(text, two.target).values():
        for row in (sketch.default_row(), *sketch.space.sample(6, rng)):
            check_output(run_guarded(two, problem, sketch, row, inputs), expected(problem.program, sketch, inputs))
