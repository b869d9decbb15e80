import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_samples import MACHINE, TASK, batch_round, failed, golden, golden_2, random_records, record, records, rounds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.record import SCHEMA_VERSION, Record, Round, Setting, machine_id
from data.store import APPLICATION_ID, Store, TaskCounts
from ir.errors import UserError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "re cords #1%20?.db"  # SQLite takes it as an address, where these letters have meanings


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory of a user whom file permissions hold back, unlike root."""
    directory = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    yield directory
    os.seteuid(user)
    directory.chmod(0o700)
    shutil.rmtree(directory)


def refused(path: Path, create: bool = True) -> str:
    """The one line with which opening is refused; whatever is there stays as it is."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError) as error, Store(path, create=create):
        pass
    assert (path.read_bytes() if path.is_file() else None) == before
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- keeping and reading ------------------------------------------------------------------------------------------------


def test_appends_and_reads_in_order_across_openings(path: Path) -> None:
    trials = random_records(50, seed=1)
    with Store(path) as store:
        assert store.records() == []
        assert store.append(trials[:20], [batch_round()]) == 20
    with Store(path) as store:
        assert store.append(trials[20:]) == 30
        assert store.records() == trials
    with Store(path, create=False) as store:
        assert store.records() == trials
        assert store.rounds() == [batch_round()]
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # the log is gone once everyone has closed


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(entries=st.lists(records() | rounds(), max_size=4))
def test_whatever_exists_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, entries: list[Record | Round]) -> None:
    with Store(tmp_path_factory.mktemp("store") / "records.db") as store:
        trials = list({entry.key: entry for entry in entries if isinstance(entry, Record)}.values())
        batches = list({entry.key: entry for entry in entries if isinstance(entry, Round)}.values())
        assert store.append(trials, batches) == len(trials)
        assert store.records() == trials
        assert store.rounds() == batches


def test_what_many_rows_have_in_common_is_kept_once(path: Path) -> None:
    with Store(path) as store:
        store.append([record(), record(trial=1)])
        first, second = store.records()
    assert first.machine is second.machine
    assert first.versions is second.versions
    assert first.columns is second.columns


def test_the_same_record_is_kept_once(path: Path) -> None:
    trials = random_records(5, seed=2)
    with Store(path) as store:
        assert store.append([*trials, trials[0]], [batch_round(), batch_round()]) == 5
        assert store.append([*trials, record()], [batch_round()]) == 1
        assert store.records() == [*trials, record()]
        assert store.rounds() == [batch_round()]


def test_reads_what_was_asked_for(path: Path) -> None:
    other = MACHINE | {"cpu_model": "other"}
    trials = [record(), record(task="other"), record(machine=other), record(threads=1), failed()]
    batches = [batch_round(), batch_round(task="other"), batch_round(machine=other)]
    with Store(path) as store:
        store.append(trials, batches)
        assert store.records(TASK) == [trials[i] for i in (0, 2, 3, 4)]
        assert store.records(machine=machine_id(other)) == [trials[2]]
        assert store.records(TASK, machine_id(MACHINE), 2) == [trials[0], trials[4]]
        assert store.records("none") == []
        assert store.records("x' OR '1'='1") == []
        assert store.rounds() == batches


def test_best_and_counts_by_setting(path: Path) -> None:
    fast = record(seconds=(1e-6,), row=(1, 1))
    alone = record(threads=1)
    hopeless = [failed("build", task="hopeless", trial=i) for i in range(2)]
    with Store(path) as store:
        store.append([record(), fast, failed("crash"), alone, *hopeless, record(kind="final")])
        machine = machine_id(MACHINE)
        mine, single, lost = Setting(TASK, machine, 2), Setting(TASK, machine, 1), Setting("hopeless", machine, 2)
        assert store.best() == {mine: fast, single: alone}
        assert store.best("hopeless") == {}
        assert store.tasks() == [TaskCounts(mine, 3, 1), TaskCounts(single, 1, 0), TaskCounts(lost, 2, 2)]


def test_best_by_some_algorithms(path: Path) -> None:
    direct, split, winograd = (record(sketch=name, seconds=(seconds,)) for name, seconds in (("tile_n", 3e-6), ("split4_k", 2e-6), ("winograd4_k", 1e-6)))
    with Store(path) as store:
        store.append([direct, split, winograd])
        assert list(store.best().values()) == [winograd]
        assert list(store.best(algorithms=("direct", "split")).values()) == [split]
        assert list(store.best(algorithms=("direct",)).values()) == [direct]
        assert store.best(algorithms=()) == {}


def test_a_golden_file_of_version_1(path: Path) -> None:
    shutil.copy(GOLDEN / "records_v1.db", path)
    with Store(path) as store:
        assert (store.records(), store.rounds()) == golden()
        assert store.append([record(trial=99)]) == 1


def test_a_file_of_version_1_that_is_opened_to_append_becomes_version_2(path: Path) -> None:
    """So that whoever knows version 1 alone refuses it in words. Reading changes nothing."""
    shutil.copy(GOLDEN / "records_v1.db", path)
    for create, version in ((False, 1), (True, 2)):
        with Store(path, create=create):
            pass
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        connection.close()
    with Store(path) as store:
        store.append(golden_2()[0])
        assert (store.records(), store.rounds()) == golden_2()


def test_a_golden_file_of_version_2(path: Path) -> None:
    shutil.copy(GOLDEN / "records_v2.db", path)
    with Store(path, create=False) as store:
        assert (store.records(), store.rounds()) == golden_2()


def test_samples_count_as_trials_and_repeats_do_not(path: Path) -> None:
    with Store(path) as store:
        store.append([record(kind="sample"), record(row=(5, 5), seconds=(1e-6,), kind="sample", trial=1), record(kind="repeat", seconds=(1e-7,), trial=2)])
        assert [(counts.n_trials, counts.n_failed) for counts in store.tasks()] == [(2, 0)]
        assert [best.row for best in store.best().values()] == [(5, 5)]


# --- several processes ----------------------------------------------------------------------------------------------------

APPEND = """
import sys; sys.path.insert(0, "tests")
from data_samples import random_records
from data.store import Store
path, seed = sys.argv[1], int(sys.argv[2])
trials = random_records(40, seed)
sys.stdin.readline()
for i in range(0, 40, 4):
    with Store(path) as store:  # opening competes too
        assert store.append(trials[i : i + 4]) == 4
        print(i, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


def test_several_processes_make_and_fill_one_file(path: Path) -> None:
    workers = [start(APPEND, path, seed) for seed in range(4)]
    for worker in workers:
        worker.stdin.write("go\n")  # type: ignore[union-attr]
        worker.stdin.flush()  # type: ignore[union-attr]
    for worker in workers:
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 0, errors
    with Store(path, create=False) as store:
        found = store.records()
    assert len(found) == 160
    for seed in range(4):
        assert [trial for trial in found if trial.seed == seed] == random_records(40, seed)


APPEND_FOREVER = """
import itertools, sys; sys.path.insert(0, "tests")
from data_samples import record
from data.store import Store
with Store(sys.argv[1]) as store:
    for batch in itertools.count():
        assert store.append([record(round=batch, trial=trial) for trial in range(4)]) == 4
        print(batch, flush=True)
"""


def test_making_a_file_waits_for_another_that_makes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("time.sleep", lambda _: other.execute("ROLLBACK"))
    with Store(path) as store:
        assert not other.in_transaction  # it was waited for
        assert store.append([record()]) == 1
    other.close()


def test_a_killed_process_loses_nothing_it_had_appended(path: Path) -> None:
    worker = start(APPEND_FOREVER, path)
    reported = [int(worker.stdout.readline()) for _ in range(20)]  # type: ignore[union-attr]
    worker.send_signal(signal.SIGKILL)
    rest, _ = worker.communicate(timeout=60)
    reported += [int(line) for line in rest.split()]
    with Store(path) as store:
        trials = store.records()
        assert store.append([record(task="next")]) == 1
    sizes = Counter(trial.round for trial in trials)
    assert set(sizes) >= set(reported)
    assert len(sizes) <= len(reported) + 1  # the one in flight
    assert set(sizes.values()) == {4}


def test_a_reader_does_not_hold_up_writers(path: Path) -> None:
    with Store(path) as writer, Store(path, create=False) as reader:
        writer.append([record()])
        assert len(reader.records()) == 1
        assert len(reader.tasks()) == len(reader.best()) == 1
        writer.append([failed()])
        assert len(reader.records()) == 2
        assert [record.failure for record in reader.records()] == ["", "crash"]
        writer._connection.execute("PRAGMA busy_timeout = 0")
        assert writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)  # refused while anyone reads


def test_a_file_that_stays_locked_is_reported(path: Path) -> None:
    with Store(path) as holder, Store(path) as waiter:
        holder._connection.execute("BEGIN IMMEDIATE")
        waiter._connection.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(UserError, match="another process has kept it locked"):
            waiter.append([record()])
        holder._connection.execute("ROLLBACK")
        assert waiter.append([record()]) == 1


# --- bad files --------------------------------------------------------------------------------------------------------------


def test_missing(path: Path) -> None:
    assert refused(path, create=False).endswith("it does not exist")
    assert not path.exists()


def test_empty(path: Path) -> None:
    path.touch()
    assert "expected application id" in refused(path, create=False)
    with Store(path) as store:
        assert store.append([record()]) == 1


def test_directory_and_device(tmp_path: Path) -> None:
    assert "it is a directory; expected a SQLite file" in refused(tmp_path)
    assert "device or pipe" in refused(Path(os.devnull))


def test_in_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    assert "its directory does not exist" in refused(tmp_path / "none" / "records.db")
    assert "its directory does not exist" in refused(Path(__file__) / "records.db")


def test_in_a_directory_that_is_not_writable(unprivileged: Path) -> None:
    unprivileged.chmod(0o555)
    assert "permission is denied" in refused(unprivileged / "records.db")


def test_a_file_that_is_not_writable_is_refused_before_anything_is_measured(unprivileged: Path) -> None:
    path = unprivileged / "records.db"
    with Store(path) as store:
        store.append([record()])
    path.chmod(0o444)
    assert "not writable" in refused(path)
    with Store(path, create=False) as store:
        assert store.records() == [record()]
        with pytest.raises(UserError, match="not writable"):
            store.append([failed()])


def test_a_file_that_is_not_readable(unprivileged: Path) -> None:
    path = unprivileged / "records.db"
    Store(path).close()
    path.chmod(0)
    with pytest.raises(UserError, match="permission is denied"):
        Store(path)


@pytest.mark.parametrize("content", [b"no", b"PAR1" + bytes(1000), b"{}\n" * 5000, b"SQLite format 3\0"])
def test_not_sqlite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for create in (True, False):
        assert "it is not a SQLite file; expected the records of Tilewright" in refused(path, create)


def test_the_file_of_another_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    assert "found application id 0x0, tables bookmarks; expected application id 0x54575254" in refused(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 7")
    connection.close()
    assert "found application id 0x7, tables bookmarks" in refused(path)


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_newer_schema(path: Path) -> None:
    with Store(path) as store:
        store.append([record()])
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "DROP TABLE rounds")
    assert f"its schema version {SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}" in refused(path)


def test_ours_but_without_version_or_tables(path: Path) -> None:
    change(path, f"PRAGMA application_id = {APPLICATION_ID}")
    assert "it is corrupted: found schema version 0, tables none" in refused(path)
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION}", "CREATE TABLE trials (id)")
    assert f"found schema version {SCHEMA_VERSION}, tables trials; expected an intact SQLite file with tables machines, trials, rounds" in refused(path)


@pytest.mark.parametrize("left", [0.1, 0.5, 0.9])
def test_cut_short(path: Path, left: float) -> None:
    with Store(path) as store:
        store.append(random_records(300, seed=4))
    os.truncate(path, int(path.stat().st_size * left))
    assert "corrupted" in refused(path)
    assert "corrupted" in refused(path, create=False)


def test_overwritten_in_the_middle(path: Path) -> None:
    with Store(path) as store:
        store.append(random_records(300, seed=5))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xff" * 8192)
    assert "corrupted" in refused(path)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("seconds", "'[-1.0]'", "seconds holds what is -1.0"),
        ("machine", "'none'", "machine is None, not JSON"),
        ('"row"', "'[1'", "row 2 of its trials is corrupted: row is '[1', not JSON"),
        ('"row"', f"'{'[' * 100_000}'", ", not JSON"),
        ("message", "CAST(x'ff' AS TEXT)", "a text in it is not UTF-8"),
    ],
)
def test_values_that_no_record_has(path: Path, column: str, value: str, words: str) -> None:
    with Store(path) as store:
        store.append([record(), record(trial=1)])
    change(path, f"UPDATE trials SET {column} = {value} WHERE id = 2")
    with Store(path) as store, pytest.raises(UserError, match="corrupted") as error:
        store.records()
    assert words in str(error.value)


@pytest.mark.parametrize("writes", [False, True])
def test_a_directory_that_one_may_not_write_to(path: Path, writes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read all the same; also where somebody who may write to it does so now."""
    with Store(path) as store:
        store.append([record()])
        if not writes:
            store.close()
        monkeypatch.setattr(os, "access", lambda where, mode: False)
        with Store(path, create=False) as other:
            assert other.records() == [record()]


# --- full disk ----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_what_was_there(path: Path) -> None:
    trials = random_records(400, seed=6)
    with Store(path) as store:
        store.append(trials[:10], [batch_round()])
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(UserError, match="the disk is full; this write was undone as a whole, earlier records are intact"):
            store.append(trials[10:], [batch_round(round=2)])
        assert store.records() == trials[:10]
        store._connection.execute("PRAGMA max_page_count = 1000000")
        assert store.append(trials[10:]) == 390
    with Store(path) as store:
        assert store.records() == trials
        assert store.rounds() == [batch_round()]


LIMITED = """
import resource, sys; sys.path.insert(0, "tests")
from data_samples import random_records
from data.store import Store
from ir.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with Store(sys.argv[1]) as store:
        for seed in range(100):
            store.append(random_records(20, seed))
            print(seed, flush=True)
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.mark.parametrize("limit", [1024, 200_000])
def test_a_limit_on_file_sizes_keeps_what_was_there(path: Path, limit: int) -> None:
    worker = start(LIMITED, path, limit)
    output, errors = worker.communicate(timeout=60)
    assert worker.returncode == 2, errors
    assert len(errors.splitlines()) == 1
    assert str(path) in errors
    kept = [trial for seed in output.split() for trial in random_records(20, int(seed))]
    assert bool(kept) == (limit > 1024)
    with Store(path) as store:
        assert store.records() == kept
