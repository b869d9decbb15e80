import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen.check import Reference, check_output, reference
from codegen.guards import GUARD_BYTES, Guards, WrongAnswer
from codegen.inputs import SPREAD, guarded_inputs, random_inputs
from codegen.kernel import Array
from codegen.workspace import ALIGNMENT
from ir.interpreter import interpret
from ir.program import ELEMENT_BYTES, reads
from ir.rounding import tolerance
from ir.task import task

TEXTS = ["matmul:m=7,n=9,k=300,epilogue=bias+relu", "conv2d:c=5,h=9,w=8,k=6,r=3,s=3,pad=1,epilogue=sigmoid", "batch_matmul:batch=2,m=3,n=4,k=5"]


@pytest.mark.parametrize("text", TEXTS)
def test_inputs_follow_from_the_seed(text: str) -> None:
    first, again, other = random_inputs(text, 1), guarded_inputs.__wrapped__(text, 1)[1], random_inputs(text, 2)
    for tensor in task(text).program.inputs:
        assert first[tensor.name].shape == tensor.shape
        assert first[tensor.name].dtype == np.float32
        assert -1 <= first[tensor.name].min() < first[tensor.name].max() < 1
        assert np.array_equal(first[tensor.name], again[tensor.name])
        assert not np.array_equal(first[tensor.name], other[tensor.name])
    assert np.array_equal(reference(text, 1).values, interpret(task(text).program, first))


def test_references_of_the_last_tasks_are_kept_each_once() -> None:
    """However a task is computed: parts of sums in another order round alike."""
    first, second, third = (f"matmul:m={m},n=9,k=40" for m in (3, 4, 5))
    kept = reference(first, 0)
    assert reference(second, 0) is reference(second, 0)
    assert reference(first, 0, "split") is reference(first, 0) is kept
    reference(third, 0)
    reference(second, 0)
    assert reference(first, 0) is not kept


@pytest.mark.parametrize("text", TEXTS)
def test_fp32_of_another_order_is_right_and_half_precision_is_not(text: str) -> None:
    expected = reference(text, 0)
    check_output(expected.values.astype(np.float32), expected)
    with pytest.raises(WrongAnswer):
        check_output(expected.values.astype(np.float16).astype(np.float32), expected)


@given(st.data())
def test_what_is_said_of_wrong_elements(data: st.DataObject) -> None:
    values = np.arange(1.0, 25).reshape(4, 6)
    expected = Reference(values, np.full(values.shape, 1e-3))
    cells = st.tuples(st.integers(0, 3), st.integers(0, 5))
    wrong = data.draw(st.dictionaries(cells, st.floats(0.5, 100), min_size=1, max_size=5))
    output = values.astype(np.float32)
    for cell, by in wrong.items():
        output[cell] += by
    worst = max(wrong, key=lambda cell: abs(output[cell] - values[cell]))
    with pytest.raises(WrongAnswer, match=f"^{len(wrong)} of 24 elements are wrong, the worst at ") as raised:
        check_output(output, expected)
    where = tuple(int(number) for number in re.search(r"\[(\d+), (\d+)\]", str(raised.value)).groups())
    assert abs(output[where] - values[where]) == abs(output[worst] - values[worst])


def test_nan_and_infinity_are_wrong() -> None:
    expected = Reference(np.array([1.0, 2.0, 0.0]), np.array([1e-6, 1e-6, 1e-30]))
    check_output(np.array([1, 2, 0], np.float32), expected)
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(WrongAnswer, match=rf"^1 of 3 elements are wrong, the worst at \[1\]: {value} instead of 2, which may be off by 1.0e-06$"):
            check_output(np.array([1, value, 0], np.float32), expected)


@given(st.lists(st.lists(st.integers(1, 40), max_size=3), min_size=1, max_size=3), st.data())
def test_guards_notice_any_byte(shapes: list[list[int]], data: st.DataObject) -> None:
    guards = Guards()
    arrays = [guards.empty(shape) for shape in shapes]
    for array, shape in zip(arrays, shapes, strict=True):
        assert array.shape == tuple(shape)
        assert array.ctypes.data % ALIGNMENT == 0
        assert np.isnan(array).all()
        array.fill(1.0)
    guards.check()
    array = data.draw(st.sampled_from(arrays))
    before = data.draw(st.booleans())
    distance = data.draw(st.integers(1, GUARD_BYTES))
    whole = np.frombuffer(array.base, np.uint8)
    start = array.ctypes.data - whole.ctypes.data
    whole[start - distance if before else start + array.nbytes + distance - 1] ^= 0xFF
    side = "before" if before else "after"
    with pytest.raises(WrongAnswer, match=re.escape(f"wrote outside: 1 bytes {side} a buffer of shape {list(array.shape)}")):
        guards.check()


def test_infinities_and_nan_are_right_where_they_should_be() -> None:
    expected = Reference(np.array([np.nan, np.inf, -np.inf, 1.0]), np.array([np.nan, np.nan, np.inf, 0.1]))
    check_output(np.array([np.nan, np.inf, -np.inf, 1.05], np.float32), expected)
    for wrong, n in (([0, np.inf, -np.inf, 1], 1), ([np.nan, -np.inf, 7, np.nan], 2), ([np.nan, np.nan, -np.inf, np.inf], 2)):
        with pytest.raises(WrongAnswer, match=f"^{n} of 4 elements are wrong"):
            check_output(np.array(wrong, np.float32), expected)


def test_what_is_too_large_for_fp32_may_be_infinite() -> None:
    expected = Reference(np.array([1e39, -1e39, 3.4e38]), np.array([1e30, 1e30, 1e37]))
    check_output(np.array([np.inf, -np.inf, np.inf], np.float32), expected)
    with pytest.raises(WrongAnswer, match="2 of 3"):
        check_output(np.array([-np.inf, -3e38, 3.4e38], np.float32), expected)


def test_inputs_of_each_type() -> None:
    text = "elementwise:shapes=300." + ".".join(["300"] * 5) + ",types=" + ".".join(ELEMENT_BYTES) + ",value="
    value = "a"
    for name in "bcdef":
        value = f"add({value};cast_float32({name}))"
    inputs = random_inputs(text + value, 0)
    assert [str(array.dtype) for array in inputs.values()] == list(ELEMENT_BYTES)
    ends = {"a": (-SPREAD, SPREAD), "d": (0, 1), "f": (0, SPREAD)}
    for name, array in inputs.items():
        low, high = ends.get(name, (-SPREAD, SPREAD))
        assert low <= array.min() < array.max() <= high
        assert len(np.unique(array)) > (high - low) * 0.9


def test_integers_are_compared_exactly() -> None:
    values = np.array([1 << 60, -(1 << 63), 7])
    expected = Reference(values, np.array([0.0, 0.0, 1.0]))
    check_output(values + np.array([0, 0, 1]), expected)
    words = f"1 of 3 elements are wrong, the worst at [0]: {(1 << 60) + 1} instead of {1 << 60}, which may be off by 0.0e+00"
    with pytest.raises(WrongAnswer, match=f"^{re.escape(words)}$"):
        check_output(values + np.array([1, 0, -1]), expected)
    with pytest.raises(WrongAnswer, match=r"^1 of 3 elements are wrong, the worst at \[1\]"):
        check_output(np.array([1 << 60, (1 << 63) - 1, 7]), expected)


def test_a_bool_is_0_or_1() -> None:
    values = np.array([True, False])
    expected = Reference(values, np.zeros(2))
    check_output(values, expected)
    for wrong in ([2, 0], [1, 255], [1, 1], [0, 0]):
        with pytest.raises(WrongAnswer, match=r"^1 of 2 elements are wrong"):
            check_output(np.array(wrong, np.uint8).view(bool), expected)


@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
def test_guarded_arrays_of_each_type(dtype: str) -> None:
    guards = Guards()
    array = guards.empty((3, 5), dtype)
    assert array.dtype == dtype
    assert array.ctypes.data % ALIGNMENT == 0
    with pytest.raises(WrongAnswer, match=r"^15 of 15 elements are wrong"):
        check_output(array, Reference(np.zeros((3, 5), dtype if dtype != "float32" else np.float64), np.zeros((3, 5))))
    guards.check()


@pytest.mark.parametrize("text", ["reduce:function=max,shape=4x10007,axes=1", "reduce:function=min,shape=30x3x50,axes=0x2", "global_max_pool:c=8,h=56,w=56"])
@pytest.mark.parametrize("end", [0, -1])
def test_an_end_that_is_missing_in_an_extreme_shows(text: str, end: int) -> None:
    of = task(text)
    (name, array), expected = next(iter(random_inputs(of.key, 0).items())), reference(of.key, 0)
    check_output(expected.values.astype(np.float32), expected)
    (read,) = reads(of.program.stages[0].body)
    along = next(at for at, index in enumerate(read.indices) if index.axes[0] in of.program.stages[0].reduce)
    without = np.moveaxis(array.copy(), along, 0)
    without[end] = without[1]
    wrong = interpret(of.program, {name: np.moveaxis(without, 0, along)}).astype(np.float32)
    with pytest.raises(WrongAnswer):
        check_output(wrong, expected)


def test_what_else_is_read_has_no_extremes_put_in() -> None:
    (array,) = random_inputs("softmax:shape=6x40,axis=1", 0).values()
    assert np.abs(array).max() < 1


LONG = ["reduce:function=l2,shape=4x64x1024,axes=1x2", "reduce:function=sum,shape=3x65536,axes=1", "matmul:m=4,n=32,k=2048,epilogue=bias+relu",
    "conv2d:c=128,h=5,w=5,k=8,r=3,s=3,pad=1", "einsum:equation=ij.jk.ik,sizes=i3.j5000.k4"]  # fmt: skip


@pytest.mark.parametrize("text", LONG)
def test_a_term_that_is_missing_in_a_long_sum_shows(text: str) -> None:
    """Whatever term it is, in whatever element, for inputs are 1 and -1, and 2 and -2 where they are squared; fp32 in its own order is right."""
    of = task(text)
    inputs, expected = random_inputs(of.key, 0), reference(of.key, 0)
    sizes = {1.0, 2.0} if "l2" in text else {1.0}
    assert all(set(np.unique(np.abs(array))) == sizes for array in inputs.values())
    check_output(expected.values.astype(np.float32), expected)
    name, array = next((name, array) for name, array in inputs.items() if name in ("x", "a"))
    place = tuple(np.random.default_rng(1).integers(array.shape))
    without = array.copy()
    without[place] = 0
    wrong = interpret(of.program, {**inputs, name: without}).astype(np.float32)
    with pytest.raises(WrongAnswer):
        check_output(wrong, expected)


@pytest.mark.parametrize("text", ["reduce:function=l2,shape=8x2048,axes=1", "rms_norm:shape=16x768,axes=1"])
def test_a_statistic_of_another_row_shows(text: str) -> None:
    """Squares of 1 and -1 would be the same in all rows."""
    of = task(text)
    inputs, expected = random_inputs(of.key, 0), reference(of.key, 0)
    x = inputs["x"]
    squares = np.square(x.astype(np.float64)).sum(axis=1)
    assert len(np.unique(squares)) > len(x) / 2
    first = x * np.sqrt(squares[0] / squares)[:, None]  # each row as if its statistic were that of the first
    wrong = interpret(of.program, {**inputs, "x": first.astype(np.float32)})
    if wrong.shape == x.shape:
        wrong = wrong * np.sqrt(squares / squares[0])[:, None]
    with pytest.raises(WrongAnswer):
        check_output(wrong.astype(np.float32), expected)


def test_more_terms_than_fp32_adds_up_exactly() -> None:
    """Most inputs are 0 then; what is computed from nothing is wrong."""
    of = task("reduce:function=sum,shape=8192x4096,axes=0x1")
    inputs, expected = random_inputs(of.key, 0), reference(of.key, 0)
    assert 0.2 < np.count_nonzero(inputs["x"]) / inputs["x"].size < 0.3
    check_output(expected.values.astype(np.float32), expected)
    with pytest.raises(WrongAnswer):
        check_output(np.zeros_like(expected.values, np.float32), expected)


def test_a_factor_that_is_missing_in_a_long_product_shows() -> None:
    of = task("reduce:function=prod,shape=8x1024,axes=1")
    x, expected = random_inputs(of.key, 0)["x"], reference(of.key, 0)
    check_output(np.prod(x, axis=1), expected)
    assert (np.abs(expected.values) > 1e-15).all()
    scaling = np.argwhere(np.abs(x) != 1)
    assert 100 < len(scaling) / 8 < 500
    without = x.copy()
    without[tuple(scaling[0])] = 1
    with pytest.raises(WrongAnswer):
        check_output(np.prod(without, axis=1), expected)


@pytest.mark.parametrize("value", ["log(exp(mul(a;100)))", "mul(exp(mul(a;-99));100000000000000000000000000000000000000)", "div(a;mul(b;1e-40))"])
def test_what_leaves_the_range_of_fp32_on_the_way(value: str) -> None:
    """The next function may get an infinity, or a number of few digits."""
    of = task(f"elementwise:shapes=1000{'.1000' if 'b' in value else ''},value={value}")
    a, *b = random_inputs(of.key, 0).values()
    with np.errstate(all="ignore"):
        found = {"log": lambda: np.log(np.exp(a * 100)), "mul": lambda: np.exp(a * -99) * np.float32(1e38), "div": lambda: a / (b[0] * np.float32(1e-40))}[
            value[:3]
        ]()
    assert found.dtype == np.float32
    check_output(found, reference(of.key, 0))


# Nothing where both inputs have one magnitude, but for what is rounded.
NEAR_0 = "sub(abs(a);mul(sqrt(abs(a));sqrt(abs(b))))"


def near_0(a: Array, b: Array) -> Array:
    return np.abs(a) - np.sqrt(np.abs(a)) * np.sqrt(np.abs(b))


@np.errstate(all="ignore")
@pytest.mark.parametrize(
    ("value", "in_fp32"),
    [
        ("sqrt(sub(add(mul(a;a);mul(b;b));mul(2;mul(a;b))))", lambda a, b: np.sqrt(a * a + b * b - 2 * (a * b))),
        (f"sqrt({NEAR_0})", lambda a, b: np.sqrt(near_0(a, b))),
        (f"pow({NEAR_0};0.5)", lambda a, b: np.power(near_0(a, b), np.float32(0.5))),
        (f"log({NEAR_0})", lambda a, b: np.log(near_0(a, b))),
        (f"mul(add(b;3);log({NEAR_0}))", lambda a, b: (b + np.float32(3)) * np.log(near_0(a, b))),
        (f"exp(div(abs(a);{NEAR_0}))", lambda a, b: np.exp(np.abs(a) / near_0(a, b))),
        ("add(b;max(0;log(sub(mul(a;a);mul(b;b)))))", lambda a, b: b + np.maximum(np.float32(0), np.log(a * a - b * b))),
        (f"select(less({NEAR_0};0);sqrt(-1);b)", lambda a, b: np.where(near_0(a, b) < 0, np.float32(np.nan), b)),
        (f"div({NEAR_0};{NEAR_0})", lambda a, b: near_0(a, b) / near_0(a, b)),
    ],
)
def test_on_either_side_of_zero_a_root_is_right(value: str, in_fp32: Callable[[Array, Array], Array]) -> None:
    """Where rounding decides whether it is a number at all; elsewhere it is compared."""
    of = task(f"elementwise:shapes=4096.4096,value={value}")
    a = random_inputs(of.key, 0)["a"]
    b = np.where(np.arange(4096) % 2, a, random_inputs(of.key, 0)["b"])
    inputs = {"a": a, "b": b}
    expected = Reference(interpret(of.program, inputs), tolerance(of.program, inputs))
    output = in_fp32(a, b)
    check_output(output, expected)
    certain = np.isfinite(expected.values) & np.isfinite(expected.tolerance)
    assert certain[::2].sum() > 512
    with pytest.raises(WrongAnswer):
        check_output(np.where(certain, np.float32(np.nan), output), expected)
    surely_none = np.isnan(expected.values) & ~np.isinf(expected.tolerance)
    if surely_none.any():
        with pytest.raises(WrongAnswer):
            check_output(np.where(surely_none, np.float32(1), output), expected)


@np.errstate(all="ignore")
def test_what_may_be_no_number_may_become_any_integer() -> None:
    of = task("elementwise:shapes=4096.4096,value=cast_int32(mul(1000000;sqrt(sub(sub(add(mul(a;a);mul(b;b));mul(2;mul(a;b)));1e-9))))")
    a = random_inputs(of.key, 0)["a"] / SPREAD
    b = np.where(np.arange(4096) % 2, np.nextafter(a, np.float32(0)), -a)
    inputs = {"a": a, "b": b}
    expected = Reference(interpret(of.program, inputs), tolerance(of.program, inputs))
    root = np.nan_to_num(np.sqrt(a * a + b * b - 2 * (a * b) - np.float32(1e-9)))
    check_output((np.float32(1e6) * root).astype(np.int32), expected)
    with pytest.raises(WrongAnswer):
        check_output(np.zeros(4096, np.int32), expected)


@pytest.mark.parametrize("value", ["log(max(a;0))", "add(a;log(max(a;0)))", "exp(mul(a;1000))", "mul(exp(mul(a;1000));add(a;3))", "div(a;max(a;0))"])
def test_what_surely_is_infinite_is_nothing_else(value: str) -> None:
    expected = reference(task(f"elementwise:shapes=256,value={value}").key, 0)
    with np.errstate(over="ignore"):
        right = expected.values.astype(np.float32)
    check_output(right, expected)
    is_infinite = np.isinf(expected.values)
    assert is_infinite.sum() > 32
    with pytest.raises(WrongAnswer, match=f"^{is_infinite.sum()} of 256"):
        check_output(np.where(is_infinite, np.float32(5), right), expected)


@pytest.mark.parametrize("n", [1 << 10, 1 << 24])
@pytest.mark.parametrize("factor", [0, 0.5, 2])
def test_a_product_of_however_many_powers_of_two_is_compared_exactly(n: int, factor: float) -> None:
    expected = reference(task(f"reduce:function=prod,shape={n},axes=0").key, 0)
    check_output(expected.values.astype(np.float32), expected)
    with pytest.raises(WrongAnswer):
        check_output((factor * expected.values).astype(np.float32), expected)


def test_small_numbers_are_compared_as_large_ones_are() -> None:
    expected = reference(task("elementwise:shapes=64,value=mul(a;1e-31)").key, 0)
    check_output(expected.values.astype(np.float32), expected)
    with pytest.raises(WrongAnswer):
        check_output(np.zeros(64, np.float32), expected)
