"""The ways in which a task may be computed, each a program of its own; a user may exclude those that round otherwise than the direct one."""

from __future__ import annotations

from collections.abc import Collection

from ir.program import Program
from ir.simplify import simplify
from schedule.winograd import TRANSFORMS, winograd

DIRECT, SPLIT = "direct", "split"
WINOGRAD = {f"winograd{m}": m for m in TRANSFORMS}
ALGORITHMS = (DIRECT, SPLIT, *WINOGRAD)


def allowed_algorithms(*, winograd: bool = True, deterministic: bool = False) -> tuple[str, ...]:
    """Without Winograd's, or (`deterministic`) those alone that add the terms of each sum one after the other, as the direct program does."""
    excluded: Collection[str] = ALGORITHMS[1:] if deterministic else () if winograd else WINOGRAD
    return tuple(algorithm for algorithm in ALGORITHMS if algorithm not in excluded)


def rounded_program(program: Program, algorithm: str) -> Program:
    """The program whose rounding is that of an algorithm. Sums in any order have one bound, so for split reductions it is `program` itself."""
    if algorithm not in WINOGRAD:
        return program
    found = winograd(simplify(program), WINOGRAD[algorithm])
    if found is None:
        raise ValueError(f"{algorithm} does not apply")
    return found
