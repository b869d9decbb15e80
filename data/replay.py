"""A runner that answers from records: searches are tested and compared with no hardware, no clock and no noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from data.record import Record
from ir.errors import UserError
from ir.task import Task
from schedule.measurement import Candidate, Measurement
from schedule.sketch import Sketch
from schedule.space import Population

UNRECORDED = "unrecorded"


class ReplayRunner:
    """Measures candidates of one task by looking them up; one that was never recorded fails as `UNRECORDED`.

    Of several records of a candidate the fastest answers; one that succeeded goes before one that failed. Repeats and final measurements do not answer: a few
    candidates have them, and the faster of two measurements would flatter these.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        """All records must be of one setting, and those of a sketch have the same columns; `UserError` if not."""
        self.columns: dict[str, tuple[str, ...]] = {}
        self._found: dict[Candidate, Record] = {}
        records = list(records)
        settings = {record.setting: None for record in records}
        if len(settings) != 1:
            listed = "; ".join(f"{s.task} on machine {s.machine} with {s.threads} threads" for s in settings) or "none"
            raise UserError(f"a replay needs the records of one task, machine and number of threads; found {listed}")
        self.setting = next(iter(settings))
        for record in records:
            if record.is_trial:
                self._add(record)

    def _add(self, record: Record) -> None:
        columns = self.columns.setdefault(record.sketch, record.columns)
        if columns != record.columns:
            raise UserError(
                f"the records of sketch {record.sketch} of {record.task} have different columns: {' '.join(columns)} and {' '.join(record.columns)}"
            )
        candidate = Candidate(record.sketch, record.row)
        known = self._found.get(candidate)
        if known is None or record.best_seconds < known.best_seconds:
            self._found[candidate] = record

    def __call__(self, task: Task, candidates: Sequence[Candidate]) -> list[Measurement]:
        if task.key != self.setting.task:
            raise UserError(f"the records to replay are of {self.setting.task}, not of {task.key}")
        return [self._measurement(candidate) for candidate in candidates]

    def _measurement(self, candidate: Candidate) -> Measurement:
        record = self._found.get(candidate)
        if record is None:
            return Measurement((), UNRECORDED, f"no record of sketch {candidate.sketch}, row {list(candidate.row)}")
        return Measurement(record.seconds, record.failure, record.message)

    def population(self, sketch: Sketch) -> Population:
        """(n, c) the distinct recorded rows of this sketch, failed ones included, in the order of their first record.

        `UserError` where the sketch has other columns than when it was recorded.
        """
        names = sketch.space.names
        recorded = self.columns.get(sketch.name, names)
        if recorded != names:
            raise UserError(f"sketch {sketch.name} of {self.setting.task} has columns {' '.join(names)}, its records have {' '.join(recorded)}")
        rows = [candidate.row for candidate in self._found if candidate.sketch == sketch.name]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(names))
