"""Small ONNX networks for the tests of graph/, and what their tensors and layers come to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graph.constants import Array
from graph.epilogue import ChannelAffine, channel_affine
from graph.layers import Layer
from graph.model import Graph, attribute
from graph.tunable import tunable
from ir.interpreter import interpret
from ir.prologue import CONSTANTS
from ir.task import task

Arrays = Mapping[str, np.ndarray[Any, Any]]


def save(
    path: Path, nodes: Iterable[NodeProto], inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, int], constants: Mapping[str, Any], *,
    opset: int = 17, types: Mapping[str, int] | None = None, domains: Sequence[str] = (), functions: Sequence[Any] = (), **options: Any,
) -> Path:  # fmt: skip
    """Writes a network. `outputs` by rank, `types` for tensors that are not fp32, `domains` beside ONNX's own; options of `onnx.save`."""
    types = types or {}

    def declared(name: str, shape: Sequence[int | str]) -> Any:
        return helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), list(shape))

    results = [declared(name, [f"{name}_{i}" for i in range(rank)]) for name, rank in outputs.items()]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "test", [declared(*item) for item in inputs.items()], results, initializers)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8), path, **options)
    return path


def reference(path: Path, feeds: Arrays, wanted: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors of the network by name, in its own layout, from onnx's reference evaluator."""
    model = onnx.load(path)
    present = {value.name for value in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    names = [name for name in dict.fromkeys(wanted) if name in made]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in present)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return stored | dict(feeds) | dict(zip(names, ReferenceEvaluator(model).run(names, dict(feeds)), strict=True))


def run_layer(graph: Graph, layer: Layer, tensors: Arrays) -> np.ndarray[Any, Any]:
    """The layer's result in the network's layout, by the interpreter of tensor programs, from its activations in `tensors`."""
    program, images = task(layer.key).program, "layout=" in layer.key
    inputs = layer_constants(graph, layer)
    assert set(inputs) == {tensor.name for tensor in program.inputs if tensor.constant}
    for tensor in program.inputs:
        if tensor.constant:
            assert inputs[tensor.name].shape == tensor.shape
            assert inputs[tensor.name].dtype == np.float32
        else:
            activation = tensors[layer.inputs[tensor.name]]
            inputs[tensor.name] = (np.moveaxis(activation, 1, -1) if images else activation).reshape(tensor.shape)
    result, shape = interpret(program, inputs), graph.shape(layer.output)
    if not images:
        return result.reshape(shape)
    return np.moveaxis(result.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def layer_constants(graph: Graph, layer: Layer) -> dict[str, Array]:
    """The constant inputs of the layer's program by name, in its shapes: weights as in ONNX or b (k, n), and bias (channels,).

    Batch normalization and other factors and summands per channel that the layer covers are folded in, in double precision, those of its prologue into
    constants of its own.
    """
    node, *followers = (graph.node(name) for name in layer.nodes)
    start, value = tunable(graph, node), node.output[0]
    scale = np.full(1, attribute(node, "alpha", 1.0))
    shift = attribute(node, "beta", 1.0) * graph.constants.value(start.bias).astype(np.float64).ravel() if start.bias else np.zeros(1)
    for follower in followers:
        affine = channel_affine(graph, follower, value, start.channel_axis)
        if affine is None:
            break
        scale, shift, value = *folded(affine, scale, shift), follower.output[0]
    source_scale, source_shift, source = np.ones(1), np.zeros(1), layer.inputs[next(iter(start.inputs))]
    for name in layer.before:
        affine = channel_affine(graph, graph.node(name), source, start.source_axis)
        if affine is not None:
            source_scale, source_shift = folded(affine, source_scale, source_shift)
        source = graph.node(name).output[0]
    channels = {"bias": shift, CONSTANTS["scale"]: source_scale, CONSTANTS["bias"]: source_shift}
    constants = {}
    for tensor in task(layer.key).program.inputs:
        if tensor.name in channels:
            constants[tensor.name] = np.broadcast_to(channels[tensor.name], math.prod(tensor.shape)).reshape(tensor.shape).astype(np.float32)
        elif tensor.constant and start.weights:
            weights = graph.constants.value(start.weights).astype(np.float64)
            weights = (weights.T if attribute(node, "transB", 0) else weights).reshape(tensor.shape)
            factors = of_filters(scale, tensor.shape, start.operator) if tensor.name == "weights" else scale
            constants[tensor.name] = (weights * factors).astype(np.float32)
    return constants


def folded(affine: ChannelAffine, scale: Array, shift: Array) -> tuple[Array, Array]:
    """A scale and a shift, and after them those of a node, as one of each."""
    factor, summand = 1.0 if affine.scale is None else affine.scale, 0.0 if affine.shift is None else affine.shift
    return scale * factor, shift * factor + summand


def of_filters(scale: Array, shape: tuple[int, ...], operator: str) -> Array:
    """Factors per output channel, shaped to multiply the weights of a convolution; transposed, those are (c, k/groups, kernel)."""
    ones = (1,) * (len(shape) - 2)
    if scale.size == 1 or not operator.startswith("conv_transpose2d"):
        return scale.reshape(-1, 1, *ones)
    groups = scale.size // shape[1]
    return np.repeat(scale.reshape(groups, shape[1]), shape[0] // groups, axis=0).reshape(*shape[:2], *ones)
