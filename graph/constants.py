"""Tensors of a network that do not depend on its inputs: weights, and what is computed from them alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graph.onnx_file import DOMAIN, first_line
from ir.errors import Unsupported, UserError
from ir.operators import MAX_TENSOR_BYTES

Array: TypeAlias = NDArray[Any]

SMALL = 4096  # elements; constants up to here (shapes, bounds, axes) are computed at once, larger ones (weights) when asked for

# What the reference evaluator raises where it cannot compute something.
_REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError, onnx.checker.ValidationError,
)  # fmt: skip
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")


class Constants:
    """Constant tensors by name; those that nodes compute are computed by onnx's reference evaluator, large ones anew at every request."""

    def __init__(self, model: ModelProto, path: Path) -> None:
        """`path`: of the model's file; the files that hold its external data lie beside it."""
        self._tensors: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self._computed: dict[str, Array] = {}
        self._producers: dict[str, NodeProto] = {}  # each after those that make what it reads
        self._n_bytes: dict[str, int] = {}  # of all that a producer makes, by its name
        self._opsets = list(model.opset_import)
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or name in self._computed or name in self._producers

    def is_small(self, name: str) -> bool:
        """Whether the value is at hand without much work or memory."""
        return name in self._computed or (name in self._tensors and math.prod(self._tensors[name].dims) <= SMALL)

    def covers(self, node: NodeProto) -> bool:
        """Whether all of the node's results are constant: its inputs are, and it computes the same each time."""
        deterministic = node.domain in DOMAIN and node.op_type not in _RANDOM and next(subgraphs(node), None) is None
        return deterministic and all(name in self for name in node.input if name)

    def can_compute(self, node: NodeProto) -> bool:
        """Whether the reference evaluator has the node's operator: of some it has only newer versions."""
        try:
            self._evaluator([node], (), ())
        except _REFUSALS:
            return False
        return True

    def add(self, node: NodeProto, n_bytes: int) -> None:
        """Makes the results of a node that is covered, `n_bytes` together, constants, to be computed when asked for."""
        self._producers |= {name: node for name in node.output if name}
        self._n_bytes[node.name] = n_bytes

    def add_computed(self, values: Mapping[str, Array]) -> None:
        self._computed |= values

    def value(self, name: str) -> Array:
        """The tensor; `Unsupported` if the reference evaluator cannot compute it, `UserError` if it is kept in a file that does not hold it."""
        if name in self._computed:
            return self._computed[name]
        if name in self._tensors:
            try:
                stored: Array = numpy_helper.to_array(self._tensors[name], str(self._path.parent))
            except (OSError, ValueError, onnx.checker.ValidationError) as error:
                raise UserError(f"{self._path}: the data of tensor {name!r} cannot be read: {first_line(error)}") from None
            return stored
        nodes = self._needed(name)
        n_bytes = sum(self._n_bytes[node.name] for node in nodes)
        if n_bytes > MAX_TENSOR_BYTES:
            raise Unsupported(f"constant {name!r} is not computed: on the way there are {n_bytes / (1 << 30):.4g} GiB, more than {MAX_TENSOR_BYTES >> 30} GiB")
        return self.evaluate(nodes, [name])[name]

    def evaluate(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> dict[str, Array]:
        """Results of `nodes` by name; what they read and do not compute must be constant. `Unsupported` if that fails."""
        made = {name for node in nodes for name in node.output}
        feeds = {name: self.value(name) for node in nodes for name in node.input if name and name not in made}
        try:
            with np.errstate(all="ignore"):
                results = self._evaluator(nodes, feeds, outputs).run(list(outputs), feeds)
        except _REFUSALS as error:
            operators = ", ".join(dict.fromkeys(node.op_type for node in nodes))
            raise Unsupported(f"constant {outputs[0]!r} cannot be computed by {operators}: {first_line(error)}") from error
        return {name: np.asarray(result) for name, result in zip(outputs, results, strict=True)}

    def _evaluator(self, nodes: Iterable[NodeProto], inputs: Iterable[str], outputs: Iterable[str]) -> ReferenceEvaluator:
        """One of `_REFUSALS` where it does not have an operator."""
        untyped = [[helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names] for names in (inputs, outputs)]
        return ReferenceEvaluator(helper.make_model(helper.make_graph(list(nodes), "constants", *untyped), opset_imports=self._opsets))

    def _needed(self, name: str) -> list[NodeProto]:
        """The nodes that compute a large constant, in order of execution."""
        read, nodes = {name}, {}
        for result, node in reversed(self._producers.items()):
            if result in read:
                read.update(node.input)
                nodes[node.name] = node
        return [*nodes.values()][::-1]


def subgraphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes: bodies and branches."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs
