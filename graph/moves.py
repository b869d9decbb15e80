"""Transpose, Pad, Slice and Concat as operator texts, where they move data: not in computations on shapes, nor where the result is the same data in
another shape. They move tensors in the network's own order of dimensions."""

from __future__ import annotations

import math

from onnx import NodeProto, TensorProto

from graph.heavy import Heavy, axis_from_start, by_x
from graph.model import Graph, attribute
from graph.shapes import Shape
from ir.errors import Unsupported
from ir.movement import PAD_MODES, write_any_real

WHOLE = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)  # what shapes are computed in


def moved_inputs(node: NodeProto) -> list[str]:
    """Those that are moved; the others say how."""
    return list(node.input) if node.op_type == "Concat" else list(node.input[:1])


def moves_data(graph: Graph, node: NodeProto) -> bool:
    """False where nothing needs to be moved; what is not known counts as data."""
    result, shape = node.output[0], graph.shapes.get(node.output[0])
    if node.op_type == "Pad" and not _may_pad(graph, node):
        return False
    if shape is None:
        return True
    if math.prod(shape) == 0 or (len(shape) <= 1 and graph.types.get(result) in WHOLE):
        return False
    if node.op_type == "Transpose":
        given = graph.shapes.get(node.input[0], shape)
        longer = [axis for axis in _permutation(node, len(given)) if given[axis] != 1]
        return longer != sorted(longer)
    inputs = moved_inputs(node)
    return node.op_type == "Pad" or len(inputs) > 1 or graph.shapes.get(inputs[0]) != shape or _may_reverse(graph, node)


def _may_reverse(graph: Graph, node: NodeProto) -> bool:
    """Whether a slice has steps that are negative, or not known."""
    steps = node.input[4] if node.op_type == "Slice" and len(node.input) > 4 else ""
    return bool(steps) and (steps not in graph.constants or any(step < 0 for step in _constant(graph, steps)))


def _may_pad(graph: Graph, node: NodeProto) -> bool:
    """Whether padding adds or cuts anything, as far as is known."""
    return (len(node.input) > 1 and node.input[1] not in graph.constants) or any(_numbers(graph, node, 1, "pads") or [])


def _permutation(node: NodeProto, rank: int) -> list[int]:
    found = list(attribute(node, "perm", range(rank)[::-1]))
    if sorted(found) != list(range(rank)):
        raise Unsupported(f"perm={by_x(found)} is no order of {rank} dimensions")
    return found


def _transpose(graph: Graph, node: NodeProto) -> Heavy:
    x = node.input[0]
    shape = graph.shape(x)
    return _moved(f"transpose:shape={_by(shape)},axes={by_x(_permutation(node, len(shape)))}", x)


def _pad(graph: Graph, node: NodeProto) -> Heavy:
    x, mode = node.input[0], attribute(node, "mode", "constant")
    shape = graph.shape(x)
    if mode not in PAD_MODES:
        raise Unsupported(f"mode={mode}, only {', '.join(PAD_MODES)} can be tuned")
    pads, axes = _numbers(graph, node, 1, "pads"), _axes(graph, node, 3, len(shape), len(shape))
    if pads is None or len(pads) != 2 * len(axes):
        raise Unsupported("its pads are not two numbers for each dimension")
    if min(pads) < 0:
        raise Unsupported(f"pads={by_x(pads)} cut the tensor")
    before, after = ([dict(zip(axes, part, strict=True)).get(axis, 0) for axis in range(len(shape))] for part in (pads[: len(axes)], pads[len(axes) :]))
    text = f"pad:shape={_by(shape)},before={by_x(before)},after={by_x(after)},mode={mode}"
    return _moved(text if mode != "constant" else f"{text},value={write_any_real(_value(graph, node))}", x)


def _value(graph: Graph, node: NodeProto) -> float:
    """Of the constant that a tensor is padded with."""
    if len(node.input) > 2 and node.input[2]:
        numbers = _constant(graph, node.input[2])
        if len(numbers) != 1:
            raise Unsupported(f"what it pads with is {len(numbers)} numbers, not one")
        return float(numbers[0])
    return float(attribute(node, "value", 0.0))


def _slice(graph: Graph, node: NodeProto) -> Heavy:
    x = node.input[0]
    starts, stops, steps = _parts(graph, node)
    return _moved(f"slice:shape={_by(graph.shape(x))},starts={by_x(starts)},stops={by_x(stops)},steps={by_x(steps)}", x)


def _parts(graph: Graph, node: NodeProto) -> tuple[list[int], list[int], list[int]]:
    """(starts, stops, steps) of every dimension, as operator texts have them: within the tensor; -size-1 stands before its first element."""
    shape = graph.shape(node.input[0])
    starts, stops = _numbers(graph, node, 1, "starts"), _numbers(graph, node, 2, "ends")
    if starts is None or stops is None:
        raise Unsupported("its starts and ends are missing")
    axes = _axes(graph, node, 3, len(starts), len(shape))
    steps = _numbers(graph, node, 4, "steps") or [1] * len(axes)
    if not len(starts) == len(stops) == len(axes) == len(steps) or 0 in steps:
        raise Unsupported(f"starts={by_x(starts)}, ends={by_x(stops)} and steps={by_x(steps)} of {len(axes)} axes do not fit together, or a step is 0")
    parts = [slice(0, size, 1) for size in shape]
    for axis, *part in zip(axes, starts, stops, steps, strict=True):
        start, stop, step = slice(*part).indices(shape[axis])
        start = max(start, 0)  # backwards from before the first element is from there in ONNX, and empty in Python
        parts[axis] = slice(start, stop if stop >= 0 else -shape[axis] - 1, step)
    return [part.start for part in parts], [part.stop for part in parts], [part.step for part in parts]


def _concat(graph: Graph, node: NodeProto) -> Heavy:
    shapes = [graph.shape(name) for name in node.input]
    axis = axis_from_start(attribute(node, "axis", 1), len(shapes[0]))
    text = f"concat:shapes={'.'.join(map(_by, shapes))},axis={axis}"
    return Heavy(text, {f"x{number}": name for number, name in enumerate(node.input)}, None, None)


def _axes(graph: Graph, node: NodeProto, place: int, n: int, rank: int) -> list[int]:
    """Given as an input or an attribute, negative ones counted from the end of `rank` dimensions, or the first n."""
    found = _numbers(graph, node, place, "axes")
    return list(range(n)) if found is None else [axis_from_start(axis, rank) for axis in found]


def _numbers(graph: Graph, node: NodeProto, place: int, name: str) -> list[int] | None:
    """Whole numbers that are an input, or were an attribute in older sets of operators."""
    if len(node.input) > place and node.input[place]:
        return [int(number) for number in _constant(graph, node.input[place])]
    found = attribute(node, name, None)
    return None if found is None else list(found)


def _constant(graph: Graph, name: str) -> list[float]:
    if name not in graph.constants:
        raise Unsupported(f"{name!r} is not constant")
    numbers: list[float] = graph.constants.value(name).ravel().tolist()
    return numbers


def _by(shape: Shape) -> str:
    return by_x(list(shape))


def _moved(operator: str, x: str) -> Heavy:
    return Heavy(operator, {"x": x}, None, None)


MOVES = {"Transpose": _transpose, "Pad": _pad, "Slice": _slice, "Concat": _concat}
