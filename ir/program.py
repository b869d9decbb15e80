"""Tensor programs: what is computed, with no word on how.

A program is a chain of stages. A stage fills its output tensor: for every point of its spatial axes it reduces (or just
evaluates) a body over its reduce axes. Indices are affine in the axes; reading outside a tensor gives zero, or what the read says (padding).
Several stages may each fill a part of the result, as those of a concatenation do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal, TypeAlias, Union

import numpy as np

from ir.expression import Expr, Symbol, add, mul, symbol

# Types of elements, called as numpy calls them, with their sizes. A bool takes a byte, which is 0 or 1.
ELEMENT_BYTES = {"float32": 4, "int32": 4, "int64": 8, "bool": 1, "int8": 1, "uint8": 1}
FLOAT = "float32"
FLOAT_BYTES = ELEMENT_BYTES[FLOAT]
CASTS = {f"cast_{dtype}": dtype for dtype in ELEMENT_BYTES}


@dataclass(frozen=True)
class Axis:
    """A loop of a tensor program: 0 <= axis < extent."""

    name: str
    extent: int

    @property
    def symbol(self) -> Symbol:
        return symbol(self.name)


class Array:
    """Elements in row-major order, of a type of `ELEMENT_BYTES`."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.dtype]

    @property
    def n_bytes(self) -> int:
        return self.element_bytes * math.prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements."""
        return tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))


@dataclass(frozen=True)
class Tensor(Array):
    """`constant`: known before it is used, as weights are. `positive`: without negative elements, as a variance."""

    name: str
    shape: tuple[int, ...]
    constant: bool = False
    positive: bool = False
    dtype: str = FLOAT


@dataclass(frozen=True)
class Affine:
    """`constant + sum of factor * axis`, at most one term an axis, no factor zero."""

    terms: tuple[tuple[Axis, int], ...]
    constant: int = 0

    def factor(self, axis: Axis) -> int:
        return next((factor for other, factor in self.terms if other == axis), 0)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(axis for axis, _ in self.terms)

    def at(self, position: Mapping[Axis, Expr]) -> Expr:
        return add(*(mul(position[axis], factor) for axis, factor in self.terms), self.constant)

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest value over the full extents."""
        ends = [(0, factor * (axis.extent - 1)) for axis, factor in self.terms]
        return self.constant + sum(min(e) for e in ends), self.constant + sum(max(e) for e in ends)

    def share_below(self, size: int) -> Fraction:
        """Of its values over the full extents those from 0 to size - 1."""
        low, high = self.range
        if low >= 0 and high < size:
            return Fraction(1)
        values = functools.reduce(np.add.outer, [factor * np.arange(axis.extent) for axis, factor in self.terms], np.array(self.constant))
        return Fraction(int(((values >= 0) & (values < size)).sum()), values.size)


def affine(*terms: Axis | tuple[Axis, int], constant: int = 0) -> Affine:
    """`affine(oh, (r, 2), constant=-1)` is oh + 2*r - 1."""
    pairs = ((term, 1) if isinstance(term, Axis) else term for term in terms)
    return Affine(tuple(pair for pair in pairs if pair[1] != 0), constant)


@dataclass(frozen=True)
class Constant:
    """A number; an `int` where `dtype` is not fp32."""

    number: float
    dtype: str = FLOAT


@dataclass(frozen=True)
class Table:
    """`numbers[row][column]`: the matrix of a linear transform. Its axes are small and always written out, never looped over."""

    row: Axis
    column: Axis
    numbers: tuple[tuple[float, ...], ...]

    @property
    def axes(self) -> tuple[Axis, Axis]:
        return self.row, self.column

    @property
    def n_operations(self) -> dict[str, int]:
        """Additions, multiplications, and multiplications fused with an addition ("fma") in one application to a column of values."""
        result = {"add": 0, "multiply": 0, "fma": 0}
        for terms in self.sums():
            for place, (_, number) in enumerate(terms):
                if place and abs(number) == 1:
                    result["add"] += 1
                elif number != 1:
                    result["fma" if place else "multiply"] += 1
        return result

    def sums(self) -> Iterator[tuple[tuple[int, float], ...]]:
        """For each row its (column, number) other than zero; one that need not be multiplied first."""
        for row in self.numbers:
            yield tuple(sorted(((column, number) for column, number in enumerate(row) if number), key=lambda term: term[1] != 1))


# What a read gives where its indices leave the tensor: a number, the nearest element, or the one as far on the inner side of the first or last element.
Beyond: TypeAlias = Literal["value", "edge", "reflect"]


@dataclass(frozen=True)
class Read:
    """The element of `tensor` at `indices`; where they leave it, what `beyond` says: "value" is `outside`. Indices that are
    reflected leave the tensor by less than its size."""

    tensor: Tensor
    indices: tuple[Affine, ...]
    outside: float = 0.0
    beyond: Beyond = "value"

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(dict.fromkeys(axis for index in self.indices for axis in index.axes))

    @property
    def leaves(self) -> tuple[bool, ...]:
        """Whether the index of each dimension leaves the tensor."""
        return tuple(low < 0 or high >= size for (low, high), size in zip((i.range for i in self.indices), self.tensor.shape, strict=True))

    @property
    def padded(self) -> bool:
        """Whether some index leaves the tensor."""
        return any(self.leaves)

    def stride(self, axis: Axis) -> int:
        """By how many elements the address moves when `axis` moves by one."""
        return sum(index.factor(axis) * stride for index, stride in zip(self.indices, self.tensor.strides, strict=True))


TRANSCENDENTAL = ("exp", "exp2", "log", "tanh", "erf", "sigmoid", "pow")  # of FUNCTIONS, those that are many instructions

# Scalar functions a body may apply, with their number of arguments. `less` and `equal` give 1 or 0; `select` its second argument where the first is not 0.
# Integers wrap around. Casts: `ir.types`.
FUNCTIONS = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "max": 2, "min": 2, "pow": 2, "less": 2, "equal": 2, "select": 3,
    "abs": 1, "sqrt": 1, "exp": 1, "exp2": 1, "log": 1, "tanh": 1, "erf": 1, "sigmoid": 1,
    **dict.fromkeys(CASTS, 1),
}  # fmt: skip

# How terms are combined, and what none of them give.
REDUCTIONS = {"sum": ("add", 0.0), "max": ("max", -math.inf), "min": ("min", math.inf), "prod": ("mul", 1.0)}


@dataclass(frozen=True)
class Apply:
    """A function of `FUNCTIONS` applied to values."""

    function: str
    args: tuple[Value, ...]


Value: TypeAlias = Union[Constant, Table, Read, Apply]


def reads(value: Value) -> Iterator[Read]:
    """All reads below `value`, each distinct one once, in order."""
    seen: set[Read] = set()

    def walk(node: Value) -> Iterator[Read]:
        match node:
            case Read() if node not in seen:
                seen.add(node)
                yield node
            case Apply(_, args):
                for arg in args:
                    yield from walk(arg)

    yield from walk(value)


def map_reads(value: Value, change: Callable[[Read], Value]) -> Value:
    """`value` with every read replaced."""
    match value:
        case Read():
            return change(value)
        case Apply(function, args):
            return Apply(function, tuple(map_reads(arg, change) for arg in args))
    return value


def factors(value: Value) -> tuple[Value, ...]:
    """What is multiplied."""
    return tuple(factor for arg in value.args for factor in factors(arg)) if isinstance(value, Apply) and value.function == "mul" else (value,)


def n_applies(value: Value) -> int:
    """Arithmetic operations in one evaluation of `value`."""
    return 1 + sum(n_applies(arg) for arg in value.args) if isinstance(value, Apply) else 0


@dataclass(frozen=True)
class Stage:
    """`output[indices] = reduction of body over reduce axes`, for every point of the spatial axes.

    `reduction` is one of `REDUCTIONS`, or None where there are no reduce axes. The indices of all stages with the same output reach each of its elements
    exactly once; what they reach outside of it is dropped.

    A transform is a sum over the columns of tables alone, its body the product of the tables and one read; it is computed table by table.
    """

    output: Tensor
    indices: tuple[Affine, ...]
    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    body: Value
    reduction: str | None = None

    @property
    def write(self) -> Read:
        """The output access, in the form of a read."""
        return Read(self.output, self.indices)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Those of a transform, in the order in which they are applied; no other stage has any."""
        return tuple(factor for factor in factors(self.body) if isinstance(factor, Table))

    @cached_property
    def written_out(self) -> tuple[Axis, ...]:
        """The axes that are never looped over."""
        return tuple(axis for table in self.tables for axis in table.axes)

    @cached_property
    def looped(self) -> tuple[Axis, ...]:
        """The other spatial axes."""
        return tuple(axis for axis in self.spatial if axis not in self.written_out)

    @property
    def n_operations(self) -> dict[str, int]:
        """Operations of a transform at one position of the axes that are looped over, by kind as in `Table.n_operations`."""
        result = {"add": 0, "multiply": 0, "fma": 0}
        for place, table in enumerate(self.tables):
            others = [other.row for other in self.tables[:place]] + [other.column for other in self.tables[place + 1 :]]
            for kind, count in table.n_operations.items():
                result[kind] += count * math.prod(axis.extent for axis in others)
        return result

    @property
    def n_written(self) -> int:
        """Elements of the output that it fills."""
        return math.prod(self.output.shape) if self.write.padded else math.prod(axis.extent for axis in self.spatial)

    @property
    def n_points(self) -> int:
        return math.prod(axis.extent for axis in (*self.spatial, *self.reduce))

    @property
    def present(self) -> Fraction:
        """The share of its points at which the constants that it reads have an element."""
        of_constants = [pair for read in reads(self.body) if read.tensor.constant for pair in zip(read.indices, read.tensor.shape, strict=True)]
        return math.prod((index.share_below(size) for index, size in of_constants), start=Fraction(1))

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply-add counted as two."""
        if self.tables:
            count = self.n_operations
            return (count["add"] + count["multiply"] + 2 * count["fma"]) * math.prod(axis.extent for axis in self.looped)
        return self.n_points * (n_applies(self.body) + (self.reduction is not None))


@dataclass(frozen=True)
class Program:
    """`stages` in order of execution; the last one's output is the result, the others' are intermediate."""

    inputs: tuple[Tensor, ...]
    stages: tuple[Stage, ...]

    @property
    def output(self) -> Tensor:
        return self.stages[-1].output

    @property
    def flops(self) -> int:
        """Of the reductions alone, as the field counts them: elementwise stages are not counted where there is a reduction. So attention has the flops
        of its two products and two for each score, and softmax two for each element, whatever an exponential may cost; what bounds it is `n_bytes`.
        Taps that a kernel does not have are not counted, however many zeros loops over the phases of a transposed convolution multiply by."""
        heavy = [stage for stage in self.stages if stage.reduction is not None]
        return sum(int(stage.flops * stage.present * stage.n_written / math.prod(axis.extent for axis in stage.spatial)) for stage in heavy or self.stages)

    @property
    def between(self) -> tuple[Tensor, ...]:
        """What stages hand on to later ones."""
        return tuple(dict.fromkeys(stage.output for stage in self.stages if stage.output != self.output))

    @property
    def work(self) -> int:
        """What throughput counts: flops, or the elements of the result where data are only moved."""
        return self.flops or math.prod(self.output.shape)

    @property
    def n_bytes(self) -> int:
        """The result written once, and inputs read once: all of them, or of data that are only moved those elements that are."""
        inputs = sum(tensor.n_bytes for tensor in self.inputs)
        return self.output.n_bytes + (inputs if self.flops else min(inputs, self.output.n_bytes))


_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def constant_text(value: Constant) -> str:
    return f"{value.number:g}" if value.dtype == FLOAT else str(value.number)


def value_text(value: Value) -> str:
    match value:
        case Constant():
            return constant_text(value)
        case Table(row, column):
            return f"table[{row.name}, {column.name}]"
        case Read(tensor, indices):
            return f"{tensor.name}[{', '.join(affine_text(index) for index in indices)}]"
        case Apply("add" | "sub" | "mul" | "div" as name, (a, b)):
            return f"({value_text(a)} {_INFIX[name]} {value_text(b)})"
        case Apply(name, args):
            return f"{name}({', '.join(value_text(arg) for arg in args)})"
    raise TypeError(f"not a value: {value!r}")


def affine_text(index: Affine) -> str:
    terms = [axis.name if factor == 1 else f"{axis.name}*{factor}" for axis, factor in index.terms]
    if index.constant or not terms:
        terms.append(str(index.constant))
    return " + ".join(terms).replace("+ -", "- ")


def program_text(program: Program) -> str:
    """A line a stage, as in `c[m, n] = sum over k<512 of (a[m, k] * b[k, n])`."""
    lines = []
    for stage in program.stages:
        over = ", ".join(f"{axis.name}<{axis.extent}" for axis in stage.reduce)
        body = value_text(stage.body)
        right = f"{stage.reduction} over {over} of {body}" if stage.reduction else body
        where = ", ".join(f"{axis.name}<{axis.extent}" for axis in stage.spatial)
        lines.append(f"{value_text(stage.write)} = {right}  for {where}")
    return "\n".join(lines)
