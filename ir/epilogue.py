"""Epilogues: elementwise steps after a heavy operator, fused into it as one stage."""

from __future__ import annotations

from collections.abc import Sequence

from ir.program import Affine, Apply, Axis, Program, Read, Stage, Tensor, Value
from ir.steps import activated, steps_parameter

EPILOGUE = steps_parameter("bias", "add")


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
        else:
            value = activated(step, value)
    return Program((*inputs, *extra), (heavy, Stage(result, indices, spatial, (), value)))
