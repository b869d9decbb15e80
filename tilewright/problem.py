"""What a peer is asked to compute: a task with its numbers, arranged as other libraries expect them.

They know images, the activations of a convolution among them, as (n, channels, sizes), whatever the layout of our task is, and have no capsules: one
of those is a convolution of n*capsule images, with the columns of its matrices among the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from codegen.kernel import as_aligned
from ir.convolution import KERNEL, LAYOUTS, RANKS
from ir.operators import OPERATORS
from ir.program import Value
from ir.task import Task
from tilewright.turns import Contender

Array: TypeAlias = NDArray[Any]  # of the type of its tensor

ACTIVATIONS = ("x", "residual")  # inputs of an operator on images that have its layout
# Dimensions of an image, by operator.
IMAGES = RANKS | dict.fromkeys(("batch_norm", "instance_norm", "max_pool2d", "average_pool2d", "global_average_pool", "global_max_pool"), 2)
EQUATIONS = {"matmul": ("mk", "kn", "mn"), "batch_matmul": ("bmk", "bkn", "bmn")}


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
        return tuple(self.parameters.get("epilogue", ()))

    @property
    def prologue(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("prologue", ()))

    @property
    def bias_first(self) -> bool:
        """Whether the bias is added right after the sum, where libraries can take it into the operator."""
        return self.epilogue[:1] == ("bias",)

    @property
    def is_convolution(self) -> bool:
        return self.operator in RANKS

    @property
    def has_images(self) -> bool:
        return self.operator in IMAGES

    @property
    def rank(self) -> int:
        """Dimensions of the images."""
        return IMAGES[self.operator]

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.parameters[name] for name in KERNEL[self.rank])

    @property
    def pads(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Before and after each dimension of an image."""
        pad = self.parameters["pad"]
        return tuple(pad[: self.rank]), tuple(pad[self.rank :])

    @property
    def dilation(self) -> tuple[int, ...]:
        return tuple(self.parameters.get("dilation", (1,) * self.rank))

    @property
    def groups(self) -> int:
        return int(self.parameters.get("groups", 1))

    @property
    def attention_scale(self) -> float:
        """What attention's scores are multiplied with."""
        scale: float | None = self.parameters["scale"]
        return self.parameters["dim"] ** -0.5 if scale is None else scale

    @cached_property
    def shares(self) -> Array:
        """(1, 1, rows, columns): what the sums of average pooling's windows are multiplied with."""
        given, counts = self.parameters, []
        for size, taps, step, before, extent in zip((given["h"], given["w"]), self.kernel, given["stride"], self.pads[0], self.shape[2:], strict=True):
            position = step * np.arange(extent)[:, None] - before + np.arange(taps)
            inside = (position >= 0) & (position < size) | (given["count_include_pad"] == "1")
            counts.append(inside.sum(axis=1))
        shares: Array = (1 / np.multiply.outer(*counts)).astype(np.float32)
        return shares[None, None]

    @property
    def chain(self) -> Value:
        """The value of an elementwise task, its numbers with their types."""
        return self.task.program.stages[0].body

    @property
    def product(self) -> Product:
        """The batched matrix product that the task is; for matmul, batch_matmul and einsum."""
        return Product(*(EQUATIONS.get(self.operator) or self.parameters["equation"]))

    @cached_property
    def arrays(self) -> Mapping[str, Array]:
        """The inputs by tensor name as peers expect them, contiguous and aligned; those that are so already are no copies."""
        return {name: as_aligned(self._theirs(name, array)) for name, array in self.inputs.items()}

    def _theirs(self, name: str, array: Array) -> Array:
        if self.operator == "capsule_conv2d":
            return _without_capsules(name, array, self.parameters["capsule"])
        return channels_first(array, self.parameters["layout"]) if self.has_images and name in ACTIVATIONS else array

    @property
    def variables(self) -> Mapping[str, Array]:
        """Those of `arrays` that are not constant."""
        return {tensor.name: self.arrays[tensor.name] for tensor in self.task.program.inputs if not tensor.constant}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result, as peers give it."""
        return self._theirs("residual", np.broadcast_to(np.float32(0), self.task.program.output.shape)).shape

    def ours(self, result: NDArray[Any]) -> NDArray[Any]:
        """A peer's result in the layout of the task's output."""
        shape = self.task.program.output.shape
        if self.operator == "capsule_conv2d":
            n, high, wide, rows, columns, channels = shape
            return result.reshape(n, rows, columns, channels, high, wide).transpose(0, 4, 5, 1, 2, 3)
        # Where the whole image is pooled, some give it with dimensions of 1.
        return (in_layout(result, self.parameters["layout"], shape) if self.has_images else result).reshape(shape)


@dataclass(frozen=True)
class Product:
    """A sum of products of two tensors by the letters of their axes, seen as a batched matrix product."""

    first: str
    second: str
    result: str

    @property
    def inner(self) -> str:
        return "".join(letter for letter in self.first if letter not in self.result)

    @property
    def batch(self) -> str:
        return "".join(letter for letter in self.result if letter in self.first and letter in self.second)

    @property
    def rows(self) -> str:
        return "".join(letter for letter in self.result if letter not in self.second)

    @property
    def columns(self) -> str:
        return "".join(letter for letter in self.result if letter not in self.first)

    @property
    def is_matrix_product(self) -> bool:
        """Not so where something is summed that one operand alone has."""
        return set(self.inner) == set(self.second) - set(self.result)

    @property
    def orders(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Permutations: of the first operand to (batch, rows, inner), of the second to (batch, inner, columns), and of (batch, rows, columns)
        to the result."""
        whole = self.batch + self.rows + self.columns
        return (
            tuple(map(self.first.index, self.batch + self.rows + self.inner)),
            tuple(map(self.second.index, self.batch + self.inner + self.columns)),
            tuple(map(whole.index, self.result)),
        )

    @property
    def text(self) -> str:
        """As numpy's and others' einsum write it."""
        return f"{self.first},{self.second}->{self.result}"


@dataclass(frozen=True)
class Way:
    """How a peer can compute a problem. `answer` calls the contender once, and gives the result in the layout of the task's output."""

    contender: Contender
    answer: Callable[[], NDArray[Any]]


def channels_first(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """(n, channels, sizes) of an activation in a layout of `ir.convolution.LAYOUTS`."""
    kind = _kind(layout)
    if kind == "last":
        return np.moveaxis(array, -1, 1)
    if kind == "blocked":
        n, blocks, *sizes, block = array.shape
        return np.moveaxis(array, -1, 2).reshape(n, blocks * block, *sizes)
    return array


def in_layout(array: NDArray[Any], layout: str, shape: Sequence[int]) -> NDArray[Any]:
    """The inverse of `channels_first`, for a tensor of this shape."""
    kind = _kind(layout)
    if kind == "last":
        return np.moveaxis(array, 1, -1)
    if kind == "blocked":
        n, blocks, *sizes, block = shape
        return np.moveaxis(array.reshape(n, blocks, block, *sizes), 2, -1)
    return array


def _kind(layout: str) -> str:
    return next(kind for names in LAYOUTS.values() for name, kind in zip(names, ("last", "first", "blocked"), strict=True) if name == layout)


def _without_capsules(name: str, array: Array, size: int) -> Array:
    """`size`: rows and columns of a capsule."""
    if name in ACTIVATIONS:
        n, high, wide, rows, columns, channels = array.shape
        return array.transpose(0, 3, 4, 5, 1, 2).reshape(n * rows, columns * channels, high, wide)
    if name == "weights":
        r, s, inner, columns, c, k = array.shape
        return array.transpose(3, 5, 2, 4, 0, 1).reshape(columns * k, inner * c, r, s)
    return np.tile(array, size)


def clip_limits(step: str) -> tuple[float, float]:
    """Of a step such as clip0:6."""
    low, high = step.removeprefix("clip").split(":")
    return float(low), float(high)


def leaky_slope(step: str) -> float | None:
    """Of a step such as leaky0.01; None of another one."""
    return float(step.removeprefix("leaky")) if step.startswith("leaky") else None
