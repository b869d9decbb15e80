"""Measurements to learn from, wherever they lie: directories that `tilewright record` wrote, single Parquet files, and records files of tuning runs.

A directory holds for each machine `<id>.parquet` with its records, and `<id>.about.json` beside it with what is not in a record: where each task comes from
("sources": by task, how often each network or operator family uses it), and the machine's measured limits by number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import exchange
from data.record import Record
from data.store import read_all
from ir.errors import UserError

ABOUT = ".about.json"  # not any .json: whoever exports records may well have a JSON result of the same name

Sources = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Measured:
    """`records`: each once, of all kinds. `sources`: of those tasks for which they are known."""

    records: tuple[Record, ...]
    sources: Sources

    @property
    def machines(self) -> list[str]:
        """The ids of the machines, in order."""
        return sorted({record.setting.machine for record in self.records})


def read_measured(paths: Iterable[Path]) -> Measured:
    """What all the paths hold, as if measured together; `UserError` names what is damaged, missing or of a newer version."""
    records: dict[str, Record] = {}
    sources: Sources = {}
    for path in paths:
        for part in _parts(path):
            for record in exchange.read(part)[0] if part.suffix == ".parquet" else read_all([part]):
                records.setdefault(record.key, record)
            for task, uses in read_about(part.with_suffix(ABOUT)).sources.items():
                sources.setdefault(task, {}).update(uses)
    return Measured(tuple(records.values()), sources)


def _parts(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    parts = sorted(path.glob("*.parquet"))
    if not parts:
        raise UserError(f"{path}: no .parquet file in it; expected a directory that tilewright record wrote")
    return parts


@dataclass(frozen=True)
class About:
    """What a campaign keeps beside its records. `limits` by number of threads, as text."""

    sources: Sources
    limits: dict[str, Any]


def read_about(path: Path) -> About:
    """Nothing where the file does not exist; `UserError` where it is not such a file."""
    if not path.exists():
        return About({}, {})
    try:
        found = json.loads(path.read_bytes())
        sources = {str(task): {str(name): int(n) for name, n in uses.items()} for task, uses in found["sources"].items()}
        return About(sources, dict(found["limits"]))
    except OSError as error:
        raise UserError(f"{path}: it cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: it is not what tilewright record keeps beside its records; expected a JSON object with sources and limits") from None
