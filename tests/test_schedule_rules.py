import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import MACHINES, operator_texts, target, targets

from ir.errors import UserError
from ir.expression import Evaluator, Expr, symbols_of
from ir.operators import parse_operator
from ir.program import Axis, Program
from ir.simplify import simplify
from ir.task import task
from schedule.rules import sketches
from schedule.sketch import PACK_LEVELS, Sketch, TiledStage, Window, alike_permutations
from schedule.stage_rule import MAX_UPDATES, MAX_WORKSPACE_BYTES, least_chunks
from schedule.target import Target

settled = settings(deadline=None, max_examples=60)

AWKWARD = [
    "matmul:m=1,n=1,k=1",
    "matmul:m=1,n=1,k=1,b=variable,epilogue=bias+add+relu",
    "matmul:m=1,n=1,k=4096",
    "matmul:m=1,n=1,k=4099,b=variable",
    "matmul:m=1009,n=1,k=13",
    "matmul:m=1,n=1009,k=1009,epilogue=bias",
    "matmul:m=16777216,n=1,k=1",
    "matmul:m=1,n=1,k=16777216",
    "matmul:m=2,n=2,k=16777213,b=variable",
    "batch_matmul:batch=1,m=1,n=1,k=1",
    "batch_matmul:batch=97,m=1,n=3,k=1",
    "batch_matmul:batch=12,m=128,n=64,k=128,b=variable",
    *(f"conv2d:c=1,h=1,w=1,k=1,r=1,s=1,layout={layout}" for layout in ("nhwc", "nchw", "nchwc")),
    *(f"conv2d:c=1,h=1,w=1,k=1,r=3,s=3,pad=1,layout={layout}" for layout in ("nhwc", "nchw", "nchwc")),
    *(f"conv2d:n=3,c=17,h=7,w=11,k=17,r=3,s=3,groups=17,pad=1,layout={layout}" for layout in ("nhwc", "nchw", "nchwc")),
    *(f"conv2d:n=2,c=96,h=56,w=56,k=96,r=3,s=3,groups=96,pad=1,layout={layout}" for layout in ("nhwc", "nchw", "nchwc")),
    *(f"conv2d:n=2,c=64,h=14,w=14,k=64,r=3,s=3,groups=2,dilation=2,pad=2,layout={layout}" for layout in ("nhwc", "nchw", "nchwc")),
    *(f"conv2d:c=3,h=224,w=224,k=64,r=7,s=7,stride=2,pad=3,layout={layout},epilogue=bias+relu" for layout in ("nhwc", "nchw", "nchwc")),
    *(f"conv2d:c=5,h=40,w=40,k=7,r=2,s=3,stride=5,layout={layout},epilogue=add" for layout in ("nhwc", "nchw", "nchwc")),
    "conv2d:c=1,h=1,w=65536,k=1,r=1,s=4096,pad=50",
    "conv2d:c=195,h=2,w=1009,k=6,r=13,s=100,stride=2,pad=5000,groups=3,dilation=7",
]


def evaluated(sketch: Sketch, expressions: list[Expr], X: np.ndarray) -> np.ndarray:
    return Evaluator(expressions, sketch.space.symbols)(X)


def stages_of(text: str, machine: Target | None = None) -> dict[str, tuple[TiledStage, ...]]:
    return {sketch.name: sketch.stages for sketch in sketches(parse_operator(text)[1], machine or target())}


def check(sketch: Sketch, machine: Target) -> None:
    """What every sketch promises, on its default row and some others."""
    space, default = sketch.space, sketch.default_row()
    X = np.concatenate([default[None], space.sample(32, np.random.default_rng(0))])
    assert len(X) > 4
    assert space.valid(X).all()
    assert (space.canonical(X) == X).all()
    assert (sketch.default_row() == default).all()
    names = [symbol.name for symbol in space.symbols]
    assert len(set(names)) == len(names)
    assert set(sketch.default) == set(names)
    for j, column in enumerate(space.columns):
        assert list(column.choices) == sorted(set(column.choices))
        assert len(column.choices) > 1
        assert column.maximum is None or symbols_of(column.maximum) <= set(space.symbols[:j])
        assert column.alike is None or symbols_of(column.alike) <= set(space.symbols[: j + 1])
    for tiled in sketch.stages:
        check_stage(sketch, tiled, machine, X)
    for row in X[:3]:
        for stage in sketch.instantiate(row):
            assert all(isinstance(size, int) for tiling in stage.tilings.values() for size in tiling.sizes)
            assert all(set(stage.ordered(band)) == set(stage.axes(band)) for band in stage.orders)


def check_stage(sketch: Sketch, tiled: TiledStage, machine: Target, X: np.ndarray) -> None:
    stage = tiled.stage
    fused = set(sketch.fused)
    assert fused <= set(stage.spatial)
    assert tiled.vector in (*stage.spatial, *stage.reduce[-1:])
    unroll = evaluated(sketch, [tiled.unroll], X)[:, 0]
    assert set(tiled.tilings) == {*stage.spatial, *stage.reduce}
    vectors, tiles, chunks, variants = (np.ones(len(X)) for _ in range(4))
    for axis in stage.spatial:
        register, block, chunk, extent = evaluated(sketch, list(tiled.tilings[axis].sizes), X).T
        lanes = machine.lanes if axis == tiled.vector else 1
        assert (extent == axis.extent).all()
        assert (register >= 1).all()
        assert (register % lanes == 0).all()
        assert (block % register == 0).all()
        assert (chunk % block == 0).all()
        assert (register < extent + lanes).all()
        if axis not in fused:
            assert (block < extent + register).all(), "no tile is wholly outside"
            assert (chunk < extent + block).all(), "no block is wholly outside"
        if fused:
            assert (chunk == evaluated(sketch, [sketch.stages[0].tilings[axis].sizes[2]], X)[:, 0]).all() if axis in fused else (chunk >= extent).all()
        vectors *= register / lanes
        tiles *= np.ceil(extent / register)
        chunks *= np.ceil(extent / chunk)
        variants *= np.where(extent % np.minimum(register, extent) > 0, 2, 1)
    accumulators = vectors * unroll if tiled.is_across else vectors
    assert stage.tables or (accumulators <= machine.vector_registers - 2).all(), "accumulators fit"
    if not fused:
        assert (chunks >= np.minimum(tiles, least_chunks([stage], machine))).all(), "every thread gets a chunk"
    for axis in stage.reduce:
        size, extent = evaluated(sketch, list(tiled.tilings[axis].sizes), X).T
        assert ((size >= 1) & (size <= extent) & (extent == axis.extent)).all()
    assert (vectors * unroll * variants <= MAX_UPDATES).all()
    for operand in tiled.operands:
        level = evaluated(sketch, [operand.level], X)[:, 0]
        assert operand.prepared == (operand.read.tensor.constant and not tiled.is_across)
        assert set(level) <= set(range(len(PACK_LEVELS)))
        is_reused = set(operand.read.axes) != {*stage.spatial, *stage.reduce}
        if operand.read.padded and is_reused and stage.reduce and not operand.prepared and not stage.tables:
            assert (level > 0).all(), "packing brings the padding in"
        dimensions = operand.dimensions(0, tiled.vector, stage.reduce)
        assert {axis for d in dimensions for axis in d.axes} == set(operand.read.axes)
        if tiled.vector in stage.spatial and tiled.vector in operand.read.axes:
            assert all(tiled.vector in operand.dimensions(layout, tiled.vector, stage.reduce)[-1].axes for layout in (0, 1)), "vectors are loaded as they lie"
        copies = np.where(level == PACK_LEVELS.index("root"), 1, machine.threads)
        n_bytes = operand.read.tensor.element_bytes * copies * evaluated(sketch, [tiled.packed_extent(operand, d) for d in dimensions], X).prod(axis=1)
        if not operand.prepared:
            assert (n_bytes[level > 0] <= MAX_WORKSPACE_BYTES).all()


@settled
@given(operator_texts(most=200), targets())
def test_every_program_has_sketches_that_keep_their_promises(text: str, machine: Target) -> None:
    found = sketches(parse_operator(text)[1], machine)
    assert found
    assert len({sketch.name for sketch in found}) == len(found)
    for sketch in found:
        check(sketch, machine)


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_shapes(text: str, machine: tuple[int, int]) -> None:
    for threads in (1, 64):
        found = sketches(parse_operator(text)[1], target(*machine, threads=threads))
        assert found
        for sketch in found:
            check(sketch, target(*machine, threads=threads))


def test_sketches_are_named_by_what_they_do() -> None:
    assert list(stages_of("matmul:m=64,n=64,k=64")) == ["tile_n"]
    assert list(stages_of("conv2d:c=64,h=14,w=14,k=64,r=7,s=7,layout=nchw")) == ["tile_ow", "tile_k"]
    assert list(stages_of("conv2d:c=64,h=14,w=14,k=64,r=7,s=7,layout=nchwc")) == ["tile_kb"]
    assert list(stages_of("conv2d:c=64,h=14,w=14,k=64,r=3,s=3")) == ["tile_k", "winograd2_tile_k", "winograd4_tile_k"]
    assert list(stages_of("conv2d:c=15,h=14,w=14,k=64,r=3,s=3")) == ["tile_k"]
    assert list(stages_of("conv2d:c=64,h=14,w=14,k=64,r=3,s=3,groups=64")) == ["tile_g"]
    assert list(stages_of("matmul:m=1,n=256,k=1024", target(threads=4))) == ["tile_n", "split4_k_tile_n", "split8_k_tile_n", "split16_k_tile_n"]
    assert list(stages_of("matmul:m=4,n=1,k=1024", target(threads=16))) == ["across_k", "split16_k_across_k_rest"]
    of_many = {name.partition("_")[0] for name in stages_of("matmul:m=4,n=1,k=1024", target(threads=33))}
    assert of_many == {"across", "split16", "split32", "split64"}
    assert list(stages_of("softmax:shape=64x256,axis=1")) == ["fused_across_d1"]
    assert list(stages_of("attention:heads=2,queries=64,keys=64,dim=32")) == ["fused_tile_j", "fused_tile_i"]


def test_a_long_reduction_is_split_where_the_output_is_small() -> None:
    first, last = stages_of("matmul:m=1,n=256,k=1024,epilogue=relu")["split4_k_tile_n"]
    assert [(axis.name, axis.extent) for axis in first.stage.spatial] == [("k_part", 4), ("n", 256)]
    assert [axis.extent for axis in first.stage.reduce] == [256]
    assert (first.epilogue, last.epilogue is not None) == (None, True)
    assert all(len(stages) == 1 for stages in stages_of("matmul:m=64,n=256,k=1024").values())
    assert all(len(stages) == 1 for stages in stages_of("matmul:m=1,n=256,k=63").values())


def test_a_reduction_with_vectors_along_it_is_contiguous_along_them() -> None:
    (tiled,) = stages_of("matmul:m=3,n=1,k=1000,b=variable", target(lanes=8))["across_k"]
    assert (tiled.is_across, tiled.vector.name, tiled.vector.extent) == (True, "k", 1000)
    assert {operand.read.stride(tiled.vector) for operand in tiled.operands} == {1}
    assert {operand.level for operand in tiled.operands} == {0}, "in place"


def test_what_fused_stages_hand_on_is_contiguous_along_the_vector_axis() -> None:
    for name, place in (("fused_tile_j", -1), ("fused_tile_i", -1)):
        score, *_, product = stages_of("attention:heads=2,queries=64,keys=48,dim=32")[name]
        assert score.vector.name == name[-1]
        assert score.stage.indices[place].axes == (score.vector,)
        assert score.stage.write.stride(score.vector) == 1
        assert product.vector.name == "d"


def test_the_sum_of_a_softmax_computes_the_powers_and_keeps_them() -> None:
    stages = stages_of("softmax:shape=64x256,axis=1")["fused_across_d1"]
    assert [stage.keeps.tensor.name if stage.keeps else "" for stage in stages] == ["", "power", ""]
    assert stages[1].stage.reduction == "sum"
    assert [stage.keeps for stage in stages_of("log_softmax:shape=64x256,axis=1")["fused_across_d1"]] == [None] * 3, "nobody reads them again"


def test_where_channels_are_few_vectors_lie_along_pixels_too() -> None:
    assert list(stages_of("conv2d:c=32,h=20,w=40,k=3,r=3,s=3,pad=1")) == ["tile_k", "tile_ow"]
    assert list(stages_of("conv2d:c=32,h=20,w=40,k=8,r=3,s=3,pad=1")) == ["tile_k"]


def test_the_default_spreads_the_work_and_fills_the_registers() -> None:
    (sketch,) = sketches(parse_operator("matmul:m=512,n=512,k=512")[1], target())
    (tiled,) = sketch.instantiate(sketch.default_row())
    m, n = tiled.stage.spatial
    assert tiled.vector == n
    assert (tiled.tilings[m].sizes[0], tiled.tilings[n].sizes[0]) == (8, 32)
    assert math.prod(tiling.count(2) for axis, tiling in tiled.tilings.items() if axis in (m, n)) >= 2


def test_accumulators_leave_room_for_a_row_of_vectors_and_a_broadcast() -> None:
    for lanes, registers in MACHINES:
        (sketch,) = sketches(parse_operator("matmul:m=512,n=512,k=512")[1], target(lanes, registers))
        X = sketch.space.sample(2000, np.random.default_rng(0))
        m, n = evaluated(sketch, [sketch.stages[0].tilings[axis].sizes[0] for axis in sketch.stages[0].stage.spatial], X).T
        used = m * n / lanes + n / lanes + 1
        assert used.max() == registers
        assert (n > lanes).any()


def test_a_program_without_reduction_has_no_level_for_its_epilogue() -> None:
    (tiled,) = stages_of("matmul:m=64,n=64,k=1,epilogue=bias+relu")["tile_n"]
    assert tiled.stage.reduce == ()
    assert (tiled.epilogue is not None, tiled.epilogue_level, tiled.unroll) == (True, 0, 1)


def test_permutations_that_move_the_same_axes_alike_have_one_number() -> None:
    table = alike_permutations(3)
    orders = list(itertools.permutations(range(3)))
    assert len(table) == 8 * 6
    for moving, (number, order) in itertools.product(range(8), enumerate(orders)):
        same = [i for i, other in enumerate(orders) if [a for a in other if moving >> a & 1] == [a for a in order if moving >> a & 1]]
        assert table[6 * moving + number] == same[0]


def test_orders_of_single_loops_and_levels_of_single_blocks_are_not_told_apart() -> None:
    (sketch,) = sketches(parse_operator("matmul:m=96,n=96,k=96,b=variable")[1], target())
    symbols = list(sketch.space.names)

    def canonical(**wishes: int) -> dict[str, int]:
        row = [{**sketch.default, **{name.replace("_", "."): size for name, size in wishes.items()}}[name] for name in symbols]
        return dict(zip(symbols, sketch.space.canonical(np.array([row]))[0].tolist(), strict=True))

    single = {"m_block": 1, "n_block": 1, "n_chunk": 1, "m_chunk": 1}
    assert canonical(order_block=1, order_outer=1, order_parallel=1, **single) | single == canonical(order_parallel=1, **single) | single
    assert canonical(order_block=1, order_outer=1, order_parallel=1, **single)["order.parallel"] == 1
    assert canonical(order_block=1, **{**single, "m_block": 2, "n_block": 2})["order.block"] == 1
    chunk, block, slice_ = (PACK_LEVELS.index(level) for level in ("chunk", "block", "slice"))
    assert canonical(a_pack=chunk, **single)["a.pack"] == block
    assert canonical(a_pack=chunk, **{**single, "m_chunk": 2})["a.pack"] == chunk
    assert canonical(a_pack=slice_, k_slice=96)["a.pack"] == block
    assert canonical(a_pack=slice_, k_slice=48)["a.pack"] == slice_
    assert canonical(a_pack=0, a_layout=1)["a.layout"] == 0
    assert canonical(a_pack=block, a_layout=1)["a.layout"] == 1


def test_rules_see_the_program_not_the_operator() -> None:
    """A 1x1 convolution and the matrix product that it is have the same choices."""
    (convolution,) = sketches(parse_operator("conv2d:c=64,h=8,w=8,k=32,r=1,s=1")[1], target())
    (product,) = sketches(parse_operator("matmul:m=64,n=32,k=64")[1], target())
    assert [column.choices for column in convolution.space.columns] == [column.choices for column in product.space.columns]
    assert simplify(parse_operator("conv2d:c=64,h=8,w=8,k=32,r=1,s=1")[1]).stages[0].reduce[0].extent == 64


@settled
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(-6, 3), st.integers(1, 12))
def test_windows_hold_the_positions_inside(n_spatial: int, n_reduce: int, factor: int, step: int, constant: int, size: int) -> None:
    window = Window(Axis("r", n_reduce), Axis("o", n_spatial), factor, step, constant, size)
    inside = [[r for r in range(n_reduce) if 0 <= factor * o + step * r + constant < size] for o in range(n_spatial)]
    for o, positions in enumerate(inside):
        first, count = window.bounds(o)
        assert positions == list(range(first, first + count))
    assert list(window.lengths) == sorted({len(positions) for positions in inside})
    assert window.inside(n_spatial * n_reduce) == sum(map(len, inside))


def test_only_sums_of_products_leave_padding_out() -> None:
    _, program = parse_operator("conv2d:c=8,h=9,w=9,k=16,r=3,s=3,pad=1")
    for reduction, n_windows in (("sum", 2), ("max", 0)):
        stage = replace(program.stages[0], reduction=reduction)
        tiled = sketches(Program(program.inputs, (stage,)), target())[0].stages[0]
        assert len(tiled.windows) == n_windows


@pytest.mark.parametrize(
    ("text", "threads"), [("softmax:shape=2097152x16,axis=0", 2), ("softmax:shape=65536x64,axis=0", 64), ("softmax:shape=2x16777216,axis=1", 8)]
)
def test_rows_whose_chunks_take_too_much_memory_are_not_fused(text: str, threads: int) -> None:
    """All threads have a chunk of their own; what lies in the result takes none."""
    for sketch in sketches(task(text).program, target(threads=threads)):
        row = sketch.default_row()
        assert sketch.space.contains(row[None]).all()


def test_what_all_threads_share_is_packed_once() -> None:
    """So a copy of 16 MiB fits however many threads there are."""
    (sketch,) = sketches(parse_operator("matmul:m=2048,n=2048,k=2048,b=variable")[1], target(threads=64))
    X = sketch.space.sample(500, np.random.default_rng(0))
    assert (X[:, [str(symbol) for symbol in sketch.space.symbols].index("a.pack")] == PACK_LEVELS.index("root")).any()


def test_what_is_too_large_to_be_packed_is_refused_in_one_line() -> None:
    sketch, *_ = sketches(parse_operator("conv2d:c=8,h=3700,w=3700,k=8,r=3,s=3,dilation=1200,pad=1")[1], target())
    with pytest.raises(UserError, match="no sizes of tiles are known"):
        sketch.default_row()


@pytest.mark.parametrize("registers", [4, 6, 9])
def test_few_registers_hold_a_tile_of_something(registers: int) -> None:
    for sketch in sketches(parse_operator("reduce:function=sum,shape=1000x1000,axes=1")[1], target(lanes=4, vector_registers=registers)):
        X = sketch.space.draw(500, np.random.default_rng(0))
        assert (evaluated(sketch, [sketch.stages[0].tilings[axis].sizes[0] for axis in sketch.stages[0].stage.spatial], X) > 0).all()
