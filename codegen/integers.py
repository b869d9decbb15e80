"""Integers in LLVM IR, alone or in vectors: what a function of them is, and casts from and to them (see `ir.types` for what they mean).

A bool is a byte, 1 or 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from codegen.vectors import F32, I8, I32, I64, lanes_of, splat
from ir.errors import InternalError
from ir.program import FLOAT
from ir.types import integer_range

ELEMENTS: dict[str, ir.Type] = {FLOAT: F32, "int32": I32, "int64": I64, "bool": I8, "int8": I8, "uint8": I8}
_UNSIGNED = ("bool", "uint8")


def integer_function(builder: ir.IRBuilder, function: str, args: list[ir.Value], dtype: str) -> ir.Value:
    """A function of `ir.program.FUNCTIONS`, but no cast, of arguments of this type (the condition of `select` has another one)."""
    compare: Any = builder.icmp_unsigned if dtype in _UNSIGNED else builder.icmp_signed
    match function:
        case "add":
            return builder.add(*args)
        case "sub":
            return builder.sub(*args)
        case "mul":
            return builder.mul(*args)
        case "max":
            return builder.select(compare(">", *args), *args)
        case "min":
            return builder.select(compare("<", *args), *args)
        case "less":
            return builder.zext(compare("<", *args), args[0].type)
        case "equal":
            return builder.zext(compare("==", *args), args[0].type)
        case "select":
            return builder.select(is_not_zero(builder, args[0]), *args[1:])
        case "abs" if dtype in _UNSIGNED:
            return args[0]
        case "abs":
            zero = splat(args[0].type, 0)
            return builder.select(compare("<", args[0], zero), builder.sub(zero, args[0]), args[0])
    raise InternalError(f"no code for the function {function} of {dtype}")


def is_not_zero(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Lane by lane; NaN is not zero."""
    zero = splat(x.type, 0)
    return builder.fcmp_unordered("!=", x, zero) if zero.type == lanes_of(x.type, F32) else builder.icmp_signed("!=", x, zero)


def cast(builder: ir.IRBuilder, x: ir.Value, source: str, dtype: str) -> ir.Value:
    """`x`, of the type `source`, as `dtype`."""
    kind = lanes_of(x.type, ELEMENTS[dtype])
    if source == dtype:
        return x
    if dtype == "bool":
        return builder.zext(is_not_zero(builder, x), kind)
    if source == FLOAT:
        return _truncated(builder, x, dtype)
    if dtype == FLOAT:
        return builder.uitofp(x, kind) if source in _UNSIGNED else builder.sitofp(x, kind)
    return _resized(builder, x, kind, source in _UNSIGNED)


def _resized(builder: ir.IRBuilder, x: ir.Value, kind: ir.Type, unsigned: bool) -> ir.Value:
    """Its lower bits, or more of them."""
    width, wanted = (of.element.width if isinstance(of, ir.VectorType) else of.width for of in (x.type, kind))
    if width == wanted:
        return x
    if width > wanted:
        return builder.trunc(x, kind)
    return builder.zext(x, kind) if unsigned else builder.sext(x, kind)


def _truncated(builder: ir.IRBuilder, x: ir.Value, dtype: str) -> ir.Value:
    """Towards zero, and to the ends of the range. Not `llvm.fptosi.sat`, which LLVM takes apart element by element."""
    low, high = integer_range(dtype)
    wide = lanes_of(x.type, I64 if dtype == "int64" else I32)
    last = _float_at_most(high)
    x = builder.select(builder.fcmp_ordered("ord", x, x), x, splat(x.type, 0.0))
    inside = builder.select(builder.fcmp_ordered(">", x, splat(x.type, low)), x, splat(x.type, low))
    inside = builder.select(builder.fcmp_ordered("<", inside, splat(x.type, last)), inside, splat(x.type, last))
    result = builder.fptosi(inside, wide)
    if last < high:  # the end of the range is no float
        result = builder.select(builder.fcmp_ordered(">", x, splat(x.type, last)), splat(wide, high), result)
    return _resized(builder, result, lanes_of(x.type, ELEMENTS[dtype]), unsigned=False)


def _float_at_most(number: int) -> float:
    nearest = np.float32(number)
    return float(nearest if int(nearest) <= number else np.nextafter(nearest, np.float32(0)))
