"""Elementwise nodes that follow a heavy one and are computed with it: as steps of its epilogue, or folded into its constants."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from graph.constants import Array
from graph.heavy import Heavy, is_per_channel
from graph.model import Graph, attribute
from graph.onnx_file import DOMAIN
from ir.errors import Unsupported
from ir.steps import fit_together


@dataclass(frozen=True)
class Epilogue:
    """`steps` as in an operator text, `nodes` by name in order of execution, the tensor that an "add" step reads, and the last one's result."""

    steps: tuple[str, ...]
    nodes: tuple[str, ...]
    residual: str | None
    output: str


@dataclass(frozen=True)
class ChannelAffine:
    """`scale * y + shift`, a number each or one for each channel; None where a node's operator has no such part."""

    scale: Array | None
    shift: Array | None


def epilogue(graph: Graph, node: NodeProto, start: Heavy, taken: Set[str]) -> Epilogue:
    """What can be fused to a heavy node. `taken`: names of nodes that belong to other layers.

    A node joins if it alone reads what comes before it, so that nothing in between is needed elsewhere, if its constants can be computed, and if an operator
    text may have so many steps.
    """
    steps = ["bias"] if start.bias else ["add"] if "residual" in start.inputs else []
    nodes, residual, value = [], start.inputs.get("residual"), node.output[0]
    while (followers := _followers(graph, value)) and all(each.name not in taken and each.domain in DOMAIN for each in followers):
        follower = followers[-1]
        try:
            affine = channel_affine(graph, follower, value, start.channel_axis) if steps in ([], ["bias"]) else None
            step = None if affine is not None else activation(graph, follower) if len(followers) == 1 else "silu"
        except Unsupported:
            break
        other = _residual(graph, follower, value) if "add" not in steps else None
        if affine is not None and (affine.scale is None or start.weights is not None):
            steps = ["bias"] if affine.shift is not None else steps
        elif affine is None and other is not None and fit_together([*steps, "add"]):
            steps.append("add")
            residual = other
        elif step and fit_together([*steps, step]):
            steps.append(step)
        else:
            break
        nodes += [each.name for each in followers]
        value = follower.output[0]
    return Epilogue(tuple(steps), tuple(nodes), residual, value)


def _followers(graph: Graph, value: str) -> tuple[NodeProto, ...]:
    """The nodes that may be the next step: the only one that reads the tensor, or a sigmoid and the product of the tensor and it, which together are SiLU."""
    readers = graph.consumers(value)
    if len(readers) == 2:
        sigmoid, product = sorted(readers, key=lambda node: node.op_type != "Sigmoid")
        is_silu = (sigmoid.op_type, product.op_type) == ("Sigmoid", "Mul") and set(product.input) == {value, sigmoid.output[0]}
        return (sigmoid, product) if is_silu and graph.only_consumer(sigmoid.output[0]) is not None else ()
    return tuple(readers) if len(readers) == 1 else ()


def channel_affine(graph: Graph, node: NodeProto, value: str, axis: int | None) -> ChannelAffine | None:
    """The node as a scale and a shift of tensor `value` along `axis`; None if it is something else."""
    if node.op_type == "BatchNormalization":
        return _batch_normalization(graph, node, value, axis)
    operands = [name for name in node.input if name != value]
    if len(node.input) != 2 or len(operands) != 1 or node.op_type not in ("Add", "Sum", "Sub", "Mul", "Div"):
        return None
    if not is_per_channel(graph, operands[0], graph.shape(value), axis):
        return None
    constant = graph.constants.value(operands[0]).astype(np.float64).ravel()
    match node.op_type, node.input[0] == value:
        case "Add" | "Sum", _:
            return ChannelAffine(None, constant)
        case "Sub", True:
            return ChannelAffine(None, -constant)
        case "Sub", False:
            return ChannelAffine(np.array([-1.0]), constant)
        case "Mul", _:
            return ChannelAffine(constant, None)
        case "Div", True:
            with np.errstate(all="ignore"):  # by 0 it is what the network has there
                return ChannelAffine(1.0 / constant, None)
    return None


def _batch_normalization(graph: Graph, node: NodeProto, value: str, axis: int | None) -> ChannelAffine | None:
    inference = not attribute(node, "training_mode", 0) and attribute(node, "spatial", 1) and not any(node.output[1:])
    if node.input[0] != value or axis != 1 or not inference:
        return None
    if not all(name in graph.constants and graph.shapes.get(name) == graph.shape(value)[1:2] for name in node.input[1:]):
        return None
    gamma, beta, mean, variance = (graph.constants.value(name).astype(np.float64) for name in node.input[1:])
    with np.errstate(all="ignore"):  # of a variance that is none it is what the network has there
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return ChannelAffine(scale, beta - mean * scale)


def _residual(graph: Graph, node: NodeProto, value: str) -> str | None:
    """The other operand of an addition, if it has the same shape."""
    if node.op_type not in ("Add", "Sum") or len(node.input) != 2:
        return None
    other = node.input[1] if node.input[0] == value else node.input[0]
    return other if graph.shapes.get(other) == graph.shape(value) else None


def activation(graph: Graph, node: NodeProto) -> str | None:
    """The node as a step that reads one tensor; with constant bounds, what it clips can only be the other tensor that it reads."""
    match node.op_type:
        case "Relu":
            return "relu"
        case "Sigmoid" | "Tanh" | "HardSwish":
            return str(node.op_type).lower()
        case "Swish" if attribute(node, "alpha", 1.0) == 1.0:
            return "silu"
        case "Gelu" if attribute(node, "approximate", "none") == "none":
            return "gelu"
        case "LeakyRelu":
            slope = attribute(node, "alpha", 0.01)
            return f"leaky{_number(slope)}" if math.isfinite(slope) else None
        case "Clip":
            return _clip(graph, node)
    return None


def _clip(graph: Graph, node: NodeProto) -> str | None:
    """Bounds are attributes before operator set 11, then inputs; one that is absent or the largest number does not bound."""
    limit = float(np.finfo(np.float32).max)
    operands = dict(zip(("min", "max"), node.input[1:], strict=False))
    if any(name and not (name in graph.constants and graph.shapes.get(name) in ((), (1,))) for name in operands.values()):
        return None
    low, high = (
        float(graph.constants.value(operands[bound]).item()) if operands.get(bound) else attribute(node, bound, default)
        for bound, default in (("min", -limit), ("max", limit))
    )
    if low == 0 and high >= limit:
        return "relu"
    return f"clip{_number(low)}:{_number(high)}" if -limit < low <= high < limit else None


def _number(number: float) -> str:
    """Shortest text that gives the same fp32 number, without an exponent; no negative zero."""
    return np.format_float_positional(np.float32(number + 0.0), trim="-")
