"""Random inputs of a task, such that a kernel which leaves something out is seen to be wrong.

They are uniform in [-1, 1), so that sums stay small and cancel, as activations do. Integers are within `SPREAD` of 0, so that exponentials and products of
them stay finite, and so are the floats of a program that has casts, which may cut them to integers.

A sum of n such terms is about √n, while fp32 in any order may be off by n units of their magnitudes together: of thousands of terms one that is missing does
not show. So where all sums are of whole numbers if the inputs are, and one is long, inputs are 1 and -1: fp32 is exact then (`ir.whole`), and a sum without
one of its terms, all odd if they are products of inputs, is off by one. Where squares are summed up, half of them are 2 and -2, for the squares of 1 and -1 do
not tell one element from another. Of more terms than fp32 adds up exactly some are 0. A product of many numbers in [-1, 1) is 0; where there is such a one,
inputs are powers of two of either sign, few of them other than 1, so that products keep a size and a factor that is missing shows. Of a maximum or minimum
an element that is missing shows where it is the extreme: of long ones that is the last or the first, in turns, for there kernels have their remainders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np

from codegen.guards import Guards
from codegen.kernel import Array, aligned_copy
from ir.program import FLOAT, Program, Read, Stage, Tensor, reads
from ir.task import task
from ir.types import integer_range, is_float
from ir.whole import LAST_WHOLE, longest_whole_sum, sums_squares

SPREAD = 16
LONG_SUM = 512  # terms, from where on one more or less is lost in what rounding may do
LONG_PRODUCT = 16  # factors
SCALING = 160  # factors of a product that are not ±1, about: in whatever order, no part of it is then beyond 2^126 or below 2^-126, but by rare chance
N_TASKS_KEPT = 2  # measuring one task after another needs one; the final measurements of a network go from task to task

Draw: TypeAlias = Callable[[Tensor, np.random.Generator], Array]


def random_inputs(key: str, seed: int) -> Mapping[str, Array]:
    """Inputs by tensor name for the task of this operator text; the same for the same seed."""
    return guarded_inputs(key, seed)[1]


def input_guards(key: str, seed: int) -> Guards:
    """Those around the arrays of `random_inputs`."""
    return guarded_inputs(key, seed)[0]


@lru_cache(N_TASKS_KEPT)
def guarded_inputs(key: str, seed: int) -> tuple[Guards, Mapping[str, Array]]:
    """`input_guards` and `random_inputs`."""
    rng, guards = np.random.default_rng(seed), Guards()
    program = task(key).program
    draw = _how_to_draw(program)
    drawn = {tensor: draw(tensor, rng) for tensor in program.inputs}
    for stage in program.stages:
        _place_extremes(program, stage, drawn)
    return guards, {tensor.name: aligned_copy(np.abs(array) if tensor.positive else array, guards.empty) for tensor, array in drawn.items()}


@lru_cache(N_TASKS_KEPT)
def kept_inputs(key: str, seed: int) -> Mapping[str, Array]:
    """Copies of those that are not constant, which no kernel gets: a kernel may have written into the others."""
    inputs = random_inputs(key, seed)
    return {tensor.name: inputs[tensor.name].copy() for tensor in task(key).program.inputs if not tensor.constant}


def _how_to_draw(program: Program) -> Draw:
    if not is_float(program):
        return _spread
    n_factors = max((math.prod(axis.extent for axis in stage.reduce) for stage in program.stages if stage.reduction == "prod"), default=0)
    if n_factors >= LONG_PRODUCT:
        return partial(_powers, share=min(2 / 3, SCALING / n_factors))
    n_terms = longest_whole_sum(program)
    if n_terms < LONG_SUM:
        return _uniform
    largest = 2 if sums_squares(program) else 1
    return partial(_whole, largest=largest, share=min(1.0, LAST_WHOLE / 2 / largest**2 / n_terms))


def _place_extremes(program: Program, stage: Stage, drawn: Mapping[Tensor, Array]) -> None:
    """Where a stage finds extremes over whole dimensions of an input that nothing else reads, put one more extreme than all into each result's last element,
    or, of every other result, into its first."""
    read = stage.body
    if stage.reduction not in ("max", "min") or not isinstance(read, Read) or read.tensor not in drawn:
        return
    readers = [each for other in program.stages for each in reads(other.body) if each.tensor == read.tensor]
    plain = all(index.constant == 0 and [factor for _, factor in index.terms] == [1] for index in read.indices)
    if len(readers) > 1 or not plain or read.tensor.dtype != FLOAT or read.tensor.positive:
        return
    over = [at for at, index in enumerate(read.indices) if index.axes[0] in stage.reduce]
    array = np.moveaxis(drawn[read.tensor], over, range(-len(over), 0))
    last, first = (array[(..., *(end,) * len(over))] for end in (-1, 0))
    in_turns = np.arange(last.size).reshape(last.shape) % 2 == 0
    extreme = (1 + np.abs(array).max()) * (1 if stage.reduction == "max" else -1)
    np.copyto(last, extreme, where=in_turns)
    np.copyto(first, extreme, where=~in_turns)


def _uniform(tensor: Tensor, rng: np.random.Generator) -> Array:
    return 2 * rng.random(tensor.shape, dtype=np.float32) - 1


def _powers(tensor: Tensor, rng: np.random.Generator, share: float) -> Array:
    """A share of them 2 or a half, the others 1, of either sign."""
    scaling = rng.random(tensor.shape) < share
    return _signs(tensor, rng) * np.where(scaling, np.exp2(_signs(tensor, rng)), np.float32(1))


def _signs(tensor: Tensor, rng: np.random.Generator) -> Array:
    """1 and -1."""
    return 2 * rng.integers(2, size=tensor.shape).astype(np.float32) - 1


def _whole(tensor: Tensor, rng: np.random.Generator, largest: int, share: float) -> Array:
    """A share of them from 1 to `largest`, the others 0, of either sign."""
    numbers = _signs(tensor, rng)
    if largest > 1:
        numbers *= rng.integers(1, largest, tensor.shape, endpoint=True).astype(np.float32)
    if share < 1:
        numbers *= rng.random(tensor.shape) < share
    return numbers


def _spread(tensor: Tensor, rng: np.random.Generator) -> Array:
    if tensor.dtype == FLOAT:
        return _uniform(tensor, rng) * np.float32(SPREAD)
    low, high = integer_range(tensor.dtype)
    return rng.integers(max(low, -SPREAD), min(high, SPREAD), tensor.shape, tensor.dtype, endpoint=True)
