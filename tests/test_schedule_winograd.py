import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import operator_texts, random_inputs, target, window_texts

from codegen.kernel import Kernel, build
from codegen.lower import lower
from codegen.machine import detect_machine
from ir.interpreter import interpret
from ir.nest import nest_text
from ir.operators import parse_operator
from ir.program import Program, program_text
from ir.rounding import tolerance
from ir.simplify import simplify
from ir.task import task
from schedule.algorithms import ALGORITHMS, DIRECT, SPLIT, WINOGRAD, algorithm_of, allowed_algorithms, rounded_program
from schedule.rules import sketches
from schedule.winograd import TAPS, transforms, winograd


def simplified(text: str) -> Program:
    return simplify(parse_operator(text)[1])


@settings(deadline=None, max_examples=60)
@given(st.one_of(window_texts(), operator_texts(most=20)), st.sampled_from(sorted(TAPS)))
def test_the_result_does_not_change(text: str, m: int) -> None:
    program = simplified(text)
    transformed = winograd(program, m)
    if transformed is None:
        return
    inputs = random_inputs(program)
    np.testing.assert_allclose(interpret(transformed, inputs), interpret(program, inputs), rtol=1e-10, atol=1e-10)
    assert transformed.inputs == program.inputs
    assert transformed.output == program.output
    assert (tolerance(transformed, inputs) > 0).all()


@pytest.mark.parametrize(("m", "taps"), [(m, taps) for m, known in TAPS.items() for taps in known])
def test_the_transforms_are_exact(m: int, taps: int) -> None:
    """A one-dimensional convolution of whole numbers."""
    matrices = transforms(m, taps)
    data, weights = np.arange(1.0, m + taps) ** 3, np.array([2.0, 3.0, -7.0, 5.0, -1.0])[:taps]
    products = np.array(matrices.weights) @ weights * (np.array(matrices.input) @ data)
    np.testing.assert_allclose(np.array(matrices.output) @ products, np.correlate(data, weights), rtol=1e-13)


def test_the_stages() -> None:
    transformed = winograd(simplified("conv2d:n=2,c=8,h=5,w=6,k=7,r=3,s=3,pad=1,epilogue=relu"), 2)
    assert transformed is not None
    assert program_text(transformed).splitlines() == [
        "u[oh_after*4 + ow_after, k, c] = sum over r_tap<3, s_tap<3 of (table[oh_after, r_tap] * (table[ow_after, s_tap] * weights[k, c, r_tap, s_tap]))"
        "  for oh_after<4, ow_after<4, k<7, c<8",
        "v[oh_after*4 + ow_after, n*9 + oh_tile*3 + ow_tile, c] = sum over oh_before<4, ow_before<4 of (table[oh_after, oh_before] * "
        "(table[ow_after, ow_before] * x[n, oh_tile*2 + oh_before - 1, ow_tile*2 + ow_before - 1, c]))"
        "  for oh_after<4, ow_after<4, n<2, oh_tile<3, ow_tile<3, c<8",
        "products[position, n_oh_tile_ow_tile, k] = sum over c<8 of (v[position, n_oh_tile_ow_tile, c] * u[position, k, c])"
        "  for position<16, n_oh_tile_ow_tile<18, k<7",
        "sum[n, oh_tile*2 + oh_in, ow_tile*2 + ow_in, k] = sum over oh_before<4, ow_before<4 of (table[oh_in, oh_before] * "
        "(table[ow_in, ow_before] * products[oh_before*4 + ow_before, n*9 + oh_tile*3 + ow_tile, k]))"
        "  for n<2, oh_tile<3, oh_in<2, ow_tile<3, ow_in<2, k<7",
        "y[n, oh_tile*2 + oh_in, ow_tile*2 + ow_in, k] = max(sum[n, oh_tile*2 + oh_in, ow_tile*2 + ow_in, k], 0)"
        "  for n<2, oh_tile<3, oh_in<2, ow_tile<3, ow_in<2, k<7",
    ]


def test_the_stages_of_other_axes() -> None:
    """Groups and phases come before the tiles; the taps of a third axis are added up with the channels, over an input with its padding."""
    transformed = winograd(simplified("conv3d:c=8,d=3,h=5,w=6,k=4,t=3,r=3,s=3,pad=1,groups=2"), 2)
    assert transformed is not None
    _, make_v, products, make_y = program_text(transformed).splitlines()
    assert make_v.startswith("v[oh_after*4 + ow_after, g, x_0, oh_tile*3 + ow_tile, c] = ")
    assert "x[x_0 - 1, oh_tile*2 + oh_before - 1, ow_tile*2 + ow_before - 1, g*4 + c]" in make_v
    assert products == (
        "products[position, g, od, oh_tile_ow_tile, k] = sum over c<4, t<3 of (v[position, g, od + t, oh_tile_ow_tile, c] * u[position, g, k, c, t])"
        "  for position<16, g<2, od<3, oh_tile_ow_tile<9, k<2"
    )
    assert make_y.startswith("y[od, oh_tile*2 + oh_in, ow_tile*2 + ow_in, g*2 + k] = ")


def test_phases() -> None:
    """Of a dilated convolution every second output, of a transposed one every second, too: windows of each move by one along them."""
    dilated = winograd(simplified("conv1d:n=2,c=8,w=13,k=4,s=3,pad=2,dilation=2"), 4)
    assert dilated is not None
    assert "x[n, ow_tile*8 + ow_phase + ow_before*2 - 2, c]" in program_text(dilated)
    assert "y[n, ow_tile*8 + ow_in*2 + ow_phase, k]" in program_text(dilated)
    transposed = winograd(simplified("conv_transpose2d:c=8,h=8,w=8,k=4,r=4,s=4,stride=2,pad=1"), 4)
    assert transposed is not None
    assert "products[position, h_phase, w_phase, oh_tile_ow_tile, k]" in program_text(transposed)


@pytest.mark.parametrize(
    "text",
    [
        "matmul:m=20,n=30,k=40",
        "conv2d:c=32,h=12,w=12,k=32,r=3,s=3,stride=2",
        "conv2d:c=32,h=12,w=12,k=32,r=3,s=3,groups=32",
        "conv2d:c=1,h=12,w=12,k=32,r=3,s=3",
        "conv2d:c=32,h=12,w=12,k=32,r=7,s=7",
        "conv2d:c=32,h=3,w=3,k=32,r=3,s=3",
        "conv1d:c=32,w=3,k=32,s=3",
        "conv3d:c=4,d=5,h=5,w=5,k=4,t=3,r=1,s=1,stride=2",
    ],
)
def test_what_it_does_not_apply_to(text: str) -> None:
    assert all(winograd(simplified(text), m) is None for m in TAPS)


def test_fewer_products_or_none() -> None:
    """F(4×4) makes 36 products of a 4×4 tile, where direct convolution makes 144; of a 2×2 output direct makes as few."""
    assert winograd(simplified("conv2d:c=16,h=4,w=4,k=16,r=3,s=3"), 4) is None
    assert winograd(simplified("conv2d:c=16,h=6,w=6,k=16,r=3,s=3"), 4) is not None


def test_no_sketch_where_there_is_little_to_gain() -> None:
    """Too few channels for vectors, or v and the products too large for a workspace."""
    for sizes, expected in {"c=64,k=64": 2, "c=15,k=64": 0, "c=64,k=15": 0, "n=64,c=64,k=64": 0}.items():
        found = sketches(simplified(f"conv2d:{sizes},h=112,w=112,r=3,s=3"), target())
        assert sum(algorithm_of(sketch.name) in WINOGRAD for sketch in found) == expected


@pytest.mark.parametrize("m", sorted(TAPS))
def test_the_error_against_fp64(m: int) -> None:
    """As the docstring of `schedule.winograd` states it."""
    host = detect_machine().target
    texts = [
        f"conv2d:{sizes},r=3,s=3" for sizes in ("c=16,h=30,w=30,k=16", "c=64,h=14,w=14,k=64,pad=1", "c=256,h=10,w=11,k=32,pad=1", "c=512,h=7,w=7,k=64,pad=1")
    ]
    texts += ["conv1d:c=256,w=64,k=64,s=5,pad=2", "conv1d:c=512,w=32,k=64,s=3,pad=1", "conv3d:c=64,d=4,h=8,w=8,k=32,t=3,r=3,s=3,pad=1"]
    texts += ["conv2d:c=128,h=12,w=12,k=64,r=5,s=5,pad=2", "conv2d:c=128,h=14,w=14,k=64,r=3,s=3,dilation=2,pad=2"]
    texts += ["conv_transpose2d:c=256,h=8,w=8,k=32,r=4,s=4,stride=2,pad=1"]
    for seed, text in enumerate(texts):
        most = 2e-5 if m == 4 or "s=5" in text else 1e-6
        problem = task(text)
        inputs = random_inputs(problem.program, seed)
        right = interpret(problem.program, inputs)
        for sketch in (sketch for sketch in sketches(problem.program, host) if algorithm_of(sketch.name) == f"winograd{m}"):
            result = Kernel(build(problem, sketch, sketch.default_row(), host))(*inputs.values())
            assert np.abs(result - right).max() / np.abs(right).max() < most, text


# --- algorithms -----------------------------------------------------------------------------------------------------


def test_sketches_are_named_by_their_algorithm() -> None:
    found = {sketch.name: algorithm_of(sketch.name) for sketch in sketches(simplified("conv2d:c=64,h=14,w=14,k=64,r=3,s=3"), target())}
    assert found == {"tile_k": DIRECT, "winograd2_tile_k": "winograd2", "winograd4_tile_k": "winograd4"}
    found = {sketch.name: algorithm_of(sketch.name) for sketch in sketches(simplified("matmul:m=4,n=1,k=1024"), target(threads=16))}
    assert found == {"across_k": DIRECT, "split16_k_across_k_rest": SPLIT}


def test_what_options_allow() -> None:
    assert allowed_algorithms() == ALGORITHMS
    assert allowed_algorithms(no_winograd=True) == (DIRECT, SPLIT)
    assert allowed_algorithms(deterministic=True) == allowed_algorithms(no_winograd=True, deterministic=True) == (DIRECT,)


def test_tolerances_are_those_of_the_algorithm() -> None:
    """Winograd's transforms make larger numbers cancel; what the direct program may be off is not widened by that."""
    program = parse_operator("conv2d:c=16,h=8,w=8,k=16,r=3,s=3,pad=1")[1]
    inputs = random_inputs(program)
    bounds = {algorithm: tolerance(rounded_program(program, algorithm), inputs).max() for algorithm in ALGORITHMS}
    assert bounds[DIRECT] == bounds[SPLIT]
    assert bounds["winograd2"] < 2 * bounds[DIRECT] < bounds["winograd4"] < 100 * bounds[DIRECT]
    with pytest.raises(ValueError, match="winograd2 does not apply"):
        rounded_program(parse_operator("matmul:m=2,n=3,k=4")[1], "winograd2")


def test_constants_are_transformed_beforehand() -> None:
    """The kernel never sees the weights, and the nest that prepares them makes u in its workspace."""
    program = parse_operator("conv2d:c=16,h=8,w=8,k=16,r=3,s=3,pad=1,epilogue=bias")[1]
    for sketch in sketches(program, target()):
        if algorithm_of(sketch.name) in WINOGRAD:
            lowered = lower(sketch, sketch.default_row(), target())
            assert "weights" not in nest_text(lowered.kernel)
            (nest,) = lowered.prepare.values()
            assert list(lowered.prepare) == ["weights"]
            assert [(buffer.name, buffer.scope) for buffer in nest.buffers] == [("weights", "input"), ("s1_u_packed", "output"), ("u", "shared")]
