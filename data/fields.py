"""What the fields of a record may hold.

A parser takes a value as a caller or a file gives it and returns the one canonical value that is kept; where there is none it
raises `ValueError` with a message that continues the field's name.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

Parser = Callable[[object], object]

MAX_MESSAGE = 1000  # characters; a candidate that floods its output does not flood the records
_MAX_WHOLE = (1 << 63) - 1  # what SQLite and Parquet hold
_LEAST_SECONDS = 1e-12  # far less than a cycle; work over still less could be infinite
_WHOLE = (int, np.integer)  # made once: `|` would take longer at every value than all the rest of its check
_NUMBER = (int, float, np.integer, np.floating)


def text(value: object) -> str:
    """Printable text on one line, possibly empty."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"is {value!r}, not printable text on one line")
    return value


def name(value: object) -> str:
    """Text that is not empty."""
    if not text(value):
        raise ValueError("is empty")
    return str(value)


def word(value: object) -> str:
    """A class word such as `timeout`, or nothing."""
    if not isinstance(value, str) or not re.fullmatch(r"([a-z][a-z0-9_-]*)?", value):
        raise ValueError(f"is {value!r}, not a word of small letters")
    return value


def one_of(*words: str) -> Parser:
    def parse(value: object) -> object:
        if value not in words:
            raise ValueError(f"is {value!r}, not one of {', '.join(words)}")
        return value

    return parse


def message(value: object) -> str:
    """Any text, made one printable line and cut at `MAX_MESSAGE`: what a failed candidate printed is never a reason to lose its record."""
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, not text")
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(value.split()))
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def whole(least: int = -_MAX_WHOLE - 1, most: int = _MAX_WHOLE) -> Callable[[object], int]:
    """A 64-bit whole number from `least` to `most`."""

    def parse(value: object) -> int:
        if not isinstance(value, _WHOLE) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"is {value!r}, not a whole number from {least} to {most}")
        return int(value)

    return parse


def are_whole(values: Sequence[object]) -> bool:
    """Whether `whole()` gives back all of these as they are; False says nothing."""
    return set(map(type, values)) == {int} and min(values) >= -_MAX_WHOLE - 1 and max(values) <= _MAX_WHOLE  # type: ignore[type-var,operator]  # ints


def _finite(value: object) -> float:
    try:
        if isinstance(value, _NUMBER) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond all floats
        pass
    raise ValueError(f"is {value!r}, not a finite number")


def duration(value: object) -> float:
    """Seconds that may be none."""
    seconds = _finite(value)
    if seconds < 0:
        raise ValueError(f"is {value!r}, a negative time")
    return seconds


def time(value: object) -> float:
    """Seconds that something took."""
    seconds = _finite(value)
    if seconds <= 0:
        raise ValueError(f"is {value!r}, not a positive time")
    if seconds < _LEAST_SECONDS:
        raise ValueError(f"is {value!r}, a time shorter than {_LEAST_SECONDS:g} seconds, which nothing takes")
    return seconds


def are_times(values: Sequence[object]) -> bool:
    """Whether `time` gives back all of these as they are; False says nothing."""
    return set(map(type, values)) == {float} and min(values) >= _LEAST_SECONDS and math.isfinite(sum(values))  # type: ignore[type-var,operator,arg-type]


def score(value: object) -> float | None:
    """A share of one, or None (also for nan) where there was too little to judge."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    share = _finite(value)
    if not 0 <= share <= 1:
        raise ValueError(f"is {value!r}, not between 0 and 1")
    return share


def switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"is {value!r}, neither true nor false")
    return value


def many(parse: Parser, are_plain: Callable[[Sequence[object]], bool] = lambda values: False) -> Parser:
    """A list, kept as a tuple. `are_plain` may tell of all values together that `parse` would give them back as they are: that takes two fifths of the time."""

    def parse_all(values: object) -> tuple[object, ...]:
        if not isinstance(values, list | tuple):
            raise ValueError(f"is {values!r}, not a list")
        if are_plain(values):
            return tuple(values)
        try:
            return tuple([parse(value) for value in values])
        except ValueError as error:
            raise ValueError(f"holds what {error}") from None

    return parse_all


@functools.lru_cache(maxsize=1024)  # thousands of records have the same names
def _names(values: Hashable) -> object:
    return _any_names(values)


def names(values: object) -> object:
    """A list of names, kept as a tuple; equal lists as the same one."""
    return _names(tuple(values)) if isinstance(values, list | tuple) and set(map(type, values)) == {str} else _any_names(values)


class Table(dict[str, object]):
    """What a parser of `table` has made: the same parser takes it as it is, so that thousands of records can share one. Not to be changed."""

    parse: Parser  # of the values


def table(parse: Parser) -> Parser:
    """Values by name."""

    def parse_all(values: object) -> Table:
        if isinstance(values, Table) and values.parse is parse:
            return values
        if not isinstance(values, Mapping):
            raise ValueError(f"is {values!r}, not a table of names and values")
        try:
            result = Table({name(key): parse(value) for key, value in values.items()})
        except ValueError as error:
            raise ValueError(f"holds what {error}") from None
        result.parse = parse
        return result

    return parse_all


def text_or_whole(value: object) -> str | int:
    return text(value) if isinstance(value, str) else _any_whole(value)


_any_whole = whole()
_any_names = many(name)
