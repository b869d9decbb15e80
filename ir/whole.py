"""Sums that fp32 adds up exactly, in whatever order: those of whole numbers whose magnitudes together do not pass 2^24."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from ir.interpreter import Doubles, Values, evaluate
from ir.program import Apply, Axis, Constant, Program, Read, Stage, Value, reads

LAST_WHOLE = 2.0**24  # up to here every integer is one of fp32
KEPT_WHOLE = ("add", "sub", "mul", "max", "min", "abs", "less", "equal", "select")  # functions that make whole numbers of such


def longest_whole_sum(program: Program) -> int:
    """The terms of the longest sum, if all sums are of whole numbers where the inputs are such; 0 if not."""
    whole = {tensor.name for tensor in program.inputs}
    longest = 0
    for stage in program.stages:
        is_kept = _is_kept_whole(stage.body, whole)
        if stage.reduction == "sum":
            if not is_kept:
                return 0
            longest = max(longest, math.prod(axis.extent for axis in stage.reduce))
        if is_kept:
            whole.add(stage.output.name)
    return longest


def sums_squares(program: Program) -> bool:
    """Whether some sum multiplies what it reads by itself."""

    def has_square(value: Value) -> bool:
        return isinstance(value, Apply) and ((value.function == "mul" and value.args[0] == value.args[1]) or any(map(has_square, value.args)))

    return any(stage.reduction == "sum" and has_square(stage.body) for stage in program.stages)


def is_whole(stage: Stage, values: Mapping[str, Values], errors: Mapping[str, Doubles]) -> bool:
    """Whether the stage adds up, or only computes, whole numbers, from tensors without errors."""
    names = {read.tensor.name for read in reads(stage.body)}
    return (
        stage.reduction in (None, "sum") and _is_kept_whole(stage.body, names) and all(_are_whole(values[name]) for name in names)
        and not any(np.any(errors[name]) for name in names & errors.keys())
    )  # fmt: skip


def is_small(stage: Stage, values: Mapping[str, Values]) -> bool:
    """Whether the magnitudes that one result is computed from, all positions of the axes at once, do not pass `LAST_WHOLE` together."""
    axes = (*stage.spatial, *stage.reduce)
    sizes = np.broadcast_to(_size(stage.body, values, axes), tuple(axis.extent for axis in axes))
    return bool((sizes.sum(axis=tuple(range(len(stage.spatial), len(axes)))) <= LAST_WHOLE).all())


def _is_kept_whole(value: Value, whole: Collection[str]) -> bool:
    match value:
        case Constant(number):
            return float(number).is_integer()
        case Read(tensor):
            return tensor.name in whole
        case Apply(function, args):
            return function in KEPT_WHOLE and all(_is_kept_whole(arg, whole) for arg in args)
    return False  # a table


def _are_whole(array: Values) -> bool:
    return bool(array.dtype.kind != "f" or (np.rint(array) == array).all())


def _size(value: Value, values: Mapping[str, Values], axes: tuple[Axis, ...]) -> Doubles:
    """As large as the value, and whatever it is computed from, may be."""
    match value:
        case Constant(number):
            return np.array(abs(float(number)))
        case Read():
            return np.abs(np.asarray(evaluate(value, values, axes), np.float64))
        case Apply(function, args):
            sizes = [_size(arg, values, axes) for arg in args]
            if function in ("add", "sub"):
                return np.asarray(sizes[0] + sizes[1])
            if function == "mul":
                return np.asarray(sizes[0] * sizes[1])
            return np.asarray(np.maximum.reduce(np.broadcast_arrays(*sizes, np.array(1.0))))
    raise TypeError(f"not a value: {value!r}")
