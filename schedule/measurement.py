"""What a search hands to a runner and what it gets back; a live runner times candidates, a replay answers from records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from schedule.sketch import Sketch


@dataclass(frozen=True)
class Candidate:
    """The name of a sketch, and the values of the symbols of its space in their order."""

    sketch: str
    row: tuple[int, ...]

    @classmethod
    def default(cls, sketch: Sketch) -> Self:
        """The sketch's own first guess."""
        return cls(sketch.name, tuple(sketch.default_row().tolist()))


@dataclass(frozen=True)
class Measurement:
    """The outcome of one candidate: the seconds of every repeat, or none and a failure: its class in a word, and a message."""

    seconds: tuple[float, ...]
    failure: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        return not self.failure

    @property
    def best_seconds(self) -> float:
        """The fastest repeat; infinite where the candidate failed."""
        return min(self.seconds) if self.ok else math.inf

    def united(self, other: Measurement) -> Measurement:
        """With the repeats of another measurement of the same candidate; a failure of either is one of both."""
        return next((each for each in (self, other) if not each.ok), Measurement(self.seconds + other.seconds))
