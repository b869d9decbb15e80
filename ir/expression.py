"""Integer expressions over named symbols, shared by sketches (symbols are choices) and loop nests (symbols are loop variables).

Equal expressions are the same object (but for plain numbers), so `is` is equality and work that several roots share is found for
free. Divisors are positive.

Notation: n rows (candidates), s symbols.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Symbol:
    """An unknown integer: a choice of the search, or a loop variable. Make it with `symbol`."""

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(eq=False, slots=True, weakref_slot=True)  # `frozen` would make it four times slower to make, and there are many
class Op:
    """One operation of `OPERATIONS` on `args`; `table` is the constant operand of `take`. Made by the functions below, and never changed."""

    name: str
    args: tuple[Expr, ...]
    table: tuple[int, ...] = field(default=())

    def __repr__(self) -> str:
        return text(self)


Expr: TypeAlias = Union[int, Symbol, Op]

_symbols: weakref.WeakValueDictionary[str, Symbol] = weakref.WeakValueDictionary()
_making = threading.RLock()  # what is looked up by identity must not be made twice, by two threads at once


def symbol(name: str) -> Symbol:
    """The symbol of this name; the same object for the same name."""
    found = _symbols.get(name)
    if found is None:
        with _making:
            found = _symbols.setdefault(name, Symbol(name))
    return found


class _Operations(dict[tuple[object, ...], "weakref.ref[Op]"]):
    """By key. Those that nothing refers to any more stay until there are many: to forget each at once, as a `WeakValueDictionary` does, takes longer."""

    LEAST_TO_SWEEP = 1 << 14  # operations; they take some 6 MB
    sweep_at = LEAST_TO_SWEEP

    def sweep(self) -> None:
        """Forget those that are gone."""
        with _making:
            known = list(self.items())
            while known:  # the last made first: its key refers to its arguments
                key, operation = known.pop()
                if operation() is None:
                    del self[key]
            self.sweep_at = max(self.LEAST_TO_SWEEP, 2 * len(self))


_operations = _Operations()


def _op(name: str, *args: Expr, table: tuple[int, ...] = ()) -> Op:
    key = (name, args, table)
    known = _operations.get(key)
    return (known and known()) or _made(key, Op(name, args, table))


def _made(key: tuple[object, ...], new: Op) -> Op:
    """`new`, or what another thread has made meanwhile."""
    mine = weakref.ref(new)
    if _operations.setdefault(key, mine) is mine:
        if len(_operations) > _operations.sweep_at:
            _operations.sweep()
        return new
    with _making:  # what was known is gone, or just made
        known = _operations.get(key)
        found = known and known()
        if found is None:
            _operations[key] = mine
    return found or new


# --- operations -----------------------------------------------------------------------------------------------------
# Each has a scalar meaning (exact Python integers) and a numpy meaning (float64, exact below 2^53).

_SCALAR: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floor_div": lambda a, b: a // b,
    "ceil_div": lambda a, b: -(-a // b),
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
    "less": lambda a, b: int(a < b),
    "equal": lambda a, b: int(a == b),
    "both": lambda a, b: int(bool(a) and bool(b)),
    "where": lambda c, a, b: a if c else b,
}


def _floor_div(a: Floats, b: Floats, out: Floats) -> None:
    np.floor(np.divide(a, b, out=out), out=out)


def _ceil_div(a: Floats, b: Floats, out: Floats) -> None:
    np.ceil(np.divide(a, b, out=out), out=out)


def _mod(a: Floats, b: Floats, out: Floats) -> None:
    """`np.mod` is six times slower, and below 2^53 no more exact."""
    _floor_div(a, b, out)
    np.subtract(a, np.multiply(out, b, out=out), out=out)


def _where(condition: Floats, a: Floats, b: Floats, out: Floats) -> None:
    """`np.where` branches at every element: four times slower where the condition changes from row to row."""
    np.add(np.multiply(np.subtract(a, b, out=out), condition != 0, out=out), b, out=out)


def _where_truth(condition: Floats, a: Floats, b: Floats, out: Floats) -> None:
    """The same for a condition that is 0 or 1."""
    np.add(np.multiply(np.subtract(a, b, out=out), condition, out=out), b, out=out)


def _take(index: Floats, table: Floats, out: Floats) -> None:
    out[...] = table[index.astype(np.intp)]


# Each writes its result to `out`, which is none of its arguments.
_NUMPY: dict[str, Callable[..., object]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "floor_div": _floor_div,
    "ceil_div": _ceil_div,
    "mod": _mod,
    "min": np.minimum,
    "max": np.maximum,
    "less": np.less,
    "equal": np.equal,
    "both": np.multiply,
    "where": _where,
    "take": _take,
}

OPERATIONS = tuple(_NUMPY)


def apply(name: str, *args: int) -> int:
    """The operation of this name on whole numbers."""
    return _SCALAR[name](*args)


def _fold(name: str, a: Expr, b: Expr) -> Expr:
    return _SCALAR[name](a, b) if isinstance(a, int) and isinstance(b, int) else _op(name, a, b)


def add(*args: Expr) -> Expr:
    """Sum; constants are collected at the end."""
    constant, total = 0, None
    for arg in args:
        if isinstance(arg, Op) and arg.name == "add" and isinstance(arg.args[1], int):
            constant += arg.args[1]
            arg = arg.args[0]
        if isinstance(arg, int):
            constant += arg
        else:
            total = arg if total is None else _op("add", total, arg)
    if total is None:
        return constant
    return total if constant == 0 else _op("add", total, constant)


def sub(a: Expr, b: Expr) -> Expr:
    if isinstance(b, int):
        return add(a, -b)
    return 0 if a is b else _fold("sub", a, b)


def mul(*args: Expr) -> Expr:
    """Product; constants are collected at the end."""
    constant, product = 1, None
    for arg in args:
        if isinstance(arg, Op) and arg.name == "mul" and isinstance(arg.args[1], int):
            constant *= arg.args[1]
            arg = arg.args[0]
        if isinstance(arg, int):
            constant *= arg
        else:
            product = arg if product is None else _op("mul", product, arg)
    if product is None or constant == 0:
        return constant
    return product if constant == 1 else _op("mul", product, constant)


def floor_div(a: Expr, b: Expr) -> Expr:
    return a if b == 1 else _fold("floor_div", a, b)


def ceil_div(a: Expr, b: Expr) -> Expr:
    if b == 1:
        return a
    return 1 if a is b else _fold("ceil_div", a, b)


def mod(a: Expr, b: Expr) -> Expr:
    return 0 if b == 1 else _fold("mod", a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    return a if a is b else _fold("min", a, b)


def maximum(a: Expr, b: Expr) -> Expr:
    return a if a is b else _fold("max", a, b)


def less(a: Expr, b: Expr) -> Expr:
    return _fold("less", a, b)


def equal(a: Expr, b: Expr) -> Expr:
    return 1 if a is b else _fold("equal", a, b)


def both(a: Expr, b: Expr) -> Expr:
    """1 where both are non-zero (both are 0 or 1)."""
    if isinstance(a, int):
        return b if a else 0
    if isinstance(b, int):
        return a if b else 0
    return _op("both", a, b)


def where(condition: Expr, a: Expr, b: Expr) -> Expr:
    """`a` where `condition` is not 0, else `b`."""
    if isinstance(condition, int):
        return a if condition else b
    return a if a == b else _op("where", condition, a, b)


def take(index: Expr, table: Sequence[int]) -> Expr:
    """`table[index]`."""
    if isinstance(index, int):
        return table[index]
    return table[0] if len(set(table)) == 1 else _op("take", index, table=tuple(table))


_BUILD: dict[str, Callable[..., Expr]] = {
    "add": add, "sub": sub, "mul": mul, "floor_div": floor_div, "ceil_div": ceil_div, "mod": mod, "min": minimum,
    "max": maximum, "less": less, "equal": equal, "both": both, "where": where,
}  # fmt: skip


# --- readings -------------------------------------------------------------------------------------------------------


def post_order(roots: Iterable[Expr]) -> Iterator[Expr]:
    """Every node below `roots` once, arguments before their users."""
    seen: set[Expr] = set()
    stack: list[Expr | None] = list(roots)
    while stack:
        node = stack.pop()
        if node is None:  # the arguments of the operation below it are done
            yield stack.pop()  # type: ignore[misc]  # which is none of the marks
        elif node not in seen:
            seen.add(node)
            if isinstance(node, Op):
                stack += (node, None, *node.args)
            else:
                yield node


def symbols_of(*roots: Expr) -> frozenset[Symbol]:
    return frozenset(node for node in post_order(roots) if isinstance(node, Symbol))


def substitute(root: Expr, values: Mapping[Symbol, Expr]) -> Expr:
    """`root` with symbols replaced, folded and simplified again."""
    match root:
        case int():
            return root
        case Symbol():
            return values.get(root, root)
        case Op("take", (index,), table):
            return take(substitute(index, values), table)
        case Op(name, args):
            return _BUILD[name](*(substitute(arg, values) for arg in args))
    raise TypeError(f"not an expression: {root!r}")


def value(root: Expr, values: Mapping[Symbol, int]) -> int:
    """The integer that `root` stands for when every symbol is known."""
    result = substitute(root, values)
    if not isinstance(result, int):
        raise ValueError(f"{result} still depends on {sorted(s.name for s in symbols_of(result))}")
    return result


BLOCK_ROWS = 4096  # rows evaluated at a time: memory stays bounded, and more would not be faster


class Evaluator:
    """Evaluates many expressions over a whole population; the order of evaluation, and where each result is kept, is found once.

    The result of a call on `X` (n, s), columns as `symbols`, is (n, number of roots) float64.
    """

    def __init__(self, roots: Sequence[Expr], symbols: Sequence[Symbol]) -> None:
        order = list(post_order(roots))
        unknown = [node.name for node in order if isinstance(node, Symbol) and node not in symbols]
        if unknown:
            raise ValueError(f"no column for the symbols {unknown}")
        operations = [node for node in order if isinstance(node, Op)]
        fixed = list(dict.fromkeys([*(node for node in order if isinstance(node, int)), *(op.table for op in operations if op.table)]))
        # `at[e]` is where the value of e is in the list of arrays that a run works on: fixed values, columns, results, memory used again.
        at: dict[object, int] = {known: i for i, known in enumerate([*fixed, *symbols])}
        for i, root in enumerate(roots, len(at)):
            if isinstance(root, Op):
                at.setdefault(root, i)
        self._fixed = [np.array(known, dtype=np.float64) for known in fixed]
        self._n_memory = _assign_memory(operations, at, len(fixed) + len(symbols) + len(roots))
        arguments = ((*op.args, op.table) if op.table else op.args for op in operations)
        self._steps = [(_function(op), itemgetter(*map(at.__getitem__, args)), at[op]) for op, args in zip(operations, arguments, strict=True)]
        self._sources = [at[root] for root in roots]
        self._first_root = len(fixed) + len(symbols)

    def __call__(self, X: NDArray[np.int64]) -> Floats:
        n = len(X)
        results = np.empty((len(self._sources), n))
        n_blocks = -(-n // BLOCK_ROWS)
        for block in range(n_blocks):
            rows = slice(block * n // n_blocks, (block + 1) * n // n_blocks)
            self._run(X[rows], results[:, rows])
        return results.T

    def _run(self, X: NDArray[np.int64], results: Floats) -> None:
        arrays = [*self._fixed, *X.T.astype(np.float64, order="C"), *results, *np.empty((self._n_memory, len(X)))]
        for function, arguments, target in self._steps:
            function(*arguments(arrays), out=arrays[target])
        for row, source in enumerate(self._sources):
            if source != self._first_root + row:
                results[row] = arrays[source]


def _function(op: Op) -> Callable[..., object]:
    return _where_truth if op.name == "where" and _is_truth(op.args[0]) else _NUMPY[op.name]


def _is_truth(node: Expr) -> bool:
    """Whether the values are 0 or 1 for certain."""
    return isinstance(node, Op) and (node.name in ("less", "equal", "both") or (node.name == "take" and set(node.table) <= {0, 1}))


def _assign_memory(operations: Sequence[Op], at: dict[object, int], first: int) -> int:
    """Completes `at` with places from `first` on for the operations that have none; a place is free again after its last use.

    The result is how many places there are.
    """
    last_use = {arg: step for step, op in enumerate(operations) for arg in op.args}
    n_places = 0
    free: list[int] = []
    for step, op in enumerate(operations):
        if op not in at:
            if not free:
                free.append(first + n_places)
                n_places += 1
            at[op] = free.pop()
        for arg in op.args:
            if last_use.get(arg) == step and at[arg] >= first:
                free.append(at[arg])
                del last_use[arg]  # it may be an argument twice
    return n_places


def interval(root: Expr, ranges: Mapping[Symbol, tuple[int, int]]) -> tuple[int, int]:
    """Bounds (low, high), both inclusive, of `root` when each symbol lies in its range. Not always tight."""
    match root:
        case int():
            return root, root
        case Symbol():
            return ranges[root]
        case Op("take", _, table):
            return min(table), max(table)
        case Op("less" | "equal" | "both"):
            return 0, 1
        case Op("where", (_, a, b)):
            (a_low, a_high), (b_low, b_high) = interval(a, ranges), interval(b, ranges)
            return min(a_low, b_low), max(a_high, b_high)
        case Op("min" | "max", (a, b)):
            choose = min if root.name == "min" else max
            (a_low, a_high), (b_low, b_high) = interval(a, ranges), interval(b, ranges)
            return choose(a_low, b_low), choose(a_high, b_high)
        case Op("sub", (a, b)):
            (a_low, a_high), (b_low, b_high) = interval(a, ranges), interval(b, ranges)
            return a_low - b_high, a_high - b_low
        case Op("floor_div" | "ceil_div" | "mod", (_, b)) if interval(b, ranges)[0] < 1:
            raise ValueError(f"{root}: the divisor may be {interval(b, ranges)[0]}")
        case Op("mod", (a, b)):
            (a_low, a_high), (b_low, b_high) = interval(a, ranges), interval(b, ranges)
            if a_low >= 0 and a_high < b_low:
                return a_low, a_high
            return 0, min(a_high, b_high - 1) if a_low >= 0 else b_high - 1
        case Op(name, (a, b)):
            ends = itertools.product(interval(a, ranges), interval(b, ranges))
            values = [_SCALAR[name](x, y) for x, y in ends]
            return min(values), max(values)
    raise TypeError(f"not an expression: {root!r}")


_INFIX = {"add": "+", "sub": "-", "mul": "*", "floor_div": "//", "mod": "%", "less": "<", "equal": "==", "both": "and"}
_BARE_IN_SUM = ("add", "sub", "mul", "floor_div", "mod")


def text(root: Expr) -> str:
    """Readable form, as in `min(8, 56 - oh0*8)`."""
    match root:
        case int():
            return str(root)
        case Symbol(name):
            return name
        case Op("take", (index,), table):
            return f"{list(table)}[{text(index)}]"
        case Op(name, (a, b)) if name in _INFIX:
            bare = _BARE_IN_SUM if name == "add" else ()
            sides = [f"({text(arg)})" if isinstance(arg, Op) and arg.name in _INFIX and arg.name not in bare else text(arg) for arg in (a, b)]
            if name == "add" and isinstance(b, int) and b < 0:
                return f"{sides[0]} - {-b}"
            return f"{sides[0]}*{sides[1]}" if name == "mul" else f"{sides[0]} {_INFIX[name]} {sides[1]}"
        case Op(name, args):
            return f"{name}({', '.join(text(arg) for arg in args)})"
    raise TypeError(f"not an expression: {root!r}")
