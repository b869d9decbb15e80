"""Layers: the uses of tasks in a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from onnx import NodeProto

from graph.epilogue import epilogue
from graph.heavy import HEAVY
from graph.model import Graph
from graph.prologue import prologue
from graph.tunable import tunable
from ir.errors import Unsupported
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
