"""The least and the most that may be asked of a run, on the command line and in Python."""

from __future__ import annotations

import math
from numbers import Integral

from ir.errors import UserError

MAX_SEED = 2**32 - 1  # what NumPy, scikit-learn and XGBoost all take
MAX_BATCH = 100_000  # candidates that are drawn at once
MAX_THREADS = 2**31 - 1  # what C and SQLite take
MAX_SECONDS = 1e7  # four months; sockets and clocks take it


def whole(name: str, number: int, least: int, most: float = math.inf) -> int:
    """The number as one of Python's own, which JSON and LLVM's text take, whoever's whole number it was; `UserError` if it is none, or out of bounds."""
    if isinstance(number, bool) or not isinstance(number, Integral) or not least <= number <= most:
        raise UserError(f"{name} must be a whole number from {least}{f' to {most}' if most < math.inf else ' on'}, got {number!r}")
    return int(number)


def check_seconds(name: str, seconds: float | None) -> None:
    """`UserError` for a time that is not positive, or too long; None is no limit."""
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise UserError(f"{name} must be positive and at most {MAX_SECONDS:.0f}, got {seconds}")
