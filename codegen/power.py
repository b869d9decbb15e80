"""x to the power of y, for a float or a vector of floats.

x^y = 2^(y log2|x|), and an error of the exponent is 100 times as large in the result: the logarithm and its product with y are in double
precision, where they are exact enough and no argument is subnormal. Signs, zeros, infinities and NaN are as in C's `pow` and numpy's `power`.
"""

from __future__ import annotations

import math

from llvmlite import ir

from codegen.functions import exp_polynomial, scaled_in_halves
from codegen.vectors import F64, I32, I64, at_least, at_most, fma, intrinsic, lanes_of, polynomial, splat

# 2 / ln(2) atanh(sqrt(s)) / sqrt(s), s <= (3 - sqrt(8))^2: relative error 2^-37.8; fitted by `tests/minimax.py`.
LOG2 = (2.8853900817900784, 0.9617966733508405, 0.5770835831445555, 0.4116728334613774, 0.34072789953104193)
_ONE_BITS, _SQRT_HALF_BITS, _EXPONENT_BITS = 0x3FF0000000000000, 0x3FE6A09E667F3BCD, 52
_WHOLE = 2.0**52  # the doubles from here on are whole, and have their lowest bit as the lowest one of their bits
_ROUNDER = 1.5 * 2.0**52 + 254  # rounds to a whole number; see `codegen.functions`
_MOST_MULTIPLIED = 4  # x^4 = (x^2)^2 is within 2 units still


def power(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    whole = _small_whole(y)
    if whole is not None:
        return _multiplied(builder, x, whole)
    a = intrinsic(builder, "llvm.fabs", x)
    doubles = lanes_of(x.type, F64)
    logarithm = _log2(builder, builder.fpext(a, doubles))
    zero = splat(doubles, 0.0)
    wide = builder.fpext(y, doubles)
    product = builder.fmul(wide, logarithm)
    # 1^y and x^0 are 1, whatever y or x.
    one = builder.or_(builder.fcmp_ordered("==", logarithm, zero), builder.fcmp_ordered("==", wide, zero))
    magnitude = _exp2(builder, builder.select(one, zero, product), x.type)
    return _with_sign(builder, x, y, magnitude)


def _small_whole(y: ir.Value) -> int | None:
    """1 to `_MOST_MULTIPLIED` if y is that in all lanes and known."""
    if not isinstance(y, ir.Constant):
        return None
    number = y.constant[0].constant if isinstance(y.type, ir.VectorType) else y.constant
    return int(number) if number in range(1, _MOST_MULTIPLIED + 1) else None


def _multiplied(builder: ir.IRBuilder, x: ir.Value, times: int) -> ir.Value:
    if times == 1:
        return x
    half = _multiplied(builder, x, times // 2)
    square = builder.fmul(half, half)
    return builder.fmul(square, x) if times % 2 else square


def _log2(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """Of a double that is positive, zero, infinite or NaN, and not subnormal: log2(2^n m) = n + 2/ln(2) atanh((m - 1) / (m + 1))."""
    kind, integers = a.type, lanes_of(a.type, I64)
    shifted = builder.add(builder.bitcast(a, integers), splat(integers, _ONE_BITS - _SQRT_HALF_BITS))
    exponent = builder.lshr(shifted, splat(integers, _EXPONENT_BITS))
    # Among the bits of 2^52 a small whole number is added to it.
    whole = builder.bitcast(builder.or_(exponent, builder.bitcast(splat(kind, _WHOLE), integers)), kind)
    n = builder.fsub(whole, splat(kind, _WHOLE + 1023))
    mantissa = builder.add(builder.and_(shifted, splat(integers, (1 << _EXPONENT_BITS) - 1)), splat(integers, _SQRT_HALF_BITS))
    m = builder.bitcast(mantissa, kind)
    one = splat(kind, 1.0)
    s = builder.fdiv(builder.fsub(m, one), builder.fadd(m, one))
    result = fma(builder, s, polynomial(builder, builder.fmul(s, s), LOG2), n)
    # Infinity and NaN are their own logarithms.
    result = builder.select(builder.fcmp_ordered("<", a, splat(kind, math.inf)), result, a)
    return builder.select(builder.fcmp_ordered("==", a, splat(kind, 0.0)), splat(kind, -math.inf), result)


def _exp2(builder: ir.IRBuilder, x: ir.Value, kind: ir.Type) -> ir.Value:
    """2^x = 2^n exp(r) of a double, as a float."""
    x = at_least(builder, at_most(builder, x, 130.0), -152.0)
    rounded = builder.fadd(x, splat(x.type, _ROUNDER))
    r = builder.fmul(builder.fsub(x, builder.fsub(rounded, splat(x.type, _ROUNDER))), splat(x.type, math.log(2.0)))
    lowest = builder.trunc(builder.bitcast(rounded, lanes_of(kind, I64)), lanes_of(kind, I32))
    return scaled_in_halves(builder, exp_polynomial(builder, builder.fptrunc(r, kind)), lowest)


def _with_sign(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, magnitude: ir.Value) -> ir.Value:
    """Negative for odd y where x is; NaN where x is negative and finite, and y not whole."""
    kind, integers, longs = x.type, lanes_of(x.type, I32), lanes_of(x.type, I64)
    doubles = lanes_of(kind, F64)
    # All floats from 2^24 on are even.
    size = builder.fpext(at_most(builder, intrinsic(builder, "llvm.fabs", y), 2.0**25), doubles)
    rounded = builder.fadd(size, splat(doubles, _WHOLE))
    whole = builder.fcmp_ordered("==", builder.fsub(rounded, splat(doubles, _WHOLE)), size)
    lowest = builder.trunc(builder.bitcast(rounded, longs), integers)
    odd = builder.select(whole, builder.shl(lowest, splat(integers, 31)), splat(integers, 0))
    sign = builder.and_(builder.bitcast(x, integers), odd)
    result = builder.bitcast(builder.or_(builder.bitcast(magnitude, integers), sign), kind)
    negative = builder.and_(builder.fcmp_ordered("<", x, splat(kind, 0.0)), builder.fcmp_ordered(">", x, splat(kind, -math.inf)))
    return builder.select(builder.and_(negative, builder.not_(whole)), splat(kind, math.nan), result)
