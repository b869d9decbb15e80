"""Moving data in numpy: views of the input, copied into an array that is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from codegen.kernel import aligned_empty
from tilewright.peer_numpy_rows import Call
from tilewright.problem import Array, Problem
from tilewright.repacking import repacking


def _transpose(problem: Problem) -> Call:
    return _copy(problem, problem.arrays["x"].transpose(problem.parameters["axes"]))


def _slice(problem: Problem) -> Call:
    given = problem.parameters
    parts = (slice(*part) for part in zip(given["starts"], given["stops"], given["steps"], strict=True))
    return _copy(problem, problem.arrays["x"][tuple(parts)])


def _copy(problem: Problem, view: Array) -> Call:
    out = aligned_empty(problem.shape)

    def run() -> Array:
        np.copyto(out, view)
        return out

    return run


def _pad(problem: Problem) -> Call:
    given, x = problem.parameters, problem.arrays["x"]
    widths = list(zip(given["before"], given["after"], strict=True))
    if given["mode"] == "constant":
        return lambda: np.pad(x, widths, constant_values=given["value"])
    return lambda: np.pad(x, widths, mode=given["mode"])


def _concat(problem: Problem) -> Call:
    arrays, axis, out = list(problem.arrays.values()), problem.parameters["axis"], aligned_empty(problem.shape)
    return lambda: np.concatenate(arrays, axis, out=out)


def _pack(problem: Problem) -> Call:
    how, x = repacking(problem), problem.arrays["x"]
    more = [(0, how.n_more if place == how.channels else 0) for place in range(x.ndim)]
    kept = (slice(None),) * how.channels + (slice(how.n_kept or None),)

    def run() -> Array:
        padded = np.pad(x, more) if how.n_more else x
        return np.ascontiguousarray(padded.reshape(how.split).transpose(how.axes).reshape(how.joined)[kept])

    return run


MOVES: Mapping[str, Callable[[Problem], Call]] = {"transpose": _transpose, "slice": _slice, "pad": _pad, "concat": _concat, "pack": _pack}
