"""A network with static shapes, what is constant in it told from what is computed anew for each input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graph.constants import SMALL, Array, Constants, subgraphs
from graph.onnx_file import DOMAIN, OLDEST_OPSET, first_line, load_model
from graph.shapes import Shape, forget_dynamic_sizes, set_input_shapes
from ir.errors import Unsupported, UserError

SHAPED_BY_VALUES = ("Compress", "NonZero", "Unique")  # what they give is no larger than what they read, a dimension more for NonZero


@dataclass(frozen=True)
class Graph:
    """`nodes` are those that depend on the inputs, in order of execution, each with a name of its own. `shapes` and `types` (ONNX's numbers)
    hold the tensors for which they are known. `functions`: (domain, name) of the file's own that are not inlined."""

    path: Path
    nodes: tuple[NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]
    constants: Constants
    opset: int
    functions: Set[tuple[str, str]]
    notes: tuple[str, ...]

    def shape(self, name: str) -> Shape:
        if name not in self.shapes:
            raise Unsupported(f"the shape of {name!r} is not known")
        return self.shapes[name]

    def node(self, name: str) -> NodeProto:
        return self._by_name[name]

    def maker(self, name: str) -> NodeProto | None:
        """The node whose first result is tensor `name`."""
        return self._makers.get(name)

    def consumers(self, name: str) -> list[NodeProto]:
        """The nodes that read tensor `name`, each as often as it does; none where the tensor is a result of the network, which others read."""
        return [] if name in self.outputs else self._consumers.get(name, [])

    def only_consumer(self, name: str) -> NodeProto | None:
        """The node that reads tensor `name`, if there is one, it reads it once, and the tensor is not a result of the network."""
        consumers = self.consumers(name)
        return consumers[0] if len(consumers) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, NodeProto]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _makers(self) -> dict[str, NodeProto]:
        return {node.output[0]: node for node in self.nodes if node.output}

    @cached_property
    def _consumers(self) -> dict[str, list[NodeProto]]:
        consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in (*node.input, *(name for inner in inner_nodes(node) for name in inner.input)):
                consumers.setdefault(name, []).append(node)
        return consumers


def inner_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """Nodes in the bodies and branches of `node`, at any depth."""
    for graph in subgraphs(node):
        for inner in graph.node:
            yield inner
            yield from inner_nodes(inner)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Value of an attribute of `node` as Python data, text decoded."""
    value = next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
    return value.decode() if isinstance(value, bytes) else value


def read_graph(path: Path, shapes: Mapping[str, Shape]) -> Graph:
    """The network in an ONNX file for inputs of these shapes; `UserError` names what is wrong with either."""
    model = load_model(path)
    notes = set_input_shapes(model.graph, shapes, path)
    forget_dynamic_sizes(model.graph)
    constants = Constants(model, path)
    inputs = tuple(value.name for value in model.graph.input if value.name not in constants)
    outputs = tuple(value.name for value in model.graph.output)
    functions = {(function.domain, function.name) for function in model.functions}
    model = _without_weights(model, constants)
    while True:
        _forget_given_results(model.graph)
        types, known = _infer(model, path)
        if not _fold(model, types, known, constants):
            opset = next((entry.version for entry in model.opset_import if entry.domain in DOMAIN), OLDEST_OPSET)
            return Graph(path, tuple(model.graph.node), inputs, outputs, known, types, constants, opset, functions, notes)


def _without_weights(model: ModelProto, constants: Constants) -> ModelProto:
    """The same network with large constants as inputs: shape inference copies the whole model, and may not copy 2 GiB."""
    given = [value for value in model.graph.input if value.name not in constants]
    weights = [tensor for tensor in model.graph.initializer if not constants.is_small(tensor.name)]
    small = [_inline(tensor, constants) for tensor in model.graph.initializer if constants.is_small(tensor.name)]
    given += [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights]
    graph = helper.make_graph(model.graph.node, model.graph.name, given, model.graph.output, small, value_info=model.graph.value_info)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    # From version 4 on, initializers need not be inputs too.
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))


def _inline(tensor: TensorProto, constants: Constants) -> TensorProto:
    """With its data, which shape inference may need; it reads no files."""
    is_outside = tensor.data_location == TensorProto.EXTERNAL
    return numpy_helper.from_array(constants.value(tensor.name), tensor.name) if is_outside else tensor


def _forget_given_results(graph: GraphProto) -> None:
    """Leaves out results of the network that are inputs or constants: shape inference takes what is declared of a result for its shape."""
    given = {value.name for value in (*graph.input, *graph.initializer)}
    made = [value for value in graph.output if value.name not in given]
    del graph.output[:]
    graph.output.extend(made)


def _infer(model: ModelProto, path: Path) -> tuple[dict[str, int], dict[str, Shape]]:
    """Element types and static shapes by tensor name, as far as they can be told."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"{path}: the shapes do not fit together: {first_line(error)}") from None
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type"):
            types[value.name] = tensor.elem_type
            if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return types, shapes


def _fold(model: ModelProto, types: Mapping[str, int], shapes: Mapping[str, Shape], constants: Constants) -> bool:
    """Moves nodes whose results are constant from the model to `constants`; whether there were any.

    Shape inference alone does not follow every computation on shapes that exporters write, but it goes on from constants.
    """
    graph, kept, folded = model.graph, [], False
    for node in graph.node:
        results = [name for name in node.output if name]
        if not _make_constant(node, results, types, shapes, constants):
            kept.append(node)
            continue
        folded = True
        for name in results:
            if constants.is_small(name):
                graph.initializer.append(numpy_helper.from_array(constants.value(name), name))
            else:
                graph.input.append(helper.make_tensor_value_info(name, types[name], shapes[name]))
    if folded:
        del graph.node[:]
        graph.node.extend(kept)
    return folded


def _make_constant(node: NodeProto, results: list[str], types: Mapping[str, int], shapes: Mapping[str, Shape], constants: Constants) -> bool:
    """Whether the results of `node` are constants now: small ones are computed, large ones only noted, as are those whose operator cannot be computed."""
    if node.op_type in ("Shape", "Size") and node.domain in DOMAIN and node.input[0] in shapes:
        constants.add_computed(dict.fromkeys(results, _measured(node, shapes[node.input[0]])))
        return True
    if not constants.covers(node) or not all(name in types for name in results):
        return False
    dtypes = {name: helper.tensor_dtype_to_np_dtype(types[name]) for name in results}
    has_shapes = all(name in shapes for name in results)
    is_small = all(math.prod(shapes[name]) <= SMALL for name in results) if has_shapes else node.op_type in SHAPED_BY_VALUES
    if not is_small or not all(constants.is_small(name) for name in node.input if name) or not constants.can_compute(node):
        if has_shapes:
            constants.add(node, sum(math.prod(shapes[name]) * dtypes[name].itemsize for name in results))
        return has_shapes
    try:
        values = constants.evaluate([node], results)
    except Unsupported:
        return False
    constants.add_computed({name: value.astype(dtypes[name]) for name, value in values.items()})
    return True


def _measured(node: NodeProto, shape: Shape) -> Array:
    """The result of a node that reads nothing but the shape of its input."""
    if node.op_type == "Size":
        return np.array(np.prod(shape, dtype=np.int64))
    return np.array(shape[attribute(node, "start", 0) : attribute(node, "end", None)], np.int64)
