"""Static shapes for a network's inputs: from `--shape NAME=1,3,48,320`, from the file, or 1 for a batch that nobody gave."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import TypeAlias

import onnx
from onnx import GraphProto, ValueInfoProto

from ir.errors import UserError
from ir.parameters import MAX_EXTENT

Shape: TypeAlias = tuple[int, ...]
Dimensions: TypeAlias = tuple[int | str, ...]  # a name where the size is dynamic, "?" where it has none

ANONYMOUS = "?"


def parse_shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """Input name to shape, of texts such as "NAME=1,3,48,320"; `UserError` if one is malformed, not positive, or given twice."""
    shapes: dict[str, Shape] = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        if not equals or not name or not re.fullmatch(r"-?[0-9]{1,20}(,-?[0-9]{1,20})*", sizes):
            raise UserError(f"--shape {text}: not of the form NAME=1,3,48,320")
        shape = tuple(int(size) for size in sizes.split(","))
        if not all(1 <= size <= MAX_EXTENT for size in shape):
            raise UserError(f"--shape {text}: every dimension must be between 1 and {MAX_EXTENT}")
        if name in shapes:
            raise UserError(f"--shape {text}: {name} is given twice")
        shapes[name] = shape
    return shapes


def set_input_shapes(graph: GraphProto, shapes: Mapping[str, Shape], path: Path) -> tuple[str, ...]:
    """Makes the inputs of `graph` static, in place; the notes say what was assumed. `UserError` if a dimension is missing or does not fit.

    A dimension that has a name is the same everywhere, so giving it for one input is enough. What the file says of results of foreign operators gets these
    sizes too: nothing else tells their shapes.
    """
    shapes = {name: _checked(name, shape) for name, shape in shapes.items()}
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in initializers and value.type.HasField("tensor_type")}
    declared = {name: _dimensions(value) for name, value in inputs.items()}
    sizes = _named_sizes(declared, shapes, path)
    notes: list[str] = []
    missing: dict[str, Dimensions] = {}
    assumed: dict[str, int] = {}
    dimensions: Dimensions
    for name, value in inputs.items():
        dimensions = shapes.get(name) or tuple(size if isinstance(size, int) else sizes.get(size, size) for size in declared[name])
        dynamic = [isinstance(size, str) for size in dimensions]
        if dynamic == [True] + [False] * (len(dimensions) - 1):
            notes.append(f"input {name!r}: dynamic batch dimension {dimensions[0]} taken as 1")
            dimensions = (1, *dimensions[1:])
            assumed |= {size: 1 for size in declared[name][:1] if isinstance(size, str) and size != ANONYMOUS}
        elif any(dynamic):
            missing[name] = dimensions
        _write(value, dimensions)
    _write_named(graph, assumed | sizes)
    if missing:
        found = ", ".join(f"input {name!r} has dynamic dimensions {_shown(dimensions)}" for name, dimensions in missing.items())
        raise UserError(f"{path}: {found}; give {' '.join(_wanted(name, dimensions) for name, dimensions in missing.items())}")
    return tuple(notes)


def _write_named(graph: GraphProto, sizes: Mapping[str, int]) -> None:
    foreign = {name for node in graph.node if not onnx.defs.has(node.op_type, node.domain) for name in node.output}
    for value in (*graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim if value.name in foreign and value.type.HasField("tensor_type") else ():
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]


def forget_dynamic_sizes(graph: GraphProto) -> None:
    """Takes the 0 or -1 that exporters write for a dynamic size from all that nodes compute: shape inference takes these for sizes."""
    for value in (*graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")


def _checked(name: str, shape: Sequence[int]) -> Shape:
    """As whole numbers of Python."""
    try:
        sizes = tuple(index(size) for size in shape)
    except TypeError:
        raise UserError(f"shape of input {name!r}: {shape!r} holds what is no whole number") from None
    if not all(1 <= size <= MAX_EXTENT for size in sizes):
        raise UserError(f"shape of input {name!r}: {sizes} has a dimension that is not between 1 and {MAX_EXTENT}")
    return sizes


def _named_sizes(declared: Mapping[str, Dimensions], shapes: Mapping[str, Shape], path: Path) -> dict[str, int]:
    """Sizes of the dimensions that have names, from the given shapes, which are checked against the declared ones."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        given = f"{path}: --shape {name}={','.join(map(str, shape))}"
        if name not in declared:
            raise UserError(f"{given}: the network has no such input (inputs: {', '.join(declared) or 'none'})")
        if len(declared[name]) != len(shape):
            raise UserError(f"{given} has {len(shape)} dimensions, the input has {_shown(declared[name])}")
        for dimension, size in zip(declared[name], shape, strict=True):
            fixed = dimension if isinstance(dimension, int) else size if dimension == ANONYMOUS else sizes.setdefault(dimension, size)
            if fixed != size:
                raise UserError(f"{given} has {size} where {fixed} is fixed; the input has {_shown(declared[name])}")
    return sizes


def _dimensions(value: ValueInfoProto) -> Dimensions:
    """Exporters also write 0 or -1 for a dynamic size."""
    return tuple(dim.dim_value if dim.dim_value > 0 else dim.dim_param or ANONYMOUS for dim in value.type.tensor_type.shape.dim)


def _shown(dimensions: Dimensions) -> str:
    return f"({', '.join(map(str, dimensions))})"


def _wanted(name: str, dimensions: Dimensions) -> str:
    sizes = ("1" if isinstance(size, str) and i == 0 else ANONYMOUS if isinstance(size, str) else str(size) for i, size in enumerate(dimensions))
    return f"--shape {name}={','.join(sizes)}"


def _write(value: ValueInfoProto, dimensions: Dimensions) -> None:
    del value.type.tensor_type.shape.dim[:]
    for size in dimensions:
        dim = value.type.tensor_type.shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
