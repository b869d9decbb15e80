"""Transcendental functions in vector form, emitted as LLVM IR; no scalar libm call."""

from __future__ import annotations

import math
from collections.abc import Callable

from llvmlite import ir

# exp(x) = 2^n exp(r), |r| <= ln(2)/2, ln(2) in two parts so that x - n ln(2) keeps its bits (Cody and Waite, Software Manual for the
# Elementary Functions, 1980); exp(r) by its Taylor polynomial of degree 7, whose remainder is below 2^-25 relative on that range.
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2.0) - _LN2_HIGH
_EXP_LOW, _EXP_HIGH = -87.33654, 88.37626
_EXP_TERMS = 8


def sigmoid(builder: ir.IRBuilder, x: ir.Value, fma: Callable[[ir.Value, ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """1 / (1 + exp(-x)) of a float or a vector of floats."""
    one = splat(x.type, 1.0)
    return builder.fdiv(one, builder.fadd(one, exponential(builder, builder.fneg(x), fma)))


def exponential(builder: ir.IRBuilder, x: ir.Value, fma: Callable[[ir.Value, ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """exp(x), arguments cut to the range where fp32 holds the result."""
    kind = x.type
    low, high = splat(kind, _EXP_LOW), splat(kind, _EXP_HIGH)
    x = builder.select(builder.fcmp_unordered("<", x, high), x, high)
    x = builder.select(builder.fcmp_unordered(">", x, low), x, low)
    integers = ir.VectorType(ir.IntType(32), kind.count) if isinstance(kind, ir.VectorType) else ir.IntType(32)
    scaled = fma(x, splat(kind, 1.0 / math.log(2.0)), splat(kind, 0.5))
    # floor(scaled), by truncation and a step down where that went up.
    truncated = builder.sitofp(builder.fptosi(scaled, integers), kind)
    above = builder.fcmp_ordered(">", truncated, scaled)
    n = builder.fsub(truncated, builder.select(above, splat(kind, 1.0), splat(kind, 0.0)))
    r = fma(n, splat(kind, -_LN2_HIGH), x)
    r = fma(n, splat(kind, -_LN2_LOW), r)
    result = splat(kind, 1.0 / math.factorial(_EXP_TERMS - 1))
    for power in range(_EXP_TERMS - 2, -1, -1):
        result = fma(result, r, splat(kind, 1.0 / math.factorial(power)))
    exponent = builder.shl(builder.add(builder.fptosi(n, integers), _integers(integers, 127)), _integers(integers, 23))
    return builder.fmul(result, builder.bitcast(exponent, kind))


def splat(kind: ir.Type, number: float) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count) if isinstance(kind, ir.VectorType) else ir.Constant(kind, number)


def _integers(kind: ir.Type, number: int) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count) if isinstance(kind, ir.VectorType) else ir.Constant(kind, number)
