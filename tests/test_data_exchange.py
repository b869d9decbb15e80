import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_samples import batch_round, failed, golden, golden_2, random_records, record, records, rounds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.exchange import Imported, export_records, import_records, read, write
from data.record import SCHEMA_VERSION, Record, Round
from data.store import Store
from ir.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
both_formats = pytest.mark.parametrize("ending", ["parquet", "jsonl"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "records.db") as store:
        yield store


def refused(path: Path) -> str:
    """The one line with which reading is refused."""
    with pytest.raises(UserError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- there and back -----------------------------------------------------------------------------------------------------


@both_formats
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(trials=st.lists(records(), max_size=3), batches=st.lists(rounds(), max_size=2))
def test_whatever_exists_reads_back_equal(tmp_path: Path, ending: str, trials: list[Record], batches: list[Round]) -> None:
    path = tmp_path / f"records.{ending}"
    write(path, trials, batches)
    assert read(path) == (trials, batches)


@both_formats
def test_from_store_to_store(tmp_path: Path, store: Store, ending: str) -> None:
    trials, path = random_records(60, seed=1), tmp_path / f"records.{ending}"
    store.append(trials, [batch_round()])
    assert export_records(store, path) == 60
    with Store(tmp_path / "other.db") as other:
        other.append(trials[:10])
        assert import_records(other.path, path) == Imported(n_new=50, n_known=10)
        assert other.records() == trials
        assert other.rounds() == [batch_round()]
        assert import_records(other.path, path) == Imported(n_new=0, n_known=60)
    assert import_records(store.path, path) == Imported(n_new=0, n_known=60)


def test_what_many_rows_have_in_common_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write(path, [record(), record(trial=1)])
    first, second = read(path)[0]
    assert first.machine is second.machine
    assert first.versions is second.versions
    assert first.columns is second.columns


@both_formats
def test_golden_files_of_every_version(ending: str) -> None:
    assert read(GOLDEN / f"records_v1.{ending}") == golden()
    assert read(GOLDEN / f"records_v2.{ending}") == golden_2()


def test_parquet_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write(path, [record(), failed()])
    frame = pd.read_parquet(path)
    assert list(frame.columns) == list(Record.parsers)
    assert frame["seconds"][0].tolist() == list(record().seconds)
    assert len(frame["seconds"][1]) == 0
    assert frame["failure"].tolist() == ["", "crash"]
    assert json.loads(frame["machine"][0]) == record().machine
    schema = pq.read_schema(path)
    assert schema.field("columns").type == pa.list_(pa.string())
    assert schema.field("row").type == pa.list_(pa.int64())
    assert schema.metadata[b"tilewright.schema"] == str(SCHEMA_VERSION).encode()


def test_json_lines_are_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write(path, [record()], [batch_round()])
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["machine"] == record().machine
    assert (first["schema"], first["entry"]) == (SCHEMA_VERSION, "record")
    assert (second["entry"], second["top_5"]) == ("round", 1.0)


# --- writing --------------------------------------------------------------------------------------------------------------


@both_formats
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"records.{ending}"
    write(path, [record()])
    code = f"""
import resource, sys; sys.path.insert(0, "tests")
from data_samples import random_records
from data.exchange import write
from ir.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000,) * 2)
try:
    write({str(path)!r}, random_records(1000, seed=2))
except UserError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert done.stderr == f"{path}: cannot be written: File too large\n"
    assert read(path) == ([record()], [])
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    write(path, [record()])
    monkeypatch.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write(path, random_records(5, seed=3))
    assert read(path) == ([record()], [])
    assert list(tmp_path.iterdir()) == [path]


@both_formats
def test_who_reads_the_old_file_is_not_disturbed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"records.{ending}"
    write(path, [record()])
    old = path.read_bytes()
    with path.open("rb") as reader:
        write(path, random_records(5, seed=3))
        assert reader.read() == old
    assert path.read_bytes() != old


@both_formats
def test_where_nothing_can_be_written(tmp_path: Path, ending: str) -> None:
    with pytest.raises(UserError, match=f"none/x.{ending}: cannot be written: No such file or directory"):
        write(tmp_path / "none" / f"x.{ending}", [record()])
    (tmp_path / f"taken.{ending}").mkdir()
    with pytest.raises(UserError, match=f"taken.{ending}: cannot be written: something that is no file has its name"):
        write(tmp_path / f"taken.{ending}", [record()])
    assert [file.name for file in tmp_path.iterdir()] == [f"taken.{ending}"]


def test_exported_files_have_ordinary_permissions(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", [record()])
    (tmp_path / "y").touch()
    assert (tmp_path / "x.jsonl").stat().st_mode == (tmp_path / "y").stat().st_mode


@pytest.mark.parametrize("name", ["records.csv", "records", ".parquet", ""])
def test_unknown_endings(tmp_path: Path, name: str) -> None:
    for act in (lambda: write(tmp_path / name, []), lambda: read(tmp_path / name)):
        with pytest.raises(UserError, match=r"its name ends in .*; expected \.parquet or \.jsonl"):
            act()


# --- reading --------------------------------------------------------------------------------------------------------------


@both_formats
def test_missing_or_a_directory(tmp_path: Path, ending: str) -> None:
    assert "cannot be read: No such file or directory" in refused(tmp_path / f"x.{ending}")
    (tmp_path / f"x.{ending}").mkdir()
    assert "cannot be read: Is a directory" in refused(tmp_path / f"x.{ending}")


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"task": None}, "task is None, not printable text"),
    ({"task": 3}, "task is "),
    ({"row": [4]}, "row has 1 values for 2 columns"),
    ({"row": [4.5, 1.0]}, "row holds what is 4.5, not a whole number"),
    ({"columns": None}, "columns is None, not a list"),
    ({"seconds": [1.0, 0.0]}, "seconds holds what is 0.0, not a positive time"),
    ({"seconds": [float("nan")]}, "seconds holds what is nan, not a finite number"),
    ({"seconds": [float("inf")]}, "seconds holds what is inf, not a finite number"),
    ({"seconds": ["1"]}, "seconds holds what is '1', not a finite number"),
    ({"seconds": []}, "seconds has 0 repeats although failure is ''"),
    ({"failure": "Timed out"}, "failure is 'Timed out', not a word"),
    ({"threads": 0}, "threads is 0, not a whole number from 1"),
    ({"kind": "other"}, "kind is 'other', not one of trial, final"),
    ({"kept": "yes"}, "kept is 'yes', neither true nor false"),
    ({"elapsed_seconds": -1.0}, "elapsed_seconds is -1.0, a negative time"),
]


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


GOOD = {"schema": SCHEMA_VERSION, "entry": "record", **record().to_json()}


@pytest.mark.parametrize(("changes", "words"), WRONG_FIELDS)
def test_wrong_fields_in_json_lines(tmp_path: Path, store: Store, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(lines(GOOD, GOOD | changes))
    error = refused(path)
    assert error.startswith(f"{path}, line 2: {words}")
    with pytest.raises(UserError, match="line 2"):
        import_records(store.path, path)
    assert store.records() == []  # the good line before it is not kept either


@pytest.mark.parametrize(("changes", "words"), WRONG_FIELDS)
def test_wrong_fields_in_parquet(tmp_path: Path, store: Store, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "x.parquet"
    write(path, [record()])
    table = pq.read_table(path)
    name, value = next(iter(changes.items()))
    wrong = table.set_column(table.schema.get_field_index(name), name, pa.array([value]))
    pq.write_table(wrong, path)
    assert refused(path).startswith(f"{path}, row 1: {words}")
    with pytest.raises(UserError, match="row 1"):
        import_records(store.path, path)
    assert store.records() == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "[1] is not a JSON object"),
        (json.dumps(GOOD | {"schema": SCHEMA_VERSION + 1, "new": 1}), f"schema version {SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}"),
        (json.dumps(GOOD | {"schema": "1"}), "schema is '1'; expected a version from 1"),
        (json.dumps(GOOD | {"schema": 0}), "schema is 0; expected a version from 1"),
        (json.dumps(GOOD | {"schema": True}), "schema is True; expected a version from 1"),
        (json.dumps(record().to_json()), "schema is None; expected a version from 1"),
        (json.dumps(GOOD | {"entry": "trial"}), "entry is 'trial'; expected record or round"),
        (json.dumps(GOOD | {"entry": []}), "entry is []; expected record or round"),
        (json.dumps(GOOD | {"speed": 1}), "speed is unknown; a record has task"),
        (json.dumps({name: value for name, value in GOOD.items() if name != "row"}), "row is missing; a record has task"),
        (json.dumps(GOOD | {"machine": "{}"}), "machine is '{}', not a table"),
        (json.dumps(GOOD | {"versions": {"numpy": 2}}), "versions holds what is 2, not printable text"),
        (json.dumps({"schema": 1, "entry": "round", **batch_round().to_json(), "top_1": 2}), "top_1 is 2, not between 0 and 1"),
        (json.dumps(GOOD)[:-9], "is not JSON"),
    ],
)
def test_wrong_lines(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(lines(GOOD) + line + "\n")
    error = refused(path)
    assert error.startswith(f"{path}, line 2: ")
    assert words in error
    assert len(error) < 1000


def test_lines_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xff\xfe\x00\x01\n")
    assert "line 1: b'\\xff\\xfe\\x00\\x01\\n' is not JSON" in refused(path)


def test_parquet_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    assert "schema is None; expected a version from 1" in refused(path)


def test_parquet_of_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"new": [1]}).replace_schema_metadata({b"tilewright.schema": str(SCHEMA_VERSION + 1)})
    pq.write_table(table, path)
    assert f"schema version {SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}" in refused(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop_columns(["row"]), ", row 1: row is missing; a record has"),
        (lambda table: table.append_column("speed", pa.array([1])), ", row 1: speed is unknown; a record has"),
        (lambda table: table.append_column("threads", pa.array([1])), ": Multiple matches for FieldRef.Name(threads)"),
        (lambda table: table.set_column(7, "machine", pa.array(["{"])), ", row 1: '{' is not JSON"),
        (lambda table: table.set_column(7, "machine", pa.array(["[]"])), ", row 1: machine is [], not a table"),
        (lambda table: table.set_column(7, "machine", pa.array([7])), ", row 1: machine is 7, not a table"),
        (lambda table: metadata(table, "tilewright.rounds", "[{}]"), ", round 1 of its metadata: build_seconds is missing"),
        (lambda table: metadata(table, "tilewright.rounds", "7"), ", round 1 of its metadata: 7 is not a JSON object"),
        (lambda table: metadata(table, "tilewright.rounds", "["), ": b'[' is not JSON"),
        (lambda table: metadata(table, "tilewright.schema", "one"), ": b'one' is not JSON"),
        (lambda table: table.set_column(0, "task", pa.array([b"\xff"]).cast(pa.string(), safe=False)), "utf-8"),
    ],
)
def test_wrong_tables(tmp_path: Path, change: Any, words: str) -> None:
    path = tmp_path / "x.parquet"
    write(path, [record()])
    pq.write_table(change(pq.read_table(path)), path)
    assert words in refused(path)


def metadata(table: Any, name: str, value: str) -> Any:
    return table.replace_schema_metadata({**table.schema.metadata, name.encode(): value})


@pytest.mark.parametrize("content", [b"", b"PAR1", b"{}\n", bytes(1000)])
def test_not_parquet(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    assert "Parquet" in refused(path)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_are_refused_or_read_in_full(tmp_path: Path, seed: int) -> None:
    """Whatever is cut or overwritten, no other exception than `UserError` comes out."""
    rng = np.random.default_rng(seed)
    trials = random_records(50, seed=4)
    for ending in ("parquet", "jsonl"):
        path = tmp_path / f"x.{ending}"
        write(path, trials)
        content = bytearray(path.read_bytes())
        for _ in range(5):
            damaged = bytearray(content)
            at = int(rng.integers(0, len(damaged)))
            if rng.random() < 0.5:
                del damaged[at:]
            else:
                damaged[at : at + 20] = rng.bytes(len(damaged[at : at + 20]))
            path.write_bytes(damaged)
            with suppress(UserError):
                read(path)
