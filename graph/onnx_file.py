"""An ONNX file, read and checked: whatever is wrong with it is one line that names it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto
from onnx.external_data_helper import uses_external_data

from ir.errors import Unsupported, UserError

OLDEST_OPSET = 7  # before it, broadcasting had other rules
DOMAIN = ("", "ai.onnx")  # both spell ONNX's own operators


def load_model(path: Path) -> ModelProto:
    """The checked model of a file, its local functions inlined and every node named; external data stays on disk. `UserError` if it cannot be used."""
    model = _parse(path)
    try:
        onnx.checker.check_model(str(path))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        _spell_domain(model)
        _store_constants(model.graph)
        _name_nodes(model.graph.node)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a valid network: {first_line(error)}{_unshaped(model.graph)}") from None
    opset, newest = next((opset.version for opset in model.opset_import if opset.domain in DOMAIN), OLDEST_OPSET), onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise Unsupported(f"{path}: operator set {opset} is not one of {OLDEST_OPSET} to {newest}; convert the network with onnx.version_converter")
    return model


def input_names(path: Path) -> tuple[str, ...]:
    """Of the network's inputs, initializers among them in old files; `UserError` if the file cannot be read."""
    return tuple(value.name for value in _parse(path).graph.input)


def first_line(error: Exception) -> str:
    """What a library's message of many lines says first."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _parse(path: Path) -> ModelProto:
    try:
        str(path).encode()  # as onnx does
    except UnicodeEncodeError:
        raise UserError(f"{path}: onnx reads only files whose path is UTF-8, and this one is not") from None
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory, not an ONNX file")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
        return onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except DecodeError:
        raise UserError(f"{path}: not an ONNX file, or cut off") from None


def _unshaped(graph: GraphProto) -> str:
    """For a message, which inputs or results have no shape: the checker wants one of each and names none."""
    names = [v.name for v in (*graph.input, *graph.output) if v.type.HasField("tensor_type") and not v.type.tensor_type.HasField("shape")]
    return f" (no shape: {', '.join(names)})" if names else ""


def _spell_domain(model: ModelProto) -> None:
    """ONNX's own operators under the name that onnx's reference evaluator knows them by."""
    for entry in (*model.opset_import, *model.graph.node):
        if entry.domain in DOMAIN:
            entry.domain = DOMAIN[0]


def _store_constants(graph: GraphProto) -> None:
    """Makes constants of nodes whose data lie in another file initializers: onnx looks for data of nodes in the current directory, not beside the network."""
    kept = []
    for node in graph.node:
        values = [entry.t for entry in node.attribute if entry.name == "value" and uses_external_data(entry.t)]
        if values and node.op_type == "Constant" and node.domain in DOMAIN:
            stored = graph.initializer.add()
            stored.CopyFrom(values[0])
            stored.name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _name_nodes(nodes: list[NodeProto]) -> None:
    """Names every node, each differently, so that a name says which node is meant."""
    taken = Counter(node.name for node in nodes)
    for number, node in enumerate(nodes):
        name = node.name
        while not name or taken[name] > 1:
            taken[name] -= 1
            name = f"{name or node.op_type}_{number}"
            taken[name] += 1
        node.name = name
