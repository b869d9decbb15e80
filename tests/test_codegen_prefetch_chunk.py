"""What the next chunk reads is asked for in time: the right elements, and only where it is worth it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from machines import HOST, Machine
from numpy.typing import NDArray
from operator_samples import random_inputs, target
from test_codegen_kernel import expected, run_guarded

from codegen.build import HOST_TRIPLE, assembly
from codegen.check import check_output
from codegen.kernel import llvm_text
from codegen.lower import lower
from ir.count import Executions, trace
from ir.nest import Buffer, For, If, Load, Nest, Prefetch, Statement, Store, loads, nest_text
from ir.task import task
from schedule.rules import sketches
from schedule.sketch import Sketch
from schedule.target import Target

ASKED = Buffer("asked", (1,), "register")
SMALL = replace(target(), l1_bytes=32 << 10, l2_bytes=64 << 10)  # of a tensor of 80 KB each of two threads reads more than half of its L2
ROWS = ["softmax:shape=40x512,axis=1", "log_softmax:shape=256x80,axis=0", "layer_norm:shape=5x8x512,axes=2", "instance_norm:n=5,c=16,h=8,w=32,layout=nchw"]


def seen(body: Sequence[Statement]) -> list[Statement]:
    """The statements with a load instead of each prefetch, so that it is counted."""
    result: list[Statement] = []
    for statement in body:
        match statement:
            case For(body=inner):
                result.append(replace(statement, body=tuple(seen(inner))))
            case If(then=then, otherwise=otherwise):
                result.append(replace(statement, then=tuple(seen(then)), otherwise=tuple(seen(otherwise))))
            case Prefetch(buffer, indices):
                result.append(Store(ASKED, (0,), Load(buffer, indices)))
            case _:
                result.append(statement)
    return result


def by_chunk(executions: Executions, load: Load) -> dict[int, set[int]]:
    """The addresses of a load in each chunk."""
    addresses = executions.addresses(load.buffer, load.indices)
    (place,) = (i for i, loop in enumerate(executions.loops) if loop.kind == "parallel")
    chunks = executions.points[:, place]
    return {int(chunk): set(addresses[chunks == chunk].tolist()) for chunk in np.unique(chunks)}


def fused(text: str, machine: Target) -> Sketch:
    return next(sketch for sketch in sketches(task(text).program, machine) if sketch.fused)


def nest_of(sketch: Sketch, row: NDArray[np.int64], machine: Target) -> Nest:
    nest = lower(sketch, row, machine).kernel
    return replace(nest, body=tuple(seen(nest.body)))


@pytest.mark.parametrize("text", ROWS)
def test_a_chunk_asks_for_what_the_next_one_reads(text: str) -> None:
    """Each element once, and where anything is asked for, all that the next chunk reads."""
    sketch, n_asking = fused(text, SMALL), 0
    for row in sketch.space.sample(12, np.random.default_rng(0)):
        asked: dict[int, list[int]] = {}
        read: dict[int, set[int]] = {}
        for executions in trace(nest_of(sketch, row, SMALL)).stores:
            for load in (load for load in loads(executions.store.value) if load.buffer.scope == "input" and len(load.buffer.shape) > 1):
                for chunk, addresses in by_chunk(executions, load).items():
                    if executions.store.buffer == ASKED:
                        asked.setdefault(chunk, []).extend(addresses)
                    else:
                        read.setdefault(chunk, set()).update(addresses)
        if len({len(addresses) for addresses in read.values()}) > 1:
            continue  # chunks at the end of an axis are cut short: they ask for less, or those before them for more
        for chunk, addresses in asked.items():
            assert len(addresses) == len(set(addresses))
            assert chunk + 1 not in read or set(addresses) == read[chunk + 1]
        n_asking += bool(asked)
    assert n_asking


@pytest.mark.parametrize(
    ("text", "l1_bytes", "l2_bytes", "into"),
    [
        (ROWS[0], 32 << 10, 64 << 10, "L1"),  # two chunks of 8 KB in half of L1
        (ROWS[0], 16 << 10, 64 << 10, "L2"),
        (ROWS[0], 80 << 10, 64 << 10, None),  # what a thread reads, 40 KB, is half of L1
        (ROWS[0], 16 << 10, 16 << 10, None),  # too large for half of L2
        (ROWS[0], 16 << 10, 80 << 10, None),  # what a thread reads stays in L2
        (ROWS[2], 32 << 10, 64 << 10, "L1"),
        (ROWS[2], 16 << 10, 64 << 10, None),  # no stage computes enough
    ],
)
def test_where_it_is_worth_it(text: str, l1_bytes: int, l2_bytes: int, into: str | None) -> None:
    sketch = fused(text, SMALL)
    row = sketch.space.row({**sketch.default, sketch.space.names[0]: 4}, np.random.default_rng(0))[0]
    printed = nest_text(lower(sketch, row, replace(SMALL, l1_bytes=l1_bytes, l2_bytes=l2_bytes)).kernel)
    assert set(re.findall(r"prefetch .* into (L\d)", printed)) == ({into} if into else set())


@pytest.mark.parametrize("text", ROWS)
def test_results_are_right(machine: Machine, text: str) -> None:
    """Though the last chunk asks for what is not there."""
    small = replace(machine.with_threads(2), target=replace(machine.with_threads(2).target, l1_bytes=SMALL.l1_bytes, l2_bytes=48 << 10))
    problem, sketch = task(text), fused(text, small.target)
    inputs = random_inputs(problem.program)
    for row in (sketch.default_row(), *sketch.space.sample(2, np.random.default_rng(0))):
        check_output(run_guarded(small, problem, sketch, row, inputs), expected(problem.program, sketch, inputs))


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_line_is_asked_for_once(lanes: int) -> None:
    """However short vectors are: 16 floats are a line."""
    of = replace(SMALL, lanes=lanes)
    sketch = fused(ROWS[0], of)
    lowered = lower(sketch, sketch.default_row(), of)
    (width,) = {loop.extent for loop in _vector_loops(lowered.kernel.body) if any(isinstance(each, Prefetch) for each in loop.body)}
    assert isinstance(width, int)
    assert llvm_text(lowered, of).count('call void @"llvm.prefetch') == -(-width // 16)


def _vector_loops(body: Sequence[Statement]) -> list[For]:
    loops = [each for each in body if isinstance(each, For)]
    return [loop for loop in loops if loop.kind == "vector"] + [found for loop in loops for found in _vector_loops(loop.body)]


def test_a_maximum_is_one_instruction() -> None:
    """x86 has one that takes its second argument where the two are equal or one is NaN."""
    if not HOST_TRIPLE.startswith("x86_64"):
        pytest.skip(f"the instructions are those of x86-64, and this is {HOST_TRIPLE}")
    sketch = fused(ROWS[0], HOST)
    instructions = assembly(llvm_text(lower(sketch, sketch.default_row(), HOST), HOST), HOST)
    assert "maxps" in instructions
    assert "cmpleps" not in instructions
    assert "cmpltps" not in instructions
