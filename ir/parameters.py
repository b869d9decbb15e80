"""How the parameters of operators are written, and read back."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MAX_EXTENT = 1 << 24
_REAL = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Parameter:
    """How a parameter of an operator is written: `parse` text to value, `write` value back to its one canonical text. `silent`: the default is left out."""

    parse: Callable[[str], object]
    default: str | None = None
    write: Callable[[object], str] = str
    silent: bool = False


def quoted(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")


def number(text: str, least: int) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("is no whole number")
    if len(digits) > len(str(MAX_EXTENT)) or not least <= int(text) <= MAX_EXTENT:
        raise ValueError(f"is not between {least} and {MAX_EXTENT}")
    return int(text)


def as_fp32(number: float) -> float:
    """The nearest number of fp32, infinite where `number` is beyond its range."""
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def float_text(number: float) -> str:
    """The shortest decimal that is this number in fp32."""
    return np.format_float_positional(np.float32(number) + np.float32(0), trim="-")  # + 0: there is one zero


def size(text: str) -> int:
    return number(text, 1)


def index(text: str) -> int:
    return number(text, 0)


def positive_real(text: str) -> float:
    """As fp32 has it."""
    if not _REAL.fullmatch(text):
        raise ValueError("is no decimal number above 0, such as 1e-5")
    real = as_fp32(float(text))
    if float(text) < float(np.finfo(np.float32).tiny) or math.isinf(real):
        raise ValueError("is 0, or beyond the normal numbers of fp32")
    return real


def write_real(value: object) -> str:
    """The shortest text of this number in fp32."""
    real = np.float32(value)  # type: ignore[arg-type]  # a float by construction
    return min(np.format_float_positional(real, trim="-"), np.format_float_scientific(real, trim="-", exp_digits=1), key=len)


def sizes(counts: tuple[int, ...], least: int, *, repeated: bool = True) -> Callable[[str], object]:
    """So many numbers with an x between them; `repeated`: fewer stand for the most, over and over."""

    def parse(text: str) -> tuple[int, ...]:
        numbers = tuple(number(part, least) for part in text.split("x"))
        if len(numbers) not in counts:
            allowed = " or ".join(map(str, sorted(set(counts)))) if repeated else f"1 to {max(counts)}"
            raise ValueError(f"has {len(numbers)} numbers, not {allowed}")
        return numbers * (max(counts) // len(numbers)) if repeated else numbers

    return parse


def write_sizes(value: object) -> str:
    numbers: tuple[int, ...] = tuple(value)  # type: ignore[arg-type]  # a tuple by construction
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))


def any_sizes(least: int, most: int) -> Callable[[str], object]:
    """One to `most` numbers."""
    return sizes(tuple(range(1, most + 1)), least, repeated=False)


def write_every_size(value: object) -> str:
    return "x".join(map(str, value))  # type: ignore[call-overload]  # a tuple by construction


def one_of(*names: str) -> Callable[[str], object]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"is none of {', '.join(names)}")
        return text

    return parse
