"""What is kept of a tuning run: a `Record` for each trial, a `Round` for how well the cost model did on each batch.

Both are checked and made canonical when they are made, so whatever exists can be written, and reads back equal.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

from data import fields
from data.fields import Parser
from ir.errors import UserError
from schedule.algorithms import ALGORITHMS, algorithm_of
from schedule.target import Target

SCHEMA_VERSION = 2  # of records in every format; a change of the fields below, or of what they may hold, is a new version. 2: more kinds

# "trial": a search chose it. "sample": drawn uniformly from the spaces. "repeat": an earlier trial or sample of the same setting, sketch and row, measured
# again. "final": measured again at the end of a tuning, default and winner taking turns.
KINDS = ("trial", "final", "sample", "repeat")
FIRST_KINDS = ("trial", "sample")
CACHES = ("warm", "cold")
UNCHECKED = "unchecked"  # stands among the versions of a record whose result was compared with nothing
TIMEOUT = "timeout"  # stands there for the seconds that a candidate may take, where a run says so
MAX_ROUND = 1 << 40  # tuning that goes on counts from the last one, and that must fit in 64 bits


class Setting(NamedTuple):
    """What must be equal for seconds to be comparable. `machine` is a `machine_id`."""

    task: str
    machine: str
    threads: int


def canonical_json(value: object) -> str:
    """Equal values have equal texts; `ValueError` where a number is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def machine_id(machine: Mapping[str, str | int]) -> str:
    """A short name of a machine's description, the same in every process."""
    return _machine_id(tuple(machine.items()))


@functools.cache  # thousands of records are of one machine
def _machine_id(machine: tuple[tuple[str, str | int], ...]) -> str:
    return hashlib.sha256(canonical_json(dict(machine)).encode()).hexdigest()[:12]


def timeout_of(versions: Mapping[str, str]) -> float:
    """Seconds that a candidate could take; infinite where these versions say nothing of it."""
    try:
        return float(versions.get(TIMEOUT, math.inf))
    except ValueError:  # whoever wrote it
        return math.inf


class Entry:
    """What records and rounds have in common; `parsers` says for each field what it may hold."""

    parsers: ClassVar[Mapping[str, Parser]]
    task: str
    machine: dict[str, str | int]
    threads: int

    def __post_init__(self) -> None:
        for name in self.parsers:
            given = getattr(self, name)
            parsed = self.parsed(name, given)
            if parsed is not given:
                object.__setattr__(self, name, parsed)

    @classmethod
    def parsed(cls, name: str, value: object) -> object:
        """What is kept of a value of the field of this name; `ValueError` says what is wrong with it. What was parsed before stays the same."""
        try:
            return cls.parsers[name](value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None

    def to_json(self) -> dict[str, object]:
        """The fields by name, in order."""
        return {name: getattr(self, name) for name in self.parsers}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """The entry of what `to_json` gave, also after it went through a file; `UserError` names the field that is wrong."""
        if data.keys() != cls.parsers.keys():
            lacking, foreign = cls.parsers.keys() - data.keys(), data.keys() - cls.parsers.keys()
            found = [f"{name} is missing" for name in sorted(lacking)] + [f"{name} is unknown" for name in sorted(foreign)]
            raise UserError(f"{', '.join(found)}; a {cls.__name__.lower()} has {', '.join(cls.parsers)}")
        try:
            return cls(**data)
        except ValueError as error:
            raise UserError(str(error)) from None

    @cached_property
    def key(self) -> str:
        """The identity of the content: entries with equal keys are the same entry."""
        return hashlib.sha256(canonical_json(self.to_json()).encode()).hexdigest()[:32]

    @cached_property
    def setting(self) -> Setting:
        return Setting(self.task, machine_id(self.machine), self.threads)


@dataclass(frozen=True)
class Record(Entry):
    """One trial. It has seconds or a failure, never both."""

    task: str  # canonical operator text
    sketch: str
    columns: tuple[str, ...]  # the names of the sketch's symbols
    row: tuple[int, ...]  # and their values
    seconds: tuple[float, ...]  # of every repeat
    failure: str  # class of failure in a word, such as build, crash, timeout, memory, wrong, illegal, died
    message: str  # one line about the failure
    machine: dict[str, str | int] = field(hash=False)  # the target and the CPU's name
    threads: int
    seed: int
    versions: dict[str, str] = field(hash=False)  # of whatever decides about code and time, by name
    round: int  # of the tuning of this task
    trial: int  # number within the tuning of this task
    elapsed_seconds: float  # since the tuning of this task started
    cache: str = "warm"  # what the caches held when a repeat started
    kind: str = "trial"  # of `KINDS`
    kept: bool = False  # the final one of the schedule that tuning kept

    parsers: ClassVar[Mapping[str, Parser]] = {
        "task": fields.name,
        "sketch": fields.name,
        "columns": fields.names,
        "row": fields.many(fields.whole(), fields.are_whole),
        "seconds": fields.many(fields.time, fields.are_times),
        "failure": fields.word,
        "message": fields.message,
        "machine": fields.table(fields.text_or_whole),
        "threads": fields.whole(1),
        "seed": fields.whole(0),
        "versions": fields.table(fields.text),
        "round": fields.whole(0, MAX_ROUND),
        "trial": fields.whole(0),
        "elapsed_seconds": fields.duration,
        "cache": fields.one_of(*CACHES),
        "kind": fields.one_of(*KINDS),
        "kept": fields.switch,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.row) != len(self.columns):
            raise ValueError(f"row has {len(self.row)} values for {len(self.columns)} columns")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns hold a name twice: {', '.join(self.columns)}")
        if bool(self.seconds) == bool(self.failure):
            raise ValueError(f"seconds has {len(self.seconds)} repeats although failure is {self.failure!r}")
        if self.kept and not (self.ok and self.kind == "final"):
            raise ValueError(f"kept is true for a {self.kind} record with failure {self.failure!r}")

    @property
    def ok(self) -> bool:
        return not self.failure

    @property
    def target(self) -> Target:
        """The machine as code sees it, with so many threads; `UserError` where it was described in other words than now."""
        machine = {name: value for name, value in self.machine.items() if name != "cpu_model"}
        return Target.from_json({**machine, "threads": self.threads})

    @property
    def is_trial(self) -> bool:
        """Whether it is the first measurement of its candidate, however that was chosen."""
        return self.kind in FIRST_KINDS

    @property
    def is_verdict(self) -> bool:
        """Whether it is a final measurement that says something of its candidate; that one fails for want of memory or time may be for what else there was."""
        return self.kind == "final" and (self.ok or self.failure not in ("memory", "timeout", "died"))

    @property
    def best_seconds(self) -> float:
        """The fastest repeat; infinite where the trial failed."""
        return min(self.seconds) if self.ok else math.inf

    @property
    def median_seconds(self) -> float:
        """The median repeat; infinite where the trial failed."""
        return statistics.median(self.seconds) if self.ok else math.inf


@dataclass(frozen=True)
class Round(Entry):
    """How one batch went. The scores are those of the run's cost model, before it learned from the batch; None where the batch
    was too small to judge. Scores lie between 0 and 1, 1 is best."""

    task: str
    machine: dict[str, str | int]
    threads: int
    seed: int
    round: int
    model: str
    n_measured: int  # failed ones included
    n_failed: int
    pairwise_accuracy: float | None  # pairs of candidates that are ranked as they measured
    recall_at_k: float | None  # share of the k fastest that the model ranks among its first k
    k: int
    top_1: float | None  # throughput of the model's first choice over the batch's best
    top_5: float | None  # the best throughput of its first five choices over the batch's best
    search_seconds: float
    build_seconds: float
    measure_seconds: float
    model_seconds: float  # fitting and predicting
    elapsed_seconds: float  # since the tuning of this task started

    parsers: ClassVar[Mapping[str, Parser]] = {
        "task": fields.name,
        "machine": Record.parsers["machine"],
        "threads": fields.whole(1),
        "seed": fields.whole(0),
        "round": fields.whole(0, MAX_ROUND),
        "model": fields.name,
        "n_measured": fields.whole(0),
        "n_failed": fields.whole(0),
        "pairwise_accuracy": fields.score,
        "recall_at_k": fields.score,
        "k": fields.whole(0),
        "top_1": fields.score,
        "top_5": fields.score,
        "search_seconds": fields.duration,
        "build_seconds": fields.duration,
        "measure_seconds": fields.duration,
        "model_seconds": fields.duration,
        "elapsed_seconds": fields.duration,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_failed > self.n_measured:
            raise ValueError(f"n_failed is {self.n_failed}, more than the {self.n_measured} measured")


def by_setting(records: Iterable[Record]) -> dict[Setting, list[Record]]:
    """In the order of each setting's first record."""
    found: dict[Setting, list[Record]] = {}
    for record in records:
        found.setdefault(record.setting, []).append(record)
    return found


def best_of(records: Iterable[Record], *, left_out: bool = False) -> Record | None:
    """The schedule to use of one setting's records: the fastest that a tuning kept, each as it was measured last, unless a trial after that was faster.

    Trials before a final measurement do not count again: it has judged them, with more repeats and side by side. What was kept loses its place only to what
    is faster than it, whichever tuning found that, in whatever order their records came together, or where it turns out to be wrong.
    `left_out`: of the setting there are more records, by other algorithms, for which a final measurement marks nothing as kept; of the last one the
    first counts, which is its winner.
    """
    records = list(records)
    if left_out and (judged := [record for record in _last_final(records) if record.ok]):
        return judged[0]
    best: Record | None = None
    kept: dict[tuple[str, tuple[int, ...]], Record] = {}
    for record in records:
        candidate = record.sketch, record.row
        if record.kept or (candidate in kept and record.is_verdict):
            kept[candidate] = record
            if record.kept or best is None or (best.sketch, best.row) in kept:
                valid = (each for each in kept.values() if each.ok)  # what nobody had checked may have turned out to be wrong
                best = min(valid, key=lambda each: each.best_seconds, default=None)
        elif record.ok and record.is_trial and (best is None or record.best_seconds < best.best_seconds):
            best = record
    return best


def _last_final(records: Sequence[Record]) -> Sequence[Record]:
    """The final measurement after all trials, if nothing came after it: its first record has the number that the next trial would have."""
    n_trials = len({(record.sketch, record.row) for record in records if record.is_trial})
    starts = [at for at, record in enumerate(records) if record.kind == "final" and record.trial == n_trials]
    last = records[starts[-1] :] if starts else []
    return last if all(record.kind == "final" for record in last) else []


def best_by_setting(
    records: Iterable[Record], algorithms: Collection[str] = ALGORITHMS, choose: Callable[..., Record | None] = best_of
) -> dict[Setting, Record]:
    """The schedule to use for each setting that has one, among those by these algorithms; `choose`, called as `best_of`, finds it among those of a setting."""
    found = dict[Setting, Record]()
    for setting, every in by_setting(records).items():
        mine = of_algorithms(every, algorithms)
        if mine and (best := choose(mine, left_out=has_others(every, algorithms))) is not None:
            found[setting] = best
    return found


def versions_of(records: Iterable[Record]) -> dict[str, list[str]]:
    """By name all that the records have, in their order."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.versions.items():
            found.setdefault(name, {})[version] = None
    return {name: list(versions) for name, versions in found.items()}


def of_algorithms(records: Iterable[Record], algorithms: Collection[str]) -> list[Record]:
    return [record for record in records if algorithm_of(record.sketch) in algorithms]


def has_others(records: Iterable[Record], algorithms: Collection[str]) -> bool:
    """Whether some that succeeded are by none of these algorithms."""
    return any(record.ok and algorithm_of(record.sketch) not in algorithms for record in records)


def default_of(records: Sequence[Record]) -> Record | None:
    """The measurement of the default schedule among one setting's records, oldest first: trial 0 of a tuning, the last one, for a version of its own may have
    another; or where that was measured again beside the winner, the last of these. None where there is none, or where it failed."""
    first = next((record for record in reversed(records) if record.kind == "trial" and record.trial == 0), None)
    if first is None:
        return None
    again = [record for record in records if record.is_verdict and (record.sketch, record.row) == (first.sketch, first.row)]
    default = again[-1] if again else first
    return default if default.ok else None
