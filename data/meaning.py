"""Which records of a task mean something to the sketches that it has today: other versions made other sketches, and of the same name with other spaces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.record import Record, best_of
from ir.errors import UserError
from ir.task import known_task
from schedule.rules import sketches
from schedule.sketch import Sketch
from schedule.space import Population

NO_SKETCH, OTHER_COLUMNS, NOT_IN_SPACE = "sketch is not made any more", "sketch has other columns now", "row is not in the sketch's space now"


@dataclass(frozen=True)
class Meaning:
    """Of records of one setting: the places of those whose row a sketch has, by the sketch's number, where there are any; the others are counted by reason.

    By number, because the name of a sketch has a name of an axis in it, and these differ between the names of one program.
    """

    places: dict[int, list[int]]
    left_out: Counter[str]


def meaning(records: Sequence[Record], known: Sequence[Sketch]) -> Meaning:
    """`records` of one setting, whose task has these sketches."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        by_name[record.sketch].append(at)
    found = Meaning({}, Counter())
    for number, sketch in enumerate(known):
        mine = by_name.pop(sketch.name, [])
        columns = sketch.space.names
        same = [at for at in mine if records[at].columns == columns]
        inside = [at for at, there in zip(same, sketch.space.contains(rows([records[at] for at in same], len(columns))), strict=True) if there]
        found.left_out[OTHER_COLUMNS] += len(mine) - len(same)
        found.left_out[NOT_IN_SPACE] += len(same) - len(inside)
        if inside:
            found.places[number] = inside
    found.left_out[NO_SKETCH] += sum(map(len, by_name.values()))
    return found


def with_meaning(records: Sequence[Record], known: Sequence[Sketch]) -> list[Record]:
    """Those that mean something, in their order."""
    return [records[at] for at in sorted(at for places in meaning(records, known).places.values() for at in places)]


def usable_best(records: Sequence[Record], *, left_out: bool = False) -> Record | None:
    """The schedule to use (`best_of`) of one setting's records, of which there is one at least: of those that mean something to the task's sketches of today.
    Where none of them does, or the task is not known here, of all, for whoever wants to see it."""
    best, of = best_of(records, left_out=left_out), known_task(records[0].task)
    if best is None or of is None:
        return best
    try:
        known = sketches(of.program, best.target)
    except UserError:  # of a version that described machines in other words
        return best
    return best_of(with_meaning(records, known), left_out=left_out) or best


def rows(records: Sequence[Record], n_columns: int) -> Population:
    """(n, n_columns) those of records of one sketch."""
    return np.array([record.row for record in records], dtype=np.int64).reshape(len(records), n_columns)
