"""Programs worked on in parts give what they give as a whole."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import operator_texts

from ir import parts
from ir.interpreter import Doubles, interpret
from ir.parts import in_parts, own_dimensions
from ir.program import Axis, Program
from ir.rounding import tolerance
from ir.task import task


@settings(deadline=None, max_examples=60)
@given(operator_texts(), st.integers(1, 40))
def test_parts_give_the_whole(text: str, n_elements: int) -> None:
    program = task(text).program
    rng = np.random.default_rng(0)
    inputs = {tensor.name: rng.random(tensor.shape, dtype=np.float32) for tensor in program.inputs}
    whole, bound = interpret(program, inputs), tolerance(program, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_ELEMENTS", n_elements)
        np.testing.assert_allclose(interpret(program, inputs), whole, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(tolerance(program, inputs), bound, rtol=1e-6, atol=1e-14)


def test_no_part_is_larger_than_it_need_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is divided along its batch, then along its heads, then its queries."""
    monkeypatch.setattr(parts, "PART_ELEMENTS", 2 * 5)
    program = task("attention:batch=2,heads=3,queries=7,keys=5,dim=4").program
    sizes = []

    def compute(part: Program, inputs: Mapping[str, Doubles]) -> Doubles:
        sizes.append(part.stages[0].output.shape)
        return np.zeros(part.output.shape)

    inputs = {tensor.name: np.zeros(tensor.shape) for tensor in program.inputs}
    assert in_parts(program, inputs, compute).shape == program.output.shape
    assert sizes == [(1, 1, 2, 5), (1, 1, 2, 5), (1, 1, 2, 5), (1, 1, 1, 5)] * 6


def test_an_axis_along_which_neighbours_are_read_is_not_divided() -> None:
    program = task("conv2d:c=4,h=8,w=8,k=4,r=3,s=3,pad=1,n=2,epilogue=relu").program
    axes = {axis.name: axis for axis in program.stages[0].spatial}
    assert own_dimensions(program, axes["oh"]) is None
    assert own_dimensions(program, axes["n"]) is not None
    assert own_dimensions(program, Axis("other", 3)) is None
