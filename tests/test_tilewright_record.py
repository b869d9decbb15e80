"""`tilewright record`: live on tiny tasks, killed, resumed, and what it leaves behind."""

import json
import signal

import psutil
import pytest
from test_tilewright_cli import assert_one_line_error, children, start, tilewright, wait_for_records

from data import exchange
from data.measurements import read_measured
from data.store import Store

TASKS = ("matmul:m=24,n=40,k=32", "softmax:shape=16x16,axis=1")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A campaign that was killed, and then gone on with to its end."""
    directory = tmp_path_factory.mktemp("campaign") / "measured"
    process = start("record", *TASKS, "--out", directory, "--max-trials", 12, "--threads", 1)
    wait_for_records(directory / "campaign.db", 3)
    workers = children(process)
    process.kill()
    process.communicate(timeout=30)
    assert not psutil.wait_procs(workers, timeout=10)[1]
    with Store(directory / "campaign.db") as store:
        before = store.records()
    done = tilewright("record", *TASKS, "--out", directory, "--max-trials", 12, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "measurements of 2 tasks" in done.stdout
    (part,) = directory.glob("*.parquet")
    assert exchange.read(part)[0][: len(before)] == before
    return directory


def test_the_directory_is_complete(measured):
    found = read_measured([measured])
    assert len([record for record in found.records if record.is_trial]) == 24
    assert [record.kind for record in found.records[-4:]] == ["repeat"] * 4
    assert {source for uses in found.sources.values() for source in uses} == {"operator matmul", "operator softmax"}
    (beside,) = measured.glob("*.json")
    about = json.loads(beside.read_text())
    assert about["machine"] == found.records[0].machine
    assert about["limits"]["1"]["fma_gflops_all"]["best"] > 0


def test_the_card_says_what_is_there(measured):
    card = (measured / "README.md").read_text()
    for text in (
        "24 candidates of 2 tasks",
        "| sample | 12 |",
        "| operator matmul | 1 | 12 |",
        "## Repeatability",
        "GFLOP/s on one thread",
    ):
        assert text in card


def test_it_goes_on_from_the_parquet_file_alone(measured, tmp_path):
    """As from a clone of the repository, where the working store is not."""
    directory = tmp_path / "measured"
    directory.mkdir()
    for path in (*measured.glob("*.parquet"), *measured.glob("*.json")):
        (directory / path.name).write_bytes(path.read_bytes())
    before = read_measured([directory]).records
    done = tilewright("record", TASKS[0], "matmul:m=8,n=16,k=24", "--out", directory, "--max-trials", 12, "--threads", 1, "-q")
    assert done.returncode == 0, done.stderr
    found = read_measured([directory])
    assert found.records[: len(before)] == before
    assert len([record for record in found.records if record.is_trial]) == 36
    assert len(found.sources) == 3


def test_ctrl_c_writes_what_there_is(tmp_path):
    process = start("record", TASKS[0], "--out", tmp_path / "m", "--max-trials", 5000, "--threads", 1)
    wait_for_records(tmp_path / "m" / "campaign.db", 3)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "interrupted, the same command goes on" in out
    assert len(read_measured([tmp_path / "m"]).records) >= 3
    assert (tmp_path / "m" / "README.md").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("targets", "--suite")),
        (("--suite", "operators", TASKS[0]), ("--suite operators", "one of them")),
        (("mathmul:m=1,n=1,k=1",), ("mathmul",)),
        (("absent.onnx",), ("absent.onnx",)),
        (("matmul:m=9999,n=9999,k=9999",), ("no task to measure", "flops")),
        ((TASKS[0], "--threads", "4096"), ("4096",)),
        ((TASKS[0], "--out", "file"), ("file", "directory")),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bad_input_is_one_line(arguments, words, tmp_path):
    (tmp_path / "file").write_text("")
    done = tilewright("record", *arguments, cwd=tmp_path)
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("note: "))
    assert_one_line_error(done, *words)
    assert not list(tmp_path.glob("**/*.parquet"))
