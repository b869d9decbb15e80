"""The ways in which a task may be computed, each a program of its own; a user may exclude those that round otherwise than the direct one."""

from __future__ import annotations

import re

from ir.program import Program
from ir.simplify import simplify
from schedule.winograd import TAPS, winograd

DIRECT, SPLIT = "direct", "split"
WINOGRAD = {f"winograd{m}": m for m in TAPS}
ALGORITHMS = (DIRECT, SPLIT, *WINOGRAD)

_SPLIT_NAMES = re.compile(r"split\d+_|lanes_")


def allowed_algorithms(*, no_winograd: bool = False, deterministic: bool = False) -> tuple[str, ...]:
    """Without Winograd's; or (`deterministic`) the direct one alone: no sum is split in parts that are added up afterwards, but for the lanes of a vector along
    a reduced axis, which is the only way to compute some tasks fast."""
    if deterministic:
        return (DIRECT,)
    return tuple(algorithm for algorithm in ALGORITHMS if not (no_winograd and algorithm in WINOGRAD))


def algorithm_of(sketch: str) -> str:
    """What a sketch of this name computes a task by; also of one that another version recorded."""
    first = sketch.split("_")[0]
    return first if first in WINOGRAD else SPLIT if _SPLIT_NAMES.match(sketch) else DIRECT


def rounded_program(program: Program, algorithm: str) -> Program:
    """The program whose rounding is that of an algorithm. Sums in any order have one bound, so for split reductions it is `program` itself."""
    if algorithm not in WINOGRAD:
        return program
    found = winograd(simplify(program), WINOGRAD[algorithm])
    if found is None:
        raise ValueError(f"{algorithm} does not apply")
    return found
