"""What the next block reads is asked for in time: the right lines, and only where it is worth it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from machines import HOST, Machine
from numpy.typing import NDArray
from operator_samples import random_inputs, target
from test_codegen_kernel import expected, run_guarded
from test_codegen_prefetch_chunk import ASKED, seen

from codegen.build import HOST_TRIPLE, assembly
from codegen.check import check_output
from codegen.kernel import llvm_text
from codegen.lower import lower
from codegen.prefetch_block import LEAST_UPDATES, LINE_BYTES, MOST_LINES
from ir.count import Executions, stored_addresses, trace
from ir.nest import For, Load, Nest, loads, nest_text
from ir.program import FLOAT_BYTES
from ir.task import task
from schedule.rules import sketches
from schedule.sketch import PACK_LEVELS, Sketch
from schedule.target import Target

SMALL = replace(target(), l2_bytes=16 << 10)  # of two threads, a tensor of more than 16 KB is not kept
MATMUL = "batch_matmul:batch=4,m=64,n=64,k=64,b=variable,epilogue=none"
TEXTS = [MATMUL, "einsum:equation=bihd.bjhd.bhij,sizes=b2.d32.h4.i32.j64,b=variable,epilogue=none", "conv2d:n=8,c=32,h=10,w=10,k=64,r=3,s=3,pad=0,layout=nhwc"]
BANDS = {"0": "slice", "1": "outer", "2": "block"}  # by the last letter of a loop's variable, but for those within a slice
AROUND = {"none": ("chunk", "outer", "slice", "block"), "chunk": ("chunk",), "block": ("chunk", "outer"), "slice": ("chunk", "outer", "slice")}


def direct(text: str, machine: Target) -> Sketch:
    return next(sketch for sketch in sketches(task(text).program, machine) if not sketch.stages[0].is_across)


def rows_without_rests(sketch: Sketch, n_rows: int) -> Iterator[NDArray[np.int64]]:
    """Random rows whose sizes are powers of two, as those of TEXTS are, so that no tile is cut short, and slices of whole lines."""
    rng, sizes = np.random.default_rng(0), re.compile(r".*\.(register|block|chunk|slice)|unroll")
    for row in sketch.space.sample(n_rows, rng):
        wishes = dict(zip(sketch.space.names, row.tolist(), strict=True))
        for name, column in zip(sketch.space.names, sketch.space.columns, strict=True):
            if sizes.fullmatch(name):
                least = LINE_BYTES // FLOAT_BYTES if name.endswith(".slice") else 1
                wishes[name] = int(rng.choice([size for size in column.choices if size.bit_count() == 1 and size >= least]))
        found = sketch.space.row(wishes, rng)[0]
        if all(number.bit_count() == 1 for name, number in zip(sketch.space.names, found.tolist(), strict=True) if sizes.fullmatch(name)):
            yield found


def band(loop: For, reduced: Sequence[str]) -> str:
    axis, level = loop.variable.name[:-1], loop.variable.name[-1]
    return "inner" if axis in reduced and level != "0" else BANDS.get(level, loop.variable.name)


def lines_by_place(executions: Executions, load: Load, around: Sequence[str], reduced: Sequence[str]) -> dict[tuple[int, ...], set[int]]:
    """The cache lines of a load by the values of the loops around its block, in order."""
    lines = executions.addresses(load.buffer, load.indices) * FLOAT_BYTES // LINE_BYTES
    columns = [i for i, loop in enumerate(executions.loops) if band(loop, reduced) in around]
    found: dict[tuple[int, ...], set[int]] = {}
    for place, line in zip(executions.points[:, columns].tolist(), lines.tolist(), strict=True):
        found.setdefault(tuple(place), set()).add(line)
    return found


def read_and_asked(nest: Nest, name: str, level: str, reduced: Sequence[str]) -> tuple[dict[tuple[int, ...], set[int]], dict[tuple[int, ...], set[int]]]:
    """The lines of the tensor that are read, and those that are asked for, by place."""
    read: dict[tuple[int, ...], set[int]] = {}
    asked: dict[tuple[int, ...], set[int]] = {}
    for executions in trace(replace(nest, body=tuple(seen(nest.body)))).stores:
        for load in (load for load in loads(executions.store.value) if load.buffer.name == name):
            into = asked if executions.store.buffer == ASKED else read
            for place, lines in lines_by_place(executions, load, AROUND[level], reduced).items():
                into.setdefault(place, set()).update(lines)
    return read, asked


@pytest.mark.parametrize("text", TEXTS)
def test_a_block_asks_for_what_the_next_one_reads(text: str) -> None:
    """All of it, in the block before, and nothing else; but for the share of the last step, which is not asked for or reaches beyond."""
    sketch, asking = direct(text, SMALL), set[str]()
    reduced = [axis.name for axis in sketch.stages[0].stage.reduce]
    for row in rows_without_rests(sketch, 100):
        nest = lower(sketch, row, SMALL).kernel
        for operand in (operand for operand in sketch.instantiate(row)[0].operands if not operand.prepared):
            assert isinstance(operand.level, int)
            level, name = PACK_LEVELS[operand.level], operand.read.tensor.name
            if level == "root" or f"prefetch {name}[" not in nest_text(nest):
                continue
            read, asked = read_and_asked(nest, name, level, reduced)
            # Where loops that do not move the operand are further in, several places in a row read the same.
            regions: list[tuple[set[int], set[int]]] = []
            for place in sorted(read):
                if not regions or read[place] != regions[-1][0]:
                    regions.append((read[place], set()))
                regions[-1][1].update(asked.get(place, set()))
            for (_, ahead), (following, _) in itertools.pairwise(regions):
                assert len(following - ahead) <= MOST_LINES
                assert len(ahead - following) <= MOST_LINES
            asking.add(level)
    assert len(asking) > 1


def prefetches(text: str, machine: Target, **wishes: int) -> set[str]:
    """What a kernel asks for."""
    sketch = direct(text, machine)
    row = sketch.space.row({**sketch.default, **wishes}, np.random.default_rng(0))[0]
    return set(re.findall(r"prefetch (\w+)\[.*\] into (L\d(?: to write)?)", nest_text(lower(sketch, row, machine).kernel)))


@pytest.mark.parametrize(
    ("text", "l2_bytes", "unroll", "asked"),
    [
        (MATMUL, 16 << 10, 8, {("a", "L2"), ("b", "L2"), ("c", "L1 to write")}),
        (MATMUL, 64 << 10, 8, set()),  # what a thread reads and writes stays in L2
        (MATMUL, 8 << 10, 8, {("a", "L2"), ("c", "L1 to write")}),  # of b, a block is too large
        (MATMUL, 16 << 10, 1, {("c", "L1 to write")}),  # a step has few updates
        (MATMUL.replace("k=64", f"k={LEAST_UPDATES - 16}"), 4 << 10, 8, {("a", "L2"), ("b", "L2")}),  # a reduction is too short for its result
        ("conv2d:n=2,c=64,h=16,w=16,k=64,r=3,s=3,groups=64,layout=nhwc", 64 << 10, 8, set()),  # 9 updates to a line
    ],
)
def test_where_it_is_worth_it(text: str, l2_bytes: int, unroll: int, asked: set[str]) -> None:
    machine = replace(SMALL, lanes=16, vector_registers=32, l2_bytes=l2_bytes)
    sizes = {"n.register": 32, "m.register": 4, "n.block": 1, "m.block": 4, "n.chunk": 1, "m.chunk": 2, "a.pack": 0, "b.pack": 3}
    assert prefetches(text, machine, unroll=unroll, **sizes) == asked


@pytest.mark.parametrize("text", TEXTS)
def test_results_are_right(machine: Machine, text: str) -> None:
    """Though the last block asks for what is not there."""
    small = replace(machine.with_threads(2), target=replace(machine.with_threads(2).target, l2_bytes=8 << 10))
    problem, sketch = task(text), direct(text, small.target)
    inputs = random_inputs(problem.program)
    for row in itertools.islice(rows_without_rests(sketch, 20), 3):
        check_output(run_guarded(small, problem, sketch, row, inputs), expected(problem.program, sketch, inputs))


def test_updates_are_apart() -> None:
    """LLVM orders the instructions of a basic block: with prefetches among them, updates of a large register tile spilled half of their operands."""
    if not (HOST_TRIPLE.startswith("x86_64") and "+fma" in HOST.features):
        pytest.skip(f"the instructions are those of x86-64 with fused multiply-add, and this is {HOST_TRIPLE}")
    machine = replace(HOST, l2_bytes=16 << 10)
    sketch = direct(MATMUL, machine)
    row = sketch.space.row({**sketch.default, "a.pack": 0, "b.pack": 3, "unroll": 8}, np.random.default_rng(0))[0]
    blocks = re.split(r"^\.L\w+:", assembly(llvm_text(lower(sketch, row, machine), machine), machine), flags=re.MULTILINE)
    asking = [block for block in blocks if "prefetcht1" in block]
    assert asking
    assert not any(block.count("vfmadd") >= 8 for block in asking)


def test_a_register_tile_asks_for_the_lines_that_it_writes() -> None:
    """All of them, and of each that it is to be written."""
    sketch = direct(MATMUL, SMALL)
    for row in itertools.islice(rows_without_rests(sketch, 40), 10):
        lowered = lower(sketch, row, SMALL)
        asked, written = set[int](), set[int]()
        for executions in trace(replace(lowered.kernel, body=tuple(seen(lowered.kernel.body)))).stores:
            for load in (load for load in loads(executions.store.value) if executions.store.buffer == ASKED and load.buffer.name == "c"):
                asked |= set((executions.addresses(load.buffer, load.indices) * FLOAT_BYTES // LINE_BYTES).tolist())
            if executions.store.buffer.name == "c":
                written |= set((stored_addresses(executions) * FLOAT_BYTES // LINE_BYTES).tolist())
        assert asked == (set() if lowered.streams else written)
        to_write = re.findall(r'call void @"llvm.prefetch.p0"\(.*i32 1, i32 3, i32 1\)', llvm_text(lowered, SMALL))
        assert bool(to_write) != lowered.streams
