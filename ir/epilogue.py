"""Epilogues: elementwise steps after a heavy operator, fused into it as one stage, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from ir.parameters import Parameter, as_fp32, float_text, quoted
from ir.program import Affine, Apply, Axis, Constant, Program, Read, Stage, Tensor, Value


def _gelu(x: Value) -> Value:
    """x/2 (1 + erf(x / sqrt(2)))."""
    return Apply("mul", (_times(x, 0.5), Apply("add", (Apply("erf", (_times(x, math.sqrt(0.5)),)), Constant(1.0)))))


def _hardswish(x: Value) -> Value:
    """x clip(x/6 + 1/2, 0, 1)."""
    return Apply("mul", (x, _clip(Apply("add", (_times(x, 1 / 6), Constant(0.5))), 0.0, 1.0)))


def _clip(x: Value, low: float, high: float) -> Value:
    return Apply("min", (Apply("max", (x, Constant(low))), Constant(high)))


def _leaky(x: Value, slope: float) -> Value:
    """x, or slope x where that is negative."""
    return Apply("add", (_times(Apply("min", (x, Constant(0.0))), slope), Apply("max", (x, Constant(0.0)))))


def _times(x: Value, factor: float) -> Value:
    return Apply("mul", (x, Constant(factor)))


ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "relu": lambda x: Apply("max", (x, Constant(0.0))),
    "sigmoid": lambda x: Apply("sigmoid", (x,)),
    "tanh": lambda x: Apply("tanh", (x,)),
    "gelu": _gelu,
    "silu": lambda x: Apply("mul", (x, Apply("sigmoid", (x,)))),
    "hardswish": _hardswish,
}
EPILOGUES = f"bias, add, {', '.join(ACTIVATIONS)}, leaky<slope>, clip<low>:<high>"

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_CLIP = re.compile(f"clip{_NUMBER}:{_NUMBER}", re.ASCII)
_LEAKY = re.compile(f"leaky{_NUMBER}", re.ASCII)


def with_epilogue(
    name: str, shape: tuple[int, ...], indices: tuple[Affine, ...], spatial: tuple[Axis, ...], reduce: tuple[Axis, ...],
    body: Value, inputs: tuple[Tensor, ...], channel: Affine, n_channels: int, epilogue: Sequence[str],
) -> Program:  # fmt: skip
    """The reduction, then one elementwise stage for the whole epilogue."""
    result = Tensor(name, shape)
    total = Tensor("sum", shape) if epilogue else result
    heavy = Stage(total, indices, spatial, reduce, body, "sum")
    if not epilogue:
        return Program(inputs, (heavy,))
    value: Value = Read(total, indices)
    extra: list[Tensor] = []
    for step in epilogue:
        if step == "bias":
            extra.append(Tensor("bias", (n_channels,), constant=True))
            value = Apply("add", (value, Read(extra[-1], (channel,))))
        elif step == "add":
            extra.append(Tensor("residual", shape))
            value = Apply("add", (value, Read(extra[-1], indices)))
        elif step in ACTIVATIONS:
            value = ACTIVATIONS[step](value)
        elif match := _CLIP.fullmatch(step):
            value = _clip(value, float(match[1]), float(match[2]))
        elif match := _LEAKY.fullmatch(step):
            value = _leaky(value, float(match[1]))
    return Program((*inputs, *extra), (heavy, Stage(result, indices, spatial, (), value)))


def _step(text: str) -> str:
    """One step of an epilogue in its canonical text."""
    if text in ("bias", "add", *ACTIVATIONS):
        return text
    if leaky := _LEAKY.fullmatch(text):
        return f"leaky{_fp32_text(leaky[1], text)}"
    clip = _CLIP.fullmatch(text)
    if clip is None:
        raise ValueError(f"has an unknown step {quoted(text)} (known: {EPILOGUES})")
    if float(clip[1]) > float(clip[2]):
        raise ValueError(f"has a clip with low above high: {quoted(text)}")
    return f"clip{_fp32_text(clip[1], text)}:{_fp32_text(clip[2], text)}"


def _fp32_text(number: str, step: str) -> str:
    if math.isinf(as_fp32(float(number))):
        raise ValueError(f"has a number beyond the range of fp32: {quoted(step)}")
    return float_text(float(number))


def parse_epilogue(text: str) -> tuple[str, ...]:
    steps = tuple(_step(step) for step in text.split("+")) if text not in ("", "none") else ()
    for step in ("bias", "add"):
        if steps.count(step) > 1:
            raise ValueError(f"has {step} twice")
    return steps


def write_epilogue(value: object) -> str:
    return "+".join(value) or "none"  # type: ignore[arg-type]  # a tuple of names by construction


EPILOGUE = Parameter(parse_epilogue, "none", write_epilogue)
