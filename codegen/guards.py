"""Buffers that show what a kernel leaves out, reads from beyond its inputs, or writes elsewhere.

What a kernel must write is filled with NaN before it runs: an element it leaves out, or computes from something that was never written, is then wrong, not by
chance right. Guards before and after each buffer are NaN, too, so that what is read there shows as well. Instead of NaN integers have bytes that are far from
0, and no bool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen.kernel import Array, DType, Empty, aligned_empty
from ir.program import FLOAT

GUARD_BYTES = 4096  # before and after each buffer
FLOAT_BYTE, INTEGER_BYTE = 0xFF, 0xA5


class WrongAnswer(ValueError):
    """A kernel that ran and did not do what it should: a failed trial."""


def spoil(array: Array) -> None:
    """Fill it with what is hardly right by chance."""
    array.reshape(-1).view(np.uint8).fill(_spoiled_byte(array.dtype))  # a single number of no dimension cannot be viewed otherwise


def _spoiled_byte(dtype: np.dtype[Any]) -> int:
    return FLOAT_BYTE if dtype.kind == "f" else INTEGER_BYTE


class Guards:
    """Makes buffers that have guard bytes on both sides, and looks after those."""

    def __init__(self, empty: Empty = aligned_empty) -> None:
        self._empty = empty
        self._guards: list[tuple[str, NDArray[np.uint8], int]] = []

    def empty(self, shape: Sequence[int], dtype: DType = FLOAT) -> Array:
        """An array, aligned as any buffer of a kernel (a guard is a multiple of that), filled as the head of this file says."""
        size, guard = math.prod(shape), GUARD_BYTES // np.dtype(dtype).itemsize
        raw = self._empty((guard + size + guard,), dtype)
        for side, part in (("before", raw[:guard]), ("after", raw[guard + size :])):
            spoil(part)
            self._guards.append((f"{side} a buffer of shape {list(shape)}", part.view(np.uint8), _spoiled_byte(part.dtype)))
        array: Array = raw[guard : guard + size].reshape(shape)
        spoil(array)
        return array

    def check(self) -> None:
        """`WrongAnswer` if a guard has been written to."""
        for where, guard, byte in self._guards:
            n_written = np.count_nonzero(guard != byte)
            if n_written:
                raise WrongAnswer(f"wrote outside: {n_written} bytes {where}")
