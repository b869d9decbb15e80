"""Features and code cannot disagree: symbolic quantities against what is counted on the lowered nest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen.lower import Lowered, lower
from costmodel.features import FeatureExtractor
from ir.count import Executions, Trace, memory_loads, trace
from ir.nest import For, Load, Statement, Store
from ir.program import FLOAT_BYTES, Constant
from ir.task import Task, task
from schedule.rules import sketches
from schedule.sketch import PACK_LEVELS, Sketch, TiledStage
from schedule.target import Target

TARGET = Target("generic", "", lanes=16, vector_registers=32, l1_bytes=48 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20, threads=2)
SMALL_TARGET = Target("generic", "", lanes=4, vector_registers=16, l1_bytes=1 << 12, l2_bytes=1 << 14, l3_bytes=1 << 16, threads=3)


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


class Candidate:
    def __init__(self, task: Task, sketch: Sketch, row: np.ndarray, target: Target) -> None:
        self.task, self.sketch, self.row, self.target = task, sketch, row, target

    def __repr__(self) -> str:
        return f"{self.task.key} {self.sketch.name} {self.sketch.row_text(self.row)} {self.target.lanes} lanes {self.target.threads} threads"

    @property
    def stages(self) -> tuple[TiledStage, ...]:
        return self.sketch.instantiate(self.row)

    def quantities(self) -> dict[str, int]:
        raw = FeatureExtractor(self.sketch, self.target).raw(self.row[None, :])
        return {name: int(values[0]) for name, values in raw.items()}

    def lowered(self) -> Lowered:
        return lower(self.sketch, self.row, self.target)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    found = task(draw(st.one_of(_matmul(), _conv2d(), _conv2d(), _split())))
    target = draw(st.sampled_from([TARGET, SMALL_TARGET]))
    sketch = draw(st.sampled_from(sketches(found.program, target)))
    row = sketch.space.sample(1, np.random.default_rng(draw(st.integers(0, 1 << 30))))[0]
    return Candidate(found, sketch, row, target)


# --- the lowered nest, taken apart ----------------------------------------------------------------------------------


BANDS = ("parallel", "outer", "slice", "block", "inner")


class StageTrace:
    """What a kernel executes of one tiled stage; `prefix` begins the names of the stage's loops."""

    def __init__(self, tiled: TiledStage, prefix: str, found: Trace, lanes: int) -> None:
        self.tiled, self.stage, self.prefix, self.lanes = tiled, tiled.stage, prefix, lanes
        self.output = (tiled.epilogue or tiled.stage).output.name
        chunk = f"{prefix}chunk"
        self.loops = [run for run in found.loops if (*run.around, run.loop)[0].variable.name == chunk]
        self.stores = [execution for execution in found.stores if execution.loops[0].variable.name == chunk]
        self.updates = [e for e in self.stores if e.store.buffer.scope == "register" and e.store.reduction]
        self.starts = [e for e in self.stores if e.store.buffer.scope == "register" and isinstance(e.store.value, Constant)]
        self.reloads = [e for e in self.stores if e.store.buffer.scope == "register" and e.store.reduction is None and isinstance(e.store.value, Load)]
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
        for number, execution in enumerate(self.updates or self.finishes):
            rows = np.unique(execution.points[:, self.columns(execution, bands)], axis=0)
            if "inner" in bands:
                width = len(self.stage.reduce) + 1 - len(self.columns(execution, ("inner",)))
                rows = np.column_stack([rows, np.zeros((len(rows), width), dtype=int), np.full(len(rows), number)])
            found.append(rows)
        return np.unique(np.concatenate(found), axis=0)

    def most_iterations(self, band: str) -> int:
        """The most iterations that the loops of a band make together for one execution of them."""
        outer = BANDS[: BANDS.index(band)]
        width = len(self.columns((self.updates or self.finishes)[0], outer))
        rows = self.positions((*outer, band))
        return int(np.unique(rows[:, :width], axis=0, return_counts=True)[1].max()) if width else len(rows)

    def longer_loops(self, band: str) -> list[str]:
        """Axes of the loops of a band with more than one iteration, the outermost first."""
        runs = [run for run in self.loops if self.band(run.loop) == band and len(run.extents) and run.extents.max() > 1]
        return list(dict.fromkeys(run.loop.variable.name.removeprefix(self.prefix)[:-1] for run in runs))

    def first_lanes(self, found: list[Executions]) -> int:
        return sum(int(execution.first_lanes(self.lanes).sum()) for execution in found)


def stage_traces(candidate: Candidate, kernel: Trace) -> Iterator[tuple[str, StageTrace]]:
    stages = candidate.stages
    for number, (slot, tiled) in enumerate(zip(("compute", "final"), stages, strict=False)):
        yield slot, StageTrace(tiled, f"s{number}_" if len(stages) > 1 else "", kernel, candidate.target.lanes)


# --- counts ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_counts_of_work_are_exact(candidate: Candidate) -> None:
    quantities = candidate.quantities()
    for slot, found in stage_traces(candidate, trace(candidate.lowered().kernel)):
        q = {name.removeprefix(f"{slot}."): value for name, value in quantities.items() if name.startswith(f"{slot}.")}
        if found.stage.reduce:
            assert sum(map(len, found.updates)) == q["points"]
            assert found.first_lanes(found.updates) == q["vector_updates"]
            assert found.first_lanes(found.starts) == q["output_vectors"]
            assert found.first_lanes(found.reloads) == q["output.load_instructions"]
        assert found.first_lanes(found.finishes) == q["output.store_instructions"]
        assert q["flops"] == found.stage.flops
        counted = q["fma"] * 2 + q["add"] + q["multiply"] + q["compare"] + q["special"]
        assert counted == q["flops"]


BANDS = ("parallel", "outer", "slice", "block", "inner")


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_loops_are_exact(candidate: Candidate) -> None:
    quantities = candidate.quantities()
    for slot, found in stage_traces(candidate, trace(candidate.lowered().kernel)):
        for i, band in enumerate(BANDS):
            assert len(found.positions(BANDS[: i + 1])) == quantities[f"{slot}.{band}.executions"], band
            assert found.most_iterations(band) == quantities[f"{slot}.{band}.trips"], band


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_innermost_loops_move_what_they_move(candidate: Candidate) -> None:
    quantities = candidate.quantities()
    for slot, found in stage_traces(candidate, trace(candidate.lowered().kernel)):
        reads = {role: operand.read.axes for role, operand in zip("ab", found.tiled.operands, strict=False)}
        moved = {**reads, "output": found.stage.write.axes, "vector": (found.tiled.vector,)}
        for band in BANDS[1:]:
            axes = found.longer_loops(band)
            if band != "inner":  # where unrolling may leave one iteration of a longer loop
                assert len(axes) == quantities[f"{slot}.{band}.n_loops"], band
            for name, its_axes in moved.items():
                if axes and (band != "inner" or quantities[f"{slot}.unroll"] == 1):
                    assert quantities[f"{slot}.{band}.moves_{name}"] == (axes[-1] in [axis.name for axis in its_axes]), (band, name)


# --- accesses -------------------------------------------------------------------------------------------------------

# Bands whose loops are around a place; parallel_1, outer_1, ... stand between the loops of one band.
AROUND = {"whole": (), "chunk": BANDS[:1], "block": BANDS[:2], "slice": BANDS[:3], "tile": BANDS[:4], "step": BANDS}


def operand_loads(found: StageTrace, role: str) -> list[tuple[Executions, Load, np.ndarray]]:
    """The updates (or, without a reduction, the stores) with their load of an operand and its addresses."""
    operand = found.tiled.operands["ab".index(role)]
    names = {operand.read.tensor.name, f"{found.prefix}{operand.read.tensor.name}_packed"}
    result = []
    for execution in found.updates or found.finishes:
        loads = [(load, addresses) for load, addresses in memory_loads(execution) if load.buffer.name in names]
        result.append((execution, *loads[0]))
    return result


def group(execution: Executions, columns: list[int]) -> np.ndarray:
    """(n,) a number for each different position in the loops of these columns."""
    return np.unique(execution.points[:, columns], axis=0, return_inverse=True)[1].reshape(-1)


def most_distinct(groups: np.ndarray, values: np.ndarray) -> int:
    """The largest number of different values in one group."""
    pairs = np.unique(np.column_stack([groups, values]), axis=0)
    return int(np.bincount(pairs[:, 0]).max())


# --- code, packing, memory ------------------------------------------------------------------------------------------


def text_updates(body: tuple[Statement, ...], lanes: int) -> int:
    """Vector updates in the text of a nest."""
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
            case _:
                total += text_updates(statement.then, lanes) + text_updates(statement.otherwise, lanes)
    return total


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_size_of_code_and_memory_are_exact(candidate: Candidate) -> None:
    quantities, nest = candidate.quantities(), candidate.lowered().kernel
    if all(tiled.stage.reduce for tiled in candidate.stages):
        assert text_updates(nest.body, candidate.target.lanes) == quantities["program.code_updates"]
    sizes = {scope: sum(buffer.n_bytes for buffer in nest.in_scope(scope)) for scope in ("prepared", "shared", "private")}
    assert sizes["prepared"] == quantities["program.prepared_bytes"]
    assert sizes["private"] * candidate.target.threads == quantities["program.private_bytes"]
    assert sizes["shared"] == quantities["program.shared_bytes"]


@settings(max_examples=100, deadline=None)
@given(candidates())
def test_packing_is_exact(candidate: Candidate) -> None:
    quantities, nest = candidate.quantities(), candidate.lowered().kernel
    found = trace(nest)
    tiled = candidate.stages[0]
    prefix = "s0_" if len(candidate.stages) > 1 else ""
    for role, operand in zip("ab", tiled.operands, strict=False):
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
        own = f"{prefix}{operand.read.tensor.name}_"
        around = [np.unique(e.points[:, [i for i, loop in enumerate(e.loops) if not loop.variable.name.startswith(own)]], axis=0) for e in stores]
        assert q["executions"] == len(np.unique(np.concatenate(around), axis=0))
        if any(loop.kind == "vector" for e in stores for loop in e.loops):
            assert q["source_stride"] == 1


@settings(max_examples=40, deadline=None)
@given(candidates())
def test_epilogue_runs_once_an_element(candidate: Candidate) -> None:
    quantities = candidate.quantities()
    if "epilogue.elements" not in quantities:
        assert candidate.task.program.stages[-1].reduction is not None
        return
    *_, (_, found) = stage_traces(candidate, trace(candidate.lowered().kernel))
    executions = sum(map(len, found.block_epilogue)) if quantities["epilogue.at_block"] else found.stage.output.n_bytes // FLOAT_BYTES
    assert executions == quantities["epilogue.elements"]
    assert bool(found.block_epilogue) == bool(quantities["epilogue.at_block"])
