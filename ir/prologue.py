"""Prologues: elementwise steps before a heavy operator, of which its first operand is the result. What pads the operand pads that result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ir.program import Affine, Apply, Axis, Program, Read, Stage, Tensor, Value, affine, map_reads, reads
from ir.steps import activated, steps_parameter

PROLOGUE = steps_parameter("scale", "bias", silent=True)
CONSTANTS = {"scale": "input_scale", "bias": "input_bias"}  # a number for each input channel, by the step that reads it


def with_prologue(program: Program, channels: Mapping[int, int], prologue: Sequence[str]) -> Program:
    """The program with its first input's place taken by what the steps make of that, as a stage before. `channels`: the factor of each dimension of the
    input that its channels are made of."""
    if not prologue:
        return program
    source, (heavy, *rest) = program.inputs[0], program.stages
    read = next(read for read in reads(heavy.body) if read.tensor == source)
    axes = tuple(_axis(index, size, f"{source.name}{place}") for place, (index, size) in enumerate(zip(read.indices, source.shape, strict=True)))
    channel = affine(*((axes[place], factor) for place, factor in channels.items()))
    result, indices = Tensor("prologue", source.shape), tuple(map(affine, axes))
    value: Value = Read(source, indices)
    constants: list[Tensor] = []
    for step in prologue:
        if step in CONSTANTS:
            constants.append(Tensor(CONSTANTS[step], (channel.range[1] + 1,), constant=True))
            value = Apply("mul" if step == "scale" else "add", (value, Read(constants[-1], (channel,))))
        else:
            value = activated(step, value)
    fed = replace(heavy, body=map_reads(heavy.body, lambda other: replace(other, tensor=result) if other.tensor == source else other))
    return Program((*program.inputs, *constants), (Stage(result, indices, axes, (), value), fed, *rest))


def _axis(index: Affine, size: int, name: str) -> Axis:
    """Along a dimension of the input: the one that the heavy stage walks it with, if that is all it does, so that both may be fused with their neighbours."""
    terms = [term for term in index.terms if term[0].extent > 1]
    match terms:
        case [(axis, 1)] if axis.extent == size and index.constant == 0:
            return axis
    return Axis(name, size)
