"""Softmax, layer normalization and pooling as operator texts. Nothing is fused to them."""

from __future__ import annotations

import math

from onnx import NodeProto

from graph.heavy import LAYOUT, Heavy, axis_from_start, by_x, padding, steps
from graph.model import Graph, attribute
from ir.errors import Unsupported
from ir.parameters import write_real

ONE_AXIS = 13  # from this set of operators on softmax is over one axis, before it was over all from that one on


def _softmax(graph: Graph, node: NodeProto) -> Heavy:
    x, name = node.input[0], {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[node.op_type]
    shape = graph.shape(x)
    axis = axis_from_start(attribute(node, "axis", -1 if graph.opset >= ONE_AXIS else 1), len(shape))
    if graph.opset >= ONE_AXIS:
        return _alone(f"{name}:shape={by_x(list(shape))},axis={axis}", x)
    return _alone(f"{name}:shape={math.prod(shape[:axis])}x{math.prod(shape[axis:])},axis=1", x)


def _layer_norm(graph: Graph, node: NodeProto) -> Heavy:
    x, scale, *bias = filter(None, node.input)
    _one_result(node)
    shape = graph.shape(x)
    axis = axis_from_start(attribute(node, "axis", -1), len(shape))
    for name in (scale, *bias):
        if name not in graph.constants:
            raise Unsupported(f"{name!r} is not constant")
        if graph.shape(name) != shape[axis:]:
            raise Unsupported(f"{name!r} of shape {graph.shape(name)} is not of the shape {shape[axis:]} of what is normalized")
    axes = by_x(list(range(axis, len(shape))))
    text = f"layer_norm:shape={by_x(list(shape))},axes={axes},epsilon={write_real(attribute(node, 'epsilon', 1e-5))}"
    return Heavy(text, {"x": x}, None, scale, bias=bias[0] if bias else None)


def _pool(graph: Graph, node: NodeProto) -> Heavy:
    _one_result(node)
    x = node.input[0]
    n, c, size = _image(graph, x)
    kernel, (stride, dilation) = list(attribute(node, "kernel_shape", [])), steps(node, 2)
    if len(kernel) != 2:
        raise Unsupported(f"a window of {len(kernel)} dimensions over an image of 2")
    before, after = padding(node, size, kernel, stride, dilation)
    window = f"n={n},c={c},h={size[0]},w={size[1]},r={kernel[0]},s={kernel[1]},stride={by_x(stride)},pad={by_x(before + after)},layout={LAYOUT[2]}"
    ends = zip(size, kernel, stride, dilation, before, after, strict=True)
    whole = [(extent + low + high - step * (taps - 1) - 1) // by + 1 for extent, taps, by, step, low, high in ends]
    if attribute(node, "ceil_mode", 0) and graph.shape(node.output[0])[2:] != tuple(whole):
        raise Unsupported("ceil_mode=1 adds windows that reach beyond the padding")
    if node.op_type == "MaxPool":
        return _alone(f"max_pool2d:{window},dilation={by_x(dilation)}", x)
    if dilation != [1, 1]:
        raise Unsupported(f"dilations={by_x(dilation)} of an average")
    return _alone(f"average_pool2d:{window},count_include_pad={attribute(node, 'count_include_pad', 0)}", x)


def _global_pool(graph: Graph, node: NodeProto) -> Heavy:
    n, c, (h, w) = _image(graph, node.input[0])
    name = {"GlobalAveragePool": "global_average_pool", "GlobalMaxPool": "global_max_pool"}[node.op_type]
    return _alone(f"{name}:n={n},c={c},h={h},w={w},layout={LAYOUT[2]}", node.input[0])


def _image(graph: Graph, x: str) -> tuple[int, int, list[int]]:
    shape = graph.shape(x)
    if len(shape) != 4:
        raise Unsupported(f"pooling of a tensor of {len(shape)} dimensions, only of 4 can be tuned")
    return shape[0], shape[1], list(shape[2:])


def _one_result(node: NodeProto) -> None:
    if any(node.output[1:]):
        raise Unsupported("its further results are not supported")


def _alone(operator: str, x: str) -> Heavy:
    return Heavy(operator, {"x": x}, None, None)


ROWS = {
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "LayerNormalization": _layer_norm,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
}
