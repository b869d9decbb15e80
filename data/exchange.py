"""Records out to Parquet and JSON lines, and in again; the ending of the file says which.

Parquet: one row a record, lists as lists, `machine` and `versions` as JSON text; the schema version and the rounds are in the metadata.
JSON lines: one object a line, with `schema` and `entry` ("record" or "round") beside the fields.
"""

from __future__ import annotations

import functools
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data.record import SCHEMA_VERSION, Entry, Record, Round, canonical_json
from data.store import Store
from ir.errors import UserError
from ir.files import replacing

_ENTRIES: dict[str, type[Entry]] = {"record": Record, "round": Round}
_VERSION_KEY, _ROUNDS_KEY = b"tilewright.schema", b"tilewright.rounds"
_TEXT, _WHOLE, _TIME = pa.string(), pa.int64(), pa.float64()
_PARQUET_TYPES = {
    "task": _TEXT,
    "sketch": _TEXT,
    "columns": pa.list_(_TEXT),
    "row": pa.list_(_WHOLE),
    "seconds": pa.list_(_TIME),
    "failure": _TEXT,
    "message": _TEXT,
    "machine": _TEXT,
    "threads": _WHOLE,
    "seed": _WHOLE,
    "versions": _TEXT,
    "round": _WHOLE,
    "trial": _WHOLE,
    "elapsed_seconds": _TIME,
    "cache": _TEXT,
    "kind": _TEXT,
    "kept": pa.bool_(),
}
_JSON_COLUMNS = ("machine", "versions")


@dataclass(frozen=True)
class Imported:
    """How many of a file's records were new, and how many were there already."""

    n_new: int
    n_known: int


def export_records(store: Store, path: str | Path) -> int:
    """Writes all records and rounds of `store` to `path`; returns the number of records."""
    records = store.records()
    write(path, records, store.rounds())
    return len(records)


def import_records(records_file: str | Path, path: str | Path) -> Imported:
    """Appends what `path` holds to a records file: all of it or, where anything in it is wrong, nothing, and no file is made."""
    records, rounds = read(path)
    with Store(records_file) as store:
        n_new = store.append(records, rounds)
    return Imported(n_new, len(records) - n_new)


def write(path: str | Path, records: Iterable[Record], rounds: Iterable[Round] = ()) -> None:
    """Replaces `path` in one step: at any moment it is the old file or the complete new one. `UserError` where it cannot be written."""
    path = Path(path)
    write_to = _format(path).write
    with _explained(path, "written"), replacing(path) as file:
        write_to(file, list(records), list(rounds))


def read(path: str | Path) -> tuple[list[Record], list[Round]]:
    """What an exported file holds, every field checked; `UserError` names the line or row that is wrong."""
    path = Path(path)
    read_from = _format(path).read
    with _explained(path, "read"), path.open("rb") as file:
        entries = list(read_from(file, path))
    return [entry for entry in entries if isinstance(entry, Record)], [entry for entry in entries if isinstance(entry, Round)]


# --- JSON lines -------------------------------------------------------------------------------------------------------


def _write_lines(file: BinaryIO, records: list[Record], rounds: list[Round]) -> None:
    for entry in (*records, *rounds):
        head = {"schema": SCHEMA_VERSION, "entry": type(entry).__name__.lower()}
        file.write(json.dumps(head | entry.to_json(), allow_nan=False).encode() + b"\n")


def _read_lines(file: BinaryIO, path: Path) -> Iterator[Entry]:
    for number, line in enumerate(file, 1):
        with _located(f"{path}, line {number}"):
            value = _object(_parsed(line))
            _check_version(value.pop("schema", None))
            name = value.pop("entry", None)
            if not isinstance(name, str) or name not in _ENTRIES:
                raise UserError(f"entry is {name!r}; expected {' or '.join(_ENTRIES)}")
            entry = _ENTRIES[name].from_json(value)
        yield entry


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _write_parquet(file: BinaryIO, records: list[Record], rounds: list[Round]) -> None:
    rows = [record.to_json() | {name: canonical_json(getattr(record, name)) for name in _JSON_COLUMNS} for record in records]
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION), _ROUNDS_KEY: canonical_json([entry.to_json() for entry in rounds])}
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(_PARQUET_TYPES.items(), metadata)), file, compression="zstd", compression_level=9)


def _read_parquet(file: BinaryIO, path: Path) -> Iterator[Entry]:
    with _located(path):
        table = pq.read_table(file)
        metadata: dict[bytes, bytes] = table.schema.metadata or {}
        _check_version(_parsed(metadata.get(_VERSION_KEY, b"null")))
        rounds = _parsed(metadata.get(_ROUNDS_KEY, b"[]"))
        rows = table.to_pylist()
    for number, row in enumerate(rows, 1):
        with _located(f"{path}, row {number}"):
            texts = {name: _table(name, row[name]) for name in _JSON_COLUMNS if isinstance(row.get(name), str)}
            record = Record.from_json(row | texts)
        yield record
    for number, value in enumerate(rounds if isinstance(rounds, list) else [rounds], 1):
        with _located(f"{path}, round {number} of its metadata"):
            entry = Round.from_json(_object(value))
        yield entry


@functools.lru_cache(maxsize=256)  # thousands of rows have the same text
def _table(name: str, text: str) -> object:
    return Record.parsed(name, _parsed(text))


# --- what both share --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Format:
    write: Callable[[BinaryIO, list[Record], list[Round]], None]
    read: Callable[[BinaryIO, Path], Iterator[Entry]]


_FORMATS = {".parquet": _Format(_write_parquet, _read_parquet), ".jsonl": _Format(_write_lines, _read_lines)}


def _format(path: Path) -> _Format:
    if path.suffix not in _FORMATS:
        raise UserError(f"{path}: its name ends in {path.suffix or 'nothing'!r}; expected {' or '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


def _check_version(found: object) -> None:
    if type(found) is not int or found < 1:
        raise UserError(f"schema is {found!r}; expected a version from 1 to {SCHEMA_VERSION}")
    if found > SCHEMA_VERSION:
        raise UserError(f"schema version {found} is newer than {SCHEMA_VERSION}, the newest this Tilewright knows")


def _parsed(line: bytes | str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{reprlib.repr(line)} is not JSON ({error})") from None


def _object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UserError(f"{reprlib.repr(value)} is not a JSON object")
    return value


@contextmanager
def _located(place: str | Path) -> Iterator[None]:
    """Says where in the file something is wrong. What Arrow refuses is a `ValueError` too, or an `OverflowError` where Python has no such time."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise UserError(f"{place}: {' '.join(str(error).split())}") from error


@contextmanager
def _explained(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot be {done}: {reason}") from error
