"""Elementwise chains with numpy's broadcasting, and how they are written: `value=max(add(a;mul(b;2));0)` of inputs a, b, c, ... in order of their shapes.

Inputs are fp32 unless `types=int32.float32` says otherwise; one type stands for all of them. The type of the output follows (see `ir.types`).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence

import numpy as np

from ir.errors import UserError
from ir.parameters import any_sizes, as_fp32, float_text, quoted, write_every_size
from ir.program import ELEMENT_BYTES, FUNCTIONS, Affine, Apply, Axis, Constant, Program, Read, Stage, Tensor, Value, affine, map_reads, reads
from ir.steps import MAX_FUNCTIONS
from ir.types import type_of, typed

Shape = tuple[int, ...]

NAMES = string.ascii_lowercase[: string.ascii_lowercase.index("y")]  # of the inputs; y is the output
MAX_DIMENSIONS = 8

_TOKEN = re.compile(r"[a-z]\w*|-?\d+(?:\.\d+)?(?:e-?\d+)?|[();]", re.ASCII)


def elementwise(shapes: Sequence[Shape], types: Sequence[str], value: Value) -> Program:
    """`value` at every point of the broadcast inputs; its reads are of tensors without dimensions, named as the inputs."""
    if len(shapes) > len(NAMES):
        raise UserError(f"elementwise: {len(shapes)} shapes, more than the letters from a to {NAMES[-1]}, which name the inputs")
    names = NAMES[: len(shapes)]
    used = {read.tensor.name for read in reads(value)}
    for name in sorted(used ^ set(names)):
        raise UserError(f"elementwise: {name} has no shape" if name in used else f"elementwise: {name} has a shape, and the value does not use it")
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise UserError(f"elementwise: shapes {write_shapes(shapes)} do not broadcast") from None
    if len(types) not in (1, len(shapes)):
        raise UserError(f"elementwise: {len(types)} types for {len(shapes)} shapes")
    axes = tuple(Axis(f"d{i}", size) for i, size in enumerate(shape))
    every = types if len(types) > 1 else [*types] * len(shapes)
    inputs = {name: Tensor(name, tuple(sizes), dtype=dtype) for name, sizes, dtype in zip(names, shapes, every, strict=True)}
    output = tuple(affine(axis) for axis in axes)
    read = {name: Read(tensor, _broadcast(tensor.shape, axes)) for name, tensor in inputs.items()}
    try:
        body = typed(map_reads(value, lambda found: read[found.tensor.name]))
    except UserError as error:
        raise UserError(f"elementwise: {error} in {quoted(write_value(value))}") from None
    return Program(tuple(inputs.values()), (Stage(Tensor("y", shape, dtype=type_of(body)), output, axes, (), body),))


def _broadcast(shape: Shape, axes: Sequence[Axis]) -> tuple[Affine, ...]:
    """The shape's dimensions are the last of the axes; one of size 1 is read at 0 throughout."""
    return tuple(affine(axis) if size == axis.extent else affine() for size, axis in zip(shape, axes[len(axes) - len(shape) :], strict=True))


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Of each input, with dots between them."""
    parse = any_sizes(1, most=MAX_DIMENSIONS)
    return tuple(parse(part) for part in text.split("."))  # type: ignore[misc]  # sizes by construction


def write_shapes(value: object) -> str:
    return ".".join(map(write_every_size, value))  # type: ignore[call-overload]  # a tuple of shapes by construction


def parse_types(text: str) -> tuple[str, ...]:
    """Of each input, with dots between them."""
    found = tuple(text.split("."))
    for dtype in found:
        if dtype not in ELEMENT_BYTES:
            raise ValueError(f"has an unknown type {quoted(dtype)} (known: {', '.join(ELEMENT_BYTES)})")
    return found


def write_types(value: object) -> str:
    found: tuple[str, ...] = tuple(value)  # type: ignore[arg-type]  # a tuple of types by construction
    return found[0] if len(set(found)) == 1 else ".".join(found)


def parse_value(text: str) -> Value:
    if text.count("(") > MAX_FUNCTIONS:
        raise ValueError(f"has more than {MAX_FUNCTIONS} functions")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError("is not made of functions, letters, numbers, ( ; and ) alone")
    value, left = _parse(tokens)
    if left:
        raise ValueError(f"goes on with {quoted(left[0])} where it should end")
    if not isinstance(value, Apply) or not any(True for _ in reads(value)):
        raise ValueError("applies no function to an input")
    return value


def _parse(tokens: Sequence[str]) -> tuple[Value, Sequence[str]]:
    """The value that the tokens begin with, and the tokens left."""
    if not tokens or tokens[0] in "();":
        raise ValueError(f"has {quoted(tokens[0]) if tokens else 'its end'} where a value should be")
    first, rest = tokens[0], tokens[1:]
    if not first[0].isalpha():
        return _number(first), rest
    if rest[:1] != ["("]:
        if len(first) > 1:
            raise ValueError(f"has {quoted(first)}, which is no input (they are called a, b, c, ...)")
        return Read(Tensor(first, ()), ()), rest
    if first not in FUNCTIONS:
        raise ValueError(f"has an unknown function {quoted(first)} (known: {', '.join(FUNCTIONS)})")
    arg, rest = _parse(rest[1:])
    args = [arg]
    while rest[:1] == [";"]:
        arg, rest = _parse(rest[1:])
        args.append(arg)
    if rest[:1] != [")"]:
        raise ValueError(f"has {quoted(rest[0]) if rest else 'its end'} where {first} should go on with ; or )")
    if len(args) != FUNCTIONS[first]:
        raise ValueError(f"gives {first} {len(args)} arguments, not {FUNCTIONS[first]}")
    return Apply(first, tuple(args)), rest[1:]


def _number(text: str) -> Constant:
    number = float(text)
    whole = text.removeprefix("-").isdigit()
    if math.isinf(as_fp32(number)):
        raise ValueError(f"has a number beyond the range of fp32: {quoted(text)}")
    return Constant(int(text) if whole else float(float_text(number)))  # of an int64 no digit is lost


def write_value(value: object) -> str:
    match value:
        case Constant(number):
            return str(number) if isinstance(number, int) else float_text(number)
        case Read(tensor):
            return tensor.name
        case Apply(function, args):
            return f"{function}({';'.join(map(write_value, args))})"
    raise TypeError(f"not a value: {value!r}")
