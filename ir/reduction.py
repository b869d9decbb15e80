"""Reductions of one tensor over some of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ir.errors import UserError
from ir.program import Apply, Axis, Constant, Program, Read, Stage, Tensor, Value, affine

FUNCTIONS = ("sum", "mean", "max", "min", "prod", "l2")


def reduce(function: str, shape: Sequence[int], axes: Sequence[int]) -> Program:
    """`function` of x over these axes, which the result does not have; over all of them it has one element."""
    if len(set(axes)) < len(axes) or max(axes) >= len(shape):
        raise UserError(f"reduce: axes={'x'.join(map(str, axes))} are not different axes of a tensor of {len(shape)} dimensions")
    every = [Axis(f"d{i}", size) for i, size in enumerate(shape)]
    kept = tuple(axis for i, axis in enumerate(every) if i not in axes) or (Axis("one", 1),)
    gone = tuple(every[i] for i in sorted(axes))
    x = Tensor("x", tuple(shape))
    element = Read(x, tuple(affine(axis) for axis in every))
    indices, y_shape = tuple(affine(axis) for axis in kept), tuple(axis.extent for axis in kept)
    y = Tensor("y", y_shape)
    body: Value = Apply("mul", (element, element)) if function == "l2" else element
    reduction = "sum" if function in ("mean", "l2") else function
    if function not in ("mean", "l2"):
        return Program((x,), (Stage(y, indices, kept, gone, body, reduction),))
    total = Tensor("sum", y_shape)
    read = Read(total, indices)
    last: Value = Apply("sqrt", (read,)) if function == "l2" else Apply("mul", (read, Constant(1.0 / math.prod(axis.extent for axis in gone))))
    return Program((x,), (Stage(total, indices, kept, gone, body, reduction), Stage(y, indices, kept, (), last)))
