"""What the emitter and its functions do with a float, or with a vector of floats, alike."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from codegen.control import declare

F32, F64, I8, I32, I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)


def lanes_of(kind: ir.Type, element: ir.Type) -> ir.Type:
    """`element` as often as `kind` has lanes."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def splat(kind: ir.Type, number: float) -> ir.Constant:
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    number = int(number) if isinstance(element, ir.IntType) else float(number)
    return ir.Constant(kind, [number] * kind.count) if isinstance(kind, ir.VectorType) else ir.Constant(kind, number)


def mangled(kind: ir.Type) -> str:
    """A type as the names of LLVM's operations have it."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{mangled(kind.element)}"
    return f"i{kind.width}" if isinstance(kind, ir.IntType) else {F32: "f32", F64: "f64"}[kind]


def intrinsic(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """LLVM's operation of this name, for the type that all arguments and the result have."""
    kind = args[0].type
    return builder.call(declare(builder.module, f"{name}.{mangled(kind)}", kind, [kind] * len(args)), args)


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value | float, c: ir.Value | float) -> ir.Value:
    """a * b + c, fused where the target can."""
    return intrinsic(builder, "llvm.fmuladd", a, *(splat(a.type, part) if isinstance(part, float) else part for part in (b, c)))


def scales_in_one(kind: ir.Type) -> bool:
    """Whether `scaled` exists: AVX-512 alone has vectors of 16 floats."""
    return isinstance(kind, ir.VectorType) and kind.count == 16 and kind.element == F32


def scaled(builder: ir.IRBuilder, x: ir.Value, n: ir.Value) -> ir.Value:
    """2^n x for whole numbers n as floats, rounded once, in one instruction."""
    name, mask, rounding = "llvm.x86.avx512.mask.scalef.ps.512", ir.IntType(16), 4  # as the processor is set
    kind = ir.FunctionType(x.type, [x.type] * 3 + [mask, I32])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [x, n, x, mask(-1), I32(rounding)])


def polynomial(builder: ir.IRBuilder, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """By Horner's rule; the coefficient of the lowest power comes first."""
    result: ir.Value = splat(x.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = fma(builder, result, x, coefficient)
    return result


def at_most(builder: ir.IRBuilder, x: ir.Value, limit: float) -> ir.Value:
    """NaN stays; in this order of operands x86 has one instruction for it."""
    high = splat(x.type, limit)
    return builder.select(builder.fcmp_ordered("<", high, x), high, x)


def at_least(builder: ir.IRBuilder, x: ir.Value, limit: float) -> ir.Value:
    low = splat(x.type, limit)
    return builder.select(builder.fcmp_ordered(">", low, x), low, x)
