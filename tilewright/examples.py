"""What a cost model learns from: measurements as features and seconds, with the program, and thus the task, that each belongs to."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from codegen.kernel import find_sketch
from costmodel.features import FeatureExtractor
from data.measurements import Measured
from data.record import Record, Setting
from ir.errors import IllegalCandidate, UserError
from ir.identity import program_id
from ir.task import task
from schedule.target import Target

UNKNOWN = "unknown"  # the source of a task that nothing is said about


@dataclass(frozen=True)
class Group:
    """Candidates that are compared with each other: one program, whatever its names, on one machine with one number of threads."""

    program: str  # a `program_id`
    machine: str
    threads: int
    work: int  # what throughput counts: flops, or elements where data are only moved
    families: frozenset[str]  # operator families, by each of its names
    uses: dict[str, int]  # by the networks and operator families that it comes from; `UNKNOWN` where nothing is said

    @property
    def name(self) -> str:
        return f"{self.program} {self.machine} {self.threads}"


@dataclass(frozen=True)
class Examples:
    """n candidates. `left_out` counts measurements that mean nothing to this version, by reason."""

    X: NDArray[np.float32]  # (n, f) features
    seconds: NDArray[np.float64]  # (n,) of the fastest repeat, infinite where it failed
    groups: NDArray[np.intp]  # (n,) index into `of_group`
    of_group: tuple[Group, ...]
    place: NDArray[np.float64]  # (n,) from 0 to 1: where a candidate lies among all, by a hash of its program, sketch and row; the same for the same candidate
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


def examples(measured: Measured, *, mix_machines: bool = False) -> Examples:
    """Each candidate by its first measurement, features computed anew from its row.

    `UserError` where nothing is left, and where several machines are mixed without that being meant.
    """
    if len(measured.machines) > 1 and not mix_machines:
        raise UserError(f"the measurements are of {len(measured.machines)} machines ({', '.join(measured.machines)}); --mix-machines takes them together")
    features, seconds, groups, places = list[NDArray[np.float32]](), list[float](), list[int](), list[float]()
    of_group: dict[tuple[str, str, int], tuple[int, Group]] = {}
    left_out: Counter[str] = Counter()
    trials = sorted((record for record in measured.records if record.is_trial), key=_sketch_key)
    for (setting, name), same_sketch in groupby(trials, key=_sketch_key):
        records = list(same_sketch)
        number, group = _group(of_group, setting, measured.sources.get(setting.task, {UNKNOWN: 1}))
        found, known = _features(records, name)
        left_out["sketch is not made any more" if found is None else "sketch has other columns now"] += len(records) - len(known)
        if found is not None and known:
            features.append(found)
            seconds += [record.best_seconds for record in known]
            groups += [number] * len(known)
            places += [_place(group.program, record) for record in known]
    if trials and not seconds:
        raise UserError(f"none of the {len(trials)} measurements means anything to this version: {', '.join(f'{n}: {why}' for why, n in left_out.items())}")
    X = np.concatenate([np.empty((0, len(FeatureExtractor.names)), np.float32), *features])
    return Examples(X, np.array(seconds), np.array(groups, dtype=np.intp), tuple(group for _, group in of_group.values()), np.array(places), +left_out)


def family(key: str) -> str:
    """The operator family of a task: its operator, and for convolutions whether it is depthwise, grouped or dilated."""
    operator, _, parameters = key.partition(":")
    value = dict(part.split("=", 1) for part in parameters.split(",") if "=" in part)
    words = []
    if value.get("groups", "1") != "1":
        words.append("depthwise" if value["groups"] == value.get("c") else "grouped")
    if set(value.get("dilation", "1").split("x")) != {"1"}:
        words.append("dilated")
    return " ".join([*words, operator])


def _sketch_key(record: Record) -> tuple[Setting, str]:
    return record.setting, record.sketch


def _group(of_group: dict[tuple[str, str, int], tuple[int, Group]], setting: Setting, uses: dict[str, int]) -> tuple[int, Group]:
    """Number and group of a setting; what is known of it is added to the group."""
    of = task(setting.task)
    key = (program_id(of.program), setting.machine, setting.threads)
    number, known = of_group.get(key, (len(of_group), Group(*key, of.work, frozenset(), {})))
    group = Group(*key, of.work, known.families | {family(setting.task)}, known.uses | uses)
    of_group[key] = number, group
    return number, group


def _features(records: list[Record], name: str) -> tuple[NDArray[np.float32] | None, list[Record]]:
    """Of records of one sketch: the features, and the records that they are of; None where the sketch is not made any more."""
    first = records[0]
    target = Target.from_json({**{k: v for k, v in first.machine.items() if k != "cpu_model"}, "threads": first.threads})
    try:
        sketch = find_sketch(task(first.task), name, target)
    except IllegalCandidate:
        return None, []
    columns = tuple(symbol.name for symbol in sketch.space.symbols)
    known = [record for record in records if record.columns == columns]
    X = np.array([record.row for record in known], dtype=np.int64).reshape(len(known), len(columns))
    return FeatureExtractor(sketch, target)(X), known


def _place(program: str, record: Record) -> float:
    digest = hashlib.sha256(f"{program} {record.sketch} {record.row}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
