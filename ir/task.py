"""A task: one tensor program to make fast, named by its operator text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ir.errors import UserError
from ir.operators import parse_operator
from ir.program import Program


@dataclass(frozen=True)
class Task:
    """`key` is the canonical operator text and says all there is to know; `count` is how often a network uses it."""

    key: str
    program: Program
    count: int = 1
    name: str = ""

    @cached_property
    def flops(self) -> int:
        return self.program.flops

    @cached_property
    def work(self) -> int:
        """What throughput counts; see `ir.program.Program.work`."""
        return self.program.work

    @property
    def speed_unit(self) -> str:
        """Of what `speed` gives: data that are only moved have no flops."""
        return "GFLOP/s" if self.flops else "GB/s"

    def speed(self, seconds: float) -> float:
        """As people read it, for one run in so many seconds."""
        return 1e-9 * (self.flops or self.program.n_bytes) / seconds


def task(text: str, count: int = 1, name: str = "") -> Task:
    """The task of an operator text; `UserError` if there is none."""
    key, program = parse_operator(text)
    return Task(key, program, count, name or key)


def known_task(text: str) -> Task | None:
    """The task of a recorded operator text; None where a version recorded it that knows more operators than this one."""
    try:
        return task(text)
    except UserError:
        return None
