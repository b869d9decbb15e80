"""Counting a nest's executions, on nests whose counts are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ir.count import count, memory_loads, trace
from ir.expression import add, less, minimum, mul, sub, symbol
from ir.nest import Buffer, Call, For, If, Load, Nest, Store
from ir.program import FLOAT_BYTES, Constant

ROW, STEP, LANE = symbol("i"), symbol("j"), symbol("v")
INPUT, OUTPUT = Buffer("a", (10,), "input"), Buffer("c", (10, 20), "output")
TILE = Buffer("accumulator", (32,), "register")


def nest(*body: For | If | Store) -> Nest:
    return Nest("kernel", (INPUT, OUTPUT), body)


def rows_of(extent: int = 10) -> Nest:
    """c[i, v] = a[i] + 1 for 20 lanes."""
    store = Store(OUTPUT, (ROW, LANE), Call("add", (Load(INPUT, (ROW,)), Constant(1.0))))
    return nest(For(ROW, extent, (For(LANE, 20, (store,), "vector"),), "parallel"))


def test_every_access_of_every_lane_is_counted() -> None:
    counts = count(rows_of(), lanes=16)
    assert counts.flops == 200
    assert counts.iterations == {"i": 10, "v": 200}
    assert counts.loaded_bytes == {"a": FLOAT_BYTES * 200}
    assert counts.stored_bytes == {"c": FLOAT_BYTES * 200}
    assert counts.touched_bytes == {"a": FLOAT_BYTES * 10, "c": FLOAT_BYTES * 200}
    assert counts.vector_updates == 0


def test_points_are_the_loops_in_order() -> None:
    (store,) = trace(rows_of(3)).stores
    assert [loop.variable for loop in store.loops] == [ROW, LANE]
    expected = np.array([[i, v] for i in range(3) for v in range(20)])
    np.testing.assert_array_equal(store.points, expected)
    np.testing.assert_array_equal(store.addresses(OUTPUT, store.store.indices), expected @ [20, 1])
    assert store.first_lanes(16).sum() == 3 * 2  # a whole vector, and one of four lanes


def test_loops_may_be_cut_short_or_empty() -> None:
    inner = For(STEP, minimum(4, sub(10, mul(ROW, 4))), (Store(INPUT, (add(mul(ROW, 4), STEP),), Constant(0.0)),))
    found = trace(nest(For(ROW, 4, (inner,))))
    outer_run, inner_run = found.loops
    assert outer_run.extents.tolist() == [4]
    assert inner_run.extents.tolist() == [4, 4, 2, 0]
    (store,) = found.stores
    np.testing.assert_array_equal(store.addresses(INPUT, store.store.indices), np.arange(10))


def test_branches_divide_the_executions() -> None:
    branch = If(less(ROW, 3), (Store(INPUT, (ROW,), Constant(1.0)),), (Store(INPUT, (ROW,), Constant(2.0)),))
    then, otherwise = trace(nest(For(ROW, 10, (branch,)))).stores
    assert then.points[:, 0].tolist() == [0, 1, 2]
    assert otherwise.points[:, 0].tolist() == list(range(3, 10))


def test_guarded_loads_read_only_where_the_guard_holds() -> None:
    load = Load(INPUT, (sub(ROW, 1),), less(0, ROW))
    (store,) = trace(nest(For(ROW, 10, (Store(OUTPUT, (ROW, 0), load),)))).stores
    ((_, addresses),) = memory_loads(store)
    assert addresses.tolist() == list(range(9))


@pytest.mark.parametrize(("lanes", "updates"), [(16, 2), (8, 3), (4, 5)])
def test_register_tiles_are_updated_in_vectors_and_are_no_memory(lanes: int, updates: int) -> None:
    product = Call("mul", (Load(INPUT, (STEP,)), Constant(2.0)))
    start, update = Store(TILE, (LANE,), Constant(0.0)), Store(TILE, (LANE,), product, "sum")
    lanes_of = {statement: For(LANE, 20, (statement,), "vector") for statement in (start, update)}
    counts = count(nest(lanes_of[start], For(STEP, 7, (lanes_of[update],))), lanes)
    assert counts.vector_updates == 7 * updates
    assert counts.flops == 2 * 7 * 20
    assert counts.stored_bytes == {}
    assert counts.loaded_bytes == {"a": FLOAT_BYTES * 140}
