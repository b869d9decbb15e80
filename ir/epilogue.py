"""Epilogues: elementwise steps after a heavy operator, fused into it as one stage, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ir.parameters import Parameter, float_text, quoted
from ir.program import Affine, Apply, Axis, Constant, Program, Read, Stage, Tensor, Value

EPILOGUES = "bias, add, relu, sigmoid, clip<low>:<high>"

_CLIP = re.compile(r"clip(-?\d+(?:\.\d+)?):(-?\d+(?:\.\d+)?)", re.ASCII)


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
        elif step == "relu":
            value = Apply("max", (value, Constant(0.0)))
        elif step == "sigmoid":
            value = Apply("sigmoid", (value,))
        elif match := _CLIP.fullmatch(step):
            low, high = float(match[1]), float(match[2])
            value = Apply("min", (Apply("max", (value, Constant(low))), Constant(high)))
    return Program((*inputs, *extra), (heavy, Stage(result, indices, spatial, (), value)))


def _step(text: str) -> str:
    """One step of an epilogue in its canonical text."""
    if text in ("bias", "add", "relu", "sigmoid"):
        return text
    clip = _CLIP.fullmatch(text)
    if clip is None:
        raise ValueError(f"has an unknown step {quoted(text)} (known: {EPILOGUES})")
    low, high = float(clip[1]), float(clip[2])
    if low > high:
        raise ValueError(f"has a clip with low above high: {quoted(text)}")
    if max(abs(low), abs(high)) > float(np.finfo(np.float32).max):
        raise ValueError(f"has a clip beyond the range of fp32: {quoted(text)}")
    return f"clip{float_text(low)}:{float_text(high)}"


def parse_epilogue(text: str) -> tuple[str, ...]:
    steps = tuple(_step(step) for step in text.split("+")) if text not in ("", "none") else ()
    for step in ("bias", "add"):
        if steps.count(step) > 1:
            raise ValueError(f"has {step} twice")
    return steps


def write_epilogue(value: object) -> str:
    return "+".join(value) or "none"  # type: ignore[arg-type]  # a tuple of names by construction


EPILOGUE = Parameter(parse_epilogue, "none", write_epilogue)
