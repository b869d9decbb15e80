"""numpy and the BLAS that it brings: matrix products, and convolutions that are nothing but one; the epilogue in place.

Its threads are set for the time of a turn. Which of its kernels OpenBLAS takes is decided when it is loaded (see `tilewright.bench`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from codegen.kernel import aligned_copy, aligned_empty
from ir.errors import Unsupported
from tilewright.problem import Array, Problem, Way, clip_limits
from tilewright.turns import Contender


def numpy_ways(problem: Problem) -> list[Way]:
    """With the second operand by rows and, where it is constant, also by columns. `Unsupported` where the task is no matrix product."""
    arrays = _as_product(problem) if problem.operator == "conv2d" else problem.arrays
    settings = {"b by rows": arrays}
    if "b" not in problem.variables:
        settings["b by columns"] = {**arrays, "b": aligned_copy(arrays["b"].swapaxes(-1, -2)).swapaxes(-1, -2)}
    return [_way(problem, setting, given) for setting, given in settings.items()]


def _as_product(problem: Problem) -> dict[str, Array]:
    """The arrays of a convolution of single pixels: pixels by channels, times channels by filters."""
    given = problem.parameters
    if (given["r"], given["s"], given["groups"], *given["stride"]) != (1, 1, 1, 1, 1) or any(given["pad"]):
        raise Unsupported("numpy has no convolutions but those that are matrix products: 1x1, stride 1, no padding, no groups")
    arrays = dict(problem.arrays)
    pixels = {name: aligned_copy(np.moveaxis(arrays.pop(name), 1, -1)) for name in ("x", "residual") if name in arrays}
    arrays |= {name: array.reshape(-1, array.shape[-1]) for name, array in pixels.items()}
    return {**arrays, "a": arrays["x"], "b": aligned_copy(arrays["weights"][:, :, 0, 0].T)}


def _way(problem: Problem, setting: str, arrays: Mapping[str, Array]) -> Way:
    a, b = arrays["a"], arrays["b"]
    out = aligned_empty((*a.shape[:-1], b.shape[-1]))
    steps = [_step(step, out, arrays) for step in problem.epilogue]

    def run() -> None:
        np.matmul(a, b, out=out)
        for step in steps:
            step()

    def answer() -> NDArray[Any]:
        run()
        if problem.operator != "conv2d":
            return out
        n, filters, high, wide = problem.shape
        return problem.ours(np.moveaxis(out.reshape(n, high, wide, filters), -1, 1))

    limit = partial(ThreadpoolController().limit, limits=problem.threads, user_api="blas")
    return Way(Contender("numpy", setting, run, limit), answer)


def _step(step: str, out: Array, arrays: Mapping[str, Array]) -> Callable[[], object]:
    """A step of an epilogue in place. Channels are last."""
    match step:
        case "bias":
            return partial(np.add, out, arrays["bias"], out=out)
        case "add":
            return partial(np.add, out, arrays["residual"], out=out)
        case "relu":
            return partial(np.maximum, out, np.float32(0), out=out)
        case "sigmoid":
            return partial(_sigmoid, out)
    low, high = clip_limits(step)
    return partial(np.clip, out, np.float32(low), np.float32(high), out=out)


def _sigmoid(out: Array) -> None:
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, which does not overflow."""
    half = np.float32(0.5)
    np.multiply(out, half, out=out)
    np.tanh(out, out=out)
    np.multiply(out, half, out=out)
    np.add(out, half, out=out)
