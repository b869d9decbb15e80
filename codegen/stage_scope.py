"""What the nests of one stage share: names, sizes, memory, and what must hold of an index.

Notation: `base[axis]` is the position at which the tile of the enclosing loops begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ir.errors import InternalError
from ir.expression import Expr, Symbol, add, both, ceil_div, floor_div, interval, less, maximum, minimum, mod, mul, sub, symbol, symbols_of
from ir.nest import Buffer, For, If, Statement, Turn
from ir.program import Affine, Axis, Read, Tensor
from schedule.sketch import EPILOGUE_LEVELS, PACK_LEVELS, Dimension, Operand, TiledStage
from schedule.target import Target

Position = Mapping[Axis, Expr]
Key = TypeVar("Key")
MAX_VECTOR_LOOP = 4  # vectors of a vector loop written out one by one when copying; longer ones become a loop over vectors


@dataclass(frozen=True)
class Loop:
    """A loop of a band: it takes the `number`-th of at most `count` tiles of `size` positions along the axis."""

    band: str
    axis: Axis
    number: Expr
    count: int
    size: int


# Whether the loops of a band move the absolute position, the one in the chunk and the one in the block. Positions inside of a slice are told apart.
MOVES = {
    "parallel": (True, False, False),
    "outer": (True, True, False),
    "slice": (True, False, False),
    "block": (True, True, True),
    "inner": (False, False, False),
}


@dataclass(frozen=True)
class Place:
    """Where the nest stands: `base` in absolute positions, the same relative to the start of the chunk and of the block, and the loops around, outermost
    first."""

    absolute: dict[Axis, Expr] = field(default_factory=dict)
    in_chunk: dict[Axis, Expr] = field(default_factory=dict)
    in_block: dict[Axis, Expr] = field(default_factory=dict)
    loops: tuple[Loop, ...] = ()

    def moved(self, axis: Axis, by: Expr, moves: tuple[bool, bool, bool] = (True, True, True)) -> Place:
        positions = (self.absolute, self.in_chunk, self.in_block)
        shifted = [{**each, axis: add(each.get(axis, 0), by)} if shifts else each for each, shifts in zip(positions, moves, strict=True)]
        return Place(shifted[0], shifted[1], shifted[2], self.loops)

    def inside(self, loop: Loop) -> Place:
        moved = self.moved(loop.axis, mul(loop.number, loop.size), MOVES[loop.band])
        return replace(moved, loops=(*self.loops, loop))


class StageScope:
    """`between`: the memory of intermediate tensors by name; `fused`: the axes of the parallel loop that the stage shares with others, if it does; `prefix`
    keeps names of several stages apart. `buffers` are all that the stage's nests use, `ranges` the values of each loop variable, `packed` the packed copies."""

    def __init__(self, tiled: TiledStage, target: Target, between: Mapping[str, Buffer], fused: tuple[Axis, ...], prefix: str) -> None:
        self.tiled, self.stage, self.target, self.between, self.fused, self.prefix = tiled, tiled.stage, target, between, fused, prefix
        self.buffers: dict[str, Buffer] = {}
        self.ranges: dict[Symbol, tuple[int, int]] = {}
        self.vector_variables: set[Symbol] = set()
        self.output = self.memory(tiled.result, "output")
        self.operands = {operand.read: operand for operand in tiled.operands}
        self.packed = {operand.read: self._packed_buffer(operand) for operand in tiled.operands if operand.level != 0}

    def memory(self, tensor: Tensor, scope: str = "input") -> Buffer:
        return self.buffers.setdefault(tensor.name, self.between.get(tensor.name) or Buffer(tensor.name, tensor.shape, scope, dtype=tensor.dtype))

    def at(self, tensor: Tensor, indices: Sequence[Affine], absolute: Position, in_chunk: Position) -> tuple[Expr, ...]:
        """Where in its memory an element is: a thread's own begins with the chunk."""
        if not self.tiled.in_chunks(tensor):
            return tuple(index.at(absolute) for index in indices)
        return tuple(index.at(in_chunk if index.axes and index.axes[0] in self.fused else absolute) for index in indices)

    def variable(self, name: str, extent: Expr) -> Symbol:
        variable = symbol(self.prefix + name)
        self.ranges[variable] = (0, max(0, self.most(extent) - 1))
        return variable

    def most(self, extent: Expr) -> int:
        """The largest value that the extent of a loop takes."""
        return interval(extent, self.ranges)[1]

    def size(self, axis: Axis, level: int) -> int:
        size = self.tiled.tilings[axis].sizes[level]
        assert isinstance(size, int)
        return size

    def _packed_buffer(self, operand: Operand) -> Buffer:
        scope = "prepared" if operand.prepared else "shared" if self.level(operand) == "root" else "private"
        dimensions = self.dimensions(operand)
        shape = tuple(as_number(self.tiled.packed_extent(operand, dimension)) for dimension in dimensions)
        name = f"{self.prefix}{operand.read.tensor.name}_packed"
        in_tiles = bool(dimensions) and dimensions[-1].kind == "register" and dimensions[-1].axes == (self.tiled.vector,)
        whole = in_tiles and shape[-1] % self.target.lanes == 0
        buffer = Buffer(name, shape, scope, whole, operand.read.tensor.dtype)
        if name in self.buffers and self.buffers[name] != buffer:
            raise InternalError(f"two packings of {operand.read.tensor.name} in one stage")
        self.buffers[name] = buffer
        return buffer

    def level(self, operand: Operand) -> str:
        return PACK_LEVELS[as_number(operand.level)]

    def dimensions(self, operand: Operand) -> tuple[Dimension, ...]:
        return operand.dimensions(as_number(operand.layout), self.tiled.vector, self.tiled.ordered("inner"))

    def tiles_within(self, axis: Axis, place: Place, outer: int, inner: int) -> Expr:
        """How many tiles of the inner size lie in the tile of the outer size that begins at `place`."""
        whole, part = min(self.size(axis, outer), round_up(axis.extent, self.size(axis, inner))), self.size(axis, inner)
        count = whole // part
        if count == 1 or axis.extent % whole == 0 or whole >= axis.extent:
            return count
        return minimum(count, ceil_div(sub(axis.extent, place.absolute.get(axis, 0)), part))

    @property
    def in_registers(self) -> bool:
        """Whether the epilogue is applied before a register tile is stored."""
        return EPILOGUE_LEVELS[as_number(self.tiled.epilogue_level)] == "register"

    @property
    def streams(self) -> bool:
        """Whether the output goes past the caches."""
        return bool(as_number(self.tiled.streams))

    def turn(self, name: str, sizes: Mapping[str, int], fill: Callable[[Buffer, Sequence[Symbol]], list[Statement]]) -> tuple[Buffer, list[Statement]]:
        """A register tile with its last two dimensions turned over, and the statements that make it: `fill` says what an element of it is, and is run in
        vectors along the last dimension. `sizes`: of each dimension, by the name of its variable."""
        *others, n_rows, n_columns = sizes.values()
        whole = tuple(round_up(size, self.target.lanes) for size in (n_rows, n_columns))
        rows = Buffer(f"{self.prefix}{name}_rows", (*others, *whole), "register", whole_vectors=True)
        columns = Buffer(f"{self.prefix}{name}_columns", (*others, *whole[::-1]), "register", whole_vectors=True)
        variables = [self.variable(each, size) for each, size in sizes.items()]
        self.vector_variables.add(variables[-1])
        loops = tuple(fill(rows, variables))
        for variable, size in reversed(list(zip(variables, sizes.values(), strict=True))):
            loops = (For(variable, size, loops, "vector" if variable == variables[-1] else "unrolled"),)
        return columns, [*loops, Turn(rows, columns)]

    def guards(self, indices: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
        """What must hold so that the indices lie inside the tensor; nothing where that is certain."""
        guards: list[Expr] = []
        for index, size in zip(indices, shape, strict=True):
            low, high = interval(index, self.ranges)
            if low < 0:
                guards.append(less(-1, index))
            if high >= size:
                guards.append(less(index, size))
        return guards

    def mask(self, read: Read, indices: Sequence[Expr], everywhere: bool) -> Expr:
        """Whether the indices lie inside the tensor, as far as it differs between the lanes of a vector, or `everywhere`."""
        return all_of(guard for guard in self.guards(indices, read.tensor.shape) if everywhere or symbols_of(guard) & self.vector_variables)

    def inside(self, access: Read, indices: Sequence[Expr]) -> Expr:
        """Whether the indices lie inside the tensor."""
        where = [(index, size) for index, size, leaves in zip(indices, access.tensor.shape, access.leaves, strict=True) if leaves]
        return all_of(self.guards([index for index, _ in where], [size for _, size in where]))

    def folded(self, index: Expr, size: int, beyond: str) -> Expr:
        """The index of the element that stands for one beyond the tensor."""
        low, high = interval(index, self.ranges)
        if low < 0:
            index = maximum(index, 0 if beyond == "edge" else mul(index, -1))
        if high >= size:
            index = minimum(index, size - 1 if beyond == "edge" else sub(2 * (size - 1), index))
        return index

    def vector_loop(self, name: str, extent: Expr, body: Callable[[Expr], list[Statement]]) -> list[Statement]:
        """A loop of any length in vectors, and what is left over one element at a time if the length is not constant."""
        lanes = self.target.lanes
        if isinstance(extent, int) and extent <= MAX_VECTOR_LOOP * lanes:
            variable = self.variable(name, extent)
            self.vector_variables.add(variable)
            return [hoisted(For(variable, extent, tuple(body(variable)), "vector"))]
        outer, inner = self.variable(f"{name}o", floor_div(extent, lanes)), self.variable(f"{name}i", lanes)
        self.vector_variables.add(inner)
        result: list[Statement] = [
            hoisted(For(outer, floor_div(extent, lanes), (hoisted(For(inner, lanes, tuple(body(add(mul(outer, lanes), inner))), "vector")),))),
        ]
        left = mod(extent, lanes)
        if left != 0:
            variable = self.variable(f"{name}r", left)
            kind = "vector" if isinstance(left, int) else "serial"
            if kind == "vector":
                self.vector_variables.add(variable)
            result.append(hoisted(For(variable, left, tuple(body(add(mul(floor_div(extent, lanes), lanes), variable))), kind)))
        return result

    def by_lanes(self, name: str, extent: int, body: Callable[[Expr, int], list[Statement]]) -> list[Statement]:
        """`body` of the first position and the number of those in each whole vector, and in what is left over."""
        lanes = self.target.lanes
        n_whole, left = divmod(extent, lanes)
        variable = self.variable(name, n_whole)
        whole: list[Statement] = [For(variable, n_whole, tuple(body(mul(variable, lanes), lanes)))] if n_whole else []
        return [*whole, *(body(n_whole * lanes, left) if left else [])]


def as_number(expression: Expr) -> int:
    """Of what no choice is left in."""
    if not isinstance(expression, int):
        raise InternalError(f"{expression} is still open after the row was substituted")
    return expression


def all_of(conditions: Iterable[Expr]) -> Expr:
    """Whether all of them hold."""
    result: Expr = 1
    for condition in conditions:
        result = both(result, condition)
    return result


def decode(variable: Expr, counts: Sequence[tuple[Key, int]]) -> list[tuple[Key, Expr]]:
    """Digits of a fused index, first the most significant."""
    result: list[tuple[Key, Expr]] = []
    inner = math.prod(count for _, count in counts)
    outermost = True
    for key, count in counts:
        inner //= count
        digit = floor_div(variable, inner)
        if count == 1:
            digit = 0
        elif not outermost:
            digit = mod(digit, count)
        outermost = outermost and count == 1
        result.append((key, digit))
    return result


def hoisted(loop: For) -> For | If:
    """A branch that is the whole body of a loop and does not depend on it, moved around the loop."""
    match loop.body:
        case (If(condition, then, otherwise),) if loop.variable not in symbols_of(condition):
            return If(condition, (hoisted(replace(loop, body=then)),), (hoisted(replace(loop, body=otherwise)),) if otherwise else ())
    return loop


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
