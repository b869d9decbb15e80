"""Layers: the uses of tasks in a network, and their constant operands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from graph.epilogue import channel_affine, epilogue
from graph.heavy import HEAVY
from graph.model import Graph
from graph.prologue import prologue, scale_and_shift
from graph.tunable import tunable
from ir.errors import Unsupported
from ir.prologue import CONSTANTS
from ir.task import Task, task


@dataclass(frozen=True)
class Layer:
    """One use of the task `key`: the nodes it covers by name (the heavy one first, then those of its epilogue; `before` it those of its prologue), which
    tensors of the network are the inputs of the task's program (the constant ones apart), and which one is its result.

    Layouts and shapes differ: a convolution's activations have their channels first in the network and last in the program, and the leading dimensions of
    matrices are one dimension there. The layer is computed where the last of its nodes stands.
    """

    key: str
    nodes: tuple[str, ...]
    inputs: Mapping[str, str]
    output: str
    before: tuple[str, ...] = ()

    @property
    def covered(self) -> tuple[str, ...]:
        return (*self.before, *self.nodes)


def layer(graph: Graph, node: NodeProto, taken: Set[str]) -> Layer:
    """The layer of a heavy node and what fuses to it; `Unsupported` or `UserError` says why there is none. `taken`: nodes of other layers."""
    start = tunable(graph, node)
    plain = task(start.operator)
    _check_size(graph, node, plain)
    if node.op_type not in HEAVY:
        return Layer(plain.key, (node.name,), start.inputs, node.output[0])
    end = epilogue(graph, node, start, taken)
    inputs = dict(start.inputs) | ({"residual": end.residual} if end.residual else {})
    key = task(f"{start.operator},epilogue={'+'.join(end.steps) or 'none'}").key
    return Layer(key, (node.name, *end.nodes), inputs, end.output)


def _check_size(graph: Graph, node: NodeProto, plain: Task) -> None:
    """`Unsupported` where the network's own shape inference and ours do not agree on the result: then the operator text is not what the node computes."""
    expected, found = graph.shapes.get(node.output[0]), plain.program.output.shape
    if expected is not None and math.prod(expected) != math.prod(found):
        raise Unsupported(f"its result has shape {expected} in the network, which {plain.key} does not give")


def with_prologue(graph: Graph, layer: Layer, taken: Set[str]) -> Layer:
    """The layer with what fuses before its heavy node. `taken`: nodes of all layers."""
    node = graph.node(layer.nodes[0])
    if node.op_type not in HEAVY:
        return layer
    start = tunable(graph, node)
    begin = prologue(graph, node, start, taken)
    if not begin.nodes:
        return layer
    first, *_ = start.inputs
    return replace(
        layer, key=task(f"{layer.key},prologue={'+'.join(begin.steps)}").key, inputs={**layer.inputs, first: begin.source}, before=begin.nodes
    )  # fmt: skip


def layer_constants(graph: Graph, layer: Layer) -> dict[str, NDArray[np.float32]]:
    """The constant inputs of the layer's program by name, in its shapes: weights as in ONNX or b (k, n), and bias (channels,).

    Batch normalization and other factors and summands per channel that the layer covers are folded in, in double precision, those of its prologue into
    constants of its own.
    """
    node, *followers = (graph.node(name) for name in layer.nodes)
    start, value = tunable(graph, node), node.output[0]
    scale: NDArray[np.float64] = np.array([start.scale])
    shift = start.bias_scale * graph.constants.value(start.bias).astype(np.float64).ravel() if start.bias else np.zeros(1)
    for follower in followers:
        affine = channel_affine(graph, follower, value, start.channel_axis)
        if affine is None:
            break
        if affine.scale is not None:
            scale, shift = scale * affine.scale, shift * affine.scale
        if affine.shift is not None:
            shift = shift + affine.shift
        value = follower.output[0]
    first, *_ = start.inputs
    before = scale_and_shift(graph, [graph.node(name) for name in layer.before], layer.inputs[first], start.source_axis)
    channels = {"bias": shift} | {name: before[step] for step, name in CONSTANTS.items()}
    constants = {}
    for tensor in task(layer.key).program.inputs:
        if tensor.name in channels:
            constants[tensor.name] = np.broadcast_to(channels[tensor.name], math.prod(tensor.shape)).reshape(tensor.shape).astype(np.float32)
        elif tensor.constant and start.weights:
            weights = graph.constants.value(start.weights).astype(np.float64)
            weights = (weights.T if start.transposed else weights).reshape(tensor.shape)
            factors = _of_filters(scale, tensor.shape, start.operator) if tensor.name == "weights" else scale
            constants[tensor.name] = (weights * factors).astype(np.float32)
    return constants


def _of_filters(scale: NDArray[np.float64], shape: tuple[int, ...], operator: str) -> NDArray[np.float64]:
    """Factors per output channel, shaped to multiply the weights of a convolution; transposed, those are (c, k/groups, kernel)."""
    ones = (1,) * (len(shape) - 2)
    if scale.size == 1 or not operator.startswith("conv_transpose2d"):
        return scale.reshape(-1, 1, *ones)
    groups = scale.size // shape[1]
    return np.repeat(scale.reshape(groups, shape[1]), shape[0] // groups, axis=0).reshape(*shape[:2], *ones)
