"""Small ONNX networks for the tests of graph/, and what their tensors and layers come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graph.layers import Layer, layer_constants
from graph.model import Graph
from ir.interpreter import interpret
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
