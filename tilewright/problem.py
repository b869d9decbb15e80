"""What a peer is asked to compute: a task with its numbers, arranged as other libraries expect them.

They know the activations of a convolution as (n, channels, height, width), whatever the layout of our task is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from codegen.kernel import aligned_copy
from ir.operators import OPERATORS
from ir.task import Task
from tilewright.turns import Contender

Array: TypeAlias = NDArray[np.float32]

ACTIVATIONS = ("x", "residual")  # inputs of a convolution that have its layout


@dataclass(frozen=True)
class Problem:
    """`inputs` by tensor name, in the task's layout. `threads`: how many to solve it on."""

    task: Task
    inputs: Mapping[str, Array]
    threads: int

    @property
    def operator(self) -> str:
        return self.task.key.partition(":")[0]

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """The operator's parameters, as `ir.operators` parses them."""
        parsers = OPERATORS[self.operator].parameters
        texts = (part.split("=") for part in self.task.key.partition(":")[2].split(","))
        return {name: parsers[name].parse(text) for name, text in texts}

    @property
    def epilogue(self) -> tuple[str, ...]:
        return tuple(self.parameters["epilogue"])

    @property
    def bias_first(self) -> bool:
        """Whether the bias is added right after the sum, where libraries can take it into the operator."""
        return self.epilogue[:1] == ("bias",)

    @cached_property
    def arrays(self) -> Mapping[str, Array]:
        """The inputs by tensor name, activations of a convolution as (n, channels, height, width). All are contiguous."""
        layout = self.parameters.get("layout", "nchw")
        return {name: aligned_copy(channels_first(array, layout) if name in ACTIVATIONS else array) for name, array in self.inputs.items()}

    @property
    def variables(self) -> Mapping[str, Array]:
        """Those of `arrays` that are not constant."""
        return {tensor.name: self.arrays[tensor.name] for tensor in self.task.program.inputs if not tensor.constant}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result, as peers give it."""
        ours = np.broadcast_to(np.float32(0), self.task.program.output.shape)
        return channels_first(ours, self.parameters.get("layout", "nchw")).shape

    def ours(self, result: NDArray[Any]) -> NDArray[Any]:
        """A peer's result in the layout of the task's output."""
        return in_layout(result, self.parameters.get("layout", "nchw"), self.task.program.output.shape)


@dataclass(frozen=True)
class Way:
    """How a peer can compute a problem. `answer` calls the contender once, and gives the result in the layout of the task's output."""

    contender: Contender
    answer: Callable[[], NDArray[Any]]


def channels_first(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """(n, channels, height, width) of an activation in a layout of `ir.operators.LAYOUTS`."""
    if layout == "nhwc":
        return array.transpose(0, 3, 1, 2)
    if layout == "nchwc":
        n, blocks, high, wide, block = array.shape
        return array.transpose(0, 1, 4, 2, 3).reshape(n, blocks * block, high, wide)
    return array


def in_layout(array: NDArray[Any], layout: str, shape: Sequence[int]) -> NDArray[Any]:
    """The inverse of `channels_first`, for a tensor of this shape."""
    if layout == "nhwc":
        return array.transpose(0, 2, 3, 1)
    if layout == "nchwc":
        n, blocks, high, wide, block = shape
        return array.reshape(n, blocks, block, high, wide).transpose(0, 1, 3, 4, 2)
    return array


def clip_limits(step: str) -> tuple[float, float]:
    """Of a step such as clip0:6."""
    low, high = step.removeprefix("clip").split(":")
    return float(low), float(high)
