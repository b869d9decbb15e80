"""The operators worth tuning, as operator texts of `ir.operators`."""

from __future__ import annotations

from onnx import NodeProto, TensorProto, helper

from graph.heavy import HEAVY, Heavy
from graph.model import Graph
from graph.moves import MOVES, moved_inputs, moves_data
from graph.onnx_file import DOMAIN
from graph.rows import ROWS
from ir.errors import Unsupported

TUNABLE = {**HEAVY, **ROWS, **MOVES}


def is_tunable(graph: Graph, node: NodeProto) -> bool:
    """Whether the node is one of those, and has work to do."""
    return node.op_type in TUNABLE and node.domain in DOMAIN and (node.op_type not in MOVES or moves_data(graph, node))


def tunable(graph: Graph, node: NodeProto) -> Heavy:
    """The node, an operator of `TUNABLE`, as operator text; `Unsupported` says why it cannot be expressed."""
    for name in filter(None, moved_inputs(node) if node.op_type in MOVES else node.input):
        if graph.types.get(name) != TensorProto.FLOAT:
            if name not in graph.types:
                raise Unsupported(f"the type of {name!r} is not known")
            found = helper.tensor_dtype_to_string(graph.types[name]).removeprefix("TensorProto.").lower()
            raise Unsupported(f"{name!r} is {found}, only float (fp32) can be tuned")
    return TUNABLE[node.op_type](graph, node)
