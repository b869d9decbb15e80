"""Reading records that other versions, other machines and other people wrote: which schedule is used, and what is said of the rest."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_tilewright_bench import record

from codegen.machine import detect_machine
from data.store import Store
from ir.errors import UserError
from ir.task import task
from schedule.rules import sketches
from tilewright import api
from tilewright.history import read_history
from tilewright.inspect import best_json, best_schedules, code_text, print_best, without_valid_trial

TASK = task("matmul:m=24,n=40,k=32")  # as in the records


def test_trials_with_other_numbers_of_threads_are_counted(tmp_path):
    mine = replace(record(), kind="trial", kept=False)
    with Store(tmp_path / "records.db") as store:
        store.append([mine])
    with pytest.raises(UserError, match=rf"with {mine.threads + 1} threads; 0 records in all; 1 trial with other numbers of threads"):
        best_schedules(tmp_path / "records.db", mine.threads + 1)


def test_what_another_version_recorded_is_passed_over(tmp_path):
    """Of the same sketch with other columns a row means another schedule, however fast that was."""
    machine, path = detect_machine(), tmp_path / "records.db"
    mine = record()
    stale = record(columns=tuple(f"old_{name}" for name in mine.columns), seconds=(1e-9,))
    with Store(path) as store:
        store.append([mine, stale, replace(stale, sketch="no_such", seconds=(1e-8,))])
        assert api.recorded_best(store, TASK, machine) == mine
    assert api.compile(TASK, records=path).task == TASK
    assert [best.record for best in best_schedules(path, None)] == [mine]
    assert code_text("0", path, "nest", None) == code_text(TASK.key, path, "nest", None)
    assert read_history(path).sections[0].tasks[0].best == mine
    with Store(tmp_path / "stale.db") as store:
        store.append([stale])
    with pytest.raises(UserError, match="has no valid trial of matmul"):
        api.compile(TASK, records=tmp_path / "stale.db")
    with pytest.raises(UserError, match=r"was recorded by another version and means nothing now: sketch \w+ has columns"):
        code_text("0", tmp_path / "stale.db", "nest", None)


def test_a_faster_trial_beats_what_was_kept_of_those_that_mean_something(tmp_path):
    """Of all, the slow trial beats what was kept, whose sketch is gone; without that, the fast one was never beaten."""
    row = sketches(TASK.program, detect_machine().target)[0].space.sample(1, np.random.default_rng(1))[0]
    fast = record(kind="trial", kept=False)
    slow = replace(fast, row=tuple(row.tolist()), seconds=(1.5e-6,), trial=2)
    with Store(tmp_path / "records.db") as store:
        store.append([fast, record(sketch="gone", seconds=(2e-6,), trial=1), slow])
        assert api.recorded_best(store, TASK, detect_machine()) == fast
    assert [best.record for best in best_schedules(tmp_path / "records.db", None)] == [fast]


def test_numbers_of_tasks_that_cannot_be(tmp_path):
    with Store(tmp_path / "records.db") as store:
        store.append([record()])
    for number in ("1", "9" * 5000):
        with pytest.raises(UserError, match=f"has no task {number}; it holds 1 task with a valid trial"):
            code_text(number, tmp_path / "records.db", "nest", None)


def test_a_task_that_comes_twice_is_one():
    once, again = api._chosen([replace(TASK, count=2), task("matmul:m=8,n=8,k=8"), replace(TASK, count=3)])
    assert (once.key, once.count, again.count) == (TASK.key, 5, 1)


def test_a_task_that_only_another_version_knows_is_listed(tmp_path, capsys):
    with Store(tmp_path / "records.db") as store:
        store.append([record(task="fft:n=8"), record()])
    unknown, known = best_schedules(tmp_path / "records.db", None)
    assert (unknown.task, known.task) == (None, TASK)
    print_best([unknown, known], [])
    assert "unknown task" in capsys.readouterr().out
    first, second = best_json([unknown, known])
    assert (first["key"], first["best_gflops"], first["best_seconds"]) == ("fft:n=8", None, unknown.record.best_seconds)
    assert second["best_gflops"]
    with pytest.raises(UserError, match="fft"):
        code_text("0", tmp_path / "records.db", "nest", None)


def test_records_of_more_threads_than_there_are_now_are_listed(tmp_path):
    many = detect_machine().target.threads + 1
    with Store(tmp_path / "records.db") as store:
        store.append([record(threads=many)])
    (best,) = best_schedules(tmp_path / "records.db", None)
    assert (best.here, best.peak_gflops, best.n_trials) == (True, None, 0)


def test_code_for_a_cpu_of_another_kind_is_not_made(tmp_path):
    with Store(tmp_path / "records.db") as store:
        store.append([record(machine=record().machine | {"cpu": "strange", "features": "+glow,-hum"})])
    with pytest.raises(UserError, match=r"was recorded on a CPU of another kind \(strange\), whose code is not made here; its loop nest can be shown"):
        code_text("0", tmp_path / "records.db", "asm", None)
    assert "kernel" in code_text("0", tmp_path / "records.db", "nest", None)


@pytest.mark.skipif(not detect_machine().target.features, reason="LLVM says nothing of this CPU's features")
def test_code_for_vectors_that_the_cpu_does_not_have_is_not_made(tmp_path):
    """LLVM ends the process that asks it for such."""
    machine = record().machine
    with Store(tmp_path / "records.db") as store:
        store.append([record(machine=machine | {"lanes": 2 * int(machine["lanes"])})])
    with pytest.raises(UserError, match=rf"was recorded with {2 * int(machine['lanes'])} lanes and \d+ registers, which its CPU does not have"):
        code_text("0", tmp_path / "records.db", "asm", None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
        ({"batch": 0.5}, "batch must be a whole number from 1 to 100000, got 0.5"),
        ({"max_trials": 1.5}, "max_trials must be a whole number from 1 on, got 1.5"),
        ({"max_seconds": float("nan")}, "max_seconds must be positive and at most 10000000, got nan"),
        ({"threads": True}, "threads must be a whole number from 1 to 2147483647, got True"),
        ({"threads": 2.0}, "threads must be a whole number from 1 to 2147483647, got 2.0"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_made(tmp_path, wrong, words):
    with pytest.raises(UserError, match=words):
        api.tune(TASK, records=tmp_path / "records.db", **wrong)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_and_texts_of_operators_are_as_good_as_any(tmp_path):
    """They go to workers as JSON, and into LLVM's text."""
    said = []
    result = api.tune(
        [TASK.key], records=tmp_path / "records.db", max_trials=np.int64(2), batch=np.int8(2), threads=np.int64(1), seed=np.uint32(3), note=said.append
    )
    assert (result.states[0].n_trials, result.states[0].failures) == (2, {})
    assert result.compile(TASK.key).task.key == TASK.key
    with pytest.raises(UserError, match=r"matmul:m=8,.* was not tuned in this run"):
        result.compile("matmul:m=8,n=8,k=8")
    assert api.conv2d(1, 8, 9, 9, 8, 3, 3, stride=np.int64(2), pad=(np.int64(1), 1)) == api.conv2d(1, 8, 9, 9, 8, 3, 3, stride=2, pad=(1, 1))
    assert not any("do not count" in text for text in said)


def test_records_that_do_not_count_are_said_before_anything_is_tuned(tmp_path):
    machine, path = detect_machine(), tmp_path / "records.db"
    threads = machine.target.threads
    mine, foreign = record(kind="trial", kept=False), record(kind="trial", kept=False, machine=record().machine | {"cpu_model": "another"})
    with Store(path) as store:
        store.append([replace(mine, threads=threads + 1), foreign])
        assert api.unused_records(store, [TASK], machine) == (
            f"{path}: 2 trials of these tasks do not count: they are of this machine with {threads + 1} threads, not {threads}"
        )
        assert api.unused_records(store, [task("matmul:m=8,n=8,k=8")], machine) is None
        store.append([mine])
        assert api.unused_records(store, [TASK], machine) is None
    with Store(tmp_path / "foreign.db") as store:
        store.append([foreign])
        assert api.unused_records(store, [TASK], machine).endswith("they are all of other machines, or of this one with another LLVM")
    said = []
    api.tune(TASK, records=tmp_path / "foreign.db", max_trials=1, note=said.append)
    assert "1 trials of these tasks do not count" in said[0]


def test_numbers_of_threads_and_tasks_without_a_valid_trial_are_listed(tmp_path, capsys):
    path, threads = tmp_path / "records.db", detect_machine().target.threads
    lost = record(task="matmul:m=8,n=8,k=8,b=constant,epilogue=none", kind="trial", kept=False, seconds=(), failure="timeout", message="slow")
    with Store(path) as store:
        store.append([record(), lost])
    found = best_schedules(path, None)
    print_best(found, without_valid_trial(path, None, found))
    out = capsys.readouterr().out
    assert "threads" not in out.splitlines()[0]
    assert f"no valid trial: {lost.task}: 1 of 1 trials failed, with {threads} threads" in out
    assert without_valid_trial(path, threads + 1, []) == []
    with Store(path) as store:
        store.append([record(threads=threads + 1)])
    print_best(best_schedules(path, None), [])
    assert "threads" in capsys.readouterr().out.splitlines()[0]


def test_signs_that_the_terminal_lacks_cost_no_table(tmp_path):
    with Store(tmp_path / "records.db") as store:
        store.append([record(machine=record().machine | {"cpu_model": "another"})])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "tilewright", "best", "--records", str(tmp_path / "records.db")]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\xd7" in done.stdout  # of a register tile's sizes
