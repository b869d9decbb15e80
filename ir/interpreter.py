"""Reference values of a tensor program in numpy, fp32 in double precision and integers exactly; shares nothing with the code generator.

A sum of products is batched matrix products of strided windows of the padded inputs, so large programs are checked in a fraction of a second.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from ir.parts import in_parts
from ir.program import CASTS, FLOAT, Apply, Axis, Constant, Program, Read, Stage, Table, Tensor, Value, factors
from ir.types import integer_range

Doubles = NDArray[np.float64]
Values: TypeAlias = NDArray[Any]  # doubles for fp32, else of the type itself
MAX_WINDOW_ELEMENTS = 1 << 27  # copied at a time: 1 GiB


def _select(condition: Values, a: Values, b: Values) -> Values:
    return np.where(condition != 0, a, b)


def _as_truth(compare: Callable[[Values, Values], Values], a: Values, b: Values) -> Values:
    """1 or 0, of the arguments' type."""
    return compare(a, b).astype(np.result_type(a, b))


def cast(x: Values, dtype: str) -> Values:
    """As `ir.types` has it."""
    if dtype == FLOAT:
        return x.astype(np.float64)
    if dtype == "bool":
        return np.asarray(x != 0)
    if x.dtype.kind != "f":
        return x.astype(dtype)
    low, high = integer_range(dtype)
    whole = np.trunc(x)
    fits = (whole >= low) & (whole < high + 1)  # the highest int64 is no double, the number after it is one
    nearest = np.where(np.isnan(x), 0, np.where(x < 0, low, high))
    return np.where(fits, np.where(fits, whole, 0).astype(dtype), nearest).astype(dtype)


NUMPY_FUNCTIONS: dict[str, Callable[..., Values]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "div": np.divide,
    "pow": np.power,
    "less": partial(_as_truth, np.less),
    "equal": partial(_as_truth, np.equal),
    "select": _select,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "tanh": np.tanh,
    "erf": erf,
    "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),  # 1 / (1 + exp(-x)) overflows
    **{name: partial(cast, dtype=dtype) for name, dtype in CASTS.items()},
}
_REDUCTIONS: dict[str, Callable[..., Doubles]] = {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod}


@np.errstate(all="ignore")  # infinities and NaN are results like others
def interpret(program: Program, inputs: Mapping[str, Values]) -> Values:
    """The result of `program`; inputs by tensor name, in the tensors' shapes."""
    return in_parts(program, inputs, _interpret)


def _interpret(program: Program, inputs: Mapping[str, Values]) -> Values:
    values = exact_inputs(program, inputs)
    for stage in program.stages:
        values[stage.output.name] = interpret_stage(stage, values)
    return values[program.output.name]


def exact_inputs(program: Program, inputs: Mapping[str, Values]) -> dict[str, Values]:
    """By tensor name, in the tensors' shapes and in the types that are calculated with."""
    return {tensor.name: np.asarray(inputs[tensor.name], exact_type(tensor)).reshape(tensor.shape) for tensor in program.inputs}


def exact_type(of: Tensor | Constant) -> np.dtype[Any]:
    return np.dtype(np.float64 if of.dtype == FLOAT else of.dtype)


def interpret_stage(stage: Stage, values: Mapping[str, Values]) -> Values:
    """The stage's output from the tensors that it reads, and the parts of it that stages before have filled, by name."""
    axes = (*stage.spatial, *stage.reduce)
    n_spatial = len(stage.spatial)
    if products := multiplied(stage):
        windows = [_window(factor, values) if isinstance(factor, Read) else (np.array(factor.numbers), factor.axes) for factor in products]
        result = _product(stage, *windows) if len(windows) == 2 else _transform(stage, windows)
    else:
        result = np.broadcast_to(evaluate(stage.body, values, axes), tuple(axis.extent for axis in axes))
        if stage.reduction is not None:
            result = _REDUCTIONS[stage.reduction](result, axis=tuple(range(n_spatial, len(axes))))
    return reduced(stage, result, values.get(stage.output.name))


def multiplied(stage: Stage) -> tuple[Read | Table, ...]:
    """The factors of a sum of products: reads and tables that have all axes together. None of any other stage."""
    found = tuple(factor for factor in factors(stage.body) if isinstance(factor, Read | Table))
    fits = stage.reduction == "sum" and len(found) == len(factors(stage.body)) > 1
    return found if fits and {axis for factor in found for axis in factor.axes} == {*stage.spatial, *stage.reduce} else ()


def _product(stage: Stage, a: tuple[Doubles, tuple[Axis, ...]], b: tuple[Doubles, tuple[Axis, ...]]) -> Doubles:
    """The sum over the reduce axes of the product of two windows, as batched matrix products: a dimension a spatial axis."""
    result = np.empty(tuple(axis.extent for axis in stage.spatial))
    common = set(a[1]) & set(b[1])
    inner = [axis for axis in stage.reduce if axis in common]
    batch = [axis for axis in stage.spatial if axis in common]
    rows, columns = ([axis for axis in stage.spatial if axis in set(of) - common] for _, of in (a, b))
    order = [(*batch, *rows, *columns).index(axis) for axis in stage.spatial]
    window, of = max((a, b), key=lambda each: each[0].size)
    cut = max((axis for axis in stage.spatial if axis in of), key=lambda axis: axis.extent, default=stage.spatial[0])
    for part in _parts(cut, window.size):
        left, right = (
            _matrix(window[_along(cut, part, of)], of, stage.reduce, axes) for (window, of), axes in ((a, (batch, rows, inner)), (b, (batch, inner, columns)))
        )
        mine = result[_along(cut, part, stage.spatial)]
        sizes = [mine.shape[stage.spatial.index(axis)] for axis in (*batch, *rows, *columns)]
        mine[...] = np.matmul(left, right).reshape(sizes).transpose(order)
    return result


def _matrix(window: Doubles, of: tuple[Axis, ...], reduce: tuple[Axis, ...], axes: tuple[list[Axis], list[Axis], list[Axis]]) -> Doubles:
    """The window with the axes of each kind as one dimension; what it alone is summed over is."""
    alone = tuple(i for i, axis in enumerate(of) if axis in reduce and all(axis not in some for some in axes))
    window, of = window.sum(axis=alone) if alone else window, tuple(axis for i, axis in enumerate(of) if i not in alone)
    shape = [math.prod(window.shape[of.index(axis)] for axis in some) for some in axes]
    return window.transpose([of.index(axis) for some in axes for axis in some]).reshape(shape)


def _transform(stage: Stage, windows: Sequence[tuple[Doubles, tuple[Axis, ...]]]) -> Doubles:
    """The sum of the product of more than two windows, as tables from both sides of a tile are."""
    letter = dict(zip((*stage.spatial, *stage.reduce), string.ascii_letters, strict=False))
    terms = ["".join(letter[axis] for axis in some) for some in (*(of for _, of in windows), stage.spatial)]
    result: Doubles = np.einsum(f"{','.join(terms[:-1])}->{terms[-1]}", *(window for window, _ in windows), optimize=True)
    return result


def _parts(axis: Axis, n_elements: int) -> list[slice]:
    """Of the axis, so small that windows of so many elements in all, which are copied where they overlap, need little memory for each."""
    step = max(1, axis.extent * MAX_WINDOW_ELEMENTS // n_elements)
    return [slice(start, min(start + step, axis.extent)) for start in range(0, axis.extent, step)]


def _along(axis: Axis, part: slice, axes: Sequence[Axis]) -> tuple[slice, ...]:
    """The part of an array with these axes."""
    return tuple(part if each == axis else slice(None) for each in axes)


def reduced(stage: Stage, result: Values, others: Values | None = None) -> Values:
    """The stage's output from an array with a dimension a spatial axis; `others`: the output with parts that other stages have filled."""
    shape = stage.output.shape
    nothing = np.nan if result.dtype.kind == "f" else 0
    output = np.full([max(size, index.range[1] + 1) for size, index in zip(shape, stage.indices, strict=True)], nothing, result.dtype)
    if others is not None:
        output[tuple(map(slice, shape))] = others
    window, window_axes = _window(stage.write, {stage.output.name: output})
    order = [stage.spatial.index(axis) for axis in window_axes]
    window[...] = np.transpose(result, order)
    return output[tuple(slice(size) for size in shape)]


def evaluate(value: Value, values: Mapping[str, Values], axes: tuple[Axis, ...]) -> Values:
    """`value` at all positions of the axes, a dimension an axis; 1 along those that it does not depend on."""
    match value:
        case Constant(number):
            return np.array(number, exact_type(value))
        case Apply(function, args):
            return np.asarray(NUMPY_FUNCTIONS[function](*(evaluate(arg, values, axes) for arg in args)))
        case Table(row, column, numbers):
            array = np.array(numbers) if axes.index(row) < axes.index(column) else np.array(numbers).T
            return array.reshape(tuple(axis.extent if axis in value.axes else 1 for axis in axes))
        case Read():
            window, window_axes = _window(value, values)
            present = [axis for axis in axes if axis in window_axes]
            ordered = np.transpose(window, [window_axes.index(axis) for axis in present])
            return ordered.reshape(tuple(axis.extent if axis in window_axes else 1 for axis in axes))
    raise TypeError(f"not a value: {value!r}")


def _window(read: Read, values: Mapping[str, Values]) -> tuple[Values, tuple[Axis, ...]]:
    """A strided view (a dimension an axis of the read) of the tensor, padded as far as the indices reach."""
    array = values[read.tensor.name]
    ranges = [index.range for index in read.indices]
    padding = [(max(0, -low), max(0, high + 1 - size)) for (low, high), size in zip(ranges, array.shape, strict=True)]
    if any(before or after for before, after in padding):
        array = np.pad(array, padding, constant_values=read.outside) if read.beyond == "value" else np.pad(array, padding, mode=read.beyond)
    start = array[tuple(slice(index.constant + before, None) for index, (before, _) in zip(read.indices, padding, strict=True))]
    strides = [sum(index.factor(axis) * stride for index, stride in zip(read.indices, array.strides, strict=True)) for axis in read.axes]
    shape = tuple(axis.extent for axis in read.axes)
    return np.lib.stride_tricks.as_strided(start, shape, strides), read.axes
