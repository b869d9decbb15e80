"""Records in one SQLite file: the default home of what was measured. Several processes may append at once."""

from __future__ import annotations

import json
import os
import reprlib
import sqlite3
import time
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, TypeVar

from data.record import FIRST_KINDS, SCHEMA_VERSION, Entry, Record, Round, Setting, best_by_setting, canonical_json
from ir.errors import UserError
from schedule.algorithms import ALGORITHMS

APPLICATION_ID = 0x54575254  # "TWRT", in the header of every records file
BUSY_SECONDS = 30  # how long to wait for another process that writes; one write takes milliseconds

# Versions 1 and 2. Lists and tables are JSON text; `machine` is the id of a row of machines; `key` is the identity of the content.
_TABLES = {
    "machines": """CREATE TABLE machines (id TEXT PRIMARY KEY, description TEXT NOT NULL)""",
    "trials": """CREATE TABLE trials (
        id INTEGER PRIMARY KEY, "key" TEXT NOT NULL UNIQUE, task TEXT NOT NULL, sketch TEXT NOT NULL, "columns" TEXT NOT NULL, "row" TEXT NOT NULL,
        seconds TEXT NOT NULL, failure TEXT NOT NULL, message TEXT NOT NULL, machine TEXT NOT NULL REFERENCES machines (id), threads INTEGER NOT NULL,
        seed INTEGER NOT NULL, versions TEXT NOT NULL, round INTEGER NOT NULL, trial INTEGER NOT NULL, elapsed_seconds REAL NOT NULL,
        cache TEXT NOT NULL, kind TEXT NOT NULL, kept INTEGER NOT NULL)""",
    "rounds": """CREATE TABLE rounds (
        id INTEGER PRIMARY KEY, "key" TEXT NOT NULL UNIQUE, task TEXT NOT NULL, machine TEXT NOT NULL REFERENCES machines (id),
        threads INTEGER NOT NULL, seed INTEGER NOT NULL, round INTEGER NOT NULL, model TEXT NOT NULL, n_measured INTEGER NOT NULL,
        n_failed INTEGER NOT NULL, pairwise_accuracy REAL, recall_at_k REAL, k INTEGER NOT NULL, top_1 REAL, top_5 REAL,
        search_seconds REAL NOT NULL, build_seconds REAL NOT NULL, measure_seconds REAL NOT NULL, model_seconds REAL NOT NULL,
        elapsed_seconds REAL NOT NULL)""",
}
_INDEX = "CREATE INDEX trials_setting ON trials (task, machine, threads)"
_TABLE_OF: dict[type[Entry], str] = {Record: "trials", Round: "rounds"}
_FIRST = f"kind IN ({', '.join(repr(kind) for kind in FIRST_KINDS)})"  # measurements of a candidate
_JSON = ("columns", "row", "seconds", "versions", "machine")
_REPEATED = ("columns", "versions", "machine")  # the same in thousands of records

# What went wrong, by SQLite's primary result code; every other code is our own mistake and stays an exception of sqlite3.
_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full; this write was undone as a whole, earlier records are intact",
    sqlite3.SQLITE_IOERR: "a read or write failed (disk error, or a limit on file sizes); this write was undone as a whole, earlier records are intact",
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for {BUSY_SECONDS} seconds",
    sqlite3.SQLITE_READONLY: "it, or its directory, is not writable",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: its directory does not exist, or permission is denied",
    sqlite3.SQLITE_PERM: "permission is denied",
    sqlite3.SQLITE_CORRUPT: "it is corrupted or cut short; expected an intact SQLite file",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite file; expected the records of Tilewright (exported ones are read by import)",
}

E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class TaskCounts:
    """How many trials a setting has, failed ones included."""

    setting: Setting
    n_trials: int
    n_failed: int


class Store:
    """An open records file.

    Every method raises `UserError` with one line where the file or the disk does not allow what was asked. Reads take a snapshot
    and hold no lock afterwards; a write is one transaction, so a killed process leaves all of it or nothing.
    """

    def __init__(self, path: str | Path, create: bool = True) -> None:
        """Opens the file to append and read; one that is missing or empty is made only if `create`. Close it, or use it as a context."""
        self.path = Path(path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise self._error(f"it is a {'directory' if os.path.isdir(path) else 'device or pipe'}; expected a SQLite file")
        if not create and not os.path.exists(path):
            raise self._error("it does not exist")
        with self._explained(), ExitStack() as on_error:
            address = f"{self.path.absolute().as_uri()}?mode={self._mode(create)}"
            self._connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            on_error.callback(self._connection.close)
            if create and self._is_blank():
                self._make()
            self._check()
            if create:
                self._try_to_write()
            on_error.pop_all()

    def _mode(self, create: bool) -> str:
        """To read, SQLite makes files beside one with a log of its own. Where it may not, and nobody writes, the file is as good as one that never changes."""
        log, directory = self.path.with_name(f"{self.path.name}-wal"), self.path.absolute().parent
        if create:
            return "rwc"
        return "rw" if os.access(directory, os.W_OK) or os.path.exists(log) else "ro&immutable=1"

    def append(self, records: Iterable[Record] = (), rounds: Iterable[Round] = ()) -> int:
        """Keeps records and rounds in one transaction; those already there are skipped. Returns how many records were new."""
        records, rounds = list(records), list(rounds)
        machines = {(entry.setting.machine, canonical_json(entry.machine)) for entry in (*records, *rounds)}
        with self._transaction():
            self._connection.executemany("INSERT INTO machines VALUES (?, ?) ON CONFLICT (id) DO NOTHING", sorted(machines))
            self._insert(Round, rounds)
            return self._insert(Record, records)

    def records(self, task: str | None = None, machine: str | None = None, threads: int | None = None) -> list[Record]:
        """The records in the order in which they were appended; `machine` is a `machine_id`, None means any."""
        return self._select(Record, task=task, machine=machine, threads=threads)

    def rounds(self) -> list[Round]:
        """The rounds in the order in which they were appended."""
        return self._select(Round)

    def best(self, task: str | None = None, algorithms: Collection[str] = ALGORITHMS) -> dict[Setting, Record]:
        """The schedule to use for each setting that has one, among those by these algorithms."""
        return best_by_setting(self.records(task), algorithms)

    def tasks(self) -> list[TaskCounts]:
        """All settings that have trials, in the order of their first one."""
        query = f"SELECT task, machine, threads, count(*), sum(failure <> '') FROM trials WHERE {_FIRST} GROUP BY 1, 2, 3 ORDER BY min(id)"
        with self._explained():
            rows = self._connection.execute(query).fetchall()
        return [TaskCounts(Setting(task, machine, threads), n_trials, n_failed) for task, machine, threads, n_trials, n_failed in rows]

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- opening --------------------------------------------------------------------------------------------------------

    def _is_blank(self) -> bool:
        return self._pragma("application_id") == self._pragma("user_version") == 0 and not self._table_names()

    def _make(self) -> None:
        """Tables into a blank file. Several processes may be here at once: one makes them, the others find them."""
        self._use_write_ahead_log()
        with self._transaction():
            if self._is_blank():
                for statement in (*_TABLES.values(), _INDEX):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _use_write_ahead_log(self) -> None:
        """Appending then never waits for readers. The file remembers it. SQLite does not wait by itself for others that switch too."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _check(self) -> None:
        """Refuses what is not an intact records file of a version we know. Writes nothing."""
        application, version, tables = self._pragma("application_id"), self._pragma("user_version"), self._table_names()
        if application != APPLICATION_ID:
            found = f"application id {application:#x}, tables {', '.join(sorted(tables)) or 'none'}"
            raise self._error(f"it is not a records file of Tilewright: found {found}; expected application id {APPLICATION_ID:#x}")
        if version > SCHEMA_VERSION:
            raise self._error(f"its schema version {version} is newer than {SCHEMA_VERSION}, the newest this Tilewright knows")
        problem = self._pragma("quick_check(1)")
        if problem != "ok" or version < 1 or not _TABLES.keys() <= tables:
            detail = " ".join(problem.split()) if problem != "ok" else f"schema version {version}, tables {', '.join(sorted(tables)) or 'none'}"
            raise self._error(f"it is corrupted: found {detail}; expected an intact SQLite file with tables {', '.join(_TABLES)}")

    def _try_to_write(self) -> None:
        """A tuner must learn now, not after its first batch, that the file is read-only. From now on an older Tilewright refuses it: it may hold what
        that does not know."""
        with self._transaction():
            self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _pragma(self, name: str) -> Any:
        return self._connection.execute(f"PRAGMA {name}").fetchone()[0]

    def _table_names(self) -> set[str]:
        return {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()}

    # --- reading and writing ----------------------------------------------------------------------------------------------

    def _insert(self, kind: type[Entry], entries: Sequence[Entry]) -> int:
        names = ["key", *kind.parsers]
        columns, places = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
        query = f'INSERT INTO {_TABLE_OF[kind]} ({columns}) VALUES ({places}) ON CONFLICT ("key") DO NOTHING'
        return self._connection.executemany(query, [_encoded(entry) for entry in entries]).rowcount

    def _select(self, kind: type[E], **wanted: str | int | None) -> list[E]:
        """Those whose columns have the values that are wanted, if any."""
        given = {name: value for name, value in wanted.items() if value is not None}
        condition = " AND ".join(["true", *(f"{name} = ?" for name in given)])
        columns = ", ".join("description" if name == "machine" else f'"{name}"' for name in kind.parsers)
        source = _TABLE_OF[kind]
        query = f"SELECT {source}.id, {columns} FROM {source} LEFT JOIN machines ON machine = machines.id WHERE {condition} ORDER BY {source}.id"
        with self._explained():
            rows = self._connection.execute(query, list(given.values())).fetchall()
        return [self._decoded(kind, row) for row in rows]

    def _decoded(self, kind: type[E], row: Sequence[Hashable]) -> E:
        number, *values = row
        try:
            found = {name: _from_column(kind, name, value) for name, value in zip(kind.parsers, values, strict=True)}
            return kind.from_json(found)
        except ValueError as error:
            raise self._error(f"row {number} of its {_TABLE_OF[kind]} is corrupted: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what SQLite says about the file into one line for the user."""
        try:
            yield
        except sqlite3.Error as error:
            reason = _REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
            if reason is None and str(error).startswith("Could not decode"):  # Python's own, for it has no code
                reason = "it is corrupted: a text in it is not UTF-8"
            if reason is None:
                raise
            raise self._error(reason) from error

    def _error(self, reason: str) -> UserError:
        return UserError(f"records file {self.path}: {reason}")


def _encoded(entry: Entry) -> list[object]:
    values = entry.to_json() | {"machine": entry.setting.machine}
    return [entry.key, *(canonical_json(value) if isinstance(value, tuple | dict) else value for value in values.values())]


def _from_column(kind: type[Entry], name: str, value: Hashable) -> object:
    if name not in _JSON:
        return bool(value) if name == "kept" else value
    parse = _repeated if name in _REPEATED else _parsed
    return parse(kind, name, value)  # type: ignore[arg-type]  # mypy takes what a class hashes its instances by for what the class is hashed by


def _parsed(kind: type[Entry], name: str, value: Hashable) -> object:
    try:
        found = json.loads(str(value))
    except (ValueError, RecursionError):
        raise ValueError(f"{name} is {reprlib.repr(value)}, not JSON") from None
    return kind.parsed(name, found)


_repeated = lru_cache(maxsize=256)(_parsed)
