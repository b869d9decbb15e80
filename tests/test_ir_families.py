"""Every operator family against its definition, tap by tap or in numpy's own words."""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from operator_samples import (
    capsule_texts,
    convolution_texts,
    einsum_texts,
    elementwise_texts,
    extremes,
    movement_texts,
    pool_texts,
    random_inputs,
    reduce_texts,
    row_texts,
    transposed_texts,
    typed_texts,
)
from scipy import special
from scipy.special import log_softmax, softmax

from codegen.check import Reference, check_output
from ir.convolution import KERNEL, LAYOUTS, SPATIAL
from ir.errors import UserError
from ir.interpreter import interpret
from ir.movement import block_of
from ir.operators import OPERATORS, parse_operator
from ir.program import CASTS, ELEMENT_BYTES, Apply, Constant, Read, Value
from ir.rounding import tolerance
from ir.simplify import simplify
from ir.types import integer_range

settled = settings(deadline=None, max_examples=40)
Doubles = NDArray[np.float64]


def parameters_of(text: str) -> dict:
    parameters = OPERATORS[text.partition(":")[0]].parameters
    return {name: parameters[name].parse(value) for name, value in (part.split("=") for part in text.partition(":")[2].split(","))}


def last(array: NDArray, layout: str, rank: int) -> Doubles:
    """An activation with its channels last."""
    array = array.astype(np.float64)
    if layout == LAYOUTS[rank][0]:
        return array
    array = np.moveaxis(array, 1, rank + 1)
    return array if layout == LAYOUTS[rank][1] else array.reshape(*array.shape[: rank + 1], -1)


def without_epilogue(text: str) -> str:
    return parse_operator(text.partition(",epilogue=")[0])[0]


def grouped(x: Doubles, taps: Doubles, groups: int, transposed: bool) -> Doubles:
    """Channels (..., c) times one tap of weights, group by group."""
    if transposed:  # (c, k/groups)
        parts = zip(np.split(x, groups, -1), np.split(taps, groups, 0), strict=True)
        return np.concatenate([part @ weights for part, weights in parts], -1)
    parts = zip(np.split(x, groups, -1), np.split(taps, groups, 0), strict=True)
    return np.concatenate([part @ weights.T for part, weights in parts], -1)


@settled
@given(st.one_of(convolution_texts(1), convolution_texts(3, most=3)))
def test_convolutions_of_one_and_three_dimensions(text: str) -> None:
    text = without_epilogue(text)
    given_, program = parameters_of(text), parse_operator(text)[1]
    rank = 1 if text.startswith("conv1d") else 3
    inputs = random_inputs(program)
    x, pad = last(inputs["x"], given_["layout"], rank), given_["pad"]
    x = np.pad(x, ((0, 0), *zip(pad[:rank], pad[rank:], strict=True), (0, 0)))
    kernel = [given_[name] for name in KERNEL[rank]]
    outputs = [(size - by * (k - 1) - 1) // step + 1 for size, by, k, step in zip(x.shape[1:-1], given_["dilation"], kernel, given_["stride"], strict=True)]
    expected: Doubles = np.zeros((len(x), *outputs, given_["k"]))
    for tap in itertools.product(*map(range, kernel)):
        starts = [at * by for at, by in zip(tap, given_["dilation"], strict=True)]
        where = tuple(slice(a, a + (n - 1) * step + 1, step) for a, n, step in zip(starts, outputs, given_["stride"], strict=True))
        expected += grouped(x[(slice(None), *where)], inputs["weights"][(slice(None), slice(None), *tap)].astype(float), given_["groups"], False)
    np.testing.assert_allclose(last(interpret(program, inputs), given_["layout"], rank), expected, rtol=1e-12, atol=1e-12)
    assert len(SPATIAL[rank]) == rank


@settled
@given(transposed_texts())
def test_transposed_convolution_spreads_each_pixel(text: str) -> None:
    text = without_epilogue(text)
    given_, program = parameters_of(text), parse_operator(text)[1]
    inputs = random_inputs(program)
    x = last(inputs["x"], given_["layout"], 2)
    (down, across), (tall, broad), (r, s) = given_["stride"], given_["dilation"], (given_["r"], given_["s"])
    n, h, w, _ = x.shape
    high, wide = (h - 1) * down + tall * (r - 1) + 1 + given_["output_pad"][0], (w - 1) * across + broad * (s - 1) + 1 + given_["output_pad"][1]
    full: Doubles = np.zeros((n, high, wide, given_["k"]))
    for i, j in itertools.product(range(r), range(s)):
        at = (slice(None), slice(i * tall, i * tall + (h - 1) * down + 1, down), slice(j * broad, j * broad + (w - 1) * across + 1, across))
        full[at] += grouped(x, inputs["weights"][:, :, i, j].astype(float), given_["groups"], True)
    top, left, bottom, right = given_["pad"]
    expected = full[:, top : high - bottom, left : wide - right]
    np.testing.assert_allclose(last(interpret(program, inputs), given_["layout"], 2), expected, rtol=1e-12, atol=1e-12)


@settled
@given(capsule_texts())
def test_capsules_are_multiplied_as_matrices(text: str) -> None:
    text = without_epilogue(text)
    given_, program = parameters_of(text), parse_operator(text)[1]
    inputs = random_inputs(program)
    pad, (down, across) = given_["pad"], given_["stride"]
    x = np.pad(inputs["x"].astype(float), ((0, 0), (pad[0], pad[2]), (pad[1], pad[3]), (0, 0), (0, 0), (0, 0)))
    _, high, wide, *_ = program.output.shape
    expected: Doubles = np.zeros(program.output.shape)
    for i, j, y, z in itertools.product(range(given_["r"]), range(given_["s"]), range(high), range(wide)):
        expected[:, y, z] += np.einsum("nabc,bdck->nadk", x[:, y * down + i, z * across + j], inputs["weights"][i, j])
    np.testing.assert_allclose(interpret(program, inputs), expected, rtol=1e-12, atol=1e-12)


@settled
@given(einsum_texts())
def test_einsum_is_numpys(text: str) -> None:
    text = without_epilogue(text)
    first, second, result = parameters_of(text)["equation"]
    program = parse_operator(text)[1]
    inputs = random_inputs(program)
    expected = np.einsum(f"{first},{second}->{result}", inputs["a"].astype(float), inputs["b"].astype(float))
    np.testing.assert_allclose(interpret(program, inputs), expected, rtol=1e-12, atol=1e-12)


@settled
@given(row_texts(), st.integers(0, 9))
def test_rows_are_set_in_relation_to_themselves(text: str, seed: int) -> None:
    """And single precision, operation by operation, is tolerated."""
    given_, program = parameters_of(parse_operator(text)[0]), parse_operator(text)[1]
    inputs = random_inputs(program, seed)
    doubles = {name: array.astype(np.float64) for name, array in inputs.items()}
    result = interpret(program, inputs)
    name = text.partition(":")[0]
    np.testing.assert_allclose(result, ROWS[name](given_, doubles), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(interpret(simplify(program), inputs).reshape(result.shape), result, rtol=1e-12, atol=1e-14)
    assert (np.abs(ROWS[name](given_, inputs) - result) <= tolerance(program, inputs)).all()


def standardized(x: NDArray, axes: tuple[int, ...], epsilon: float) -> NDArray:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + x.dtype.type(epsilon))


def by_channel(array: NDArray, layout: str) -> NDArray:
    return array if layout == "nhwc" else array[:, None, None]


def batch_normalized(given_: dict, inputs: Mapping[str, NDArray]) -> NDArray:
    scale, bias, mean, variance = (by_channel(inputs[name], given_["layout"]) for name in ("scale", "bias", "mean", "variance"))
    return (inputs["x"] - mean) / np.sqrt(variance + scale.dtype.type(given_["epsilon"])) * scale + bias


def instance_normalized(given_: dict, inputs: Mapping[str, NDArray]) -> NDArray:
    scale, bias = (by_channel(inputs[name], given_["layout"]) for name in ("scale", "bias"))
    return standardized(inputs["x"], (1, 2) if given_["layout"] == "nhwc" else (2, 3), given_["epsilon"]) * scale + bias


def root_mean_squared(given_: dict, inputs: Mapping[str, NDArray]) -> NDArray:
    x, axes = inputs["x"], tuple(given_["axes"])
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + x.dtype.type(given_["epsilon"])) * inputs["scale"]


def attended(given_: dict, inputs: Mapping[str, NDArray]) -> NDArray:
    q, k, v = (inputs[name] if given_["layout"] == "bhid" else inputs[name].swapaxes(1, 2) for name in "qkv")
    score = (q @ k.swapaxes(2, 3)) * q.dtype.type(given_["scale"] or given_["dim"] ** -0.5)
    result = softmax(score, axis=-1) @ v
    return result if given_["layout"] == "bhid" else result.swapaxes(1, 2)


ROWS: dict[str, Callable[[dict, Mapping[str, NDArray]], NDArray]] = {
    "softmax": lambda given_, inputs: softmax(inputs["x"], axis=given_["axis"]),
    "log_softmax": lambda given_, inputs: log_softmax(inputs["x"], axis=given_["axis"]),
    "layer_norm": lambda given_, inputs: standardized(inputs["x"], tuple(given_["axes"]), given_["epsilon"]) * inputs["scale"] + inputs["bias"],
    "rms_norm": root_mean_squared,
    "batch_norm": batch_normalized,
    "instance_norm": instance_normalized,
    "attention": attended,
}


@pytest.mark.parametrize(
    ("text", "shift", "scale", "relative"),
    [
        ("softmax:shape=8x1000,axis=1", 0, 1, 1e-4),
        ("softmax:shape=8x1000,axis=1", 300, 50, 1e-4),
        ("log_softmax:shape=8x1000,axis=1", 300, 50, 1e-5),
        ("layer_norm:shape=8x1000,axes=1", 0, 1, 1e-3),
        ("rms_norm:shape=8x1000,axes=1", 300, 1, 1e-4),
        ("attention:heads=1,queries=16,keys=128,dim=64", 0, 1, 3e-4),
    ],
)
def test_the_tolerated_error_is_small(text: str, shift: float, scale: float, relative: float) -> None:
    """Relative to the largest number of the result."""
    program = parse_operator(text)[1]
    inputs = {name: array * np.float32(scale) + np.float32(shift) for name, array in random_inputs(program).items()}
    assert tolerance(program, inputs).max() < relative * np.abs(interpret(program, inputs)).max()


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("softmax:shape=8x100,axis=1", 2 * 800),
        ("batch_norm:c=3,h=4,w=5", 2 * 60 + 6 * 3),
        ("max_pool2d:c=3,h=8,w=8,r=2,s=2,stride=2", 3 * 64),
        ("attention:batch=2,heads=3,queries=5,keys=7,dim=11", 6 * (4 * 5 * 7 * 11 + 2 * 5 * 7)),
        ("conv_transpose2d:c=3,h=4,w=5,k=2,r=3,s=3,stride=2,pad=1,output_pad=1", 2 * 3 * 2 * 9 * 20),  # of each pixel all taps
        ("conv_transpose2d:c=3,h=4,w=5,k=2,r=4,s=4,stride=2,pad=1", 2 * 3 * 2 * 16 * 20),
        ("conv_transpose2d:c=3,h=4,w=5,k=2,r=5,s=1,stride=3x1,pad=1x0,output_pad=0", 2 * 3 * 2 * 5 * 20),
        ("conv2d:c=3,h=4,w=5,k=2,r=3,s=3,pad=1", 2 * 3 * 2 * 9 * 20),  # what lies outside the image is counted
    ],
)
def test_flops_are_those_of_the_reductions_where_there_are_some(text: str, flops: int) -> None:
    assert parse_operator(text)[1].flops == flops


@settled
@given(pool_texts(), st.integers(0, 9))
def test_pools_take_window_by_window(text: str, seed: int) -> None:
    given_, program = parameters_of(parse_operator(text)[0]), parse_operator(text)[1]
    inputs = random_inputs(program, seed)
    x = inputs["x"].astype(np.float64)
    x = x if given_["layout"] == "nhwc" else np.moveaxis(x, 1, 3)
    largest = "max" in text
    result = interpret(program, inputs)
    np.testing.assert_allclose(interpret(simplify(program), inputs).reshape(result.shape), result, rtol=1e-12, atol=1e-14)
    assert (tolerance(program, inputs) < 1e-4).all()
    if text.startswith("global"):
        np.testing.assert_allclose(result, x.max((1, 2)) if largest else x.mean((1, 2)), rtol=1e-12, atol=1e-12)
        return
    result = result if given_["layout"] == "nhwc" else np.moveaxis(result, 1, 3)
    (top, left, bottom, right), dilation = given_["pad"], given_.get("dilation", (1, 1))
    outside = 0.0 if given_.get("count_include_pad") == "1" else np.nan
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=outside)
    for y, z in np.ndindex(*result.shape[1:3]):
        rows, columns = (
            slice(at * by, at * by + step * (taps - 1) + 1, step)
            for at, by, step, taps in zip((y, z), given_["stride"], dilation, (given_["r"], given_["s"]), strict=True)
        )
        taken = padded[:, rows, columns]
        assert taken.shape[1:3] == (given_["r"], given_["s"])
        expected = np.nanmax(taken, (1, 2)) if largest else np.nanmean(taken, (1, 2))
        np.testing.assert_allclose(result[:, y, z], expected, rtol=1e-12, atol=1e-12)


REFERENCES = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "prod": np.prod, "l2": lambda x, axis: np.sqrt((x * x).sum(axis=axis))}


@settled
@given(reduce_texts(), st.integers(0, 9))
def test_reductions_are_numpys(text: str, seed: int) -> None:
    """And single precision, one element after the other, is tolerated."""
    given_, program = parameters_of(text), parse_operator(text)[1]
    inputs = random_inputs(program, seed)
    axes = tuple(given_["axes"])
    exact = REFERENCES[given_["function"]](inputs["x"].astype(float), axis=axes)
    result = interpret(program, inputs)
    np.testing.assert_allclose(result.ravel(), np.ravel(exact), rtol=1e-10, atol=1e-12)
    single = REFERENCES[given_["function"]](inputs["x"], axis=axes).astype(np.float32)
    assert (np.abs(np.ravel(single) - result.ravel()) <= tolerance(program, inputs).ravel()).all()


SCALARS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum, "pow": np.power,
    "less": lambda a, b: 1.0 * (a < b), "equal": lambda a, b: 1.0 * (a == b), "select": lambda c, a, b: np.where(c != 0, a, b),
    "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": special.erf, "sigmoid": special.expit,
}  # fmt: skip


@settled
@given(elementwise_texts(), st.integers(0, 9))
def test_chains_are_python_with_other_commas(text: str, seed: int) -> None:
    """And single precision is tolerated."""
    program = parse_operator(text)[1]
    inputs = random_inputs(program, seed)
    code = text.partition("value=")[2].replace(";", ",")
    exact = eval(code, SCALARS | {name: array.astype(float) for name, array in inputs.items()})
    result = interpret(program, inputs)
    np.testing.assert_allclose(result, exact, rtol=1e-12, atol=1e-12)
    single = eval(code, SCALARS | inputs)
    assert (np.abs(single.astype(float) - result) <= tolerance(program, inputs)).all()


def as_numpy(x: NDArray, dtype: str, real: type) -> NDArray:
    """`real` stands for fp32. Where ONNX leaves open what a cast gives, the nearest end of the range, and 0 for NaN."""
    if dtype == "float32":
        return x.astype(real)
    if dtype == "bool" or x.dtype.kind != "f":
        return x.astype(dtype)
    low, high = integer_range(dtype)
    whole = [0 if np.isnan(number) else high if number > high else low if number < low else int(number) for number in x.ravel().tolist()]
    return np.array(whole, dtype).reshape(x.shape)


@pytest.mark.parametrize("dtype", ELEMENT_BYTES)
@pytest.mark.parametrize("source", ELEMENT_BYTES)
def test_casts_are_numpys(source: str, dtype: str) -> None:
    """Exactly, and no error is tolerated but that of an integer that fp32 does not have."""
    given_ = extremes(source)
    program = parse_operator(f"elementwise:shapes={given_.size},types={source},value=cast_{dtype}(a)")[1]
    result, bound = interpret(program, {"a": given_}), tolerance(program, {"a": given_})
    expected = as_numpy(given_, dtype, np.float64)
    assert program.output.dtype == dtype
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)
    check_output(as_numpy(given_, dtype, np.float32), Reference(result, bound))
    finite = np.isfinite(expected)
    assert (bound[finite] <= (2e-6 * np.abs(expected[finite]) + 1e-30 if dtype == "float32" else 0)).all()


def by_numpy(value: Value, inputs: Mapping[str, NDArray], real: type) -> NDArray:
    """Of a chain; `real` stands for fp32."""
    match value:
        case Constant(number, dtype):
            return np.array(number, real if dtype == "float32" else dtype)
        case Read(tensor):
            return as_numpy(inputs[tensor.name], tensor.dtype, real)
        case Apply(function, args):
            given_ = [by_numpy(arg, inputs, real) for arg in args]
            result = np.asarray(as_numpy(given_[0], CASTS[function], real) if function in CASTS else SCALARS[function](*given_))
            return result.astype(given_[0].dtype) if function in ("less", "equal") else result
    raise TypeError(value)


@settings(deadline=None, max_examples=150)
@given(typed_texts(), st.integers(0, 9))
def test_chains_of_other_types_are_numpys(text: str, seed: int) -> None:
    """And single precision is tolerated, also where it changes what a float is cut to."""
    program = parse_operator(text)[1]
    inputs = random_inputs(program, seed)
    with np.errstate(all="ignore"):
        exact, single = (by_numpy(program.stages[0].body, inputs, real) for real in (np.float64, np.float32))
    result = interpret(program, inputs)
    assert result.dtype == (np.float64 if program.output.dtype == "float32" else program.output.dtype)
    if program.output.dtype == "float32":
        np.testing.assert_allclose(result, exact, rtol=1e-12, atol=1e-12)
    else:
        np.testing.assert_array_equal(result, exact)
    assert single.dtype == program.output.dtype
    check_output(single, Reference(result, tolerance(program, inputs)))


@pytest.mark.parametrize(
    ("value", "given_", "bound"),
    [
        ("cast_int32(mul(a;0.1))", [30, 35, -30, 0, 1e20, np.nan], [1, 0, 1, 0, 0, 0]),  # 0.1 is rounded
        ("cast_int8(cast_int32(mul(a;0.1)))", [1260, 1280, 1285], [1, 255, 0]),  # from 127 to -128
        ("cast_int8(mul(a;0.1))", [1270, 1280, 1290], [1, 0, 0]),  # which ends at 127
        ("cast_bool(sub(mul(a;0.1);3))", [30, 31, 0], [1, 0, 0]),
        ("cast_bool(a)", [0, 1e-45, -1], [0, 0, 0]),
        ("add(cast_uint8(mul(a;0.1));cast_uint8(3))", [2510, 2520, 2525], [1, 255, 0]),
        ("select(less(mul(a;0.1);3);cast_int64(7);cast_int64(-7))", [29, 30], [0, 14]),
        ("cast_float32(cast_int32(mul(a;0.1)))", [35], [None]),
    ],
)
def test_what_rounding_may_do_to_integers(value: str, given_: list[float], bound: list[float | None]) -> None:
    program = parse_operator(f"elementwise:shapes={len(given_)},value={value}")[1]
    found = tolerance(program, {"a": np.array(given_, np.float32)})
    assert all(error < 1e-5 if wanted is None else error == wanted for error, wanted in zip(found.tolist(), bound, strict=True)), found


# --- data that are only moved ---------------------------------------------------------------------------------------


def moved(text: str, inputs: Mapping[str, NDArray]) -> NDArray:
    """In numpy's own words."""
    given_, (x, *_) = parameters_of(text), inputs.values()
    match text.partition(":")[0]:
        case "transpose":
            return x.transpose(given_["axes"])
        case "pad":
            widths = list(zip(given_["before"], given_["after"], strict=True))
            return np.pad(x, widths, constant_values=given_["value"]) if given_["mode"] == "constant" else np.pad(x, widths, mode=given_["mode"])
        case "slice":
            return x[tuple(slice(*part) for part in zip(given_["starts"], given_["stops"], given_["steps"], strict=True))]
        case "concat":
            return np.concatenate(list(inputs.values()), given_["axis"])
    source, target = given_["from"], given_["to"]
    if block_of(source):
        n, blocks, h, w, block = x.shape
        x = np.moveaxis(x, -1, 2).reshape(n, blocks * block, h, w)[:, : given_["shape"][1]]
    elif source == "nhwc":
        x = np.moveaxis(x, -1, 1)
    if block := block_of(target):
        x = np.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))
        return np.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 2, -1)
    return np.moveaxis(x, 1, -1) if target == "nhwc" else x


@settled
@given(movement_texts(20))
def test_moved_data_are_the_same_numbers(text: str) -> None:
    program = parse_operator(text)[1]
    inputs = random_inputs(program)
    for array in inputs.values():
        array.flat[:: max(1, array.size // 4)] = [-0.0, np.nan, np.inf, -np.inf, 1e-45][: len(array.flat[:: max(1, array.size // 4)])]
    expected = moved(text, inputs)
    for each in (program, simplify(program)):
        found = interpret(each, inputs).reshape(expected.shape).astype(np.float32)
        assert np.array_equal(found.view(np.int32), np.ascontiguousarray(expected).view(np.int32))
    assert (program.flops, program.work) == (0, expected.size)
    assert not tolerance(program, inputs).any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("transpose:shape=3x4x5,axes=2x0", "transpose: axes=2x0 are not the 3 dimensions of shape=3x4x5, each once"),
        ("pad:shape=4x5,before=1x2,after=0", "pad: after=0 has 1 numbers for the 2 dimensions of the shape"),
        ("pad:shape=4x5,before=4x2,after=0x0,mode=reflect", "pad: mode=reflect takes less than the 4 elements of dimension 0, not 4"),
        ("pad:shape=4,before=1,after=1,value=x", "pad: value='x' is no decimal number such as -1.5, nor inf, -inf or nan"),
        ("pad:shape=4,before=1,after=1,value=1e39", "pad: value='1e39' is beyond the range of fp32"),
        ("pad:shape=4,before=1,after=1,value=1,mode=edge", "pad: value=1 is for mode=constant, not for mode=edge"),
        ("slice:shape=9,starts=3,stops=1,steps=1", "slice: nothing lies from 3 to 1 in steps of 1 in the 9 of dimension 0"),
        ("slice:shape=9,starts=1,stops=1,steps=0", "slice: steps=0 has a step of 0"),
        ("concat:shapes=3x4,axis=1", "concat: shapes has one shape, and there is nothing to join it with"),
        ("concat:shapes=3x4.2x4,axis=1", "concat: shapes=3x4.2x4 differ in more than dimension 1"),
        ("concat:shapes=3x4.3x4,axis=2", "concat: axis=2 of shapes with 2 dimensions"),
        ("pack:shape=1x3x4x20,from=nhwc,to=nhwc", "pack: from and to are the same layout, nhwc"),
        ("pack:shape=1x3x4x20,from=nhwc,to=nchw0c", "pack: to='nchw0c' is neither nchw, nor nhwc, nor nchw<N>c such as nchw16c"),
        ("pack:shape=1x3x4,from=nhwc,to=nchw8c", "pack: shape=1x3x4 has 3 numbers, an image has n, c, h and w"),
        ("pack:shape=1x3x4x3,from=nchw16c,to=nchw8c", "pack: from=nchw16c and to=nchw8c are both in blocks of channels, one must be nchw or nhwc"),
    ],
)
def test_what_cannot_be_moved_so_is_said_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_operator(text)
    assert str(caught.value) == words
