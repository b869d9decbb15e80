"""Whole numbers and addresses of a nest, as LLVM IR or, where they are known while emitting, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir

from codegen.integers import ELEMENTS
from codegen.vectors import I64
from ir.errors import InternalError
from ir.expression import Expr, Op, Symbol, add, apply, mul, symbols_of
from ir.nest import Buffer

# Address of element = constant + sum of factor * atom; an atom is a symbol or an operation that is not linear.
Linear = tuple[int, dict[Expr, int]]
AddressKey = tuple[int, tuple[tuple[Expr, int], ...]]  # the same with the unrolled variables put in


class Addresses:
    """Emits at the end of the builder's block. `pointers`: of each buffer's first element; `values` maps symbols to numbers (unrolled) or LLVM integers."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.pointers: dict[str, ir.Value] = {}
        self.values: dict[Symbol, int | ir.Value] = {}
        self._known: dict[object, ir.Value] = {}  # expressions and addresses that dominate the current block
        self._linears: dict[object, Linear] = {}

    @contextmanager
    def in_block(self) -> Iterator[None]:
        """What is emitted inside is known there alone."""
        known, self._known = self._known, dict(self._known)
        yield
        self._known = known

    def flat(self, buffer: Buffer, indices: tuple[Expr, ...]) -> Linear:
        """The flat element index as a constant and factors of atoms."""
        key = (buffer.name, indices)
        found = self._linears.get(key)
        if found is None:
            found = self._linears[key] = linear(add(*(mul(index, stride) for index, stride in zip(indices, buffer.strides, strict=True))))
        return found

    def stride(self, buffer: Buffer, indices: tuple[Expr, ...], variable: Symbol) -> int | None:
        """Along the loop of this variable, in elements; None where the address is not linear in it."""
        _, atoms = self.flat(buffer, indices)
        if any(isinstance(atom, Op) and variable in symbols_of(atom) for atom in atoms):
            return None
        return atoms.get(variable, 0)

    def key(self, buffer: Buffer, indices: tuple[Expr, ...]) -> AddressKey:
        """(constant part, dynamic parts) of the flat index with the unrolled variables put in."""
        constant, atoms = self.flat(buffer, indices)
        dynamic: list[tuple[Expr, int]] = []
        for atom, factor in atoms.items():
            value = self.values.get(atom) if isinstance(atom, Symbol) else self.integer(atom)
            if isinstance(value, int):
                constant += factor * value
            else:
                dynamic.append((atom, factor))
        return constant, tuple(dynamic)

    def pointer(self, buffer: Buffer, indices: tuple[Expr, ...]) -> ir.Value:
        constant, dynamic = self.key(buffer, indices)
        key = (buffer.name, dynamic)
        base = self._known.get(key)
        if base is None:
            base = self.pointers[buffer.name]
            offset: ir.Value | None = None
            for atom, factor in dynamic:
                value = self.integer(atom)
                term = value if factor == 1 else self.builder.mul(value, I64(factor), flags=("nsw",))
                offset = term if offset is None else self.builder.add(offset, term, flags=("nsw",))
            if offset is not None:
                base = self.builder.gep(base, [offset], source_etype=ELEMENTS[buffer.dtype])
            if not any(isinstance(atom, Op) for atom, _ in dynamic):
                self._known[key] = base
        return base if constant == 0 else self.builder.gep(base, [I64(constant)], source_etype=ELEMENTS[buffer.dtype])

    def integer(self, expression: Expr) -> int | ir.Value:
        """The value of an integer expression: a number if it is known while emitting."""
        match expression:
            case int():
                return expression
            case Symbol():
                return self.values[expression]
            case Op(name, args):
                return self._operation(name, [self.integer(arg) for arg in args])
        raise InternalError(f"not an expression: {expression!r}")

    def _operation(self, name: str, args: list[int | ir.Value]) -> int | ir.Value:
        if all(isinstance(arg, int) for arg in args):
            return apply(name, *args)
        key = (name, *(arg if isinstance(arg, int) else id(arg) for arg in args))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _EMIT[name](self.builder, *(I64(arg) if isinstance(arg, int) else arg for arg in args))
        return found


def linear(expression: Expr) -> Linear:
    """`expression` as a constant and factors of atoms."""
    match expression:
        case int():
            return expression, {}
        case Op("add" | "sub" as name, (a, b)):
            (left, left_atoms), (right, right_atoms) = linear(a), linear(b)
            sign = 1 if name == "add" else -1
            atoms = dict(left_atoms)
            for atom, factor in right_atoms.items():
                atoms[atom] = atoms.get(atom, 0) + sign * factor
            return left + sign * right, {atom: factor for atom, factor in atoms.items() if factor}
        case Op("mul", (a, int(factor))):
            constant, atoms = linear(a)
            return constant * factor, {atom: old * factor for atom, old in atoms.items()}
    return 0, {expression: 1}


def _comparison(sign: str) -> Callable[..., ir.Value]:
    return lambda builder, a, b: builder.zext(builder.icmp_signed(sign, a, b), I64)


def _select(sign: str) -> Callable[..., ir.Value]:
    return lambda builder, a, b: builder.select(builder.icmp_signed(sign, a, b), a, b)


# All indices in a nest are non-negative where they are divided, so unsigned division is exact and cheaper.
_EMIT: dict[str, Callable[..., ir.Value]] = {
    "add": lambda builder, a, b: builder.add(a, b, flags=("nsw",)),
    "sub": lambda builder, a, b: builder.sub(a, b, flags=("nsw",)),
    "mul": lambda builder, a, b: builder.mul(a, b, flags=("nsw",)),
    "floor_div": lambda builder, a, b: builder.udiv(a, b),
    "ceil_div": lambda builder, a, b: builder.udiv(builder.add(a, builder.sub(b, I64(1))), b),
    "mod": lambda builder, a, b: builder.urem(a, b),
    "min": _select("<"),
    "max": _select(">"),
    "less": _comparison("<"),
    "equal": _comparison("=="),
    "both": lambda builder, a, b: builder.and_(a, b),
}
