"""Elementwise steps that are fused with a heavy operator, before or after it, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from ir.parameters import Parameter, as_fp32, float_text, quoted
from ir.program import Apply, Constant, Value, n_applies

READING = ("scale", "bias", "add")  # steps that read another tensor
MAX_FUNCTIONS = 64  # in a value


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

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_CLIP = re.compile(f"clip{_NUMBER}:{_NUMBER}", re.ASCII)
_LEAKY = re.compile(f"leaky{_NUMBER}", re.ASCII)


def activated(step: str, x: Value) -> Value:
    """A step that reads nothing but x."""
    if match := _CLIP.fullmatch(step):
        return _clip(x, float(match[1]), float(match[2]))
    if match := _LEAKY.fullmatch(step):
        return _leaky(x, float(match[1]))
    return ACTIVATIONS[step](x)


def fit_together(steps: Sequence[str]) -> bool:
    """Whether no more than `MAX_FUNCTIONS` are in a value to which these steps were applied. What a step uses twice is twice in it: steps grow by powers."""
    n_functions = 0
    for step in steps:
        n_uses, n_own = _growth(step)
        n_functions = n_uses * n_functions + n_own
        if n_functions > MAX_FUNCTIONS:
            return False
    return True


def _growth(step: str) -> tuple[int, int]:
    """How often a step uses what it is applied to, and how many functions it has itself."""
    if step in READING:
        return 1, 1
    x = Apply("abs", (Constant(0.0),))  # no step has it

    def n_uses(value: Value) -> int:
        return 1 if value is x else sum(map(n_uses, value.args)) if isinstance(value, Apply) else 0

    applied = activated(step, x)
    return n_uses(applied), n_applies(applied) - n_uses(applied)


def steps_parameter(*reading: str, silent: bool = False) -> Parameter:
    """Steps with a + between them, "none" if there are none. `reading`: those of `READING` that may be among them, each at most once."""

    def parse(text: str) -> tuple[str, ...]:
        steps = tuple(_canonical(step, reading) for step in text.split("+")) if text not in ("", "none") else ()
        for step in reading:
            if steps.count(step) > 1:
                raise ValueError(f"has {step} twice")
        if not fit_together(steps):
            raise ValueError(f"has steps that together are more than {MAX_FUNCTIONS} functions")
        return steps

    return Parameter(parse, "none", lambda steps: "+".join(steps) or "none", silent)  # type: ignore[arg-type]  # a tuple of names by construction


def _canonical(text: str, reading: tuple[str, ...]) -> str:
    """One step in its canonical text."""
    if text in (*reading, *ACTIVATIONS):
        return text
    if leaky := _LEAKY.fullmatch(text):
        return f"leaky{_fp32_text(leaky[1], text)}"
    clip = _CLIP.fullmatch(text)
    if clip is None:
        raise ValueError(f"has an unknown step {quoted(text)} (known: {', '.join((*reading, *ACTIVATIONS))}, leaky<slope>, clip<low>:<high>)")
    if float(clip[1]) > float(clip[2]):
        raise ValueError(f"has a clip with low above high: {quoted(text)}")
    return f"clip{_fp32_text(clip[1], text)}:{_fp32_text(clip[2], text)}"


def _fp32_text(number: str, step: str) -> str:
    if math.isinf(as_fp32(float(number))):
        raise ValueError(f"has a number beyond the range of fp32: {quoted(step)}")
    return float_text(float(number))
