"""Elementwise nodes before a heavy one that no epilogue has taken, and that are computed as its first operand is packed: as steps of its prologue."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from onnx import NodeProto

from graph.epilogue import activation, channel_affine
from graph.heavy import Heavy
from graph.model import Graph
from graph.onnx_file import DOMAIN
from ir.errors import Unsupported
from ir.prologue import CONSTANTS
from ir.steps import fit_together


@dataclass(frozen=True)
class Prologue:
    """`steps` as in an operator text, `nodes` by name in order of execution, and the tensor that the first one reads."""

    steps: tuple[str, ...]
    nodes: tuple[str, ...]
    source: str


def prologue(graph: Graph, node: NodeProto, start: Heavy, taken: Set[str]) -> Prologue:
    """What can be fused before a heavy node: all that only it reads, found from there backwards. `taken`: names of nodes that belong to other layers."""
    steps: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    value = start.source
    while (maker := graph.maker(value)) is not None and maker.name not in taken and maker.domain in DOMAIN:
        source, consumer = _source(graph, maker, value), graph.only_consumer(value)
        before = None if source is None else _with_step(graph, maker, source, start.source_axis, steps)
        if source is None or before is None or not fit_together(before) or consumer is None or consumer.name != node.name:
            break
        steps, nodes, value, node = before, (maker.name, *nodes), source, maker
    return Prologue(steps, nodes, value)


def _source(graph: Graph, maker: NodeProto, value: str) -> str | None:
    """The one input that is not constant, if it has the shape of the result."""
    variable = [name for name in maker.input if name and name not in graph.constants]
    return variable[0] if len(variable) == 1 and graph.shapes.get(variable[0]) == graph.shape(value) else None


def _with_step(graph: Graph, maker: NodeProto, source: str, axis: int | None, steps: tuple[str, ...]) -> tuple[str, ...] | None:
    """The steps with those of one more node before them: neighbouring scales and shifts are one of each, and there is no second pair. None where that is no
    step, or a constant of it cannot be computed."""
    try:
        affine = channel_affine(graph, maker, source, axis)
        step = activation(graph, maker) if affine is None else None
    except Unsupported:
        return None
    if affine is None:
        return (step, *steps) if step else None
    later = tuple(step for step in steps if step not in CONSTANTS)
    if len(later) < len(steps) and steps[0] not in CONSTANTS:
        return None
    has = {"scale": affine.scale is not None or "scale" in steps, "bias": affine.shift is not None or "bias" in steps}
    return (*(step for step in CONSTANTS if has[step]), *later)
