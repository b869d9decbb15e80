"""A make-believe machine for the tests of searching: seconds are a smooth function of the row, so no clock and no noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ir.task import Task, task
from schedule.measurement import Candidate, Measurement
from schedule.rules import sketches
from schedule.sketch import Sketch
from schedule.space import Population
from schedule.target import Target

TARGET = Target("generic", "", 8, 16, 32 << 10, 512 << 10, 8 << 20, 2)
TASK = task("matmul:m=96,n=160,k=200")


def seconds_of(sketch: Sketch, X: Population) -> np.ndarray:
    """(n,) made-up seconds: each column has a value it likes best, found from its name."""
    cost = np.zeros(len(X))
    for j, column in enumerate(sketch.space.columns):
        wish = column.choices[sum(map(ord, column.symbol.name)) % len(column.choices)]
        cost += np.abs(np.log2((X[:, j] + 1) / (wish + 1)))
    return 1e-3 * (1 + cost)


def known_sketches(of: Task = TASK) -> tuple[Sketch, ...]:
    return sketches(of.program, TARGET)


class FakeRunner:
    """Answers at once; `fails` says which candidates fail; `interrupt_after` so many trials it raises KeyboardInterrupt."""

    def __init__(self, fails: Callable[[Candidate], str] = lambda candidate: "", interrupt_after: int | None = None) -> None:
        self.build_seconds = self.measure_seconds = 0.0
        self.asked: list[Candidate] = []
        self._fails, self._interrupt_after = fails, interrupt_after

    def __call__(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        *,
        deadline: float | None = None,
        on_result: Callable[[int, Measurement], None] | None = None,
    ) -> list[Measurement]:
        results = []
        for i, candidate in enumerate(candidates):
            if self._interrupt_after is not None and len(self.asked) >= self._interrupt_after:
                raise KeyboardInterrupt
            self.asked.append(candidate)
            results.append(self._measure(task, candidate))
            if on_result is not None:
                on_result(i, results[-1])
        return results

    def remeasure(self, task: Task, candidates: Sequence[Candidate], rounds: int, **_: object) -> list[Measurement]:
        return [self._measure(task, candidate) for candidate in candidates]

    def _measure(self, task: Task, candidate: Candidate) -> Measurement:
        if failure := self._fails(candidate):
            return Measurement((), failure, f"acted out: {failure}")
        sketch = next(sketch for sketch in known_sketches(task) if sketch.name == candidate.sketch)
        return Measurement((float(seconds_of(sketch, np.array([candidate.row]))[0]),) * 3)
