"""`tilewright record`: live on tiny tasks, killed, resumed, and what it leaves behind."""

import json
import shlex
import signal
import time

import data_samples
import psutil
import pytest
from test_tilewright_cli import assert_one_line_error, children, start, tilewright, unread, wait_for_records
from training_samples import MACHINE, directory

from data import exchange
from data.measurements import About, Measured, read_measured
from data.record import machine_id
from data.store import Store
from graph.suite import target_suite
from ir.errors import UserError
from ir.task import task
from search.campaign import CampaignOptions, CampaignProgress
from tilewright.data_card import card_text
from tilewright.record import _alone_in, _left, _passes, _united, print_recorded, record

MATMUL, SOFTMAX = "matmul:m=48,n=48,k=48", "softmax:shape=32x64,axis=1"
OTHER = MACHINE | {"cpu_model": "Another CPU"}
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
    assert set(about) == {"limits", "passes", "sources"}
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


def test_the_card_has_a_command_that_makes_it_again(measured):
    (command,) = [line for line in (measured / "README.md").read_text().splitlines() if "tilewright record" in line and line.startswith("    ")]
    _, _, *targets = shlex.split(command)[: 2 + len(TASKS)]
    assert sorted(targets) == sorted(task(text).key for text in TASKS)
    assert command.endswith(" --out DIRECTORY --max-trials 12 --threads 1 --seed 0 --passes 2")


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


def test_directories_of_one_machine_are_merged(tmp_path):
    """Whose files have the same names."""
    one = directory(tmp_path / "one", {MATMUL: {"a": 1}})
    other = directory(tmp_path / "other", {SOFTMAX: {"b": 2}, MATMUL: {"c": 1}}, n=50, seed=1)
    wanted = read_measured([one, other])
    again = [record(None, one, CampaignOptions(2), merge=[other]) for _ in range(2)]
    assert again[0] == again[1]
    assert again[0].n_records == len(wanted.records)
    assert read_measured([one]) == wanted
    (one / "campaign.db").unlink()
    assert read_measured([one]) == wanted
    assert len(list(one.glob("*.parquet"))) == 1
    assert "--seed 0\n    tilewright record" in (one / "README.md").read_text()


def test_directories_of_several_machines_are_merged(tmp_path):
    one, other = directory(tmp_path / "one", {MATMUL: {"a": 1}}), directory(tmp_path / "other", {MATMUL: {"b": 1}}, machine=OTHER)
    wanted = read_measured([one, other])
    done = tilewright("record", "--out", tmp_path / "both", "--merge", one, "--merge", other)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "both" / "README.md").read_text()
    for machine in (MACHINE, OTHER):
        assert f"--seed 0  # on {machine_id(machine)}" in card  # the trials of each are counted alone
    assert card.count("--max-trials 40 ") == 2
    assert card.count("  40 candidates of 1 tasks. Measured again they differ by 1.0%") == 2
    both = read_measured([tmp_path / "both"])
    assert both.merged
    assert {each.key for each in both.records} == {each.key for each in wanted.records}
    assert {path.name for path in (tmp_path / "both").glob("*.*")} == {
        "campaign.db", "README.md", *(f"{machine_id(each)}{end}" for each in (MACHINE, OTHER) for end in (".parquet", ".about.json")),
    }  # fmt: skip


def test_output_that_nobody_reads_is_no_failure(tmp_path):
    done = unread("record", "--out", "m", "--merge", directory(tmp_path / "one", {MATMUL: {"a": 1}}), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_of_limits_the_quieter_run_counts():
    slow, fast = ({"fma_gflops_all": {"best": best}} for best in (10.0, 11.0))
    found = _united(About({"t": {"a": 1}}, {"1": fast, "2": slow}), About({"t": {"b": 2}}, {"1": slow, "2": fast, "4": slow}))
    assert found == About({"t": {"a": 1, "b": 2}}, {"1": fast, "2": fast, "4": slow})


def test_what_is_merged_changes_no_number_of_passes():
    assert _united(About({}, {}, {"0": 2}), About({}, {}, {"0": 1, "1": 1})).passes == {"0": 2, "1": 1}


def test_what_is_damaged_is_found_before_anything_is_measured(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "foreign.parquet").write_bytes(b"PAR1")
    started = time.monotonic()
    assert_one_line_error(tilewright("record", TASKS[0], "--out", "m", "--max-trials", 5000, cwd=tmp_path), "foreign.parquet")
    assert time.monotonic() - started < 60
    with Store(tmp_path / "m" / "campaign.db") as store:
        assert store.records() == []


def test_ctrl_c_before_the_first_trial(tmp_path, monkeypatch):
    monkeypatch.setattr("tilewright.record._measure", lambda *_: (True, {}))
    with pytest.raises(KeyboardInterrupt):
        record(target_suite(TASKS, {}), tmp_path, CampaignOptions(12))
    assert not list(tmp_path.glob("*.parquet"))


def test_tasks_that_were_given_up_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tilewright.record._measure", lambda *_: (False, {"t": "the right result of t cannot be computed"}))
    with pytest.raises(UserError, match="it holds no measurement, so no Parquet file is written: the right result of t cannot be computed"):
        record(target_suite(TASKS, {}), tmp_path / "empty", CampaignOptions(12))
    recorded = record(target_suite(TASKS, {}), directory(tmp_path / "m", {MATMUL: {"a": 1}}), CampaignOptions(12))
    print_recorded(recorded)
    assert "given up: the right result of t cannot be computed" in capsys.readouterr().out


def test_a_seed_goes_on_with_the_passes_that_it_began_with(tmp_path):
    assert (_passes(tmp_path, None, None, 0), _passes(tmp_path, None, 1, 0), _passes(tmp_path, 3, None, 0), _passes(tmp_path, 1, 1, 0)) == (2, 1, 3, 1)
    with pytest.raises(UserError, match=r"the candidates of seed 7 are measured in 1 passes, not 2; ask for as many, or for another seed"):
        _passes(tmp_path, 2, 1, 7)


def test_a_task_without_a_valid_trial_is_named_and_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tilewright.record._measure", lambda *_: (False, {}))
    of, failed = task(TASKS[0]), data_samples.failed("timeout", task=task(TASKS[0]).key)
    with Store(tmp_path / "campaign.db") as store:
        store.append([failed])
    recorded = record(target_suite(TASKS, {}), tmp_path, CampaignOptions(12))
    assert (recorded.untimed, recorded.failures) == ((of.key,), {"timeout": 1})
    print_recorded(recorded)
    assert "1 failed (1 timeout), 0 are repeats" in capsys.readouterr().out
    assert tilewright("record", *TASKS, "--out", tmp_path, "-q").returncode == 1


def test_the_time_left_is_told_by_the_speed_of_this_run():
    first, now = (CampaignProgress(task(TASKS[0]), n, 0, 100, 0, seconds) for n, seconds in ((20, 1.0), (40, 11.0)))
    assert _left(first, first, None) == ""
    assert _left(first, now, None) == "  0:30 left"
    assert _left(first, now, 21.0) == "  0:10 left"


def test_two_campaigns_in_one_directory_are_refused(tmp_path):
    with _alone_in(tmp_path):
        assert_one_line_error(tilewright("record", TASKS[0], "--out", tmp_path), str(tmp_path), "another tilewright record is at work in it")
    assert not list(tmp_path.iterdir())
    with _alone_in(tmp_path):
        pass


def test_a_card_of_records_whose_caches_are_texts(tmp_path):
    """As whoever exported them may have written."""
    odd = data_samples.record(machine={"cpu_model": "none", "l1_bytes": "32 KiB", "l2_bytes": 1 << 20})
    assert "L2 1024 KiB" in card_text(Measured((odd,), {}, False), {})


def test_a_card_names_all_versions():
    old, new = (data_samples.record(versions={"features": version, "xgboost": "3"}, trial=trial) for trial, version in enumerate("67"))
    assert "  Versions: features 6 and 7, xgboost 3.\n" in card_text(Measured((old, new), {}, False), {})


def test_nothing_is_made_where_what_is_to_be_merged_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="absent: it does not exist"):
        record(None, tmp_path / "m", CampaignOptions(2), merge=[tmp_path / "absent"])
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--merge", "file"), ("file",)),
        (("--merge", "absent"), ("absent",)),
        (("--merge", "file", "--threads", "1"), ("--merge", "--threads")),
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
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert_one_line_error(done._replace(stderr="\n".join(errors)), *words)
    assert not list(tmp_path.glob("**/*.parquet"))
