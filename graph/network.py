"""A network as its distinct tasks: what can be tuned in it, how often each task occurs, and what cannot be tuned and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import NodeProto

from graph.layers import Layer, layer, with_prologue
from graph.model import Graph, inner_nodes, read_graph
from graph.moves import MOVES
from graph.shapes import Shape
from graph.tunable import TUNABLE, is_tunable
from ir.errors import UserError
from ir.task import Task, task

MAX_NAME = 48  # characters of a task's name

# Operators that take a network's time as convolutions and matrix products do, and have no task yet.
NOT_TUNABLE = frozenset({
    "Attention", "CausalConvWithState", "ConvInteger", "DeformConv", "Einsum", "GRU", "LSTM", "LinearAttention", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "RNN",
})  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A compute-heavy operator that cannot be tuned, and why."""

    op_type: str
    node: str
    reason: str


@dataclass(frozen=True)
class Network:
    """`tasks` in order of first appearance, each with its count; `layers` are their uses, in the order of their heavy nodes. For an operator
    text `path` is None and there are no layers. `other_operators` counts those that are neither tuned, nor fused, nor heavy. `notes` say what was assumed."""

    path: Path | None
    tasks: tuple[Task, ...]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    unsupported: tuple[Refusal, ...] = ()
    other_operators: Counter[str] = field(default_factory=Counter)

    @property
    def n_layers(self) -> int:
        """Compute-heavy ones, whether they can be tuned or not."""
        return sum(task.count for task in self.tasks) + len(self.unsupported)


def read_network(path: Path | str, shapes: Mapping[str, Shape]) -> Network:
    """The tasks of an ONNX file for inputs of these shapes; `UserError` if the file or a shape cannot be used, or nothing in it can be tuned."""
    try:
        return find_tasks(read_graph(Path(path), shapes))
    except UnicodeDecodeError as error:  # the checker does not look at every name
        raise UserError(f"{path}: not a valid network: {error}") from None


def find_tasks(graph: Graph) -> Network:
    """The tasks of a network; `UserError` if there are none."""
    layers, refusals = _layers(graph)
    counts, names = Counter(layer.key for layer in layers), {layer.key: _short(layer.nodes[0]) for layer in reversed(layers)}
    tasks = tuple(task(key, count, names[key]) for key, count in counts.items())
    refusals += _unsupported(graph)
    spoken_for = {name for layer in layers for name in layer.covered} | {refusal.node for refusal in refusals}
    unsupported = (*refusals, *_conditional(graph))  # these have names of their own, which nodes of the network may have, too
    others = Counter(node.op_type for node in graph.nodes if node.name not in spoken_for)
    if not tasks:
        raise UserError(f"{graph.path}: no layer that can be tuned; {_why(unsupported, others)}")
    return Network(graph.path, tasks, tuple(layers), graph.notes, unsupported, others)


def _layers(graph: Graph) -> tuple[list[Layer], list[Refusal]]:
    """Layers and refused nodes, in the order of their heavy nodes.

    Found from the end: where two branches meet in an addition, the branch that is computed last has its result at hand and adds the other's. A prologue has
    what no epilogue takes.
    """
    layers: list[Layer] = []
    refusals: list[Refusal] = []
    taken: set[str] = set()
    for node in reversed(graph.nodes):
        try:
            if is_tunable(graph, node):
                layers.append(layer(graph, node, taken))
                taken.update(layers[-1].nodes)
        except UserError as error:
            refusals.append(Refusal(node.op_type, node.name, str(error)))
    return [with_prologue(graph, layer, taken) for layer in reversed(layers)], refusals[::-1]


def _unsupported(graph: Graph) -> Iterator[Refusal]:
    """Nodes that none of those in `TUNABLE` is."""
    for node in graph.nodes:
        if reason := _foreign(graph, node):
            yield Refusal(f"{node.domain}.{node.op_type}", node.name, reason)
        elif node.op_type in NOT_TUNABLE:
            yield Refusal(node.op_type, node.name, "this operator is not yet taken from networks")


def _conditional(graph: Graph) -> Iterator[Refusal]:
    """Nodes in branches and bodies."""
    for node in graph.nodes:
        for inner in inner_nodes(node):
            name, where = inner.name or inner.output[0], f"inside {node.op_type} {node.name!r}, which decides at run time"
            if reason := _foreign(graph, inner):
                yield Refusal(f"{inner.domain}.{inner.op_type}", name, f"{reason}, {where}")
            elif inner.op_type in NOT_TUNABLE or (inner.op_type in TUNABLE and inner.op_type not in MOVES):
                yield Refusal(inner.op_type, name, where)


def _foreign(graph: Graph, node: NodeProto) -> str:
    """Why nothing can be known of what the node computes; empty for ONNX's own operators."""
    if (node.domain, node.op_type) in graph.functions:
        return "a function for another set of operators than the network's, which onnx does not inline"
    return "" if onnx.defs.has(node.op_type, node.domain) else "an operator that is not ONNX's own"


def _why(unsupported: tuple[Refusal, ...], others: Counter[str]) -> str:
    """All reasons in one line; equal ones are counted."""
    reasons = Counter(f"{refusal.op_type}: {refusal.reason}" for refusal in unsupported)
    lines = [f"{count} × {reason}" for reason, count in reasons.items()]
    return "; ".join([*lines, f"other operators: {', '.join(f'{count} × {name}' for name, count in others.items()) or 'none'}"])


def _short(name: str) -> str:
    """The last parts of a path-like node name, as many as fit, at least one."""
    parts = name.split("/")
    while len(parts) > 1 and len("/".join(parts)) > MAX_NAME:
        del parts[0]
    return "/".join(parts)
