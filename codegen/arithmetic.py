"""Code for every function that a body may apply."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from codegen.functions import erf, exp2, exponential, logarithm, sigmoid, tanh
from codegen.integers import cast, integer_function, is_not_zero
from codegen.power import power
from codegen.vectors import intrinsic, splat
from ir.errors import InternalError
from ir.program import CASTS, FLOAT

_TRANSCENDENTAL: dict[str, Callable[..., ir.Value]] = {
    "exp": exponential, "exp2": exp2, "log": logarithm, "tanh": tanh, "erf": erf, "sigmoid": sigmoid, "pow": power,
}  # fmt: skip


def apply_function(builder: ir.IRBuilder, function: str, args: list[ir.Value], dtype: str = FLOAT) -> ir.Value:
    """Of floats, or vectors of them, alike; `dtype`: of the last argument."""
    if function in CASTS:
        return cast(builder, args[0], dtype, CASTS[function])
    if dtype != FLOAT:
        return integer_function(builder, function, args, dtype)
    match function:
        case "add":
            return builder.fadd(*args)
        case "sub":
            return builder.fsub(*args)
        case "mul":
            return builder.fmul(*args)
        case "div":
            return builder.fdiv(*args)
        case "max" | "min":
            first, second = args  # with equality x86 has one instruction for it, without it two
            return builder.select(builder.fcmp_unordered(">=" if function == "max" else "<=", first, second), first, second)
        case "less" | "equal":
            holds = builder.fcmp_ordered("<" if function == "less" else "==", args[0], args[1])
            return builder.select(holds, splat(args[0].type, 1.0), splat(args[0].type, 0.0))
        case "select":
            return builder.select(is_not_zero(builder, args[0]), args[1], args[2])
        case "abs":
            return intrinsic(builder, "llvm.fabs", *args)
        case "sqrt":
            return intrinsic(builder, "llvm.sqrt", *args)
    if function in _TRANSCENDENTAL:
        return _TRANSCENDENTAL[function](builder, *args)
    raise InternalError(f"no code for the function {function}")
