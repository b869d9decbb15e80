import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from operator_samples import operator_texts, random_inputs

from ir.interpreter import interpret
from ir.operators import parse_operator
from ir.program import Axis, program_text
from ir.simplify import simplify
from schedule.split_reduction import split_reduction


@settings(deadline=None, max_examples=60)
@given(operator_texts(most=20), st.data())
def test_the_result_does_not_change(text: str, data: st.DataObject) -> None:
    program = parse_operator(text)[1]
    program = data.draw(st.sampled_from([program, simplify(program)]), label="program")
    assume(program.stages[0].reduce)
    axis = data.draw(st.sampled_from(program.stages[0].reduce), label="axis")
    parts = data.draw(st.sampled_from([size for size in range(1, axis.extent + 1) if axis.extent % size == 0]), label="parts")
    split = split_reduction(program, axis, parts)
    inputs = random_inputs(program)
    np.testing.assert_allclose(interpret(split, inputs), interpret(program, inputs), rtol=1e-12, atol=1e-12)
    assert split.inputs == program.inputs
    assert split.output == program.output
    assert len(split.stages) == len(program.stages) + 1


def test_parts_are_of_neighbours() -> None:
    program = simplify(parse_operator("matmul:m=1,n=5,k=12,epilogue=relu")[1])
    (k,) = program.stages[0].reduce
    assert program_text(split_reduction(program, k, 4)) == (
        "partial[k_part, n] = sum over k_rest<3 of (a[k_part*3 + k_rest] * b[k_part*3 + k_rest, n])  for k_part<4, n<5\n"
        "sum[n] = sum over k_part<4 of partial[k_part, n]  for n<5\nc[n] = max(sum[n], 0)  for n<5"
    )


def test_parts_must_divide() -> None:
    program = parse_operator("matmul:m=1,n=5,k=12")[1]
    with pytest.raises(ValueError, match="5 parts do not divide k<12"):
        split_reduction(program, Axis("k", 12), 5)
