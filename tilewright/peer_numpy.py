"""numpy and the BLAS that it brings: matrix products, convolutions that are nothing but one, reductions, and what passes over rows, images or memory; the
epilogue in place.

Its threads are set for the time of a turn. Which of its kernels OpenBLAS takes is decided when it is loaded (see `tilewright.bench`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from codegen.kernel import aligned_copy, aligned_empty
from ir.errors import Unsupported
from ir.program import CASTS, Apply, Constant, Read, Value
from ir.prologue import CONSTANTS
from tilewright.peer_numpy_moves import MOVES
from tilewright.peer_numpy_pools import POOLS
from tilewright.peer_numpy_rows import ROWS
from tilewright.problem import Array, Problem, Way, clip_limits, leaky_slope
from tilewright.turns import Contender

Step = Callable[[], object]
PASSES = {**ROWS, **POOLS, **MOVES}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum, "pow": np.power},
    "less": lambda a, b: np.less(a, b).astype(a.dtype),
    "equal": lambda a, b: np.equal(a, b).astype(a.dtype),
    "select": lambda condition, a, b: np.where(condition != 0, a, b),
    **{"abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "exp2": np.exp2, "log": np.log, "tanh": np.tanh},
    "sigmoid": lambda x: _sigmoid(x, np.empty_like(x)),
    **{name: partial(np.ndarray.astype, dtype=dtype) for name, dtype in CASTS.items()},
}  # of `ir.program`; there is no erf


def numpy_ways(problem: Problem) -> list[Way]:
    """A matrix product's with the second operand by rows and, where it is constant, also by columns. `Unsupported` where numpy has nothing for the task."""
    if problem.operator == "reduce":
        return [_reduction(problem)]
    if problem.operator == "elementwise":
        return [_elementwise(problem)]
    if problem.operator == "einsum":
        return _einsums(problem)
    if problem.operator in PASSES:
        call = PASSES[problem.operator](problem)
        return [Way(Contender("numpy", "step by step", call, _threads(problem)), lambda: problem.ours(call()))]
    arrays = _as_product(problem) if problem.is_convolution else problem.arrays
    settings = {"b by rows": arrays}
    if "b" not in problem.variables:
        settings["b by columns"] = {**arrays, "b": aligned_copy(arrays["b"].swapaxes(-1, -2)).swapaxes(-1, -2)}
    return [_way(problem, setting, given) for setting, given in settings.items()]


def _as_product(problem: Problem) -> dict[str, Array]:
    """The arrays of a convolution of single pixels: pixels by channels, times channels by filters."""
    given = problem.parameters
    if {*problem.kernel, *given["stride"], problem.groups} != {1} or any(given["pad"]) or problem.operator == "conv_transpose2d":
        raise Unsupported("numpy has no convolutions but those that are matrix products: 1x1, stride 1, no padding, no groups")
    arrays = dict(problem.arrays)
    pixels = {name: aligned_copy(np.moveaxis(arrays.pop(name), 1, -1)) for name in ("x", "residual") if name in arrays}
    arrays |= {name: array.reshape(-1, array.shape[-1]) for name, array in pixels.items()}
    return {**arrays, "a": arrays["x"], "b": aligned_copy(arrays["weights"].reshape(arrays["weights"].shape[:2]).T)}


def _way(problem: Problem, setting: str, arrays: Mapping[str, Array]) -> Way:
    (a, before), b = _first_operand(problem, arrays), arrays["b"]
    out = aligned_empty((*a.shape[:-1], b.shape[-1]))
    steps: list[Step] = [*before, partial(np.matmul, a, b, out=out), *(_step(step, out, out, arrays) for step in problem.epilogue)]

    def run() -> None:
        for step in steps:
            step()

    def answer() -> NDArray[Any]:
        run()
        if not problem.is_convolution:
            return out
        n, filters, *sizes = problem.shape
        return problem.ours(np.moveaxis(out.reshape(n, *sizes, filters), -1, 1))

    return Way(Contender("numpy", setting, run, _threads(problem)), answer)


def _first_operand(problem: Problem, arrays: Mapping[str, Array]) -> tuple[Array, list[Step]]:
    """What is multiplied, and the steps of the prologue that make it."""
    given, made = arrays["a"], aligned_empty(arrays["a"].shape)
    constants = {step: arrays[name] for step, name in CONSTANTS.items() if name in arrays}
    steps = [_step(step, made if number else given, made, constants) for number, step in enumerate(problem.prologue)]
    return made if steps else given, steps


def _threads(problem: Problem) -> Callable[[], Any]:
    return partial(ThreadpoolController().limit, limits=problem.threads, user_api="blas")


def _einsums(problem: Problem) -> list[Way]:
    """`einsum`, which takes BLAS where it can and, where that is what the task is, `matmul` of transposed views."""
    product, arrays = problem.product, problem.arrays
    (a, before), b, out = _first_operand(problem, arrays), arrays["b"], aligned_empty(problem.shape)
    after = [_step(step, out, out, arrays) for step in problem.epilogue]
    first, second, last = product.orders
    calls: dict[str, Callable[[], object]] = {"einsum": partial(np.einsum, product.text, a, b, out=out, optimize=True)}
    if product.is_matrix_product:
        sizes = dict(zip(product.first + product.second, (*a.shape, *b.shape), strict=True))
        lead, rows, columns, inner = ([sizes[letter] for letter in some] for some in (product.batch, product.rows, product.columns, product.inner))
        left, right = (*lead, math.prod(rows), math.prod(inner)), (*lead, math.prod(inner), math.prod(columns))
        fixed = None if "b" in problem.variables else aligned_copy(b.transpose(second).reshape(right))

        def matmul() -> None:
            there = b.transpose(second).reshape(right) if fixed is None else fixed
            found = np.matmul(a.transpose(first).reshape(left), there)
            np.copyto(out, found.reshape(*lead, *rows, *columns).transpose(last))

        calls["matmul"] = matmul

    def way(setting: str, call: Callable[[], object]) -> Way:
        def run() -> None:
            for step in (*before, call, *after):
                step()

        def answer() -> NDArray[Any]:
            run()
            return out

        return Way(Contender("numpy", setting, run, _threads(problem)), answer)

    return [way(setting, call) for setting, call in calls.items()]


def _reduction(problem: Problem) -> Way:
    x, axes, function = problem.arrays["x"], tuple(problem.parameters["axes"]), problem.parameters["function"]
    calls: dict[str, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "prod": np.prod, "l2": _norm}
    run = partial(calls[function], x, axis=axes)
    return Way(Contender("numpy", function, run, _threads(problem)), lambda: problem.ours(np.asarray(run())))


def _norm(x: Array, axis: tuple[int, ...]) -> NDArray[Any]:
    """The square root of a product with itself, which is BLAS' where all axes go, or the last ones do."""
    kept = [i for i in range(x.ndim) if i not in axis]
    if kept != list(range(len(kept))):
        return np.asarray(np.sqrt(np.sum(x * x, axis=axis)))
    rows = x.reshape(math.prod(x.shape[: len(kept)]), 1, -1)
    norms: NDArray[Any] = np.sqrt(np.matmul(rows, rows.swapaxes(-1, -2))).reshape(x.shape[: len(kept)])
    return norms


def _elementwise(problem: Problem) -> Way:
    """One function after the other, each with an array of its own for its results."""

    def call(value: Value) -> Callable[[], Any]:
        match value:
            case Constant(number, dtype):
                single = np.array(number, dtype)
                return lambda: single
            case Read(tensor):
                array = problem.arrays[tensor.name]
                return lambda: array
            case Apply(name, args):
                if name not in FUNCTIONS:
                    raise Unsupported(f"numpy has no {name}")
                function, given = FUNCTIONS[name], [call(arg) for arg in args]
                return lambda: function(*(arg() for arg in given))
        raise TypeError(f"not a value: {value!r}")

    evaluate = call(problem.chain)

    def run() -> Any:
        with np.errstate(all="ignore"):
            return evaluate()

    return Way(Contender("numpy", "elementwise", run, _threads(problem)), lambda: problem.ours(np.asarray(run())))


def _step(step: str, x: Array, out: Array, arrays: Mapping[str, Array]) -> Step:
    """A step from one array to another, which may be the same. Channels are last."""
    match step:
        case "scale":
            return partial(np.multiply, x, arrays["scale"], out=out)
        case "bias":
            return partial(np.add, x, arrays["bias"], out=out)
        case "add":
            return partial(np.add, x, arrays["residual"], out=out)
        case "relu":
            return partial(np.maximum, x, np.float32(0), out=out)
        case "sigmoid":
            return partial(_sigmoid, x, out)
        case "tanh":
            return partial(np.tanh, x, out=out)
        case "gelu":
            raise Unsupported("numpy has no erf, which gelu is made of")
    other = aligned_empty(out.shape)
    match step:
        case "silu":
            return partial(_silu, x, out, other)
        case "hardswish":
            return partial(_hardswish, x, out, other)
    slope = leaky_slope(step)
    if slope is not None:
        return partial(_leaky, x, out, other, np.float32(slope))
    low, high = clip_limits(step)
    return partial(np.clip, x, np.float32(low), np.float32(high), out=out)


def _sigmoid(x: Array, out: Array) -> Array:
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, which does not overflow."""
    half = np.float32(0.5)
    np.multiply(x, half, out=out)
    np.tanh(out, out=out)
    np.multiply(out, half, out=out)
    return np.add(out, half, out=out)


def _silu(x: Array, out: Array, other: Array) -> None:
    np.multiply(x, _sigmoid(x, other), out=out)


def _hardswish(x: Array, out: Array, other: Array) -> None:
    np.multiply(x, np.float32(1 / 6), out=other)
    np.add(other, np.float32(0.5), out=other)
    np.clip(other, np.float32(0), np.float32(1), out=other)
    np.multiply(x, other, out=out)


def _leaky(x: Array, out: Array, other: Array, slope: np.float32) -> None:
    np.minimum(x, np.float32(0), out=other)
    np.multiply(other, slope, out=other)
    np.maximum(x, np.float32(0), out=out)
    np.add(out, other, out=out)
