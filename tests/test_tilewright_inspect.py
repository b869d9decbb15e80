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
from tilewright.inspect import best_json, best_schedules, code_text, print_best

TASK = task("matmul:m=24,n=40,k=32")  # as in the records


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
        with pytest.raises(UserError, match=f"has no task {number}; it holds 1 tasks"):
            code_text(number, tmp_path / "records.db", "nest", None)


def test_a_task_that_comes_twice_is_one():
    once, again = api._chosen([replace(TASK, count=2), task("matmul:m=8,n=8,k=8"), replace(TASK, count=3)])
    assert (once.key, once.count, again.count) == (TASK.key, 5, 1)


def test_a_task_that_only_another_version_knows_is_listed(tmp_path, capsys):
    with Store(tmp_path / "records.db") as store:
        store.append([record(task="fft:n=8"), record()])
    unknown, known = best_schedules(tmp_path / "records.db", None)
    assert (unknown.task, known.task) == (None, TASK)
    print_best([unknown, known])
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
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_made(tmp_path, wrong, words):
    with pytest.raises(UserError, match=words):
        api.tune(TASK, records=tmp_path / "records.db", **wrong)
    assert not list(tmp_path.iterdir())


def test_signs_that_the_terminal_lacks_cost_no_table(tmp_path):
    with Store(tmp_path / "records.db") as store:
        store.append([record(machine=record().machine | {"cpu_model": "another"})])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "tilewright", "best", "--records", str(tmp_path / "records.db")]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\xd7" in done.stdout  # of a register tile's sizes
