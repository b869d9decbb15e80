"""Features and code cannot disagree: symbolic quantities against what is counted on the lowered nest."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import elementwise_texts, movement_texts, pool_texts, product_texts, reduce_texts, row_texts, target, typed_texts

from codegen.lower import lower
from costmodel.access import LINE_BYTES
from costmodel.feature_table import FEATURE_VERSION, FEATURES, GROUPS, SCALES
from costmodel.features import START_HALF_CYCLES, FeatureExtractor
from costmodel.stage import ROLES, StageQuantities, operands_by_role
from costmodel.threads import ThreadShares
from costmodel.times import StageTimes
from ir.count import Executions, Trace, memory_loads, n_calls, trace
from ir.expression import Evaluator
from ir.nest import Call, For, If, Load, Nest, NestValue, Statement, Store, nest_text
from ir.program import FLOAT_BYTES, Apply, Constant, Value, reads
from ir.task import Task, task
from schedule.rules import sketches
from schedule.sketch import BANDS, PACK_LEVELS, Sketch, TiledStage, turned_axis
from schedule.target import Target

TARGET = Target("generic", "", lanes=16, vector_registers=32, l1_bytes=48 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20, threads=2)
SMALL_TARGET = Target("generic", "", lanes=4, vector_registers=16, l1_bytes=1 << 12, l2_bytes=1 << 14, l3_bytes=1 << 16, threads=3)
MANY_THREADS = replace(SMALL_TARGET, threads=7)
MOST_POINTS = 60_000  # of a random program: each of them is looked at


# --- random candidates ----------------------------------------------------------------------------------------------


def _matmul() -> st.SearchStrategy[str]:
    size = st.integers(1, 40)
    return st.builds(
        lambda name, batch, m, n, k, b, epilogue: f"{name}:{f'batch={batch},' if name == 'batch_matmul' else ''}m={m},n={n},k={k},b={b},epilogue={epilogue}",
        st.sampled_from(["matmul", "batch_matmul"]),
        st.integers(1, 3), size, size, size,
        st.sampled_from(["constant", "variable"]),
        st.sampled_from(["none", "bias+relu"]),
    )  # fmt: skip


@st.composite
def _conv2d(draw: st.DrawFn) -> str:
    r, s = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    h, w = (draw(st.integers(dilation * (size - 1) + 1, 9)) for size in (r, s))
    layout = draw(st.sampled_from(["nhwc", "nchw", "nchwc"]))
    groups = draw(st.sampled_from([1, 2, 16])) if layout != "nchwc" else 1
    c, k = (groups * draw(st.integers(1, 20 if groups == 1 else 3)) for _ in "ck")
    n, pad, epilogue = draw(st.integers(1, 2)), draw(st.integers(0, 1)), draw(st.sampled_from(["none", "bias", "add+relu"]))
    return f"conv2d:n={n},c={c},h={h},w={w},k={k},r={r},s={s},stride={stride},pad={pad},groups={groups},dilation={dilation},layout={layout},epilogue={epilogue}"


def _split() -> st.SearchStrategy[str]:
    """Outputs so small that the reduction is split."""
    return st.builds(lambda m, n, k: f"matmul:m={m},n={n},k={16 * k}", st.integers(1, 5), st.integers(1, 20), st.integers(4, 12))


def _winograd() -> st.SearchStrategy[str]:
    """3x3 windows that move by one, with channels enough."""
    return st.builds(
        lambda h, w, c, k, pad, layout, epilogue: f"conv2d:c={c},h={h},w={w},k={k},r=3,s=3,pad={pad},layout={layout},epilogue={epilogue}",
        st.integers(4, 7), st.integers(4, 7), st.integers(4, 9), st.integers(4, 9), st.integers(0, 1), st.sampled_from(["nhwc", "nchw"]),
        st.sampled_from(["none", "bias+add+relu"]),
    )  # fmt: skip


class Candidate:
    def __init__(self, task: Task, sketch: Sketch, row: np.ndarray, target: Target) -> None:
        self.task, self.sketch, self.row, self.target = task, sketch, row, target

    def __repr__(self) -> str:
        row = " ".join(f"{name}={number}" for name, number in zip(self.sketch.space.names, self.row, strict=True))
        return f"{self.task.key} {self.sketch.name} {row} {self.target.lanes} lanes {self.target.threads} threads"

    @property
    def stages(self) -> tuple[TiledStage, ...]:
        return self.sketch.instantiate(self.row)

    @cached_property
    def quantities(self) -> dict[str, int]:
        """Those of the slots, and those of each stage as `stage0.…`."""
        raw = FeatureExtractor(self.sketch, self.target).raw(self.row[None, :])
        found = {name: int(values[0]) for name, values in raw.items()}
        for number, tiled in enumerate(self.sketch.stages):
            stage = StageQuantities(tiled, self.target)
            quantities = stage.all() | StageTimes(stage).quantities()
            values = Evaluator(list(quantities.values()), self.sketch.space.symbols)(self.row[None, :])[0]
            found |= {f"stage{number}.{name}": int(value) for name, value in zip(quantities, values, strict=True)}
        return found

    @cached_property
    def kernel(self) -> Nest:
        return lower(self.sketch, self.row, self.target).kernel

    @cached_property
    def trace(self) -> Trace:
        return trace(self.kernel)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    small = (product_texts(16), reduce_texts(16), elementwise_texts(16), typed_texts(16), row_texts(12), pool_texts(8), movement_texts(16))
    texts = st.one_of(_matmul(), _conv2d(), _conv2d(), _winograd(), _split(), *small)
    found = draw(texts.map(task).filter(lambda each: sum(stage.n_points for stage in each.program.stages) <= MOST_POINTS))
    target = draw(st.sampled_from([TARGET, SMALL_TARGET, MANY_THREADS]))
    sketch = draw(st.sampled_from(sketches(found.program, target)))
    row = sketch.space.sample(1, np.random.default_rng(draw(st.integers(0, 1 << 30))))[0]
    return Candidate(found, sketch, row, target)


# --- the lowered nest, taken apart ----------------------------------------------------------------------------------


class StageTrace:
    """What a kernel executes of one tiled stage; `prefix` begins the names of the stage's loops."""

    def __init__(self, tiled: TiledStage, prefix: str, fused: bool, found: Trace, lanes: int) -> None:
        self.tiled, self.stage, self.prefix, self.lanes = tiled, tiled.stage, prefix, lanes
        self.output = tiled.result.name
        chunk = "chunk" if fused else f"{prefix}chunk"
        own = {self.output, f"{prefix}accumulator", *(f"{prefix}{operand.read.tensor.name}_packed" for operand in tiled.operands)}
        self.loops = [run for run in found.loops if (*run.around, run.loop)[0].variable.name == chunk and run.loop.variable.name.startswith(prefix)]
        of_loop = [execution for execution in found.stores if execution.loops[0].variable.name == chunk]
        mine = [execution for execution in of_loop if all(loop.variable.name.startswith(prefix) for loop in execution.loops[1:])]
        self.stores = [execution for execution in mine if execution.store.buffer.name in own] if fused else of_loop
        self.rows = [e for e in mine if is_row(e)]
        self.updates = [e for e in self.stores if e.store.buffer.scope == "register" and e.store.reduction]
        self.starts = [e for e in self.stores if e.store.buffer.scope == "register" and isinstance(e.store.value, Constant)]
        tile = [e for e in self.stores if e.store.buffer.name == f"{prefix}accumulator"]
        self.reloads = [e for e in tile if e.store.reduction is None and isinstance(e.store.value, Load)]
        written = [e for e in self.stores if e.store.buffer.name == self.output]
        self.finishes = [e for e in written if not self._in_block_epilogue(e)]
        self.block_epilogue = [e for e in written if self._in_block_epilogue(e)]

    def _in_block_epilogue(self, execution: Executions) -> bool:
        names = {f"{self.prefix}{self.tiled.vector.name}e{end}" for end in ("", "o", "r")}
        return any(loop.variable.name in names for loop in execution.loops)

    def band(self, loop: For) -> str:
        """The band of a loop, "" for a loop of the register tile or of packing."""
        name = loop.variable.name.removeprefix(self.prefix)
        if name == "chunk":
            return "parallel"
        bands = {f"{axis.name}{level}": band for axis in self.stage.spatial for level, band in (("1", "outer"), ("2", "block"))}
        bands |= {f"{axis.name}{level}": band for axis in self.stage.reduce for level, band in (("0", "slice"), ("1", "inner"), ("u", "inner"), ("r", "inner"))}
        return bands.get(name, "")

    def columns(self, execution: Executions, bands: tuple[str, ...]) -> list[int]:
        return [i for i, loop in enumerate(execution.loops) if self.band(loop) in bands]

    def positions(self, bands: tuple[str, ...]) -> np.ndarray:
        """Different positions in the loops of `bands` at which a register tile is worked on, a row each.

        The steps of the innermost loop and those that unrolling leaves are different statements, as are variants of the register tile.
        """
        found = []
        for number, execution in enumerate(self.updates if "inner" in bands and self.updates else self.finishes):
            rows = np.unique(execution.points[:, self.columns(execution, bands)], axis=0)
            if "inner" in bands and self.updates:
                width = len(self.stage.reduce) + 1 - len(self.columns(execution, ("inner",)))
                rows = np.column_stack([rows, np.zeros((len(rows), width), dtype=int), np.full(len(rows), number)])
            found.append(rows)
        return np.unique(np.concatenate(found), axis=0)

    def most_iterations(self, band: str) -> int:
        """The most iterations that the loops of a band make together for one execution of them."""
        outer = BANDS[: BANDS.index(band)]
        width = len(self.columns((self.updates or self.finishes)[0], outer))
        rows = self.positions((*outer, band))
        return int(np.unique(rows[:, :width], axis=0, return_counts=True)[1].max(initial=0)) if width else len(rows)

    def longer_loops(self, band: str) -> list[str]:
        """Axes of the loops of a band with more than one iteration, the outermost first."""
        runs = [run for run in self.loops if self.band(run.loop) == band and len(run.extents) and run.extents.max() > 1]
        return list(dict.fromkeys(run.loop.variable.name.removeprefix(self.prefix)[:-1] for run in runs))

    @property
    def bands(self) -> tuple[str, ...]:
        """Those whose iterations are loops; across a reduce axis a step is a vector of a vector loop."""
        return BANDS[:-1] if self.tiled.is_across else BANDS

    def element_bytes(self, role: str) -> int:
        return (self.stage.output if role == "output" else operands_by_role(self.tiled)[role].read.tensor).element_bytes

    @property
    def is_confined(self) -> bool:
        """Whether some loop leaves out padding, or guards do, or it is made of what is inside: then less is touched than by a whole box, which is what
        footprints describe."""
        if self.stage.tables or not self.stage.reduce:
            return any(access.padded for access in (self.stage.write, *reads(self.stage.body)))
        return self.is_guarded or self.stage.write.padded or any(self.tiled.is_confined(window) for window in self.tiled.windows)

    @property
    def is_guarded(self) -> bool:
        """Whether loads of a reduction ask whether there is such an element."""
        return any(self.tiled.is_guarded(operand) for operand in self.tiled.operands)

    def agrees(self, counted: int, described: int) -> bool:
        """Exactly, or at most that much where padding is left out."""
        return counted <= described if self.is_confined else counted == described

    def first_lanes(self, found: list[Executions]) -> int:
        return sum(int(execution.first_lanes(self.lanes).sum()) for execution in found)


def stage_traces(candidate: Candidate) -> Iterator[tuple[str, StageTrace]]:
    """Each stage with the name that its quantities begin with."""
    stages = candidate.stages
    for number, tiled in enumerate(stages):
        prefix = f"s{number}_" if len(stages) > 1 else ""
        yield f"stage{number}", StageTrace(tiled, prefix, bool(candidate.sketch.fused), candidate.trace, candidate.target.lanes)


def slots_are_the_stage_with_most_work_and_the_sum_of_the_others(candidate: Candidate) -> None:
    quantities, work = candidate.quantities, [(tiled.stage.flops, tiled.stage.n_points) for tiled in candidate.stages]
    main = work.index(max(work))
    for name in (name.removeprefix("stage0.") for name in quantities if name.startswith("stage0.")):
        by_stage = [quantities[f"stage{number}.{name}"] for number in range(len(work))]
        assert quantities[f"compute.{name}"] == by_stage[main]
        assert quantities.get(f"final.{name}") in (None, sum(by_stage) - by_stage[main])
    assert ("final.flops" in quantities) == (len(work) > 1)


# --- counts ---------------------------------------------------------------------------------------------------------


def counts_of_work_are_exact(candidate: Candidate) -> None:
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        q = {name.removeprefix(f"{slot}."): value for name, value in quantities.items() if name.startswith(f"{slot}.")}
        if found.tiled.axes("inner"):
            assert sum(map(len, found.updates)) == q["points"]
            assert found.first_lanes(found.updates) == q["vector_updates"]
            copies = q["unroll"] if found.tiled.is_across else 1
            assert found.first_lanes(found.starts) == q["output_vectors"] * copies
            assert found.first_lanes(found.reloads) == q["output.load_instructions"]
        stored, described = found.first_lanes(found.finishes), q["output.store_instructions"]
        assert found.agrees(stored, described) if found.stage.tables else stored == described
        assert {e.store.streamed for e in found.finishes} == {q["output.streamed"] == 1}
        assert q["flops"] <= found.stage.flops
        assert found.is_confined or q["flops"] == found.stage.flops
        if found.stage.tables:
            made = sum(calls_of_transform(found, execution) for execution in found.stores)
            rows = math.prod(table.row.extent for table in found.stage.tables) * q["variants"]
            assert made == q["flops"] if len(found.finishes) == rows else made < q["flops"], "what lies outside in every tile is not even made"
        counted = q["fma"] * 2 + q["add"] + q["multiply"] + q["compare"] + q["special"]
        assert counted == q["flops"]


def calls_of_transform(found: StageTrace, execution: Executions) -> int:
    """Calls without those of the epilogue. Its text repeats the transformed value at each read of it; LLVM computes it once."""
    value, epilogue = execution.store.value, found.tiled.epilogue
    if epilogue is None or execution.store.buffer.name != found.output:
        return len(execution) * n_calls(value)
    return len(execution) * (n_distinct(value) - n_distinct(epilogue.body))


def n_distinct(value: NestValue | Value) -> int:
    """Different functions applied in one evaluation of `value`."""
    pending, found = [value], set()
    while pending:
        value = pending.pop()
        if isinstance(value, Call | Apply) and value not in found:
            found.add(value)
            pending += value.args
    return len(found)


def loops_are_exact(candidate: Candidate) -> None:
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        for i, band in enumerate(found.bands):
            assert len(found.positions(BANDS[: i + 1])) == quantities[f"{slot}.{band}.executions"], band
            most, trips = found.most_iterations(band), quantities[f"{slot}.{band}.trips"]
            assert most <= trips if found.is_confined and band == "inner" else most == trips, band


def innermost_loops_move_what_they_move(candidate: Candidate) -> None:
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        reads = {role: operands_by_role(found.tiled)[role].read.axes for role in described_roles(found)}
        moved = {**reads, "output": found.stage.write.axes, "vector": (found.tiled.vector,)}
        for band in found.bands[1:]:
            axes = found.longer_loops(band)
            if band != "inner":  # where unrolling may leave one iteration of a longer loop
                assert len(axes) == quantities[f"{slot}.{band}.n_loops"], band
            for name, its_axes in moved.items():
                if axes and (band != "inner" or (quantities[f"{slot}.unroll"] == 1 and not found.is_confined)):
                    assert quantities[f"{slot}.{band}.moves_{name}"] == (axes[-1] in [axis.name for axis in its_axes]), (band, name)


# --- threads --------------------------------------------------------------------------------------------------------


def threads_of(found: StageTrace, execution: Executions, n_chunks: int, n_threads: int) -> np.ndarray:
    """(n,) the thread that makes each execution, as the emitted code shares out the parallel loop."""
    chunk = execution.points[:, found.columns(execution, ("parallel",))[0]]
    ends = np.arange(1, n_threads + 1) * n_chunks // n_threads
    return np.searchsorted(ends, chunk, side="right")


def the_busiest_thread_has_its_share(candidate: Candidate) -> None:
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        n_chunks = quantities[f"{slot}.chunks"]
        n_threads = min(candidate.target.threads, n_chunks)
        done = sum(np.bincount(threads_of(found, e, n_chunks, n_threads), minlength=n_threads) for e in found.finishes)
        share = quantities[f"{slot}.busiest_points"] / candidate.target.threads / quantities[f"{slot}.looped_points"]
        if found.stage.tables or found.stage.write.padded:  # where a transform or a phase is cut short, its last tile has less to store
            continue
        if candidate.target.threads == 2:
            assert done.max() / done.sum() == pytest.approx(share)
        else:
            assert 1 / n_threads <= share * (1 + 1e-9)
            assert share <= done.max() / done.sum() + 1 / done.sum()


def shared_lines_are_those_on_the_border(candidate: Candidate) -> None:
    """Of two threads. A border that is no border of lines for every size may be one here; where one thread's part ends, the other's may begin anew."""
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        n_chunks, described = quantities[f"{slot}.chunks"], quantities[f"{slot}.shared_lines"]
        if candidate.target.threads != 2 or n_chunks == 1 or found.stage.tables or found.tiled.write.padded:
            continue
        if found.tiled.between.get(found.tiled.write.tensor.name):
            assert described == 0
            continue
        written = [(threads_of(found, e, n_chunks, 2), e.addresses(e.store.buffer, e.store.indices)) for e in found.finishes]
        thread, line = (np.concatenate(parts) for parts in zip(*written, strict=True))
        line //= LINE_BYTES // found.element_bytes("output")
        shared = len(np.intersect1d(line[thread == 0], line[thread == 1]))
        assert shared <= 2 * described


def edges_are_where_loads_are_guarded(candidate: Candidate) -> None:
    """A register tile lies at an edge if any of its loads is guarded: of others it may be certain that there is such an element."""
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        if found.is_guarded:
            tiles = [e.points[:, found.columns(e, BANDS[:-1])] for e in found.updates]
            _, tile = np.unique(np.concatenate(tiles), axis=0, return_inverse=True)
            asks = [any(load.guard != 1 for load, _ in memory_loads(e)) for e in found.updates]
            at_edge = np.bincount(tile, np.repeat(asks, [len(of) for of in tiles])) > 0
            if not any(found.tiled.is_confined(window) for window in found.tiled.windows):
                assert at_edge[tile].mean() == pytest.approx(quantities[f"{slot}.edge_points"] / quantities[f"{slot}.outputs"])
        else:
            assert quantities[f"{slot}.edge_points"] == 0


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5, 8])
def test_of_one_axis_with_chunks_the_busiest_thread_is_known_for_any_number_of_threads(threads: int) -> None:
    target = replace(TARGET, threads=threads)
    for extent in (901, 97):
        (sketch, *_) = sketches(task(f"reduce:function=sum,shape=70000x{extent},axes=0").program, target)
        for row in sketch.space.sample(40, np.random.default_rng(0)):
            (tiled, *_) = sketch.instantiate(row)
            chunk, n_chunks = int(tiled.tilings[tiled.vector].sizes[2]), -(-extent // int(tiled.tilings[tiled.vector].sizes[2]))
            busy = min(threads, n_chunks)
            ends = [min(extent, chunk * (number * n_chunks // busy)) for number in range(busy + 1)]
            shares = ThreadShares(tiled, n_chunks, threads)
            assert shares.busiest_points == max(np.diff(ends))
            assert shares.of_busiest(extent * 10) == 10 * max(np.diff(ends))


def test_a_border_within_lines_is_there_however_few_of_the_threads_are_busy() -> None:
    (sketch, *_) = sketches(task("transpose:shape=6x4x40,axes=1x0x2").program, TARGET)
    wanted = {"d2.register": 32, "d1.block": 6, "d0.block": 4}
    row = sketch.space.canonical(np.array([[wanted.get(name, 1) for name in sketch.space.names]]))[0]
    (tiled,) = sketch.instantiate(row)
    assert [ThreadShares(tiled, 2, threads).shared_lines for threads in (1, 2, 4, 16)] == [0, 24, 24, 24]


@pytest.mark.parametrize("size", [7, 8, 13, 14])
@pytest.mark.parametrize("text", ["max_pool2d:c=8,h={0},w={0},r=3,s=3,stride=2,pad=1", "conv2d:c=8,k=8,h={0},w={0},r=3,s=3,stride=2,pad=1,groups=8"])
def test_a_tile_that_is_cut_short_may_lie_inside(text: str, size: int) -> None:
    """With stride 2 and an even size nothing leaves the image at its end."""
    found = task(text.format(size))
    (sketch,) = sketches(found.program, SMALL_TARGET)
    for row in sketch.space.sample(12, np.random.default_rng(0)):
        edges_are_where_loads_are_guarded(Candidate(found, sketch, row, SMALL_TARGET))


@pytest.mark.parametrize(("width", "cut"), [(48, 0), (40, 24)])
def test_a_border_that_cuts_rows_shares_a_line_of_each(width: int, cut: int) -> None:
    """24 rows in chunks of 16 columns: of rows of 40 numbers some begin within a line."""
    found = task(f"transpose:shape=6x4x{width},axes=1x0x2")
    (sketch,) = sketches(found.program, TARGET)
    wanted = {"d2.register": 16, "d2.block": 1, "d2.chunk": 1, "d1.register": 1, "d1.block": 6, "d0.register": 1, "d0.block": 4}
    row = sketch.space.canonical(np.array([[wanted.get(name, 1) for name in sketch.space.names]]))[0]
    candidate = Candidate(found, sketch, row, TARGET)
    assert candidate.quantities["compute.chunks"] == -(-width // 16)
    assert candidate.quantities["compute.shared_lines"] == cut
    shared_lines_are_those_on_the_border(candidate)


# --- accesses -------------------------------------------------------------------------------------------------------

# Bands whose loops are around a place; parallel_1, outer_1, ... stand between the loops of one band.
AROUND = {"whole": (), "chunk": BANDS[:1], "block": BANDS[:2], "slice": BANDS[:3], "tile": BANDS[:4], "step": BANDS}


def described_roles(found: StageTrace) -> list[str]:
    """Of the operands that features tell of one by one."""
    return [role for role in operands_by_role(found.tiled) if role in ROLES and is_loaded(found, role)]


def is_loaded(found: StageTrace, role: str) -> bool:
    """Of an operand that is padded all that is read may be padding, and then nothing is loaded."""
    return not operands_by_role(found.tiled)[role].read.padded or bool(operand_loads(found, role))


def operand_loads(found: StageTrace, role: str) -> list[tuple[Executions, Load, np.ndarray]]:
    """The updates (or, without a reduction, the stores) with their load of an operand and its addresses; of a transform all statements with all loads,
    executions whose guard fails left out."""
    operand = operands_by_role(found.tiled)[role]
    in_result = found.tiled.between.get(operand.read.tensor.name) == 0
    names = {found.tiled.result.name if in_result else operand.read.tensor.name, f"{found.prefix}{operand.read.tensor.name}_packed"}
    result = []
    for execution in found.stores if found.stage.tables else found.updates or found.finishes + found.rows:
        loads = [(load, addresses) for load, addresses in memory_loads(execution) if load.buffer.name in names]
        for load, addresses in loads if found.stage.tables else loads[:1]:
            result.append((replace(execution, points=execution.points[execution.evaluate(load.guard) != 0]), load, addresses))
    return result


def steps(found: StageTrace, accesses: list[tuple[Executions, np.ndarray]], rolled: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """(groups, addresses) of first lanes by what is executed together: one statement in one step, but all statements of a transform.

    `rolled`: the copies of an unrolled body are one step."""
    if found.stage.tables:
        groups, addresses = merged(found, accesses, BANDS)
        first = np.concatenate([execution.first_lanes(found.lanes) for execution, _ in accesses])
        return [(groups[first], addresses[first])]
    result = []
    for execution, addresses in accesses:
        columns = [i for i in found.columns(execution, BANDS) if not rolled or execution.loops[i].kind != "unrolled"]
        first = execution.first_lanes(found.lanes)
        result.append((group(execution, columns)[first], addresses[first]))
    return result


def group(execution: Executions, columns: list[int]) -> np.ndarray:
    """(n,) a number for each different position in the loops of these columns."""
    return np.unique(execution.points[:, columns], axis=0, return_inverse=True)[1].reshape(-1)


def most_distinct(groups: np.ndarray, values: np.ndarray) -> int:
    """The largest number of different values in one group."""
    pairs = np.unique(np.column_stack([groups, values]), axis=0)
    return int(np.bincount(pairs[:, 0], minlength=1).max())


def merged(found: StageTrace, accesses: list[tuple[Executions, np.ndarray]], bands: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(groups, addresses) of several statements together; for bands that they share."""
    rows = np.concatenate([execution.points[:, found.columns(execution, bands)] for execution, _ in accesses])
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1), np.concatenate([addresses for _, addresses in accesses])


def all_accesses(found: StageTrace) -> dict[str, list[tuple[Executions, np.ndarray]]]:
    """The statements that access each operand and the output, with the addresses."""
    accesses = {role: [(e, addresses) for e, _, addresses in operand_loads(found, role)] for role in described_roles(found)}
    return {**accesses, "output": [(e, e.addresses(e.store.buffer, e.store.indices)) for e in found.finishes]}


def footprints_are_the_distinct_elements(candidate: Candidate) -> None:
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        for role, accesses in all_accesses(found).items():
            for place, bands in AROUND.items():
                q = f"{slot}.{role}.{place}"
                if place != "step" or (found.stage.tables and role != "output"):
                    elements = most_distinct(*merged(found, accesses, bands))
                    assert found.agrees(found.element_bytes(role) * elements, quantities[f"{q}.bytes"]), (role, place)
                elif role != "output" and not found.tiled.is_across:
                    elements = max(most_distinct(group(e, found.columns(e, bands)), addresses) for e, addresses in accesses)
                    assert found.agrees(found.element_bytes(role) * elements, quantities[f"{q}.bytes"]), (role, place)


def lines_are_the_fewest_that_hold_the_elements(candidate: Candidate) -> None:
    """Tiles may begin in the middle of a line, so there may be more; packed copies hold whole register tiles, so there may be fewer. So there may where windows
    leave gaps, for pieces that are not in one row of them may share a line all the same."""
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        for role, accesses in all_accesses(found).items():
            for place, bands in AROUND.items():
                if place != "step" and not quantities.get(f"{slot}.{role}.packed"):
                    groups, addresses = merged(found, accesses, bands)
                    line_elements = LINE_BYTES // found.element_bytes(role)
                    if not found.is_confined and not has_gaps(found, role):
                        assert quantities[f"{slot}.{role}.{place}.lines"] <= most_distinct(groups, addresses // line_elements), (role, place)
                    assert quantities[f"{slot}.{role}.{place}.lines"] * line_elements >= most_distinct(groups, addresses), (role, place)


def has_gaps(found: StageTrace, role: str) -> bool:
    """Whether windows that are dilated, or moved by more than one, may leave something out."""
    read = found.stage.write if role == "output" else operands_by_role(found.tiled)[role].read
    return any(abs(factor) > 1 for index in read.indices for _, factor in index.terms)


def runs_are_pieces_without_gaps(candidate: Candidate) -> None:
    """Of full boxes; one that is cut short may have more. What windows leave out is not counted as gaps."""
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        for role, accesses in all_accesses(found).items():
            if quantities.get(f"{slot}.{role}.packed") or found.is_confined or has_gaps(found, role):
                continue
            for place in ("chunk", "block", "tile"):
                pairs = np.unique(np.column_stack(merged(found, accesses, AROUND[place])), axis=0)
                begins = np.ones(len(pairs), dtype=bool)
                begins[1:] = (np.diff(pairs[:, 0]) != 0) | (np.diff(pairs[:, 1]) != 1)
                sizes = np.bincount(pairs[:, 0])
                runs, described = np.bincount(pairs[begins, 0])[sizes == sizes.max()].min(), quantities[f"{slot}.{role}.{place}.runs"]
                assert runs == described, (role, place)


def loads_of_a_step_are_exact(candidate: Candidate) -> None:
    """A load is one vector, one broadcast or, where neighbouring lanes lie apart, one element."""
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        for role, accesses in all_accesses(found).items():
            if role == "output":
                continue
            total = step = 0
            each_by = by_element(found, role, quantities[f"{slot}.{role}.vector_stride"])
            for (groups, addresses), each, full in zip(steps(found, accesses), each_by, in_full_tiles(found, role), strict=True):
                total += len(np.unique(np.column_stack([groups, addresses]), axis=0)) * each
                step = max(step, most_distinct(groups, addresses) * each * full)
            if found.is_guarded or (found.is_confined and (found.stage.tables or not found.stage.reduce)):
                assert step <= quantities[f"{slot}.{role}.loads"]
                assert total <= quantities[f"{slot}.{role}.load_instructions"]
                continue
            if total and not found.tiled.is_across:  # a window may lie wholly in the padding
                assert quantities[f"{slot}.{role}.loads"] == step
            assert quantities[f"{slot}.{role}.load_instructions"] == total


def by_element(found: StageTrace, role: str, vector_stride: int) -> list[int]:
    """For each statement of `operand_loads`, or for all of a transform: the loads of a vector, many where neighbouring lanes lie apart."""
    if found.stage.tables:
        return [found.lanes if vector_stride > 1 else 1]
    if found.stage.reduce:
        return [found.lanes if vector_stride > 1 else 1 for _ in operand_loads(found, role)]
    operand = operands_by_role(found.tiled)[role]
    apart = abs(operand.read.stride(found.tiled.vector)) > 1 and PACK_LEVELS[operand.level] == "none"
    return [found.lanes if apart and not is_row(execution) else 1 for execution, _, _ in operand_loads(found, role)]


def in_full_tiles(found: StageTrace, role: str) -> list[bool]:
    """For the same statements, whether full register tiles execute them: what is left of a tile that is turned over is loaded by elements, and there may be
    more of these than a full one has rows."""
    if found.stage.tables:
        return [True]
    rows = [is_row(execution) for execution, _, _ in operand_loads(found, role)]
    return [row == any(rows) for row in rows]


def is_row(execution: Executions) -> bool:
    """Of a register tile that is turned over."""
    return "_rows" in execution.store.buffer.name


def loads_of_an_unrolled_body_are_exact(candidate: Candidate) -> None:
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        loads = 0
        for role in (role for role in operands_by_role(found.tiled) if is_loaded(found, role)):
            accesses = [(e, addresses) for e, _, addresses in operand_loads(found, role)]
            each_by = by_element(found, role, quantities.get(f"{slot}.{role}.vector_stride", 1))
            full_by = in_full_tiles(found, role)
            loads += max(most_distinct(*pairs) * each * full for pairs, each, full in zip(steps(found, accesses, rolled=True), each_by, full_by, strict=True))
        assert found.agrees(loads, quantities[f"{slot}.loads_unrolled"])


def strides_are_those_of_the_addresses(candidate: Candidate) -> None:
    quantities = candidate.quantities
    for slot, found in stage_traces(candidate):
        for role in described_roles(found):
            turned = turned_axis(operands_by_role(found.tiled)[role].read, found.stage, found.tiled.vector)
            for execution, _, addresses in operand_loads(found, role):
                if turned and not is_row(execution):
                    continue  # what is left of a tile that is turned over
                loops = [loop.kind for loop in execution.loops]
                steps = {"vector_stride": loops.index("vector")}
                inner = found.columns(execution, ("inner",))
                if found.tiled.axes("inner") and quantities[f"{slot}.unroll"] == 1 and not found.tiled.is_across:
                    steps["reduce_stride"] = inner[-1]
                for name, column in steps.items():
                    others = group(execution, [i for i in range(len(loops)) if i != column])
                    order = np.lexsort([execution.points[:, column], others])
                    neighbours = (np.diff(others[order]) == 0) & (np.diff(execution.points[order, column]) == 1)  # some lanes may be another statement's
                    strides = np.unique(np.abs(np.diff(addresses[order])[neighbours]))
                    if found.is_confined and not found.stage.reduce:
                        strides = strides[(strides > 0) & (strides == strides.max(initial=0))]  # others are of what is folded back
                    assert set(strides) <= {quantities[f"{slot}.{role}.{name}"]}, (role, name)


# --- code, packing, memory ------------------------------------------------------------------------------------------


def text_updates(body: tuple[Statement, ...], lanes: int) -> int:
    """Vector updates in the text of a nest; of a register tile that has a piece of code for the edge of a padded input too, those of one of the two."""
    total = 0
    for statement in body:
        match statement:
            case Store():
                total += statement.buffer.scope == "register" and statement.reduction is not None
            case For(_, int(extent), inner, "unrolled"):
                total += extent * text_updates(inner, lanes)
            case For(_, int(extent), inner, "vector"):
                total += -(-extent // lanes) * text_updates(inner, lanes)
            case For(_, _, inner, _):
                total += text_updates(inner, lanes)
            case If(_, then, otherwise):
                either = [text_updates(part, lanes) for part in (then, otherwise)]
                total += sum(either) if begins_a_tile(then) else max(either)
    return total


def begins_a_tile(body: tuple[Statement, ...]) -> bool:
    """Whether accumulators get their first values here, from numbers or from memory."""
    match body[0]:
        case Store(buffer, reduction=reduction):
            return buffer.scope == "register" and reduction is None
        case For(body=inner) | If(then=inner):
            return begins_a_tile(inner)
    return False


def size_of_code_and_memory_are_exact(candidate: Candidate) -> None:
    quantities, nest = candidate.quantities, candidate.kernel
    if all(tiled.axes("inner") for tiled in candidate.stages):
        assert text_updates(nest.body, candidate.target.lanes) == quantities["program.code_updates"]
    sizes = {scope: sum(buffer.n_bytes for buffer in nest.in_scope(scope)) for scope in ("prepared", "shared", "private")}
    assert sizes["prepared"] == quantities["program.prepared_bytes"]
    assert sizes["private"] * candidate.target.threads == quantities["program.private_bytes"]
    assert sizes["shared"] == quantities["program.shared_bytes"]


def packing_is_exact(candidate: Candidate) -> None:
    quantities, nest = candidate.quantities, candidate.kernel
    found = candidate.trace
    tiled = max(candidate.stages, key=lambda tiled: (tiled.stage.flops, tiled.stage.n_points))
    prefix = f"s{candidate.stages.index(tiled)}_" if len(candidate.stages) > 1 else ""
    for role, operand in operands_by_role(tiled).items():
        if role not in ROLES:
            continue
        if operand.prepared:
            assert f"pack_{role}.stores" not in quantities
            continue
        q = {name: quantities[f"pack_{role}.{name}"] for name in ("executions", "stores", "instructions", "buffer_bytes", "run", "source_stride")}
        name = f"{prefix}{operand.read.tensor.name}_packed"
        stores = [e for e in found.stores if e.store.buffer.name == name]
        if PACK_LEVELS[operand.level] == "none":
            assert not stores
            assert set(q.values()) == {0}
            continue
        (buffer,) = (buffer for buffer in nest.buffers if buffer.name == name)
        assert q["buffer_bytes"] == buffer.n_bytes
        assert q["stores"] == sum(map(len, stores))
        assert q["instructions"] == sum(int(e.first_lanes(candidate.target.lanes).sum()) for e in stores)
        made = [e for e in found.stores if e.store.buffer.name.startswith(f"{prefix}{operand.read.tensor.name}_") and n_calls(e.store.value)]
        calls = sum(len(e) * n_calls(e.store.value) for e in made)
        left_out = any(isinstance(e.store.value, Constant) for e in stores)  # what lies beyond the tensor
        assert calls <= quantities[f"pack_{role}.operations"] if left_out else calls == quantities[f"pack_{role}.operations"]
        own = f"{prefix}{operand.read.tensor.name}_"
        around = [np.unique(e.points[:, [i for i, loop in enumerate(e.loops) if not loop.variable.name.startswith(own)]], axis=0) for e in stores]
        assert q["executions"] == len(np.unique(np.concatenate(around), axis=0))
        is_turned = any(is_row(e) for e in found.stores if e.store.buffer.name.startswith(f"{prefix}{operand.read.tensor.name}_"))
        if any(loop.kind == "vector" for e in stores for loop in e.loops):
            assert (q["source_stride"] > 1) == is_turned


def epilogue_runs_once_an_element(candidate: Candidate) -> None:
    quantities = candidate.quantities
    if "epilogue.elements" not in quantities:
        assert all(tiled.epilogue is None for tiled in candidate.stages)
        return
    executions = at_block = 0
    for _, found in stage_traces(candidate):
        if found.tiled.epilogue is not None:
            executions += sum(map(len, found.block_epilogue)) or math.prod(axis.extent for axis in found.stage.spatial)
            at_block += bool(found.block_epilogue)
    assert executions == quantities["epilogue.elements"]
    assert at_block == quantities["epilogue.at_block"]


def threads_start_for_each_loop_that_is_shared(candidate: Candidate) -> None:
    shared = [loop for loop in candidate.kernel.body if isinstance(loop, For) and isinstance(loop.extent, int) and loop.extent > 1]
    assert all(loop.kind == "parallel" for loop in shared)
    assert candidate.quantities["program.half_cycles.starting"] == START_HALF_CYCLES * len(shared)


# --- the model of caches --------------------------------------------------------------------------------------------

CONV2D = "conv2d:c=16,h=14,w=14,k=20,r=3,s=3,pad=1,epilogue=bias+relu"


def extracted(text: str, n: int = 50, target: Target = TARGET) -> Iterator[tuple[Sketch, FeatureExtractor, np.ndarray]]:
    for sketch in sketches(task(text).program, target):
        yield sketch, FeatureExtractor(sketch, target), sketch.space.sample(n, np.random.default_rng(0))


def quantities_agree_with_the_lowered_nest(candidate: Candidate) -> None:
    slots_are_the_stage_with_most_work_and_the_sum_of_the_others(candidate)
    counts_of_work_are_exact(candidate)
    loops_are_exact(candidate)
    innermost_loops_move_what_they_move(candidate)
    the_busiest_thread_has_its_share(candidate)
    shared_lines_are_those_on_the_border(candidate)
    edges_are_where_loads_are_guarded(candidate)
    runs_are_pieces_without_gaps(candidate)
    footprints_are_the_distinct_elements(candidate)
    lines_are_the_fewest_that_hold_the_elements(candidate)
    loads_of_a_step_are_exact(candidate)
    loads_of_an_unrolled_body_are_exact(candidate)
    strides_are_those_of_the_addresses(candidate)
    size_of_code_and_memory_are_exact(candidate)
    packing_is_exact(candidate)
    epilogue_runs_once_an_element(candidate)
    threads_start_for_each_loop_that_is_shared(candidate)


@settings(max_examples=40, deadline=None)
@given(candidates())
def test_quantities_agree_with_the_lowered_nest(candidate: Candidate) -> None:
    quantities_agree_with_the_lowered_nest(candidate)


@pytest.mark.parametrize("target", [TARGET, MANY_THREADS])
def test_packing_starts_threads_where_they_share_it(target: Target) -> None:
    """Of one row with six elements, or a few, there is little to share, and sometimes nothing."""
    parts = set[int]()
    for text in (
        "matmul:m=1,n=24,k=6",
        "matmul:m=5,n=8,k=3",
        "conv2d:c=20,h=1,w=3,k=8,r=1,s=2",
        "einsum:equation=ki.kj.ij,sizes=i20.j8.k4,b=variable,epilogue=none",
    ):
        of = task(text)
        for sketch in sketches(of.program, target):
            for row in sketch.space.sample(12, np.random.default_rng(0)):
                candidate = Candidate(of, sketch, row, target)
                threads_start_for_each_loop_that_is_shared(candidate)
                parts |= {min(candidate.quantities[name], 2) for name in ("pack_a.shared_parts", "pack_b.shared_parts") if name in candidate.quantities}
    assert parts == {0, 1, 2}


@pytest.mark.parametrize(("width", "streams"), [(41, None), (48, 0), (48, 1)])
def test_they_agree_where_powers_lie_in_the_result(width: int, streams: int | None) -> None:
    """As those of a softmax do, unless its result goes past the caches."""
    found, small = task(f"softmax:shape=12x{width},axis=1"), replace(TARGET, l3_bytes=4 << 10)
    sketch = next(sketch for sketch in sketches(found.program, small) if sketch.stages[0].is_across)
    for row in sketch.space.sample(12, np.random.default_rng(0)):
        if streams is not None:
            row[sketch.space.names.index("s2.stream")] = streams
        candidate = Candidate(found, sketch, sketch.space.canonical(row[None, :])[0], small)
        assert candidate.stages[-1].between["power"] == (streams or 0)
        quantities_agree_with_the_lowered_nest(candidate)


def test_lines_of_the_result_count_once() -> None:
    """Where the last stage of a softmax reads what lies in its result; otherwise there is a chunk of it, too."""
    found, small = task("softmax:shape=64x512,axis=1"), replace(TARGET, l3_bytes=64 << 10)
    sketch = next(sketch for sketch in sketches(found.program, small) if sketch.stages[0].is_across)
    chunk, stream = (sketch.space.names.index(name) for name in ("d0.chunk", "s2.stream"))
    last = StageQuantities(sketch.stages[-1], small)
    for streams in (0, 1):
        rows = sketch.space.sample(8, np.random.default_rng(0))
        rows[:, stream] = streams
        (touched,) = Evaluator([last.touched("whole")], sketch.space.symbols)(rows).T
        in_rows = (64 + streams * rows[:, chunk]) * 512 * FLOAT_BYTES
        assert (touched - in_rows == LINE_BYTES * -(-rows[:, chunk] * FLOAT_BYTES // LINE_BYTES)).all(), "besides there are the sums of the rows of a chunk"


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_what_is_padded_with_nothing_asks_nothing(mode: str) -> None:
    """No index is folded back, so no vector asks whether it lies inside."""
    of = task(f"pad:shape=16,before=0,after=0,mode={mode}")
    (sketch,) = sketches(of.program, TARGET)
    candidate = Candidate(of, sketch, sketch.default_row(), TARGET)
    assert "if" not in nest_text(candidate.kernel)
    footprints_are_the_distinct_elements(candidate)


def test_a_cache_that_holds_everything_loads_everything_once() -> None:
    huge = replace(TARGET, l1_bytes=1 << 40, l2_bytes=1 << 40, l3_bytes=1 << 40)
    for text in (CONV2D, CONV2D + ",layout=nchw", "matmul:m=33,n=65,k=100,b=variable"):
        for _, extractor, X in extracted(text, target=huge):
            raw = extractor.raw(X)
            for role in ("a", "b", "output"):
                for cache in ("l1", "l2", "l3"):
                    np.testing.assert_array_equal(raw[f"compute.{cache}.{role}_bytes"], LINE_BYTES * raw[f"compute.{role}.whole.lines"])
            assert not raw["compute.half_cycles.l3"].any()


def test_traffic_is_near_that_of_a_cache_that_drops_what_was_used_longest_ago() -> None:
    """Half of the predictions are within a quarter; a model that charged every tile anew would be off by an order of magnitude."""
    target = replace(SMALL_TARGET, lanes=8, l1_bytes=1 << 11)
    found = task("matmul:m=24,n=32,k=48,b=variable")
    sketch = sketches(found.program, target)[0]
    X = sketch.space.sample(400, np.random.default_rng(0))
    raw = FeatureExtractor(sketch, target).raw(X)
    whole = np.flatnonzero((raw["compute.variants"] == 1) & (raw["compute.unroll"] == 1) & (raw["compute.n_loops"] > 3))[:12]
    ratios = []
    for row in whole:
        (updates,) = (e for e in trace(lower(sketch, X[row], target).kernel).stores if e.store.buffer.scope == "register" and e.store.reduction)
        first = updates.first_lanes(target.lanes)
        lines = [addresses[first] * FLOAT_BYTES // LINE_BYTES for _, addresses in memory_loads(updates)]
        for role, misses in zip("ab", least_recently_used(lines, target.l1_bytes // LINE_BYTES), strict=True):
            ratios.append(raw[f"compute.l1.{role}_bytes"][row] / (LINE_BYTES * misses))
    assert len(ratios) == 24
    assert 0.8 < np.median(ratios) < 1.25
    assert np.quantile(np.abs(np.log(ratios)), 0.5) < np.log(1.25)


def least_recently_used(streams: list[np.ndarray], n_lines: int) -> list[int]:
    """Misses of each stream of lines, interleaved, in one cache."""
    held: OrderedDict[tuple[int, int], None] = OrderedDict()
    misses = [0] * len(streams)
    for lines in zip(*streams, strict=True):
        for stream, line in enumerate(lines):
            if (stream, line) in held:
                held.move_to_end((stream, line))
                continue
            misses[stream] += 1
            held[stream, line] = None
            if len(held) > n_lines:
                held.popitem(last=False)
    return misses


# --- the extractor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [CONV2D, CONV2D + ",layout=nchw", "matmul:m=33,n=65,k=100,b=variable", "matmul:m=1,n=3,k=512", "matmul:m=1,n=1,k=1"])
def test_every_sketch_has_the_same_finite_features(text: str) -> None:
    for _, extractor, X in extracted(text):
        features = extractor(X)
        assert features.shape == (len(X), len(FEATURES))
        assert features.dtype == np.float32
        assert features.flags.c_contiguous
        assert np.isfinite(features).all()
        assert (features >= 0).all()
        assert extractor.names == tuple(feature.name for feature in FEATURES)


def test_a_row_has_the_same_features_alone_and_among_others() -> None:
    for _, extractor, X in extracted(CONV2D):
        features = extractor(X)
        for i in (0, 17, 49):
            np.testing.assert_array_equal(extractor(X[i : i + 1])[0], features[i])
        assert extractor(X[:0]).shape == (0, len(FEATURES))


def test_features_are_made_of_the_quantities_as_the_table_says() -> None:
    for _, extractor, X in extracted(CONV2D):
        features, raw = extractor(X), extractor.raw(X)
        for j, feature in enumerate(FEATURES):
            x, y = (*(raw.get(name, np.zeros(len(X))) for name in feature.of), np.ones(len(X)))[:2]
            value = x / np.maximum(y, 1)
            np.testing.assert_allclose(features[:, j], np.log2(1 + value) if feature.scale.startswith("log") else value, 1e-5, 1e-6, err_msg=feature.name)


def test_every_feature_is_in_one_group() -> None:
    assert {feature.group for feature in FEATURES} == set(GROUPS)
    estimates = [feature for feature in FEATURES if ".half_cycles" in feature.name]
    assert estimates
    assert {feature.group for feature in estimates} == {"cost"}


def test_every_feature_is_documented_once() -> None:
    assert FEATURE_VERSION >= 1
    for attribute in ("name", "meaning"):
        values = [getattr(feature, attribute) for feature in FEATURES]
        assert len(set(values)) == len(values)
    for feature in FEATURES:
        assert feature.unit
        assert feature.scale in SCALES
        assert len(feature.of) == (2 if "ratio" in feature.scale else 1)


def test_slots_that_a_sketch_does_not_have_are_zero() -> None:
    described = {sketch.name: dict(zip(extractor.names, extractor(X).T, strict=True)) for sketch, extractor, X in extracted("matmul:m=2,n=4,k=256")}
    plain, split = described["tile_n"], described["split2_k_tile_n"]
    for name, values in plain.items():
        if name.split(".")[0] in ("pack_b", "epilogue", "final"):
            assert not values.any(), name
    assert split["final.flops"].all()
    assert (split["program.n_stages"] == 2).all()


# What these tasks never do: a comparison in the stage with the most work, or a second layout for a variable second operand.
CONSTANT = {"compute.compare", "epilogue.multiply", "pack_b.layout"}

TELLING = (
    CONV2D,
    "conv2d:c=32,h=32,w=32,k=8,r=3,s=3,layout=nchw",
    "conv2d:c=32,h=14,w=14,k=32,groups=32,r=3,s=3,pad=1",
    "matmul:m=33,n=65,k=100,b=variable",
    "matmul:m=48,n=1024,k=1024,b=variable",
    "batch_matmul:batch=4,m=4,n=32,k=32",
    "matmul:m=2,n=4,k=256",
    "matmul:m=2,n=64,k=4,prologue=relu,epilogue=sigmoid",
    "softmax:shape=64x512,axis=1",
)


def test_every_feature_tells_some_candidates_apart() -> None:
    """One that is stuck by mistake would go unnoticed by all tests of single values."""
    extractions = (found for text in TELLING for target in (TARGET, SMALL_TARGET) for found in extracted(text, 300, target))
    together = np.concatenate([extractor(X) for _, extractor, X in extractions])
    assert {FEATURES[j].name for j in np.flatnonzero(np.ptp(together, axis=0) == 0)} == CONSTANT


def test_windows_of_more_taps_than_a_slice_has_whole() -> None:
    """Whether a slice holds them all is a choice then, as is the register tile, so which positions the loops visit depends on both."""
    machine = target()
    sketch = sketches(task("conv2d:c=16,h=7,w=7,k=16,r=15,s=15,pad=7,groups=16").program, machine)[0]
    X = np.concatenate([sketch.space.sample(60, np.random.default_rng(0)), [sketch.default_row()]])
    described = FeatureExtractor(sketch, machine).raw(X)["compute.points"]
    main = max(range(len(sketch.stages)), key=lambda number: sketch.stages[number].stage.flops)
    visited = [StageQuantities(sketch.instantiate(row)[main], machine).arithmetic()["points"] for row in X]
    np.testing.assert_array_equal(described, visited)
    assert len(set(visited)) > 1
