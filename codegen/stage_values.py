"""What a stage computes, as values of its nest: operands where they lie, the body, and the epilogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from codegen.stage_scope import Place, Position, StageScope
from ir.errors import InternalError
from ir.expression import Expr, Op, Symbol, add, mul, substitute, symbol, symbols_of
from ir.nest import Call, Load, NestValue, Statement, Store
from ir.program import Apply, Axis, Constant, Read, Value


class StageValues:
    """Values at a place of the stage's loops."""

    def __init__(self, scope: StageScope) -> None:
        self.scope, self.tiled, self.stage = scope, scope.tiled, scope.stage

    def absolute(self, place: Place, here: Position) -> dict[Axis, Expr]:
        """Positions of all axes; `here`: those of the reduce axes within their slice."""
        return {**place.absolute, **{axis: add(place.absolute.get(axis, 0), here.get(axis, 0)) for axis in self.stage.reduce}}

    def value(self, value: Value, load: Callable[[Read], NestValue]) -> NestValue:
        """`value` inside the register tile."""
        match value:
            case Constant():
                return value
            case Apply(function, args):
                return Call(function, tuple(self.value(arg, load) for arg in args))
            case Read():
                return load(value)
        raise InternalError(f"cannot lower {value!r}")

    def load(self, read: Read, place: Place, here: Position, straight: Symbol | None = None, *, inside: bool = False) -> NestValue:
        """`here`: positions of the reduce axes within their slice; indices that move with `straight` lie inside, or all do."""
        operand = self.scope.operands[read]
        absolute = self.absolute(place, here)
        level = self.scope.level(operand)
        if level == "none":
            if read.padded and not inside:
                return self.load_inside(read, replace(place, absolute=absolute), straight)
            return Load(self.scope.memory(read.tensor), self.scope.at(read.tensor, read.indices, absolute, place.in_chunk))
        spatial = {"root": place.absolute, "chunk": place.in_chunk}.get(level, place.in_block)
        relative = {**spatial, **{axis: here.get(axis, 0) if level == "slice" else absolute[axis] for axis in self.stage.reduce}}
        indices = []
        for dimension in self.scope.dimensions(operand):
            axis = dimension.axes[0]
            position = relative[axis]
            if dimension.kind == "tiles":
                first = substitute(position, {symbol(f"{self.scope.prefix}{axis.name}3"): 0})
                indices.append(_divide_exactly(first, self.scope.size(axis, 0)))
            elif dimension.kind == "register":
                indices.append(symbol(f"{self.scope.prefix}{axis.name}3"))
            elif dimension.kind == "reduce":
                indices.append(position)
            else:
                index = read.indices[dimension.source]
                indices.append(add(*(mul(relative[a], index.factor(a)) for a in dimension.axes)))
        return Load(self.scope.packed[read], tuple(indices))

    def load_inside(self, read: Read, place: Place, straight: Symbol | None = None) -> NestValue:
        """The element of the tensor itself, or what is outside of it; indices that move with `straight` lie inside."""
        indices = tuple(index.at(place.absolute) for index in read.indices)
        if read.beyond != "value":
            folded = (
                index if straight in symbols_of(index) else self.scope.folded(index, size, read.beyond)
                for index, size in zip(indices, read.tensor.shape, strict=True)
            )
            return Load(self.scope.memory(read.tensor), tuple(folded))
        if (guard := self.scope.inside(read, indices)) == 0:
            return Constant(read.outside, read.tensor.dtype)
        return Load(self.scope.memory(read.tensor), self.scope.at(read.tensor, read.indices, place.absolute, place.in_chunk), guard, read.outside)

    def with_epilogue(self, total: NestValue, place: Place) -> NestValue:
        """The epilogue's value for a finished element of the reduction."""
        epilogue = self.tiled.epilogue
        if epilogue is None:
            return total

        def value(node: Value) -> NestValue:
            match node:
                case Read(tensor):
                    if tensor == self.stage.output:
                        return total
                    return self.load_inside(node, place)
                case Apply(function, args):
                    return Call(function, tuple(value(arg) for arg in args))
                case Constant():
                    return node
            raise InternalError(f"cannot lower {node!r}")

        return value(epilogue.body)

    def kept(self, value: NestValue, place: Place, here: Position) -> list[Statement]:
        """The store of a value of the body, if the stage keeps them; `here`: positions of the reduce axes within their slice."""
        keeps = self.tiled.keeps
        if keeps is None:
            return []
        absolute = self.absolute(place, here)
        return [Store(self.scope.memory(keeps.tensor), self.scope.at(keeps.tensor, keeps.indices, absolute, place.in_chunk), value)]


def _divide_exactly(expression: Expr, size: int) -> Expr:
    """`expression / size` for a sum of multiples of `size`."""
    match expression:
        case int() if expression % size == 0:
            return expression // size
        case Op("add", (a, b)):
            return add(_divide_exactly(a, size), _divide_exactly(b, size))
        case Op("mul", (a, int(factor))) if factor % size == 0:
            return mul(a, factor // size)
        case _ if size == 1:
            return expression
    raise InternalError(f"{expression} is no multiple of {size}")
