"""Every transcendental function within its bound, on vectors of every width, without calls."""

import ctypes
import functools
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from machines import Machine
from minimax import FITS
from numpy.typing import NDArray
from scipy import special

from codegen.build import assembly, compile_object
from codegen.emit import emit
from codegen.functions import ERF_FAR, ERF_NEAR, EXP, EXP2, LOG, TANH
from codegen.kernel import aligned_copy
from codegen.power import LOG2
from ir.expression import add, mul, symbol
from ir.nest import Buffer, Call, For, Load, Nest, Store
from ir.program import CASTS, FUNCTIONS, TRANSCENDENTAL, Constant

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


BOUNDS = {"exp": 1.2, "exp2": 2.2, "log": 0.9, "tanh": 1.4, "erf": 1.3, "sigmoid": 2.0, "pow": 1.2}  # units in the last place; see `codegen.functions`
REFERENCES: dict[str, Callable[..., NDArray[np.floating]]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "tanh": np.tanh,
    "erf": special.erf,
    "sigmoid": special.expit,
    "pow": np.power,
}
EDGES = np.array(
    [
        *(0, 1e-45, 1e-40, 2.0**-126, 1e-30, 0.5, 1 - 2.0**-24, 1, 1 + 2.0**-23, 1.5, 2, 3, 4, 5, 88, 89, 100, 104, 150),
        *(2.0**23 - 1, 2.0**23 + 1, 2.0**24 - 1, 2.0**24, 2.0**25, 1e30, 3.4e38, np.inf, np.nan),
    ],
    np.float32,
)
EDGES = np.concatenate([EDGES, -EDGES])


def map_nest(function: str, n: int, lanes: int, exponent: float | None = None) -> Nest:
    """y[i] = function(x0[i], ...), in vectors; with `exponent`, a constant in place of the second argument."""
    chunk, outer, inner = symbol("chunk"), symbol("outer"), symbol("inner")
    at = (add(mul(outer, lanes), inner),)
    read = [Load(Buffer(f"x{i}", (n,), "input"), at) for i in range(FUNCTIONS[function] if exponent is None else 1)]
    result = Buffer("y", (n,), "output", dtype=CASTS.get(function, "float32"))
    value = Call(function, (*read, *([] if exponent is None else [Constant(exponent)])))
    vector = For(inner, lanes, (Store(result, at, value),), "vector")
    body = For(chunk, 1, (For(outer, n // lanes, (vector,)),), "parallel")
    return Nest("kernel", (*(load.buffer for load in read), result), (body,))


@functools.cache
def text(function: str, n: int, lanes: int, exponent: float | None = None) -> str:
    return emit([map_nest(function, n, lanes, exponent)], lanes, 1)


def run(machine: Machine, emitted: str, given: Sequence[Floats]) -> Floats:
    """What the kernel in this text makes of arrays, as many numbers as each of them has."""
    process = machine.start()
    buffers = [*(aligned_copy(array, process.empty) for array in given), process.empty(given[0].shape, "float32")]
    code = process.load(compile_object(emitted, machine.target, machine.triple), machine.target)
    code.function("kernel", ctypes.c_void_p)((ctypes.c_void_p * len(buffers))(*(buffer.ctypes.data for buffer in buffers)))
    return buffers[-1].copy()


def run_in_vectors(machine: Machine, function: str, given: Sequence[Floats], exponent: float | None = None) -> Floats:
    n = len(given[0])
    padded = [np.pad(array, (0, -n % 16), mode="edge") for array in given]
    return run(machine, text(function, len(padded[0]), machine.target.lanes, exponent), padded)[:n]


def errors(result: Floats, exact: NDArray[np.floating]) -> Doubles:
    """In units in the last place of the exact result, subnormal ones included; infinity counts as 2^128, what has the wrong sign as infinitely wrong."""
    number, limit = ~np.isnan(exact), 2.0**128
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exact = exact.astype(np.float64)
        exponent = np.clip(np.floor(np.log2(np.abs(exact))), -126, 127)
        off = np.abs(np.clip(result.astype(np.float64), -limit, limit) - np.clip(exact, -limit, limit)) / 2.0 ** (exponent - 23)
    right = np.isnan(result) == ~number
    same_sign = ~number | (np.signbit(result) == np.signbit(exact))
    return np.where(right & same_sign, np.where(number, off, 0), np.inf)


def check(function: str, machine: Machine, *given: Floats, bound: float | None = None, exponent: float | None = None) -> None:
    kind = np.longdouble if function == "pow" else np.float64
    with np.errstate(all="ignore"):
        exact = REFERENCES[function](*(array.astype(kind) for array in given), *([] if exponent is None else [kind(exponent)]))
    result = run_in_vectors(machine, function, given, exponent)
    off = errors(result, exact)
    worst = off.argmax()
    at = ", ".join(str(array[worst]) for array in given)
    assert off[worst] <= (BOUNDS[function] if bound is None else bound), f"{function}({at}) = {result[worst]}, not {exact[worst]}: {off[worst]:.2f} units"


@pytest.mark.parametrize("function", sorted(set(TRANSCENDENTAL) - {"pow"}))
def test_functions_of_one_argument(function: str, machine: Machine) -> None:
    """A sample of all bit patterns, and what lies around the edges of the reductions."""
    patterns = np.arange(0, 1 << 32, 997, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = np.concatenate([EDGES, np.nextafter(EDGES, np.float32(0)), np.nextafter(EDGES, np.float32(np.inf))])
    between = np.linspace(-110, 110, 500_000, dtype=np.float32)
    check(function, machine, np.concatenate([patterns, near, between, between / 64]))


def test_powers(machine: Machine) -> None:
    """Pairs whose power is in the range of floats, from bases of every size and next to 1; and every pair of edges."""
    rng = np.random.default_rng(0)
    exponents = rng.uniform(-152, 129, 100_000)
    anywhere = np.exp2(rng.uniform(-149, 128, len(exponents))).astype(np.float32)
    by_one = np.float32(1) + rng.uniform(-0.02, 0.02, len(exponents)).astype(np.float32)
    for bases in (anywhere, by_one[by_one != 1]):
        check("pow", machine, bases, (exponents[: len(bases)] / np.log2(bases.astype(np.float64))).astype(np.float32))
    check("pow", machine, -anywhere, rng.integers(-9, 10, len(anywhere)).astype(np.float32))
    check("pow", machine, *(grid.ravel() for grid in np.meshgrid(EDGES, EDGES)))


@pytest.mark.parametrize("exponent", [-2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0])
def test_powers_of_a_known_exponent(exponent: float, machine: Machine) -> None:
    """Those that are multiplied have other errors: of 2, 3 and 4 they are 0.5, 1.4 and 1.9 units."""
    bases = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    multiplied = {1.0: 0.0, 2.0: 0.5, 3.0: 1.5, 4.0: 2.0}
    check("pow", machine, np.concatenate([bases, EDGES]), bound=multiplied.get(exponent), exponent=exponent)
    instructions = assembly(text("pow", 1024, machine.target.lanes, exponent), machine.target, machine.triple)
    assert bool(re.search("cvtps2pd|fcvtl", instructions)) == (exponent not in multiplied)  # to fp64


@pytest.mark.parametrize(
    ("name", "coefficients", "exponent"),
    [
        ("exp", EXP, -28.2),
        ("exp2", EXP2, -23.4),
        ("tanh", TANH, -27.1),
        ("log", LOG, -27.4),
        ("log2", LOG2, -37.8),
        ("erf_near", ERF_NEAR, -27.1),
        ("erf_far", ERF_FAR, -28.8),
    ],
)
def test_polynomials_are_as_good_as_they_can_be(name: str, coefficients: tuple[float, ...], exponent: float) -> None:
    found = FITS[name].error(coefficients)
    assert math.log2(found) == pytest.approx(exponent, abs=0.05)
    assert found < 1.05 * FITS[name].error(FITS[name].solve())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_is_called(function: str, machine: Machine) -> None:
    """The emitted text declares operations of LLVM alone, and none of them is a call in the end."""
    emitted = text(function, 1024, machine.target.lanes)
    assert all(name.startswith("llvm.") for name in re.findall(r'^declare .*@"?([^"(]+)"?\(', emitted, re.MULTILINE))
    kernel, calls, _ = assembly(emitted, machine.target, machine.triple).partition("repeat:")
    assert calls
    assert not re.search(r"^\s+(call|bl)", kernel, re.MULTILINE)


@pytest.mark.parametrize("function", sorted(TRANSCENDENTAL))
def test_single_floats_as_vectors(function: str, machine: Machine) -> None:
    """Outside a vector loop the same code computes one float."""
    chunk = symbol("chunk")
    xs = [Buffer(f"x{i}", (100,), "input") for i in range(FUNCTIONS[function])]
    y = Buffer("y", (100,), "output")
    body = For(chunk, 100, (Store(y, (chunk,), Call(function, tuple(Load(x, (chunk,)) for x in xs))),), "parallel")
    given = [np.random.default_rng(i).uniform(0.1, 5, 100).astype(np.float32) for i in range(len(xs))]
    alone = run(machine, emit([Nest("kernel", (*xs, y), (body,))], machine.target.lanes, 1), given)
    assert np.array_equal(alone, run_in_vectors(machine, function, given))
