"""Sums of products of two tensors by their axes: matrix products, batched or not, and any other by an einsum equation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ir.epilogue import with_epilogue
from ir.errors import UserError
from ir.parameters import number
from ir.program import Apply, Axis, Program, Read, Tensor, affine
from ir.prologue import with_prologue


def matmul(m: int, n: int, k: int, *, b: str, prologue: Sequence[str], epilogue: Sequence[str]) -> Program:
    """(m, k) times (k, n). `b`: whether the second operand is "constant" or "variable"."""
    return _product("mk", "kn", "mn", {"m": Axis("m", m), "n": Axis("n", n), "k": Axis("k", k)}, b == "constant", prologue, epilogue)


def batch_matmul(batch: int, m: int, n: int, k: int, *, b: str, prologue: Sequence[str], epilogue: Sequence[str]) -> Program:
    """(batch, m, k) times (batch, k, n)."""
    axes = {"b": Axis("batch", batch), "m": Axis("m", m), "n": Axis("n", n), "k": Axis("k", k)}
    return _product("bmk", "bkn", "bmn", axes, b == "constant", prologue, epilogue)


def einsum(equation: tuple[str, ...], sizes: Mapping[str, int], *, b: str, prologue: Sequence[str], epilogue: Sequence[str]) -> Program:
    """Any sum of products of two tensors: `equation` names the axes of a, of b and of the result by letters. What the result lacks is summed over;
    an operand that lacks an axis is the same all along it."""
    first, second, result = equation
    letters = dict.fromkeys(first + second)
    if sizes.keys() != letters.keys():
        raise UserError(f"einsum: sizes are given for {_list(sizes)}, the operands have {_list(letters)}")
    if not set(result) <= letters.keys():
        raise UserError(f"einsum: the result has {_list(set(result) - letters.keys())}, which no operand has")
    return _product(first, second, result, {letter: Axis(letter, sizes[letter]) for letter in letters}, b == "constant", prologue, epilogue)


def _product(first: str, second: str, result: str, axes: Mapping[str, Axis], constant: bool, prologue: Sequence[str], epilogue: Sequence[str]) -> Program:
    """Each string has a letter a dimension; a bias has the last dimension of the result, the constants of a prologue that of the first operand."""

    def shape(letters: str) -> tuple[int, ...]:
        return tuple(axes[letter].extent for letter in letters)

    a, b = Tensor("a", shape(first)), Tensor("b", shape(second), constant)
    reads = (Read(tensor, tuple(affine(axes[letter]) for letter in letters)) for tensor, letters in ((a, first), (b, second)))
    indices = tuple(affine(axes[letter]) for letter in result)
    spatial = tuple(axes[letter] for letter in result)
    reduce = tuple(axis for letter, axis in axes.items() if letter not in result)
    product = Apply("mul", tuple(reads))
    program = with_epilogue("c", shape(result), indices, spatial, reduce, product, (a, b), indices[-1], spatial[-1].extent, epilogue)
    return with_prologue(program, {len(first) - 1: 1}, prologue)


# --- the text of an equation ----------------------------------------------------------------------------------------


def parse_equation(text: str) -> tuple[str, ...]:
    """`bihd.bjhd.bhij` as ("bihd", "bjhd", "bhij")."""
    parts = tuple(text.split("."))
    if len(parts) != 3:
        raise ValueError("is not two operands and a result with dots between them, such as bik.bkj.bij")
    for part in parts:
        if not (part.isascii() and part.isalpha() and part.islower()):
            raise ValueError(f"has {part!r}, which is not made of the letters a to z")
        if len(set(part)) < len(part):
            raise ValueError(f"has a letter twice in {part!r}")
    if not set(parts[0] + parts[1]) - set(parts[2]):
        raise ValueError("has nothing to sum over")
    return parts


def write_equation(equation: object) -> str:
    return ".".join(equation)  # type: ignore[arg-type]  # a tuple of strings by construction


def parse_axis_sizes(text: str) -> dict[str, int]:
    """`b16.i128` as {"b": 16, "i": 128}."""
    sizes: dict[str, int] = {}
    for part in text.split("."):
        if not part[:1].isalpha() or part[:1] in sizes:
            raise ValueError(f"has {part!r}, which is no letter with its size, or one given before")
        try:
            sizes[part[0]] = number(part[1:], 1)
        except ValueError as error:
            raise ValueError(f"has {part!r}, which {error}") from None
    return dict(sorted(sizes.items()))


def write_axis_sizes(sizes: object) -> str:
    return ".".join(f"{letter}{size}" for letter, size in sizes.items())  # type: ignore[attr-defined]  # a dictionary by construction


def _list(letters: Iterable[str]) -> str:
    return ", ".join(sorted(letters)) or "none"
