"""Whether a kernel computes the right thing, and writes nowhere else.

Inputs are those of `codegen.inputs`; the reference is `ir.interpreter` in double precision with its bound on what rounding may do; buffers are those of
`codegen.guards`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codegen.guards import WrongAnswer
from codegen.inputs import N_TASKS_KEPT, random_inputs
from codegen.kernel import Array
from ir.interpreter import Values, interpret
from ir.rounding import tolerance
from ir.task import task
from schedule.algorithms import DIRECT, WINOGRAD, rounded_program

PART_ELEMENTS = 1 << 16  # compared at a time, which caches hold


@dataclass(frozen=True)
class Reference:
    """The right values, and how far from them each element may be."""

    values: Values
    tolerance: NDArray[np.float64]


def reference(key: str, seed: int, algorithm: str = DIRECT) -> Reference:
    """The result of the task for `random_inputs`; the tolerance is that of an algorithm."""
    known, rounds_as = _references(key, seed), algorithm if algorithm in WINOGRAD else DIRECT
    if rounds_as not in known:
        program, inputs = task(key).program, random_inputs(key, seed)
        bound = tolerance(rounded_program(program, rounds_as), inputs).reshape(program.output.shape)
        values = np.ascontiguousarray(interpret(program, inputs)) if rounds_as == DIRECT else reference(key, seed).values
        known[rounds_as] = Reference(values, np.ascontiguousarray(bound))
    return known[rounds_as]


@lru_cache(N_TASKS_KEPT)
def _references(key: str, seed: int) -> dict[str, Reference]:
    """Those of one task that have been made, by algorithm."""
    return {}


@np.errstate(invalid="ignore")  # differences of infinities
def check_output(output: Array, expected: Reference) -> None:
    """`WrongAnswer` says how far off the worst element is, where, and how many elements are wrong."""
    flat = [array.reshape(-1) for array in (output, expected.values, expected.tolerance)]
    starts = range(0, output.size, PART_ELEMENTS)
    right = np.concatenate([_are_right(*(array[start : start + PART_ELEMENTS] for array in flat)) for start in starts])
    if right.all():
        return
    n_wrong = right.size - int(np.count_nonzero(right))
    distances = _distances(output, expected.values)
    excess = np.where(right.reshape(output.shape), -np.inf, np.nan_to_num(distances - expected.tolerance, nan=np.inf))
    worst = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), output.shape))
    raise WrongAnswer(
        f"{n_wrong} of {right.size} elements are wrong, the worst at {list(worst)}: "
        f"{_text(output[worst])} instead of {_text(expected.values[worst])}, which may be off by {expected.tolerance[worst]:.1e}"
    )


def _are_right(output: Array, values: Values, tolerance: NDArray[np.float64]) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = _distances(output, values) <= tolerance
    if output.dtype.kind == "f" and not right.all():
        right |= np.isinf(tolerance)  # what it was computed from may have been too large for fp32, or no number
        right |= (output == values) | (np.isnan(output) & np.isnan(values))  # infinities, and NaN where it is right
        right |= np.isinf(output) & (np.sign(output) * values + tolerance > np.finfo(np.float32).max)
    return right


def _distances(output: Array, values: Values) -> NDArray[np.float64]:
    """Of integers 0 only where they are equal; bools are compared as the bytes that they are."""
    if output.dtype.kind == "f":
        return np.asarray(np.abs(output - values))
    a, b = (array.view(np.uint8) if array.dtype.kind == "b" else array for array in (output, values))
    distances: NDArray[np.float64] = (np.maximum(a, b).astype(np.int64) - np.minimum(a, b).astype(np.int64)).view(np.uint64).astype(np.float64)
    return distances


def _text(number: np.generic) -> str:
    return f"{number:.7g}" if number.dtype.kind == "f" else str(number)
