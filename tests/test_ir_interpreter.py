import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from operator_samples import conv2d_parameters, product_texts, random_inputs, written
from scipy import special

from ir.interpreter import interpret
from ir.operators import parse_operator
from ir.program import Apply, Axis, Constant, Program, Read, Stage, Tensor, affine, reads
from ir.rounding import tolerance
from ir.simplify import simplify
from ir.task import task

settled = settings(deadline=None, max_examples=40)


def channels_last(array: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    """An activation in `layout` as (n, h, w, c)."""
    if layout == "nhwc":
        return array
    if layout == "nchw":
        return array.transpose(0, 2, 3, 1)
    n, blocks, h, w, block = array.shape
    return array.transpose(0, 2, 3, 1, 4).reshape(n, h, w, blocks * block)


def convolved(x: NDArray[np.float32], weights: NDArray[np.float32], parameters: dict[str, str]) -> NDArray[np.float64]:
    """(n, oh, ow, k) of a convolution without epilogue, one window at a time."""
    groups = int(parameters["groups"])
    pad = [int(number) for number in parameters["pad"].split("x")]
    down, across = (int(number) for number in (parameters["stride"].split("x") * 2)[:2])
    tall, broad = (int(number) for number in parameters["dilation"].split("x"))
    x = np.pad(x.astype(np.float64), ((0, 0), (pad[0], pad[2]), (pad[1], pad[3]), (0, 0)))
    k, in_group, r, s = weights.shape
    tops = [top for top in range(0, x.shape[1], down) if top + tall * (r - 1) < x.shape[1]]
    lefts = [left for left in range(0, x.shape[2], across) if left + broad * (s - 1) < x.shape[2]]
    result = np.empty((len(x), len(tops), len(lefts), k))
    for (i, top), (j, left), channel in itertools.product(enumerate(tops), enumerate(lefts), range(k)):
        first = channel // (k // groups) * in_group
        window = x[:, top : top + tall * (r - 1) + 1 : tall, left : left + broad * (s - 1) + 1 : broad, first : first + in_group]
        result[:, i, j, channel] = (window * weights[channel].transpose(1, 2, 0)).sum(axis=(1, 2, 3))
    return result


ACTIVATIONS = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "gelu": lambda x: x * special.ndtr(x),
    "silu": lambda x: x * special.expit(x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


def finished(total: NDArray[np.float64], epilogue: str, inputs: dict[str, NDArray[np.float32]], layout: str) -> NDArray[np.float64]:
    for step in epilogue.split("+"):
        if step == "bias":
            total = total + inputs["bias"]
        elif step == "add":
            total = total + channels_last(inputs["residual"], layout)
        elif step in ACTIVATIONS:
            total = ACTIVATIONS[step](total)
        elif step.startswith("leaky"):
            total = np.where(total > 0, total, float(step.removeprefix("leaky")) * total)
        elif step != "none":
            low, high = step.removeprefix("clip").split(":")
            total = total.clip(float(low), float(high))
    return total


@settled
@given(conv2d_parameters(most=4))
def test_convolution_is_what_its_windows_say(parameters: dict[str, str]) -> None:
    _, program = parse_operator(written("conv2d", parameters))
    inputs, layout = random_inputs(program), parameters["layout"]
    expected = finished(convolved(channels_last(inputs["x"], layout), inputs["weights"], parameters), parameters["epilogue"], inputs, layout)
    result = interpret(program, inputs)
    assert result.shape == program.output.shape
    np.testing.assert_allclose(channels_last(result, layout), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", ["conv2d:n=3,c=4,h=9,w=9,k=5,r=3,s=3", "matmul:m=7,n=5,k=9", "einsum:equation=ik.jk.ji,sizes=i5.j4.k3"])
def test_windows_that_are_large_are_taken_in_parts(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = parse_operator(text)[1]
    inputs = random_inputs(program)
    whole = interpret(program, inputs)
    monkeypatch.setattr("ir.interpreter.MAX_WINDOW_ELEMENTS", 20)
    np.testing.assert_allclose(interpret(program, inputs), whole, rtol=1e-12, atol=1e-12)


@settled
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_matmul_is_numpys(m: int, n: int, k: int, batch: int) -> None:
    for text in (f"matmul:m={m},n={n},k={k},epilogue=bias", f"batch_matmul:batch={batch},m={m},n={n},k={k},epilogue=bias"):
        program = parse_operator(text)[1]
        given_inputs = random_inputs(program)
        a, b, bias = (given_inputs[name].astype(np.float64) for name in ("a", "b", "bias"))
        np.testing.assert_allclose(interpret(program, given_inputs), a @ b + bias, rtol=1e-12, atol=1e-12)


def test_a_convolution_by_hand() -> None:
    program = parse_operator("conv2d:c=1,h=2,w=3,k=1,r=2,s=2,pad=0x1x0x0,dilation=1")[1]
    x = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32).reshape(1, 2, 3, 1)
    weights = np.array([[1, 10], [100, 1000]], dtype=np.float32).reshape(1, 1, 2, 2)
    assert interpret(program, {"x": x, "weights": weights}).ravel().tolist() == [4010, 5421, 6532]


def test_a_convolution_that_sees_only_padding() -> None:
    program = parse_operator("conv2d:c=1,h=1,w=2,k=1,r=1,s=1,stride=9x1,pad=1x0x0x0")[1]
    inputs = {"x": np.ones((1, 1, 2, 1), np.float32), "weights": np.ones((1, 1, 1, 1), np.float32)}
    assert interpret(program, inputs).ravel().tolist() == interpret(simplify(program), inputs).ravel().tolist() == [0, 0]


def test_a_maximum_over_windows() -> None:
    """What no operator says yet: another reduction, a body that is no product, an axis that the body does not read."""
    row, window, copy = Axis("i", 3), Axis("w", 2), Axis("copy", 2)
    x, y = Tensor("x", (4,)), Tensor("y", (3, 2))
    body = Apply("sub", (Read(x, (affine(row, window),)), Constant(1.0)))
    stage = Stage(y, (affine(row), affine(copy)), (row, copy), (window,), body, "max")
    assert interpret(Program((x,), (stage,)), {"x": np.array([1, 5, 2, 3], np.float32)}).tolist() == [[4, 4], [4, 4], [2, 2]]


def test_a_sum_over_an_axis_that_is_not_read() -> None:
    row, again = Axis("i", 2), Axis("again", 3)
    x, y = Tensor("x", (2,)), Tensor("y", (2,))
    square = Apply("mul", (Read(x, (affine(row),)), Read(x, (affine(row),))))
    stage = Stage(y, (affine(row),), (row,), (again,), square, "sum")
    assert interpret(Program((x,), (stage,)), {"x": np.array([2, 3], np.float32)}).tolist() == [12, 27]


def test_outside_of_a_tensor_is_zero() -> None:
    row = Axis("i", 6)
    x, y = Tensor("x", (3,)), Tensor("y", (6,))
    values = {"x": np.array([1, 2, 3], np.float32)}
    for start, expected in ((-2, [0, 0, 1, 2, 3, 0]), (1, [2, 3, 0, 0, 0, 0]), (4, [0] * 6), (-9, [0] * 6)):
        stage = Stage(y, (affine(row),), (row,), (), Read(x, (affine(row, constant=start),)))
        assert interpret(Program((x,), (stage,)), values).tolist() == expected


def test_an_index_may_run_backwards() -> None:
    row = Axis("i", 3)
    x, y = Tensor("x", (3,)), Tensor("y", (3,))
    stage = Stage(y, (affine(row),), (row,), (), Read(x, (affine((row, -1), constant=2),)))
    assert interpret(Program((x,), (stage,)), {"x": np.array([1, 2, 3], np.float32)}).tolist() == [3, 2, 1]


def test_sigmoid_of_large_numbers() -> None:
    program = parse_operator("matmul:m=1,n=4,k=1,epilogue=sigmoid")[1]
    inputs = {"a": np.ones((1, 1), np.float32), "b": np.array([[-1e30, -3, 3, 1e30]], np.float32)}
    np.testing.assert_allclose(interpret(program, inputs), [[0, 1 / (1 + math.e**3), 1 / (1 + math.e**-3), 1]], atol=1e-15)


def test_a_missing_or_misshapen_input() -> None:
    program = parse_operator("matmul:m=2,n=2,k=2")[1]
    with pytest.raises(KeyError, match="b"):
        interpret(program, {"a": np.ones((2, 2), np.float32)})
    with pytest.raises(ValueError, match="reshape"):
        interpret(program, {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 3), np.float32)})


# --- tolerance ------------------------------------------------------------------------------------------------------


def single(program: Program, inputs: dict[str, NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float32]:
    """The matmul program in fp32, one product after the other in random order, as bad as a correct kernel may be."""
    a, b = inputs["a"], inputs["b"]
    total = np.zeros(program.output.shape, np.float32)
    for k in rng.permutation(a.shape[1]):
        total += a[:, k, None] * b[k]
    for name in ("bias", "residual"):
        total = total + inputs[name] if name in inputs else total
    return total


@settled
@given(st.integers(1, 300), st.sampled_from(["none", "bias", "bias+add"]), st.integers(0, 5), st.sampled_from([1.0, 1e-6, 1e6]))
def test_a_correct_single_precision_result_is_tolerated(k: int, epilogue: str, seed: int, scale: float) -> None:
    """With inputs of the epilogue far larger or smaller than the sum and cancelling, too."""
    program = parse_operator(f"matmul:m=4,n=5,k={k},epilogue={epilogue}")[1]
    inputs = random_inputs(program, seed)
    if "bias" in inputs:
        inputs["bias"] = inputs["bias"] * np.float32(scale)
    if "residual" in inputs:
        inputs["residual"] = -inputs["bias"] + inputs["residual"]
    distance = np.abs(single(program, inputs, np.random.default_rng(seed)) - interpret(program, inputs))
    assert (distance <= tolerance(program, inputs)).all()


@settled
@given(product_texts(most=30), st.integers(0, 5))
def test_a_lost_product_is_not_tolerated(text: str, seed: int) -> None:
    program = parse_operator(text.rpartition("epilogue=")[0] + "epilogue=none")[1]
    inputs = random_inputs(program, seed)
    assert tolerance(program, inputs).shape == program.output.shape
    weights = next(read.tensor.name for read in reads(program.stages[0].body) if read.tensor.name in ("b", "weights"))
    damaged = {**inputs, weights: inputs[weights].copy()}
    damaged[weights].ravel()[0] = 0
    right, wrong = interpret(program, inputs), interpret(program, damaged)
    changed = np.abs(wrong - right) > 1e-2
    assert (np.abs(wrong - right) > tolerance(program, inputs))[changed].all()


def test_the_tolerance_knows_every_sum() -> None:
    """A sum of partial sums errs at most as one sum in any order may, and more than its last sum alone."""
    program = parse_operator("matmul:m=1,n=1,k=64")[1]
    row, column, part, rest = Axis("m", 1), Axis("n", 1), Axis("part", 4), Axis("rest", 16)
    k = affine((part, 16), rest)
    partial = Tensor("partial", (4, 1, 1))
    a, b = program.inputs
    first = Stage(partial, (affine(part), affine(row), affine(column)), (part, row, column), (rest,),
                  Apply("mul", (Read(a, (affine(row), k)), Read(b, (k, affine(column))))), "sum")  # fmt: skip
    last = Stage(program.output, (affine(row), affine(column)), (row, column), (part,), Read(partial, first.indices), "sum")
    split = Program(program.inputs, (first, last))
    inputs = random_inputs(program)
    alone = tolerance(Program((partial,), (last,)), {"partial": interpret(Program(program.inputs, (replace(first, output=partial),)), inputs)})
    assert (alone < tolerance(split, inputs)).all()
    assert (tolerance(split, inputs) < tolerance(program, inputs)).all()


def test_padding_pads_what_a_prologue_gives() -> None:
    program = task("conv2d:c=3,h=4,w=5,k=2,r=3,s=3,pad=1,prologue=scale+bias+sigmoid,epilogue=bias").program
    inputs = random_inputs(program)
    fed = 1 / (1 + np.exp(-(inputs["x"].astype(np.float64) * inputs["input_scale"] + inputs["input_bias"])))
    plain = task("conv2d:c=3,h=4,w=5,k=2,r=3,s=3,pad=1,epilogue=bias").program
    expected = interpret(plain, {"x": fed, "weights": inputs["weights"], "bias": inputs["bias"]})
    np.testing.assert_allclose(interpret(program, inputs), expected, rtol=1e-12, atol=1e-12)
