"""Transcendental functions of a float or a vector of floats as LLVM IR: no branch, no table, and no call of a scalar function.

The largest errors found, in units in the last place with fused multiply-add (and without): exp 0.9 (1.2), exp2 1.95 (2.15), log 0.85 (0.85), tanh 1.4 (1.4),
erf 1.2 (1.3), sigmoid 1.7 (2.0), and pow of `codegen.power` 0.9 (1.2); subnormal arguments and results are no worse. Infinities go where the
limits go, NaN stays. `tests/test_codegen_functions.py` holds them to that.

Notation: the argument is reduced to a small remainder r (or f, s) and a power of two 2^n; a polynomial approximates the function of the remainder.
Reductions by multiples of ln(2) take it in two parts, of which the high one has so few bits that products with n are exact (Cody and Waite, Software
Manual for the Elementary Functions, 1980). The polynomials are the best ones for the largest error, fitted by `tests/minimax.py`.
"""

from __future__ import annotations

import math

from llvmlite import ir

from codegen.vectors import I32, at_least, at_most, fma, intrinsic, lanes_of, polynomial, scaled, scales_in_one, splat

_LN2_HIGH = 355 / 512
_LN2_LOW = math.log(2.0) - _LN2_HIGH
# Added to a float that is small next to it, 1.5 * 2^23 rounds it to a whole number, and has that in its lowest bits; with 127, as an exponent is stored.
_ROUNDER, _BIAS = 1.5 * 2**23, 127

# exp(r), |r| <= ln(2)/2: relative error 2^-28.2.
EXP = (1.0, 1.0, 0.4999999403953552, 0.1666651964187622, 0.041668277233839035, 0.00836887676268816, 0.001382031012326479)
# 2^f, |f| <= 1/2: relative error 2^-23.4.
EXP2 = (1.0, 0.6931470036506653, 0.24022246897220612, 0.0555071085691452, 0.009671291336417198, 0.0013269521296024323)
# (tanh(x) / x - 1) / x^2 of x^2, |x| <= 0.65: relative error of tanh 2^-27.1.
TANH = (-0.3333325982093811, 0.1333082914352417, -0.05368790403008461, 0.020469000563025475, -0.005514679942280054)
# (log(1 + f) - f + f^2 / 2) / f^3, sqrt(1/2) <= 1 + f <= sqrt(2): relative error of log(1 + f) 2^-27.4.
LOG = (
    0.3333333134651184, -0.2500081956386566, 0.2000124156475067, -0.1662341058254242,
    0.14201585948467255, -0.13159598410129547, 0.12762142717838287, -0.07636362314224243,
)  # fmt: skip
# erf(x) / x - 1 of x^2, |x| <= 0.85: relative error of erf 2^-27.1.
ERF_NEAR = (0.12837916612625122, -0.37612590193748474, 0.11282864958047867, -0.026807287707924843, 0.0050577037036418915, -0.0006348518654704094)
# log(1 - erf(x)), 0.85 <= x <= 4: relative error of erf 2^-28.8.
ERF_FAR = (
    -0.00010452826245455071, -1.1280609369277954, -0.6365191340446472, -0.10452570021152496,
    0.022518932819366455, -0.0031178283970803022, 0.00020367577963043004,
)  # fmt: skip
_ERF_BORDER, _ERF_IS_ONE = 0.85, 4.0
_TANH_BORDER, _TANH_IS_ONE = 0.65, 10.0
_ONE_BITS, _SQRT_HALF_BITS = 0x3F800000, 0x3F3504F3
_EXP_IS_ZERO, _EXP_IS_INFINITE = -104.0, 89.0
_EXP2_IS_ZERO, _EXP2_IS_INFINITE = -151.0, 129.0


def exponential(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return _exponential(builder, at_least(builder, at_most(builder, x, _EXP_IS_INFINITE), _EXP_IS_ZERO))


def _exponential(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """exp(x) = 2^n exp(r) of an x in the range that `exponential` cuts to."""
    rounder = _ROUNDER + 2 * _BIAS
    rounded = fma(builder, x, 1 / math.log(2.0), rounder)
    result = exp_polynomial(builder, _remainder(builder, x, rounded, rounder))
    if scales_in_one(x.type):
        return scaled(builder, result, builder.fsub(rounded, splat(x.type, rounder)))
    return scaled_in_halves(builder, result, builder.bitcast(rounded, lanes_of(x.type, I32)))


def exp2(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^x = 2^n 2^f for the whole number n next to x, and thus an exact f."""
    if scales_in_one(x.type):
        n = intrinsic(builder, "llvm.rint", x)
        # An infinity makes f, and the polynomial of it, no number; scaled by 2^n it is what n says, 0 or an infinity.
        return scaled(builder, polynomial(builder, builder.fsub(x, n), EXP2), n)
    x = at_least(builder, at_most(builder, x, _EXP2_IS_INFINITE), _EXP2_IS_ZERO)
    rounder = _ROUNDER + 2 * _BIAS
    rounded = builder.fadd(x, splat(x.type, rounder))
    f = builder.fsub(x, builder.fsub(rounded, splat(x.type, rounder)))
    return scaled_in_halves(builder, polynomial(builder, f, EXP2), builder.bitcast(rounded, lanes_of(x.type, I32)))


def _remainder(builder: ir.IRBuilder, x: ir.Value, rounded: ir.Value, rounder: float) -> ir.Value:
    """x - n ln(2) for the n that was rounded by adding `rounder`."""
    n = builder.fsub(rounded, splat(x.type, rounder))
    return fma(builder, n, -_LN2_LOW, fma(builder, n, -_LN2_HIGH, x))


def exp_polynomial(builder: ir.IRBuilder, r: ir.Value) -> ir.Value:
    """exp(r) for |r| <= ln(2)/2."""
    return polynomial(builder, r, EXP)


def scaled_in_halves(builder: ir.IRBuilder, x: ir.Value, doubled: ir.Value) -> ir.Value:
    """2^n x for n + 254 in the lowest bits of `doubled`: a power of two for each half of n is a normal number where the result is subnormal or infinite,
    and only the result is rounded."""
    half = builder.lshr(doubled, splat(doubled.type, 1))
    halfway = builder.fmul(x, _power_of_two(builder, half, x.type))
    return builder.fmul(halfway, _power_of_two(builder, builder.sub(doubled, half), x.type))


def _power_of_two(builder: ir.IRBuilder, biased: ir.Value, kind: ir.Type) -> ir.Value:
    """2^n for n + 127 in the lowest bits, -127 < n < 128."""
    return builder.bitcast(builder.shl(biased, splat(biased.type, 23)), kind)


def sigmoid(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """With e = exp(-|x|) and q = e / (1 + e): 1 - q, or e - e q where x < 0; q has more errors than the difference, and is the smaller part of it."""
    one = splat(x.type, 1.0)
    e = _exponential(builder, at_least(builder, builder.fneg(intrinsic(builder, "llvm.fabs", x)), _EXP_IS_ZERO))
    top = builder.select(builder.fcmp_ordered("<", x, splat(x.type, 0.0)), e, one)
    q = builder.fdiv(e, builder.fadd(one, e))
    return fma(builder, builder.fneg(top), q, top)


def tanh(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Near 0 a polynomial in x^2, times x; else 1 - 2 / (1 + exp(2|x|)), where the errors of the quotient count by half at most."""
    one = splat(x.type, 1.0)
    a = at_most(builder, intrinsic(builder, "llvm.fabs", x), _TANH_IS_ONE)
    square = builder.fmul(a, a)
    near = fma(builder, builder.fmul(square, polynomial(builder, square, TANH)), a, a)
    twice = builder.fadd(a, a)
    rounded = fma(builder, twice, 1 / math.log(2.0), _ROUNDER + _BIAS)
    r = _remainder(builder, twice, rounded, _ROUNDER + _BIAS)
    e = builder.fmul(exp_polynomial(builder, r), _power_of_two(builder, builder.bitcast(rounded, lanes_of(x.type, I32)), x.type))
    far = builder.fsub(one, builder.fdiv(splat(x.type, 2.0), builder.fadd(e, one)))
    return intrinsic(builder, "llvm.copysign", builder.select(builder.fcmp_ordered("<", a, splat(x.type, _TANH_BORDER)), near, far), x)


def erf(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Near 0 a polynomial in x^2, times x; else 1 - exp(log(1 - erf)), where the error of the exponential hardly counts."""
    a = at_most(builder, intrinsic(builder, "llvm.fabs", x), _ERF_IS_ONE)
    near = fma(builder, polynomial(builder, builder.fmul(a, a), ERF_NEAR), a, a)
    far = builder.fsub(splat(x.type, 1.0), _exponential(builder, polynomial(builder, a, ERF_FAR)))
    return intrinsic(builder, "llvm.copysign", builder.select(builder.fcmp_ordered("<", a, splat(x.type, _ERF_BORDER)), near, far), x)


def logarithm(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The natural one: log(2^n (1 + f)) = n ln(2) + f - f^2 / 2 + f^3 p(f)."""
    kind, integers = x.type, lanes_of(x.type, I32)
    zero, infinity = splat(kind, 0.0), splat(kind, math.inf)
    subnormal = builder.fcmp_ordered("<", x, splat(kind, 2.0**-126))
    bits = builder.bitcast(builder.select(subnormal, builder.fmul(x, splat(kind, 2.0**23)), x), integers)
    # So that the mantissa's bits count from sqrt(1/2): n changes there.
    shifted = builder.add(bits, splat(integers, _ONE_BITS - _SQRT_HALF_BITS))
    n = builder.sitofp(builder.sub(builder.ashr(shifted, splat(integers, 23)), splat(integers, 127)), kind)
    n = builder.select(subnormal, builder.fsub(n, splat(kind, 23.0)), n)
    mantissa = builder.add(builder.and_(shifted, splat(integers, 0x7FFFFF)), splat(integers, _SQRT_HALF_BITS))
    f = builder.fsub(builder.bitcast(mantissa, kind), splat(kind, 1.0))
    square = builder.fmul(f, f)
    small = fma(builder, builder.fmul(square, f), polynomial(builder, f, LOG), builder.fmul(n, splat(kind, _LN2_LOW)))
    small = fma(builder, square, -0.5, small)
    result = fma(builder, n, splat(kind, _LN2_HIGH), builder.fadd(f, small))
    result = builder.select(builder.fcmp_ordered("==", x, infinity), infinity, result)
    result = builder.select(builder.fcmp_ordered("==", x, zero), splat(kind, -math.inf), result)
    return builder.select(builder.fcmp_unordered("<", x, zero), splat(kind, math.nan), result)
