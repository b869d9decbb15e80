"""Reading measurements from directories, files and tuning runs as one."""

import errno
import json
import os
from pathlib import Path

import pytest
from data_samples import MACHINE, random_records, record

from data import exchange
from data.measurements import STORE, read_about, read_measured
from data.record import machine_id
from data.store import Store
from ir.errors import UserError

OTHER = MACHINE | {"cpu_model": "other"}
ABOUT = {"limits": {}, "sources": {record().task: {"net": 2}}}


LIMITS = {
    "threads": 2, "fma_gflops_one": {"best": 9.0}, "fma_gflops_all": {"best": 18.0}, "noise": {"minima_ratio": 1.01},
    "bandwidths": [{"level": "L1", "operation": "read", "threads": 2, "gb_per_second": {"best": 70.0}}],
}  # fmt: skip


def directory(path: Path, records, about=ABOUT) -> Path:
    path.mkdir()
    machine = records[0].setting.machine
    exchange.write(path / f"{machine}.parquet", records)
    (path / f"{machine}.about.json").write_text(json.dumps(about))
    return path


def test_directories_of_several_machines_are_read_together(tmp_path):
    here, there = random_records(5, seed=1), random_records(5, seed=2, machine=OTHER)
    one, other = directory(tmp_path / "one", here), directory(tmp_path / "other", there, ABOUT | {"sources": {record().task: {"more": 1}}})
    found = read_measured([one, other, one])
    assert found.records == (*here, *there)
    assert found.sources == {record().task: {"net": 2, "more": 1}}
    assert found.machines == sorted([machine_id(MACHINE), machine_id(OTHER)])
    assert not found.merged


def test_machines_in_one_directory_are_merged_and_in_one_records_file_are_not(tmp_path):
    """A records file may lie on a disk that several machines share without anyone having meant it."""
    here, there = random_records(5, seed=1), random_records(5, seed=2, machine=OTHER)
    path = directory(tmp_path / "both", here)
    exchange.write(path / f"{there[0].setting.machine}.parquet", there)
    assert read_measured([path]).merged
    with Store(tmp_path / "r.db") as store:
        store.append([*here, *there])
    assert not read_measured([tmp_path / "r.db"]).merged


def test_records_files_and_single_parquet_files(tmp_path):
    trials = random_records(6, seed=3)
    with Store(tmp_path / "r.db") as store:
        store.append(trials[:4])
    exchange.write(tmp_path / "r.parquet", trials[2:])
    assert read_measured([tmp_path / "r.db", tmp_path / "r.parquet"]).records == tuple(trials)


def test_what_the_working_store_holds_more_is_read_too(tmp_path):
    """After a campaign was killed its Parquet file is that of the run before, or none."""
    trials = random_records(6, seed=3)
    path = directory(tmp_path / "d", trials[:4])
    with Store(path / STORE) as store:
        store.append(trials)
    assert read_measured([path]).records == tuple(trials)
    (part,) = path.glob("*.parquet")
    part.unlink()
    found = read_measured([path])
    assert found.records == tuple(trials)
    assert found.sources == ABOUT["sources"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"c\.db: it does not exist"):
        read_measured([tmp_path / "c.db"])


def test_a_json_result_beside_records_is_not_asked(tmp_path):
    with Store(tmp_path / "r.db") as store:
        store.append([record()])
    (tmp_path / "r.json").write_text('{"tasks": []}')
    assert read_measured([tmp_path / "r.db"]).sources == {}


def test_fifty_thousand_candidates_fit(tmp_path):
    """At most 400 bytes each, with as many columns as the largest sketches have and all repeats kept."""
    columns = tuple(f"axis{i}.register" for i in range(30))
    trials = [
        record(task=f"matmul:m={of},n=48,k=7", columns=columns, row=tuple((7 * i * j + of) % 61 for j in range(30)), trial=i, elapsed_seconds=i * 0.123,
               seconds=tuple(1e-5 * (1 + (i * j * 0.618) % 1) for j in range(1, 9)), kind="sample")
        for of in range(10) for i in range(100)
    ]  # fmt: skip
    exchange.write(tmp_path / "x.parquet", trials)
    assert (tmp_path / "x.parquet").stat().st_size <= 400 * len(trials)
    assert exchange.read(tmp_path / "x.parquet")[0] == trials


def test_a_directory_that_may_not_be_listed(tmp_path, monkeypatch):
    def refuse(path):  # to root everything is open
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("data.measurements.os.listdir", refuse)
    with pytest.raises(UserError, match="it cannot be listed: Permission denied"):
        read_measured([tmp_path])


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no \.parquet file in it"):
        read_measured([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"absent\.parquet: it does not exist"):
        read_measured([tmp_path / "absent.parquet"])
    damaged = directory(tmp_path / "damaged", [record()])
    (part,) = damaged.glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match=part.name):
        read_measured([damaged])


@pytest.mark.parametrize(
    "content",
    [
        "", "[1]", "{}", '{"sources": 3, "limits": {}}', '{"sources": {"t": {"n": "x"}}, "limits": {}}', '{"sources": {"t": {"n": 0}}, "limits": {}}',
        '{"sources": {"t": {}}, "limits": {}}', '{"sources": {}, "limits": {"2": {}}}', '{"sources": {}, "limits": {"x": {}}}', "[" * 100_000,
        json.dumps({"sources": {}, "limits": {"2": LIMITS | {"fma_gflops_all": {"best": float("nan")}}}}),
        json.dumps({"sources": {}, "limits": {"2": LIMITS | {"bandwidths": [{"level": "L1"}]}}}),
        '{"sources": {"t": {"n": 1e999}}, "limits": {}}', json.dumps({"sources": {}, "limits": {"2": LIMITS | {"threads": 10**400}}}),
    ],
)  # fmt: skip
def test_a_damaged_companion(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"x\.json: it is not what tilewright record keeps beside its records"):
        read_about(path)


def test_a_companion_with_limits(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"sources": {}, "limits": {"2": LIMITS}}))
    assert read_about(path).limits == {"2": LIMITS}
