"""Rules that make the sketches of a tensor program; none of them knows an operator by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ir.expression import Expr, add, ceil_div, minimum, mul, sub, symbol, take
from ir.program import Axis, Program, Read, Stage, reads
from ir.simplify import simplify
from schedule.algorithms import WINOGRAD
from schedule.fusion import Group, groups, shared_axes, with_innermost
from schedule.sketch import Operand, Sketch, TiledStage, handed_on, overwritten
from schedule.space import Column, Space
from schedule.split_reduction import split_reduction
from schedule.stage_rule import MAX_WORKSPACE_BYTES, Chunk, StageRule, least_chunks, most_joined
from schedule.target import Target
from schedule.winograd import PRODUCTS, winograd

SMALL_OUTPUT = 1024  # elements; below this a long reduction is worth splitting
LONG_REDUCE = 64
MANY_PARTS = 16  # of such a reduction; more only where there are more threads
MAX_TRANSFORMED_BYTES = 1 << 29  # of what lies between the stages of Winograd's algorithm
MANY_VECTORS = 4  # along a reduce axis: with so many nothing else is worth packing for
CHUNK_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # with many divisors, for the register tiles of fused stages
DEFAULT_CHUNK = 4  # of these counts, what the default schedule wishes


def sketches(program: Program, target: Target) -> tuple[Sketch, ...]:
    """All sketches of the program for this machine; the first one holds the default schedule."""
    program = simplify(program)
    found: tuple[Sketch, ...] = ()  # stages that hand nothing on may as well run one after the other
    stages = groups(program)
    first = stages[0]
    if len(stages) > 1:
        found = tuple(_fused_sketches(program, target))
        if found and program.between:
            return found
    named = ((_name(first.stage, vector), program, vector) for vector in _vector_axes(first, target))
    plain = (_sketch(name, version, target, vector) for name, version, vector in (*named, *_split_programs(program, target)))
    return (*found, *(replace(sketch, work=program.work) for sketch in (*plain, *_winograd_sketches(program, target))))


def _name(stage: Stage, vector: Axis) -> str:
    return f"{'across' if vector in stage.reduce else 'tile'}_{vector.name}"


def _sketch(name: str, program: Program, target: Target, vector: Axis, main: int = 0) -> Sketch:
    """Stages one after the other, each with a parallel loop of its own. `vector`: of the stage number `main`; the others choose for themselves."""
    rules: list[StageRule] = []
    stages: list[TiledStage] = []
    for number, group in enumerate(groups(program)):
        stage = group.stage
        own = vector if number == main else _transform_vector(stage) if stage.tables else _vector_axes(group, target)[0]
        rules.append(StageRule(group, own, target, f"s{number}." if number else "", group.result == program.output))
        stages.append(rules[-1].tiled())
    return _joined(name, program, stages, rules, (), ())


def _winograd_sketches(program: Program, target: Target) -> Iterator[Sketch]:
    """Where there are input and output channels enough to fill vectors, and memory enough for what lies between the stages."""
    for algorithm, m in WINOGRAD.items():
        transformed = winograd(program, m)
        if transformed is None:
            continue
        make_u, *stages = transformed.stages
        n_bytes = sum(stage.output.n_bytes for stage in (make_u, *stages[: PRODUCTS + 1]))
        if not _fills_vectors(stages[PRODUCTS], target) or n_bytes > MAX_TRANSFORMED_BYTES:
            continue
        alone = _sketch(algorithm, Program(program.inputs, (make_u,)), target, _transform_vector(make_u))
        beforehand = alone.instantiate(alone.default_row())
        for vector in (axis for axis in _vector_axes(Group(stages[PRODUCTS]), target) if axis != stages[PRODUCTS].spatial[0]):
            sketch = _sketch(f"{algorithm}_tile_{vector.name}", Program(program.inputs, tuple(stages)), target, vector, PRODUCTS)
            yield replace(sketch, beforehand=beforehand)


def _fills_vectors(products: Stage, target: Target) -> bool:
    """Whether there are so many input channels and so many output channels."""
    source, _ = reads(products.body)
    n_inputs, n_outputs = (
        math.prod(axis.extent for axis in axes) for axes in (products.reduce, [axis for axis in products.spatial if axis not in source.axes])
    )
    return min(n_inputs, n_outputs) >= target.lanes


def _joined(
    name: str, program: Program, stages: list[TiledStage], rules: list[StageRule], columns: tuple[Column, ...], fused: tuple[Axis, ...]
) -> Sketch:  # fmt: skip
    """`columns`: those that stages share."""
    default = {column.symbol.name: min(DEFAULT_CHUNK, column.choices[-1]) for column in columns}
    for rule in rules:
        default |= rule.default
    space = Space((*columns, *(column for rule in rules for column in rule.columns)), tuple(limit for rule in rules for limit in rule.limits))
    return Sketch(name, tuple(stages), space, default, program.work, fused=fused)


# --- fused stages ---------------------------------------------------------------------------------------------------


def _fused_sketches(program: Program, target: Target) -> Iterator[Sketch]:
    """All stages in one parallel loop, one sketch for each vector axis of the first stage that goes with vector axes of the others."""
    shared = shared_axes(program)
    if not shared:
        return
    between = frozenset(name for group in groups(program)[:-1] for name in group.handed_on) - {program.output.name}
    for vector in _first_vector_axes(groups(program)[0], target, between):
        turned = with_innermost(program, vector)
        stages = groups(turned)
        vectors = [vector]
        for group in stages[1:]:
            fitting = _vector_axes(group, target, between)
            vectors += [vector] if vector in fitting else fitting[:1]
        if len(vectors) == len(stages):
            found = _fused(f"fused_{_name(stages[0].stage, vector)}", turned, vectors, shared, between, target)
            if found is not None:
                yield found


def _first_vector_axes(group: Group, target: Target, between: frozenset[str]) -> list[Axis]:
    """Also axes along which the output is not contiguous as it stands, for its layout is free."""
    usual, stage = _vector_axes(group, target, between), group.stage
    if any(axis in stage.reduce for axis in usual):
        return usual
    turned = [axis for axis in reversed(stage.spatial) if axis.extent >= target.lanes and all(_fits(read, axis) for read in reads(stage.body))]
    return list(dict.fromkeys([*usual, *turned]))


def _fused(name: str, program: Program, vectors: list[Axis], shared: tuple[Axis, ...], between: frozenset[str], target: Target) -> Sketch | None:
    """None where even the smallest chunks of all threads would take too much memory."""
    chunks, columns = _chunks(program, shared, vectors, target)
    rules = [
        StageRule(group, vector, target, f"s{number}." if number else "", group.result == program.output, chunks, between)
        for number, (group, vector) in enumerate(zip(groups(program), vectors, strict=True))
    ]
    stages = [rule.tiled() for rule in rules]
    home = overwritten(stages)
    if home is not None:
        stages = [replace(stage, between={**stage.between, home.name: stages[-1].streams}) for stage in stages]
    sizes = {access.tensor: access.tensor.n_bytes // math.prod(axis.extent for axis in shared) for _, access in handed_on(stages)}
    least = sum(size for tensor, size in sizes.items() if tensor != home)
    if target.threads * least * math.prod(chunk.unit for chunk in chunks.values()) > MAX_WORKSPACE_BYTES:
        return None
    held = add(*(mul(stages[-1].between.get(tensor.name, 1), size) for tensor, size in sizes.items()))
    rules[0].limit(sub(mul(target.threads, held, *(chunk.size for chunk in chunks.values())), MAX_WORKSPACE_BYTES))
    return _joined(name, program, stages, rules, columns, shared)


def _chunks(program: Program, shared: tuple[Axis, ...], vectors: list[Axis], target: Target) -> tuple[dict[Axis, Chunk], tuple[Column, ...]]:
    """The chunks of each shared axis, whole vectors of it where a stage has it as its vector axis; every thread gets one, where there are enough, and work
    enough for several threads."""
    units = {axis: target.lanes if axis in vectors else 1 for axis in shared}
    tiles: dict[Axis, Expr] = {axis: -(-axis.extent // unit) for axis, unit in units.items()}
    wanted = minimum(mul(*tiles.values()), least_chunks(program.stages, target))
    chunks: dict[Axis, Chunk] = {}
    columns: list[Column] = []
    for axis, unit in reversed(units.items()):
        n_units = -(-axis.extent // unit)
        choices = tuple(n for i, n in enumerate(CHUNK_COUNTS) if i == 0 or CHUNK_COUNTS[i - 1] < n_units)
        count: Expr = choices[0]
        if len(choices) > 1:
            count = symbol(f"{axis.name}.chunk")
            below = [max((n for n in choices if n <= size), default=1) for size in range(choices[-1] + 1)]
            most = most_joined(tiles[axis], mul(*(tiles[other] for other in shared if other != axis)), wanted)
            columns.append(Column(count, choices, most, take(count, below)))
        chunks[axis] = Chunk(count, unit, choices)
        tiles[axis] = ceil_div(axis.extent, mul(count, unit))
    return chunks, tuple(columns)


# --- vector axes ----------------------------------------------------------------------------------------------------


def _vector_axes(group: Group, target: Target, between: frozenset[str] = frozenset()) -> list[Axis]:
    """Axes worth vectorizing, best first: spatial ones along which the output is contiguous and every input is, or does not move, or may be packed
    so (not where a long reduce axis needs no packing); then a reduce axis, where no prologue wants packing; then, where the ones before leave the constant
    inputs untouched (as in nchw), an axis along which they are packed, and where no axis so far fills half a vector, the longest along which inputs may be
    packed. What fused stages hand on, `between` them, cannot be packed.
    """
    stage = group.stage
    inputs = list(reads(stage.body))
    fitting = [axis for axis in reversed(stage.spatial) if all(_fits(read, axis, between) for read in inputs)]
    contiguous = [axis for axis in fitting if stage.write.stride(axis) == 1]
    constants = [read for read in inputs if read.tensor.constant]
    packed = [axis for axis in fitting if axis.extent >= target.lanes and any(axis in read.axes for read in constants)]
    if any(axis in read.axes for axis in contiguous for read in constants):
        packed = []
    widest = max((axis.extent for axis in contiguous), default=1)
    across = [] if group.prologue else _axes_across(stage, target, widest)
    if widest < target.lanes // 2 and not across:  # single lanes are stored one by one, but most of them are used
        packed += sorted((axis for axis in fitting if axis.extent >= target.lanes and axis not in contiguous), key=lambda axis: -axis.extent)[:1]
    if not between:
        across = [axis for axis in across if axis.extent >= target.lanes]
    if any(axis.extent >= MANY_VECTORS * target.lanes for axis in across):
        contiguous = [axis for axis in contiguous if all(_is_in_place(read, axis) for read in inputs if not read.tensor.constant) and axis.extent > 1]
        packed = []
    return list(dict.fromkeys([*contiguous, *across, *packed])) or list(stage.spatial[-1:])


def _is_in_place(read: Read, axis: Axis) -> bool:
    return read.stride(axis) in (0, 1)


def _fits(read: Read, axis: Axis, between: frozenset[str] = frozenset()) -> bool:
    """Whether vectors along the axis can be read, from a packed copy if need be."""
    if _is_in_place(read, axis):
        return True
    parts = [(source, axes) for source, axes in Operand(read).parts if axis in axes]
    return read.tensor.name not in between and all(len(axes) == 1 or read.indices[source].factor(axis) == 1 for source, axes in parts)


def _axes_across(stage: Stage, target: Target, widest: int) -> list[Axis]:
    """Reduce axes worth vectorizing: all inputs are contiguous along them, or do not move, and either one input is not used twice, so that nothing is
    won by keeping it in registers, or the output is small and has no other axis that fills a vector."""
    inputs = list(reads(stage.body))
    if any(read.padded for read in inputs):
        return []
    in_place = [axis for axis in stage.reduce if {read.stride(axis) for read in inputs} in ({1}, {0, 1})]
    is_streamed = any(set(read.axes) == {*stage.spatial, *stage.reduce} for read in inputs)
    is_narrow = math.prod(axis.extent for axis in stage.spatial) <= SMALL_OUTPUT and widest < target.lanes
    return [axis for axis in in_place if is_streamed or (is_narrow and axis.extent >= LONG_REDUCE)]


# --- split reductions -----------------------------------------------------------------------------------------------


def _transform_vector(stage: Stage) -> Axis:
    """The axis along which the neighbours of what a transform reads and writes are nearest in memory."""
    (source,) = reads(stage.body)
    return min(stage.looped, key=lambda axis: abs(source.stride(axis)) + stage.write.stride(axis))


def _split_programs(program: Program, target: Target) -> Iterator[tuple[str, Program, Axis]]:
    """Reductions in parts, for outputs too small to occupy the machine."""
    stage = groups(program)[0].stage
    axis = max(stage.reduce, key=lambda a: a.extent, default=None)
    if stage.reduction is None or axis is None or axis.extent < LONG_REDUCE or math.prod(a.extent for a in stage.spatial) > SMALL_OUTPUT:
        return
    most_doublings = (max(MANY_PARTS, target.threads) - 1).bit_length()
    for parts in (1 << doublings for doublings in range(1, most_doublings + 1)):
        if parts >= min(target.threads, MANY_PARTS) and axis.extent % parts == 0:
            split = split_reduction(program, axis, parts)
            first = groups(split)[0]
            for vector in _vector_axes(first, target):
                yield f"split{parts}_{axis.name}_{_name(first.stage, vector)}", split, vector


__all__ = ["sketches"]
