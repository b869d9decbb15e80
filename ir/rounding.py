"""How far from the exact result a right fp32 result may be: a running error bound, element by element, through all stages of a program.

Every value x comes with a bound on its error. Sums of K terms in any order err by at most K u times the sum of their magnitudes, u = 2^-24 (Jeannerod
and Rump, Improved error bounds for inner products in floating-point arithmetic, SIAM J. Matrix Anal. Appl. 34, 2013); functions pass errors on by how
steep they are, and round once. Sums of whole numbers are exact where `ir.whole` says so. Integers are exact, unless they come from fp32 that was rounded:
then a cast gives what it gives of the ends of the interval in which its argument is, and where a result may have wrapped around, it may be any number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce as reduce_with

import numpy as np
from numpy.typing import NDArray

from ir.interpreter import NUMPY_FUNCTIONS, Doubles, Values, cast, evaluate, exact_inputs, interpret_stage, multiplied, reduced
from ir.parts import in_parts
from ir.program import CASTS, FLOAT, TRANSCENDENTAL, Apply, Axis, Constant, Program, Read, Stage, Table, Value
from ir.types import integer_range, type_of
from ir.whole import LAST_WHOLE, is_small, is_whole

UNIT = 2.0**-24
FEW = 16  # units in the last place that a function of ours may be off, and what a fused or split evaluation may add
LARGEST, SMALLEST_NORMAL, SMALLEST = float(np.finfo(np.float32).max), 2.0**-126, 2.0**-149
TINY = SMALLEST_NORMAL  # below it nothing is relative
HIGHER_ORDER = 1 + 2.0**-12  # of a chain's bound: its functions round what was rounded before

Bounded = tuple[Values, Doubles]  # values, and bounds on their errors


@np.errstate(all="ignore")  # a bound may be infinite, or NaN where the value is
def tolerance(program: Program, inputs: Mapping[str, Values]) -> Doubles:
    """The bound for each element of the result, for exact inputs in the tensors' shapes."""
    return in_parts(program, inputs, _tolerance)


def _tolerance(program: Program, inputs: Mapping[str, Values]) -> Doubles:
    if not program.flops:  # what is only moved is exact
        return np.zeros(program.output.shape)
    values = exact_inputs(program, inputs)
    errors: dict[str, Doubles] = {}
    for stage in program.stages:
        errors[stage.output.name] = _stage_error(stage, values, errors)
        values[stage.output.name] = interpret_stage(stage, values)
    if program.output.dtype != FLOAT:
        return errors[program.output.name]
    value, error = values[program.output.name], errors[program.output.name]
    return np.where(np.isinf(error), np.inf, error + FEW * UNIT * _finite_size(value) + TINY)


def _stage_error(stage: Stage, values: Mapping[str, Values], errors: Mapping[str, Doubles]) -> Doubles:
    """In the shape of the stage's output."""
    axes = (*stage.spatial, *stage.reduce)
    are_whole = is_whole(stage, values, errors)
    length = math.prod(axis.extent for axis in stage.reduce) + 1
    if stage.tables:  # applied one by one; their numbers are rounded too
        length = sum(max(len(terms) for terms in table.sums()) + 1 for table in stage.tables)
    if products := multiplied(stage):
        # The sum of magnitudes with errors included, less that without: one sum of products each.
        stage = replace(stage, body=reduce_with(_product, [_magnitude(factor) for factor in products]))
        sizes = {factor.tensor.name: np.abs(values[factor.tensor.name]) for factor in products if isinstance(factor, Read)}
        total = interpret_stage(stage, sizes)
        if are_whole and (total <= LAST_WHOLE).all():
            return np.zeros_like(total)
        if not any(name in errors for name in sizes):
            return UNIT * length * total
        return UNIT * length * total + interpret_stage(stage, {name: size + errors.get(name, 0.0) for name, size in sizes.items()}) - total
    shape = tuple(axis.extent for axis in axes)
    if are_whole and is_small(stage, values):
        return reduced(stage, np.zeros(shape[: len(stage.spatial)]), errors.get(stage.output.name))
    value, error = _bounded(stage.body, values, errors, axes)
    value, error = np.broadcast_to(value, shape), np.broadcast_to(error, shape)
    reduce = tuple(range(len(stage.spatial), len(axes)))
    may_be_any = np.isinf(error).any(axis=reduce)
    match stage.reduction:
        case "sum":
            total = np.abs(value).sum(axis=reduce)
            error = _in_range(total, error.sum(axis=reduce) + UNIT * length * total)
        case "max" | "min":
            error = error.max(axis=reduce)
        case "prod":
            product = np.abs(value).prod(axis=reduce)
            rounded = (np.abs(value) + error).prod(axis=reduce) - product + UNIT * length * product
            error = np.where(_is_exact_product(value, error, reduce), 0.0, _in_range(product, rounded))
    return reduced(stage, np.where(may_be_any, np.inf, error), errors.get(stage.output.name))


def _finite_size(value: Values) -> Doubles:
    """What roundings are relative to; infinities and what is no number are not rounded."""
    return np.where(np.isfinite(value), np.abs(value), 0.0)


def _is_exact_product(value: Values, error: Doubles, reduce: tuple[int, ...]) -> NDArray[np.bool_]:
    """Of exact powers of two, in any order: no part of them leaves the range of normal numbers."""
    mantissas, exponents = np.frexp(np.abs(value))
    are_powers = ((mantissas == 0.5) & (error == 0)).all(axis=reduce)
    up, down = (np.maximum(sign * (exponents - 1), 0).sum(axis=reduce) for sign in (1, -1))
    return np.asarray(are_powers & (np.maximum(up, down) <= -math.log2(SMALLEST_NORMAL)))


def _product(a: Value, b: Value) -> Value:
    return Apply("mul", (a, b))


def _magnitude(factor: Read | Table) -> Value:
    """Tables made positive; a read is one of magnitudes."""
    return replace(factor, numbers=tuple(tuple(map(abs, row)) for row in factor.numbers)) if isinstance(factor, Table) else factor


def _bounded(value: Value, values: Mapping[str, Values], errors: Mapping[str, Doubles], axes: tuple[Axis, ...]) -> Bounded:
    match value:
        case Constant(number):
            return evaluate(value, values, axes), np.array(abs(float(np.float32(number)) - number) if value.dtype == FLOAT else 0.0)
        case Table():  # that its numbers are rounded `_stage_error` counts
            return evaluate(value, values, axes), np.array(0.0)
        case Read(tensor):
            # What a read gives outside of its tensor is exact.
            error = evaluate(replace(value, outside=0.0), errors, axes) if tensor.name in errors else np.array(0.0)
            return evaluate(value, values, axes), error
        case Apply(function, args):
            bounded = [_bounded(arg, values, errors, axes) for arg in args]
            exact = np.asarray(NUMPY_FUNCTIONS[function](*(exact for exact, _ in bounded)))
            if function in CASTS:
                return exact, _cast_error(*bounded[0], exact, CASTS[function])
            passed = _PASSED_ON[function](*(part for of, error in bounded for part in (np.asarray(of, np.float64), error)))
            if (dtype := type_of(value)) != FLOAT:
                return exact, _wrapped_error(exact, passed, dtype)
            size = 1.0 if function in _BOUNDED else _finite_size(exact)
            error = _in_range(exact, passed + _ROUNDINGS.get(function, 1) * UNIT * size)
            may_be_any = reduce_with(np.logical_or, (np.isinf(each) for _, each in bounded))
            return exact, np.where(np.isnan(exact) & (may_be_any | np.isinf(passed)), np.inf, error)
    raise TypeError(f"not a value: {value!r}")


def _in_range(exact: Values, error: Doubles) -> Doubles:
    """The error of fp32, which has no finite number beyond `LARGEST`, and none in between those that are `SMALLEST` apart."""
    size = np.abs(exact)
    finer = np.where((size > 0) & (size < SMALLEST_NORMAL), error + SMALLEST, error)
    lost = (size + finer > LARGEST) | np.isnan(finer)
    return np.where(lost & np.isfinite(exact), np.inf, finer)


def _cast_error(x: Values, error: Doubles, exact: Values, dtype: str) -> Doubles:
    """Of `exact`, which is x as `dtype`."""
    number: Doubles = x.astype(np.float64)
    if dtype == "bool":
        return np.where(_is_unsure(number, error), 1.0, 0.0)
    if dtype == FLOAT:
        size = np.abs(number) + error
        return error if x.dtype.kind == "f" else error + np.where(size > LAST_WHOLE, UNIT * size, 0.0)
    if x.dtype.kind != "f":
        return _wrapped_error(exact, error, dtype)
    reach = error * HIGHER_ORDER
    ends = [cast(number + by, dtype).astype(np.float64) for by in (-reach, reach)]
    low, high = integer_range(dtype)
    off = np.where(error > 0, np.maximum(*(np.abs(end - exact.astype(np.float64)) for end in ends)), 0.0)
    return np.where(np.isinf(error), float(high) - float(low), off)


def _wrapped_error(exact: Values, error: Doubles, dtype: str) -> Doubles:
    """The error of an integer that was calculated modulo its range: of one that may lie on the other side of an end anything."""
    low, high = integer_range(dtype)
    number = exact.astype(np.float64)
    around = (error > 0) & ((number - error < low) | (number + error > high))
    return np.where(around, float(high) - float(low), error)


def _is_unsure(distance: Doubles, error: Doubles) -> NDArray[np.bool_]:
    """Whether what is so far from 0 may be 0, or on the other side of it."""
    return (error > 0) & ((np.abs(distance) <= error + TINY) | np.isinf(error))


def _chosen_error(difference: Doubles, ea: Doubles, eb: Doubles) -> Doubles:
    """Of one of two numbers, the first one where `difference` is positive: the error of the other does not count where it is far off."""
    return np.where(difference > ea + eb, ea, np.where(difference < -ea - eb, eb, np.maximum(ea, eb)))


def _product_error(a: Doubles, ea: Doubles, b: Doubles, eb: Doubles) -> Doubles:
    """What surely is infinite times what surely is not 0 is infinite."""
    is_infinite = (np.isinf(a) & np.isfinite(ea) & (np.abs(b) > eb)) | (np.isinf(b) & np.isfinite(eb) & (np.abs(a) > ea))
    return np.where(is_infinite, 0.0, np.abs(a) * eb + np.abs(b) * ea + ea * eb)


def _apart(a: Doubles, b: Doubles) -> Doubles:
    """How far; anything where one of them alone is no number, or they are unlike infinities."""
    alike = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(alike, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))


def _power_error(a: Doubles, ea: Doubles, b: Doubles, eb: Doubles) -> Doubles:
    """A power is monotonic in its base and in its exponent: it is furthest off in a corner. Where the base may have either sign, so may the power. A negative
    base has powers with whole exponents alone."""
    size = np.abs(a)
    exact = size**b
    corners = [base**exponent for base in (np.maximum(size - ea, 0.0), size + ea) for exponent in (b - eb, b + eb)]
    off: Doubles = np.max([np.abs(corner - exact) for corner in np.broadcast_arrays(*corners)], axis=0)
    off = np.where((size < ea) & (a != 0), np.maximum(off, exact + corners[-1]), off)
    is_whole_exponent = (eb == 0) & (b == np.floor(b))
    is_no_number = (a + ea < 0) & (eb == 0)
    return np.where((a < ea) & ((ea > 0) | (eb > 0)) & ~is_whole_exponent & ~is_no_number, np.inf, off)


def _of_growing(power: Doubles, off: Doubles) -> Doubles:
    """Of a power of e whose exponent is off by so much; one that surely is infinite is that."""
    return np.where(np.isinf(power) & np.isfinite(off), 0.0, power * np.expm1(off))


def _of_positive(a: Doubles, ea: Doubles, passed: Doubles) -> Doubles:
    """Of a function that only positive numbers have: anything where the argument may be on either side of 0, nothing where it surely is below."""
    return np.where((ea > 0) & (a < ea), np.where(a + ea < 0, 0.0, np.inf), passed)


# Error of a function from its arguments (value, error, value, error, ...), its own rounding left out.
_PASSED_ON: dict[str, Callable[..., Doubles]] = {
    "add": lambda a, ea, b, eb: ea + eb,
    "sub": lambda a, ea, b, eb: ea + eb,
    "mul": _product_error,
    "max": lambda a, ea, b, eb: _chosen_error(a - b, ea, eb),
    "min": lambda a, ea, b, eb: _chosen_error(b - a, ea, eb),
    "sigmoid": lambda a, ea: 0.25 * ea,
    "div": lambda a, ea, b, eb: np.where((eb > 0) & (np.abs(b) <= eb), np.inf, (ea + np.abs(a / b) * eb) / (np.abs(b) - eb)),
    "pow": _power_error,
    "less": lambda a, ea, b, eb: np.where(_is_unsure(a - b, ea + eb), 1.0, 0.0),
    "equal": lambda a, ea, b, eb: np.where(_is_unsure(a - b, ea + eb), 1.0, 0.0),
    "select": lambda c, ec, a, ea, b, eb: np.where(_is_unsure(c, ec), _apart(a, b) + np.maximum(ea, eb), np.where(c != 0, ea, eb)),
    "abs": lambda a, ea: ea,
    "exp": lambda a, ea: _of_growing(np.exp(a), ea),
    "exp2": lambda a, ea: _of_growing(np.exp2(a), math.log(2.0) * ea),
    "log": lambda a, ea: _of_positive(a, ea, np.where(ea > 0, ea / (a - ea), 0.0)),
    "tanh": lambda a, ea: ea,
    "erf": lambda a, ea: 2 / math.sqrt(math.pi) * ea,
    "sqrt": lambda a, ea: _of_positive(a, ea, ea / np.sqrt(np.maximum(a, np.finfo(np.float64).tiny))),
}
_ROUNDINGS = {"max": 0, "min": 0, "less": 0, "equal": 0, "select": 0, "abs": 0, **dict.fromkeys(TRANSCENDENTAL, FEW)}
# To units of 1: other libraries, which are held to this bound too, lose what is small (our own code: `codegen.functions`).
_BOUNDED = ("tanh", "erf", "sigmoid")
