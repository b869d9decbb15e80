"""Every operator family against its definition, tap by tap or in numpy's own words."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from operator_samples import capsule_texts, convolution_texts, einsum_texts, elementwise_texts, random_inputs, reduce_texts, transposed_texts
from scipy import special

from ir.convolution import KERNEL, LAYOUTS, SPATIAL
from ir.interpreter import interpret
from ir.operators import OPERATORS, parse_operator
from ir.rounding import tolerance

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
