import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import operator_texts, pool_texts, random_inputs, row_texts

from ir.interpreter import interpret
from ir.operators import parse_operator
from ir.program import Axis, Program, Read, Stage, Tensor, affine, program_text
from ir.simplify import simplify

settled = settings(deadline=None, max_examples=80)


def simplified(text: str) -> str:
    return program_text(simplify(parse_operator(text)[1]))


@settled
@given(st.one_of(operator_texts(most=20), row_texts(), pool_texts()))
def test_the_result_does_not_change(text: str) -> None:
    program = parse_operator(text)[1]
    simple, inputs = simplify(program), random_inputs(program)
    np.testing.assert_allclose(interpret(simple, inputs).ravel(), interpret(program, inputs).ravel(), rtol=1e-12, atol=1e-12)


@settled
@given(st.one_of(operator_texts(), row_texts(), pool_texts()))
def test_tensors_stay_where_they_are_in_memory(text: str) -> None:
    program = parse_operator(text)[1]
    simple = simplify(program)
    assert [(t.name, t.n_bytes, t.constant) for t in simple.inputs] == [(t.name, t.n_bytes, t.constant) for t in program.inputs]
    assert (simple.output.name, simple.output.n_bytes, simple.flops) == (program.output.name, program.output.n_bytes, program.flops)


@settled
@given(st.one_of(operator_texts(), row_texts(), pool_texts()))
def test_nothing_is_left_to_simplify(text: str) -> None:
    simple = simplify(parse_operator(text)[1])
    assert simplify(simple) == simple
    # An axis of extent 1 stays where a stage has no others, and with it elsewhere.
    needed = {stage.spatial[-1] for stage in simple.stages if all(axis.extent == 1 for axis in stage.spatial)}
    for stage in simple.stages:
        assert stage.spatial
        assert all(axis.extent > 1 or axis in needed for axis in (*stage.spatial, *stage.reduce))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("matmul:m=4,n=5,k=6", "c[m, n] = sum over k<6 of (a[m, k] * b[k, n])  for m<4, n<5"),
        (
            "log_softmax:shape=1x9,axis=1",
            "top[d0] = max over d1<9 of x[d0, d1]  for d0<1\n"
            "total[d0] = sum over d1<9 of exp2(((x[d0, d1] - top[d0]) * 1.4427))  for d0<1\n"
            "logarithm[d0] = log(total[d0])  for d0<1\n"
            "y[d0, d1] = ((x[d0, d1] - top[d0]) - logarithm[d0])  for d0<1, d1<9",
        ),
        # Elsewhere the rows and columns of `one` are walked by windows.
        (
            "average_pool2d:c=1,h=4,w=5,r=3,s=1,pad=1x0",
            "one[h, w] = 1  for h<4, w<5\n"
            "count[oh, ow] = sum over r<3 of one[oh + r - 1, ow]  for oh<4, ow<5\n"
            "share[oh, ow] = (1 / count[oh, ow])  for oh<4, ow<5\n"
            "total[oh, ow] = sum over r<3 of x[oh + r - 1, ow]  for oh<4, ow<5\n"
            "y[oh, ow] = (total[oh, ow] * share[oh, ow])  for oh<4, ow<5",
        ),
        ("matmul:m=1,n=5,k=6", "c[n] = sum over k<6 of (a[k] * b[k, n])  for n<5"),
        ("matmul:m=4,n=1,k=6", "c[m] = sum over k<6 of (a[m, k] * b[k])  for m<4"),
        ("matmul:m=1,n=1,k=6,epilogue=bias", "sum[n] = sum over k<6 of (a[k] * b[k, n])  for n<1\nc[n] = (sum[n] + bias[n])  for n<1"),
        # A 1x1 convolution is a matrix product, whatever its layout; with a stride its rows are not next to each other.
        (
            "conv2d:c=8,h=5,w=7,k=4,r=1,s=1,epilogue=bias+relu",
            "sum[oh_ow, k] = sum over c<8 of (x[oh_ow, c] * weights[k, c])  for oh_ow<35, k<4\n"
            "y[oh_ow, k] = max((sum[oh_ow, k] + bias[k]), 0)  for oh_ow<35, k<4",
        ),
        ("conv2d:n=2,c=8,h=5,w=7,k=4,r=1,s=1", "y[n_oh_ow, k] = sum over c<8 of (x[n_oh_ow, c] * weights[k, c])  for n_oh_ow<70, k<4"),
        ("conv2d:c=8,h=5,w=7,k=4,r=1,s=1,layout=nchw", "y[k, oh_ow] = sum over c<8 of (x[c, oh_ow] * weights[k, c])  for k<4, oh_ow<35"),
        ("conv2d:c=8,h=6,w=6,k=4,r=1,s=1,stride=2", "y[oh, ow, k] = sum over c<8 of (x[oh*2, ow*2, c] * weights[k, c])  for oh<3, ow<3, k<4"),
        # A convolution over the whole image is a matrix product too, but weights and image are not in the same order.
        ("conv2d:c=8,h=5,w=7,k=4,r=5,s=7", "y[k] = sum over c<8, r_s<35 of (x[r_s, c] * weights[k, c, r_s])  for k<4"),
        # Padding is kept even where the tensor is a single row.
        ("conv2d:c=1,h=1,w=1,k=1,r=3,s=1,pad=1x0", "y[k] = sum over r<3 of (x[r - 1] * weights[k, r])  for k<1"),
    ],
)
def test_what_becomes_of_operators(text: str, expected: str) -> None:
    assert simplified(text) == expected


def test_a_batch_is_fused_only_where_both_operands_have_it() -> None:
    assert "batch<3, m<4, n<5" in simplified("batch_matmul:batch=3,m=4,n=5,k=6")


@pytest.mark.parametrize(("shape", "fused"), [((3, 4), True), ((3, 5), False), ((4, 4), False)])
def test_axes_are_fused_only_where_they_are_whole_dimensions(shape: tuple[int, int], fused: bool) -> None:
    i, j = Axis("i", 3), Axis("j", 4)
    x, y = Tensor("x", shape), Tensor("y", (3, 4))
    stage = Stage(y, (affine(i), affine(j)), (i, j), (), Read(x, (affine(i), affine(j))))
    simple = simplify(Program((x,), (stage,)))
    values = {"x": np.arange(np.prod(shape), dtype=np.float32)}
    assert (len(simple.stages[0].spatial) == 1) is fused
    assert interpret(simple, values).ravel().tolist() == np.arange(np.prod(shape)).reshape(shape)[:3, :4].ravel().tolist()


def test_a_dimension_that_one_access_needs_is_kept_by_all() -> None:
    """The first stage writes row 0 of a tensor of one row; the second reads around it."""
    one, column, tap = Axis("one", 1), Axis("i", 4), Axis("r", 3)
    x, t, y = Tensor("x", (4,)), Tensor("t", (1, 4)), Tensor("y", (4,))
    write = Stage(t, (affine(one), affine(column)), (one, column), (), Read(x, (affine(column),)))
    read = Stage(y, (affine(column),), (column,), (tap,), Read(t, (affine(tap, constant=-1), affine(column))), "sum")
    program = Program((x,), (write, read))
    simple = simplify(program)
    assert simple.stages[0].output.shape == (1, 4)
    values = {"x": np.array([1, 2, 3, 4], np.float32)}
    assert interpret(simple, values).tolist() == interpret(program, values).tolist() == [1, 2, 3, 4]
