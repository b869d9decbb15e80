"""Loop nests: programs with every loop, buffer and index written out; what `codegen.lower` makes and `codegen.emit` reads.

Loops are serial, parallel (shared by the threads; only at the outermost level), unrolled, or vector (one operation for all
iterations, in vectors of the target's lanes). Buffers of scope "register" are indexed by unrolled and vector loops alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, Union

from ir.expression import Expr, Symbol, text
from ir.program import CASTS, FLOAT, Array, Constant, constant_text


@dataclass(frozen=True)
class Buffer(Array):
    """Memory in row-major order. Scopes: "input" and "output" belong to the caller, "prepared" holds a constant operand packed
    beforehand, "shared" is workspace of the whole kernel, "private" of one thread, "register" is a register tile, always of fp32.

    `whole_vectors`: rows are padded to whole vectors, so a vector may be read beyond the loop's extent; in a register tile, what is there may be anything.
    """

    name: str
    shape: tuple[int, ...]
    scope: str
    whole_vectors: bool = False
    dtype: str = FLOAT


@dataclass(frozen=True)
class Load:
    """An element; `outside` where `guard` is 0 (then nothing is read)."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    guard: Expr = 1
    outside: float = 0.0


@dataclass(frozen=True)
class Call:
    """A function of `ir.program.FUNCTIONS` applied to values."""

    function: str
    args: tuple[NestValue, ...]


@dataclass(frozen=True)
class Across:
    """All elements along the last dimension of a register tile, at `indices` of the others, combined by `reduction`."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    reduction: str


@dataclass(frozen=True)
class Guarded:
    """A value; `outside` where `guard` is 0."""

    value: NestValue
    guard: Expr
    outside: float


NestValue: TypeAlias = Union[Constant, Load, Call, Across, Guarded]


@dataclass(frozen=True)
class Store:
    """`buffer[indices] = value`, or combined with what is there by `reduction`, one of `ir.program.REDUCTIONS`; nothing where `guard` is 0.

    `streamed`: whole vectors go past the caches, since nobody reads them soon."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    value: NestValue
    reduction: str | None = None
    guard: Expr = 1
    streamed: bool = False


@dataclass(frozen=True)
class Turn:
    """`target[..., j, i] = source[..., i, j]`, between register tiles whose last two dimensions are whole vectors."""

    source: Buffer
    target: Buffer


@dataclass(frozen=True)
class Prefetch:
    """The cache line of an element is brought into the cache of this level, 1 or 2, before it is needed, to be read or to be written. Nothing else changes,
    so the indices may lie beyond the buffer."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    level: int
    writes: bool = False


@dataclass(frozen=True)
class For:
    """`body` for 0 <= variable < extent. `kind` is "serial", "parallel", "unrolled" or "vector"; the last two have constant extents."""

    variable: Symbol
    extent: Expr
    body: tuple[Statement, ...]
    kind: str = "serial"


@dataclass(frozen=True)
class If:
    condition: Expr
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...] = ()


Statement: TypeAlias = Union[Store, Turn, Prefetch, For, If]


@dataclass(frozen=True)
class Nest:
    """A function over its buffers: `body` in order, parallel loops at the outermost level only."""

    name: str
    buffers: tuple[Buffer, ...]
    body: tuple[Statement, ...]

    def in_scope(self, scope: str) -> tuple[Buffer, ...]:
        return tuple(buffer for buffer in self.buffers if buffer.scope == scope)


def type_of(value: NestValue) -> str:
    """As `ir.types.type_of`."""
    match value:
        case Constant(dtype=dtype):
            return dtype
        case Load(buffer) | Across(buffer):
            return buffer.dtype
        case Call(function, args):
            return CASTS.get(function) or type_of(args[-1])
        case Guarded(guarded):
            return type_of(guarded)
    raise TypeError(f"not a value: {value!r}")


def loads(value: NestValue) -> Iterator[Load]:
    match value:
        case Load():
            yield value
        case Call(_, args):
            for arg in args:
                yield from loads(arg)
        case Guarded(guarded):
            yield from loads(guarded)


# --- printer --------------------------------------------------------------------------------------------------------

_WORDS = {"serial": "for", "parallel": "parallel for", "unrolled": "unroll", "vector": "vector"}
_TYPES = {FLOAT: "fp32"}
_ASSIGN = {None: "=", "sum": "+=", "max": "max=", "min": "min=", "prod": "*="}


def nest_text(nest: Nest) -> str:
    """The nest as indented pseudo-code, its buffers first."""
    lines = [f"{nest.name}:"]
    memory = [buffer for buffer in nest.buffers if buffer.scope != "register"]
    lines += [f"  {buffer.scope} {buffer.name}: {_TYPES.get(buffer.dtype, buffer.dtype)}{list(buffer.shape)}" for buffer in memory]
    _print(nest.body, 1, lines)
    return "\n".join(lines)


def _print(body: Sequence[Statement], depth: int, lines: list[str]) -> None:
    indent = "  " * depth
    for statement in body:
        match statement:
            case For(variable, extent, inner, kind):
                lines.append(f"{indent}{_WORDS[kind]} {variable.name} < {text(extent)}:")
                _print(inner, depth + 1, lines)
            case If(condition, then, otherwise):
                lines.append(f"{indent}if {text(condition)}:")
                _print(then, depth + 1, lines)
                if otherwise:
                    lines.append(f"{indent}else:")
                    _print(otherwise, depth + 1, lines)
            case Prefetch(buffer, indices, level, writes):
                lines.append(f"{indent}prefetch {_place(buffer, indices)} into L{level}{' to write' if writes else ''}")
            case Turn(source, target):
                lines.append(f"{indent}{target.name} = {source.name} turned over")
            case Store(buffer, indices, value, reduction, guard, streamed):
                where = "" if guard == 1 else f" where {text(guard)}"
                lines.append(f"{indent}{'stream ' if streamed else ''}{_place(buffer, indices)} {_ASSIGN[reduction]} {_value_text(value)}{where}")


def _place(buffer: Buffer, indices: Sequence[Expr]) -> str:
    return f"{buffer.name}[{', '.join(text(index) for index in indices)}]"


def _value_text(value: NestValue) -> str:
    match value:
        case Constant():
            return constant_text(value)
        case Load(buffer, indices, guard, outside):
            place = _place(buffer, indices)
            return place if guard == 1 else _guarded_text(place, guard, outside)
        case Guarded(guarded, guard, outside):
            return _guarded_text(_value_text(guarded), guard, outside)
        case Across(buffer, indices, reduction):
            return f"{reduction} across {_place(buffer, indices)}"
        case Call("add" | "sub" | "mul" | "div" as name, (a, b)):
            sign = {"add": "+", "sub": "-", "mul": "*", "div": "/"}[name]
            return f"({_value_text(a)} {sign} {_value_text(b)})"
        case Call(name, args):
            return f"{name}({', '.join(_value_text(arg) for arg in args)})"
    raise TypeError(f"not a value: {value!r}")


def _guarded_text(value: str, guard: Expr, outside: float) -> str:
    return f"({value} where {text(guard)} else {outside:g})"
