"""Types of the values of a program, and what a function may be applied to.

A function gives the type of its arguments, which all have one type; so `less` of two int8 is an int8, 1 or 0. Exceptions: a cast gives the type that it
is named after, and the condition of `select` may be of any type. Numbers have no type of their own: they take that of what they stand beside, or fp32.

Casts are those of ONNX and numpy. To integers a float is cut towards zero; what is beyond their range, which both leave open, becomes the nearest
end of it, and NaN 0. An integer that the other type does not have wraps around. To bool, whatever is not 0 is 1, NaN too.
"""

from __future__ import annotations

import numpy as np

from ir.errors import UserError
from ir.parameters import as_fp32
from ir.program import CASTS, ELEMENT_BYTES, FLOAT, Apply, Constant, Program, Read, Table, Value

INTEGERS = tuple(dtype for dtype in ELEMENT_BYTES if dtype not in (FLOAT, "bool"))
_OF_ALL = ("max", "min", "less", "equal", "select", *CASTS)
_OF_NUMBERS = ("add", "sub", "mul", "abs")


def type_of(value: Value) -> str:
    """Of a value whose numbers have types."""
    match value:
        case Constant(dtype=dtype):
            return dtype
        case Read(tensor):
            return tensor.dtype
        case Table():
            return FLOAT
        case Apply(function, args):
            return CASTS.get(function) or type_of(args[-1])
    raise TypeError(f"not a value: {value!r}")


def is_float(program: Program) -> bool:
    """Whether it knows nothing but fp32."""
    return all(tensor.dtype == FLOAT for tensor in program.inputs) and not any(_has_cast(stage.body) for stage in program.stages)


def _has_cast(value: Value) -> bool:
    return isinstance(value, Apply) and (value.function in CASTS or any(map(_has_cast, value.args)))


def integer_range(dtype: str) -> tuple[int, int]:
    """Lowest and highest number of a type; of bool 0 and 1."""
    return (0, 1) if dtype == "bool" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def typed(value: Value, around: str = FLOAT) -> Value:
    """`value` with types given to its numbers, `around` where nothing else tells; `UserError` names a function and types that do not fit."""
    match value:
        case Constant(number):
            return _number(number, around)
        case Apply(function, args):
            n_free = 1 if function in CASTS or function == "select" else 0  # arguments of any type
            own = {dtype for arg in args[n_free:] for dtype in _own_types(arg)}
            inside = next(iter(own)) if len(own) == 1 else around
            result = Apply(function, (*(typed(arg) for arg in args[:n_free]), *(typed(arg, inside) for arg in args[n_free:])))
            _check(function, [type_of(arg) for arg in result.args], n_free)
            return result
    return value


def _own_types(value: Value) -> set[str]:
    """What a value is, whatever is around it: nothing for numbers alone."""
    match value:
        case Constant():
            return set()
        case Apply(function, args) if function not in CASTS:
            return {dtype for arg in args[function == "select" :] for dtype in _own_types(arg)}
    return {type_of(value)}


def _number(number: float, dtype: str) -> Constant:
    if dtype == FLOAT:
        return Constant(as_fp32(float(number)))
    low, high = integer_range(dtype)
    if not isinstance(number, int) or not low <= number <= high:
        raise UserError(f"the number {number} is no {dtype}, which what stands beside it is")
    return Constant(number, dtype)


def _check(function: str, dtypes: list[str], n_free: int) -> None:
    same = dict.fromkeys(dtypes[n_free:])
    if len(same) > 1:
        raise UserError(f"{function} takes arguments of one type, not {' and '.join(same)}: cast them, as in cast_{FLOAT}(a)")
    for dtype in same:
        known = dtype == FLOAT or function in _OF_ALL or (function in _OF_NUMBERS and dtype in INTEGERS)
        if not known:
            raise UserError(f"there is no {function} of {dtype}: cast its arguments, as in cast_{FLOAT}(a)")
