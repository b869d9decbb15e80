"""What a cost model learns from: measurements as features and seconds, with the program, and thus the task, that each belongs to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from costmodel.task_features import TaskFeatures, described_once
from data.meaning import meaning, rows
from data.measurements import Measured
from data.record import UNCHECKED, Record, Setting, by_setting
from ir.errors import UserError
from ir.garbage import without_collection
from ir.identity import program_id
from ir.task import Task, known_task, task
from schedule.rules import sketches

UNKNOWN = "unknown"  # the source of a task that nothing is said about
MANY_SETTINGS = 32  # for as many it is worth to start other processes
UNKNOWN_TASK, NOT_CHECKED = "task is not known here", "result was compared with nothing"  # why measurements are left out; other reasons are in `data.meaning`


@dataclass(frozen=True)
class Group:
    """Candidates that are compared with each other: one program, whatever its names, on one machine with one number of threads."""

    program: str  # a `program_id`
    machine: str
    threads: int
    work: int  # what throughput counts: flops, or elements where data are only moved
    tasks: tuple[str, ...]  # its names: operator texts
    uses: Mapping[str, int]  # by the networks and operator families that it comes from; `UNKNOWN` where nothing is said

    @property
    def name(self) -> str:
        return f"{self.program} {self.machine} {self.threads}"

    @property
    def operators(self) -> set[str]:
        return {operator_kind(text) for text in self.tasks}


@dataclass(frozen=True)
class TrainingSet:
    """n candidates. `left_out` counts measurements that mean nothing to this version, by reason."""

    X: NDArray[np.float32]  # (n, f) features
    seconds: NDArray[np.float64]  # (n,) of the fastest repeat, infinite where it failed
    groups: NDArray[np.intp]  # (n,) index into `of_group`
    of_group: tuple[Group, ...]
    place: NDArray[np.float64]  # (n,) from 0 to 1: where a candidate lies among all, by a hash of its row; the same for the same candidate, always
    left_out: Counter[str]

    @cached_property
    def y(self) -> NDArray[np.float64]:
        """(n,) throughput, as `Task.work` a second, 0 where it failed."""
        return np.array([group.work for group in self.of_group], dtype=np.float64)[self.groups] / self.seconds

    @cached_property
    def names(self) -> NDArray[np.str_]:
        """(n,) names of the groups."""
        return np.array([group.name for group in self.of_group])[self.groups]

    @cached_property
    def programs(self) -> NDArray[np.str_]:
        """(n,)"""
        return np.array([group.program for group in self.of_group])[self.groups]

    @cached_property
    def machines(self) -> NDArray[np.str_]:
        """(n,) ids of the machines."""
        return np.array([group.machine for group in self.of_group])[self.groups]

    def tasks(self, mask: NDArray[np.bool_]) -> list[str]:
        """All names of the programs of these candidates."""
        return sorted({name for number in set(self.groups[mask].tolist()) for name in self.of_group[number].tasks})


def training_set(measured: Measured, *, mix_machines: bool = False) -> TrainingSet:
    """Each candidate by its first measurement, under whichever name of its program; features computed anew from its row.

    `UserError` where nothing is left, and where several machines are mixed without that being meant: by `mix_machines`, or by whoever merged them into one
    directory.
    """
    if len(measured.machines) > 1 and not measured.merged and not mix_machines:
        raise UserError(f"the measurements are of {len(measured.machines)} machines ({', '.join(measured.machines)}); --mix-machines takes them together")
    trials = [record for record in measured.records if record.is_trial]
    of_setting = by_setting(record for record in trials if UNCHECKED not in record.versions)
    tasks = {setting: of for setting in of_setting if (of := known_task(setting.task))}
    n_checked = sum(map(len, of_setting.values()))
    unknown = sum(len(records) for setting, records in of_setting.items() if setting not in tasks)
    left_out = Counter({UNKNOWN_TASK: unknown, NOT_CHECKED: len(trials) - n_checked})
    groups = _Groups()
    features, new, numbers = list[NDArray[np.float32]](), list[Record](), list[int]()
    taken: set[tuple[int, int, tuple[int, ...]]] = set()
    for (setting, of), known in zip(tasks.items(), _all_described([of_setting[setting] for setting in tasks]), strict=True):
        left_out += known.left_out
        if not known.places:  # what nothing can be learned of is no task to hold out either
            continue
        records = of_setting[setting]
        number = groups.add(setting, of, measured.sources.get(setting.task, {UNKNOWN: 1}))
        first = []
        for i, (sketch, at) in enumerate(zip(known.sketches, known.places, strict=True)):
            candidate = (number, sketch, records[at].row)
            if candidate not in taken:
                taken.add(candidate)
                first.append(i)
        features.append(known.features[first])
        new += [records[known.places[i]] for i in first]
        numbers += [number] * len(first)
    if trials and not new:
        why = ", ".join(f"{n}: {reason}" for reason, n in left_out.items() if n)
        raise UserError(f"none of the {len(trials)} measurements means anything to this version: {why}")
    X = np.concatenate([np.empty((0, len(TaskFeatures.names)), np.float32), *features])
    seconds, places = np.array([record.best_seconds for record in new]), np.array([_place(record.row) for record in new])
    return TrainingSet(X, seconds, np.array(numbers, dtype=np.intp), tuple(groups.found), places, left_out)


def operator_kind(key: str) -> str:
    """The operator of a task in words, and for convolutions whether it is depthwise, grouped or dilated."""
    operator, _, parameters = key.partition(":")
    value = dict(part.split("=", 1) for part in parameters.split(",") if "=" in part)
    words = []
    if value.get("groups", "1") != "1":
        words.append("depthwise" if value["groups"] == value.get("c") else "grouped")
    if set(value.get("dilation", "1").split("x")) != {"1"}:
        words.append("dilated")
    return " ".join([*words, operator])


class _Groups:
    """The groups that came up so far."""

    def __init__(self) -> None:
        self.found: list[Group] = []
        self._numbers: dict[tuple[str, str, int], int] = {}
        self._programs: dict[str, str] = {}  # ids by operator text: a task is found once, however many machines measured it

    def add(self, setting: Setting, of: Task, uses: Mapping[str, int]) -> int:
        """The number of the setting's group, which has one more name from now on. A network that uses it under several names uses it so often in all."""
        if setting.task not in self._programs:
            self._programs[setting.task] = program_id(of.program)
        key = (self._programs[setting.task], setting.machine, setting.threads)
        number = self._numbers.setdefault(key, len(self.found))
        if number == len(self.found):
            self.found.append(Group(*key, of.work, (), {}))
        known = self.found[number]
        self.found[number] = replace(known, tasks=(*known.tasks, setting.task), uses=Counter(known.uses) + Counter(uses))
        return number


@dataclass(frozen=True)
class _Described:
    """m candidates of one task, those records of one setting that mean something: of each its features, its sketch by number, and its place among the records.
    `left_out` counts the other records, by reason."""

    features: NDArray[np.float32]  # (m, f)
    sketches: list[int]
    places: list[int]
    left_out: Counter[str]


def _all_described(by_setting: Collection[Sequence[Record]]) -> Iterator[_Described]:
    """In order; many on all cores, for the features of a task take a tenth of a second however few its candidates are."""
    found: Iterator[_Described] = Parallel(n_jobs=-1 if len(by_setting) >= MANY_SETTINGS else 1, return_as="generator")(
        delayed(_described)(records) for records in by_setting
    )
    return found


@without_collection()
def _described(records: Sequence[Record]) -> _Described:
    """Of records of one setting, of which there is one at least."""
    target = records[0].target
    every = sketches(task(records[0].task).program, target)
    known = meaning(records, every)
    if not known.places:
        return _Described(np.empty((0, len(TaskFeatures.names)), np.float32), [], [], known.left_out)
    of_sketch = [known.places.get(number, []) for number in range(len(every))]
    populations = [(sketch, rows([records[at] for at in mine], len(sketch.space.columns))) for sketch, mine in zip(every, of_sketch, strict=True)]
    numbers = [number for number, mine in enumerate(of_sketch) for _ in mine]
    places = [at for mine in of_sketch for at in mine]
    return _Described(np.concatenate(described_once(populations, target)), numbers, places, known.left_out)


def _place(row: tuple[int, ...]) -> float:
    """Of the row alone: names of programs and sketches, and what else identifies them, may change."""
    return fraction(f"{list(row)}")


def fraction(text: str) -> float:
    """From 0 to 1, as good as random, and the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
