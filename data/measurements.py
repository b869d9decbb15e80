"""Measurements to learn from, wherever they lie: directories that `tilewright record` wrote, single Parquet files, and records files of tuning runs.

A directory holds for each machine `<id>.parquet` with its records, and `<id>.about.json` beside it with what is not in a record: where each task comes from
("sources": by task, how often each network or operator family uses it), and the machine's measured limits by number of threads. The working store of
the campaign, where it is still there, may hold more than the Parquet files do.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data import exchange
from data.record import Record
from data.store import Store
from ir.errors import UserError
from ir.garbage import without_collection

STORE = "campaign.db"
ABOUT = ".about.json"  # not any .json: whoever exports records may well have a JSON result of the same name

Sources = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Measured:
    """`records`: each once, of all kinds. `sources`: of those tasks for which they are known. `merged`: whether one directory holds measurements of all the
    machines, so that whoever merged them there (`tilewright record --merge`) meant them to be taken together."""

    records: tuple[Record, ...]
    sources: Sources
    merged: bool

    @property
    def machines(self) -> list[str]:
        """The ids of the machines, in order."""
        return sorted(_machines(self.records))

    def by_machine(self) -> dict[str, list[Record]]:
        """By what people call each: its CPU, as LLVM names it, and its id. In the order of ids."""
        found: dict[str, list[Record]] = {machine: [] for machine in self.machines}
        for record in self.records:
            found[record.setting.machine].append(record)
        return {f"{mine[0].target.cpu} {machine}": mine for machine, mine in found.items()}


def read_measured(paths: Iterable[Path]) -> Measured:
    """What all the paths hold, as if measured together; `UserError` names what is damaged, missing or of a newer version."""
    records: dict[Record, None] = {}  # in order
    sources: Sources = {}
    together: list[set[str]] = []  # of each directory the machines
    for path in paths:
        with without_collection():
            mine = [record for part in _parts(path) for record in _records(part)]
        if os.path.isdir(path):  # where one may not look, `Path.is_dir` raises
            together.append(_machines(mine))
        records.update(dict.fromkeys(mine))
        for about in read_abouts(path).values():
            for task, uses in about.sources.items():
                sources.setdefault(task, {}).update(uses)
    return Measured(tuple(records), sources, _machines(records) in together)


def _machines(records: Iterable[Record]) -> set[str]:
    return {record.setting.machine for record in records}


def _parts(path: Path) -> Sequence[Path]:
    """The files with records."""
    if not os.path.exists(path):
        raise UserError(f"{path}: it does not exist, or one may not look; expected a directory that tilewright record wrote, a Parquet file or a records file")
    if not os.path.isdir(path):
        return [path]
    try:
        names = [name for name in os.listdir(path) if name.endswith(".parquet") or name == STORE]  # `Path.glob` finds nothing where it may not look
    except OSError as error:
        raise UserError(f"{path}: it cannot be listed: {error.strerror}") from None
    parts = [path / name for name in sorted(names, key=lambda name: (name == STORE, name))]
    if not parts:
        raise UserError(f"{path}: no .parquet file in it; expected a directory that tilewright record wrote")
    return parts


def _records(part: Path) -> Sequence[Record]:
    if part.suffix == ".parquet":
        return exchange.read(part)[0]
    with Store(part, create=False) as store:
        return store.records()


@dataclass(frozen=True)
class About:
    """What a campaign keeps beside its records. `limits` by number of threads, as text: of each, what `codegen.limits` gives as JSON. `passes` by seed, as
    text: how often each candidate was measured, where that is known."""

    sources: Sources
    limits: dict[str, Any]
    passes: dict[str, int] = field(default_factory=dict)


def read_abouts(path: Path) -> dict[str, About]:
    """What stands beside the records of a directory or file, by the name of their Parquet file without its ending, which is the machine's id."""
    found = sorted(path.glob(f"*{ABOUT}")) if os.path.isdir(path) else [path.with_suffix(ABOUT)]
    return {each.name.removesuffix(ABOUT): read_about(each) for each in found if os.path.exists(each)}


def read_about(path: Path) -> About:
    """`UserError` where it cannot be read, or is not such a file."""
    try:
        found = json.loads(path.read_bytes())
        passes = {str(int(seed)): int(n) for seed, n in found.get("passes", {}).items()}
        return About(_sources(found["sources"]), {str(int(threads)): _limits(limits) for threads, limits in found["limits"].items()}, passes)
    except OSError as error:
        raise UserError(f"{path}: it cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path}: it is not what tilewright record keeps beside its records; expected a JSON object with sources and limits") from None


def _sources(found: Mapping[str, Any]) -> Sources:
    """`ValueError` where a task is used nowhere, or not once."""
    sources = {task: {name: int(n) for name, n in uses.items()} for task, uses in found.items()}
    if not all(uses and min(uses.values()) >= 1 for uses in sources.values()):
        raise ValueError
    return sources


def _limits(found: dict[str, Any]) -> dict[str, Any]:
    """`found` as it is, if it holds what is read of it anywhere."""
    rates = [found["fma_gflops_one"], found["fma_gflops_all"], *(each["gb_per_second"] for each in found["bandwidths"])]
    numbers = [*(rate["best"] for rate in rates), found["noise"]["minima_ratio"], found["threads"], *(each["threads"] for each in found["bandwidths"])]
    names = [each[name] for each in found["bandwidths"] for name in ("level", "operation")]
    if not all(isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in numbers) or not all(isinstance(name, str) for name in names):
        raise ValueError
    return found
