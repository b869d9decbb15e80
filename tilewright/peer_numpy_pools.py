"""Pooling in numpy: tap by tap over whole images with their channels last, which are what lies together in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from codegen.kernel import aligned_copy, aligned_empty
from tilewright.peer_numpy_rows import Call
from tilewright.problem import Array, Problem


def _max_pool(problem: Problem) -> Call:
    return _pool(problem, np.maximum, -np.inf)


def _average_pool(problem: Problem) -> Call:
    total, shares = _pool(problem, np.add, 0.0), problem.shares

    def run() -> Array:
        sums = total()
        np.multiply(sums, shares, out=sums)
        return sums

    return run


def _pool(problem: Problem, combine: np.ufunc, outside: float) -> Call:
    x = aligned_copy(np.moveaxis(problem.arrays["x"], 1, 3))
    n, c, *high = problem.shape
    out = aligned_empty((n, *high, c))
    (top, left), (bottom, right) = problem.pads
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    steps = list(zip(problem.kernel, problem.dilation, problem.parameters["stride"], high, strict=True))
    along = [[slice(at * by, at * by + (size - 1) * step + 1, step) for at in range(taps)] for taps, by, step, size in steps]
    taps = list(itertools.product(*along))

    def run() -> Array:
        padded = np.pad(x, around, constant_values=outside) if any(problem.parameters["pad"]) else x
        np.copyto(out, padded[:, taps[0][0], taps[0][1]])
        for rows, columns in taps[1:]:
            combine(out, padded[:, rows, columns], out=out)
        return np.moveaxis(out, 3, 1)

    return run


def _global_max(problem: Problem) -> Call:
    x = problem.arrays["x"]
    return lambda: x.max(axis=(2, 3))


def _global_mean(problem: Problem) -> Call:
    x = problem.arrays["x"]
    return lambda: x.mean(axis=(2, 3))


POOLS: Mapping[str, Callable[[Problem], Call]] = {
    "max_pool2d": _max_pool,
    "average_pool2d": _average_pool,
    "global_max_pool": _global_max,
    "global_average_pool": _global_mean,
}
