"""Comparing: the rows that series make, the process that does it, and what it says when something is wrong."""

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest

from codegen.guards import WrongAnswer
from codegen.inputs import random_inputs
from codegen.machine import allowed_cpus, detect_machine
from codegen.timing import Repeat
from data.record import Record
from data.store import Store
from ir.errors import Unsupported, UserError
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches
from tilewright import bench_worker
from tilewright.bench import BenchFailed, BenchResult, TaskBench, answers, bench_environment, memory_bandwidth, recorded_schedules, run_bench
from tilewright.display import print_bench
from tilewright.problem import Problem
from tilewright.this_machine import machine_record
from tilewright.turns import Series

TASK = task("matmul:m=24,n=40,k=32", count=3, name="layer")
BANDWIDTHS = [
    ("L1", "read", 2, 16, 400.0),
    ("L2", "read", 1, 500, 90.0),
    ("L2", "read", 2, 500, 200.0),
    ("DRAM", "read", 2, 9, 10.0),
    ("DRAM", "copy", 2, 9, 9.0),
]
LIMITS = {
    "threads": 2,
    "bandwidths": [
        {"level": level, "operation": operation, "threads": threads, "buffer_bytes": size, "gb_per_second": {"best": best, "median": best / 2}}
        for level, operation, threads, size, best in BANDWIDTHS
    ],
}


def series(contender, *minima):
    return Series(contender, f"of {contender}", minima, tuple(2 * each for each in minima))


def record(**changes):
    """A kept record of a random row of `TASK` on this machine."""
    machine = detect_machine()
    sketch = sketches(TASK.program, machine.target)[0]
    row = sketch.space.sample(1, np.random.default_rng(0))[0]
    mine = Record(
        TASK.key, sketch.name, sketch.space.names, tuple(row.tolist()), (1e-6,), "", "", machine_record(machine), machine.target.threads, 0,
        {"tilewright": "0"}, 0, 0, 1.5, kind="final", kept=True,
    )  # fmt: skip
    return replace(mine, **changes)


def test_rows_tell_speed_fractions_and_ratios():
    ours = (series("tuned", 3e-6, 1e-6), series("default", 4e-6), series("again", 1.1e-6), series("in a row", 0.8e-6))
    peers = (series("numpy", 3e-6), series("torch", 2e-6, 2.5e-6))
    found = TaskBench(TASK, (series("peak", 4e-6, 2e-6), *ours, *peers), 400_000, 0.25, ())
    tuned, default, numpy, torch = found.rows(LIMITS)
    assert [row.contender for row in (tuned, default, numpy, torch)] == ["tuned", "default", "numpy", "torch"]
    assert tuned.peak_gflops == pytest.approx(200.0)
    assert tuned.gflops == pytest.approx(2 * 24 * 40 * 32 / 1e3)
    assert tuned.peak_fraction == pytest.approx(tuned.gflops / 200.0)
    assert {row.best_peer for row in (tuned, default, numpy, torch)} == {"torch"}
    assert [row.ratio_to_best_peer for row in (tuned, default, numpy, torch)] == pytest.approx([2.0, 0.5, 2 / 3, 1.0])
    assert tuned.median_ratio_to_best_peer == pytest.approx(4.5 / 4.0)
    assert (tuned.noise_minima, tuned.noise_medians) == pytest.approx((1.1, 2.2 / 4.0))
    assert [row.kernel_seconds for row in (tuned, default, numpy, torch)] == [0.8e-6, None, None, None]
    assert tuned.gb_per_second == pytest.approx(TASK.program.n_bytes / 1e3)
    assert (tuned.memory_level, tuned.count, tuned.name, tuned.setting, tuned.other_cpus) == ("DRAM", 3, "layer", "of tuned", 0.25)


def test_rows_without_peers_or_without_a_kernel_of_ours():
    (default,) = TaskBench(TASK, (series("peak", 1.0), series("default", 1.0), series("again", 1.0)), 1, 0.0, ()).rows(LIMITS)
    assert (default.best_peer, default.ratio_to_best_peer, default.median_ratio_to_best_peer) == ("", None, None)
    nothing = TaskBench(TASK, (series("peak", 1.0), series("numpy", 1.0)), 1, 0.0, ())
    assert not nothing.tuned
    assert nothing.ours is None
    (numpy,) = nothing.rows(LIMITS)
    assert (numpy.noise_minima, numpy.noise_medians) == (None, None)


def test_the_level_of_memory_is_the_first_with_room():
    assert memory_bandwidth(LIMITS, 30) == ("L1", 400.0)
    assert memory_bandwidth(LIMITS, 1000) == ("L2", 200.0)
    assert memory_bandwidth(LIMITS, 1 << 40) == ("DRAM", 10.0)
    caches = {**LIMITS, "bandwidths": [each for each in LIMITS["bandwidths"] if each["level"] != "DRAM"]}  # where there was no room to measure more
    assert memory_bandwidth(caches, 1 << 40) == ("L2", 200.0)


def test_the_worker_s_environment_does_not_set_kernels_or_threads():
    own = {
        "PATH": "/bin",
        "OPENBLAS_CORETYPE": "Haswell",
        "OPENBLAS_L2_SIZE": "512",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    found = bench_environment(own)
    assert found.pop("PYTHONPATH")
    assert found == {"PATH": "/bin"}


def test_recorded_schedules_are_those_of_today_s_sketches(tmp_path):
    known = record()
    with Store(tmp_path / "good.db") as store:
        store.append([known])
    with Store(tmp_path / "old.db") as store:
        store.append([record(columns=tuple(f"old{i}" for i in range(len(known.columns))))])
    other = task("matmul:m=5,n=6,k=7")
    assert recorded_schedules(tmp_path / "good.db", [other, TASK], detect_machine()) == [None, Candidate(known.sketch, known.row)]
    assert recorded_schedules(tmp_path / "old.db", [TASK], detect_machine()) == [None]


def test_bench_end_to_end(tmp_path):
    with Store(tmp_path / "records.db") as store:
        store.append([record()])
    seen = []
    other = task("conv2d:c=3,h=5,w=5,k=4,r=3,s=3")
    result = run_bench([TASK, other], tmp_path / "records.db", ["numpy"], rounds=1, turn_seconds=1e-3, watch=seen.append)
    assert seen == list(result.tasks)
    assert [[each.contender for each in bench.series] for bench in result.tasks] == [
        ["peak", "tuned", "default", "again", "in a row", "numpy"],
        ["peak", "default", "again", "in a row"],
    ]
    assert [bench.tuned for bench in result.tasks] == [True, False]
    assert any("numpy has no convolutions" in note for note in result.tasks[1].notes)
    assert result.notes == (f"no record of {other.key} for this machine with {result.machine.target.threads} threads: default schedule only",)
    assert all(row.min_seconds > 0 and row.peak_fraction > 0 and row.bandwidth_fraction > 0 for row in result.rows())
    assert len(result.to_json()["rows"]) == 4


def test_an_interrupt_keeps_what_is_compared():
    def stop(bench):
        raise KeyboardInterrupt

    other = task("matmul:m=16,n=40,k=32")
    result = run_bench([TASK, other], peers=["numpy"], rounds=1, turn_seconds=1e-3, watch=stop)
    assert ([bench.task for bench in result.tasks], result.interrupted) == ([TASK], True)
    assert result.notes[-1] == "interrupted: 1 of 2 tasks are compared"
    assert result.to_json()["interrupted"]


def test_a_failure_keeps_what_is_compared(monkeypatch):
    def one_alone(job):
        yield from itertools.islice(answers(job), 2)  # the limits, and a task
        raise UserError("the process that benchmarks died")

    monkeypatch.setattr("tilewright.bench.answers", one_alone)
    with pytest.raises(BenchFailed, match="the process that benchmarks died") as failed:
        run_bench([TASK, task("matmul:m=16,n=40,k=32")], peers=["numpy"], rounds=1, turn_seconds=1e-3)
    result = failed.value.result
    assert ([bench.task for bench in result.tasks], result.interrupted) == ([TASK], False)
    assert result.notes[-1] == "failed: 1 of 2 tasks are compared"


def test_the_table_names_each_task_once_and_its_noise(capsys):
    both = [TaskBench(of, (series("peak", 1e-6), *ours), 1, 0.0, ()) for of, ours in (
        (TASK, (series("tuned", 2e-6), series("default", 4e-6), series("again", 2.2e-6), series("numpy", 3e-6))),
        (task("matmul:m=16,n=40,k=32"), (series("default", 1e-6), series("again", 1e-6))),
        (task("matmul:m=8,n=40,k=32"), (series("numpy", 5e-6),)),
    )]  # fmt: skip
    assert not print_bench(BenchResult(tuple(both), detect_machine(), LIMITS, ("numpy",), 1, ()))
    out = capsys.readouterr().out
    assert "geometric mean over 1 task: 1.50× the best peer of each\ntuned 1/3 tasks\n" in out  # that of the others cannot be told
    rows = [line.split() for line in out.splitlines()]
    of_contender = {name: [row for row in rows if name in row] for name in ("tuned", "default", "numpy")}
    assert of_contender["tuned"][0][0] == TASK.key
    assert of_contender["tuned"][0][-1] == "1.10"
    assert [row[0] for row in of_contender["default"]] == ["default", "matmul:m=16,n=40,k=32,b=constant,epilogue=none"]
    assert "1.10" not in of_contender["numpy"][0]
    assert of_contender["numpy"][1][-1] == "–"


def test_a_mean_says_how_much_of_it_is_of_default_schedules(capsys):
    both = [TaskBench(of, (series("peak", 1e-6), *ours), 1, 0.0, ()) for of, ours in (
        (TASK, (series("tuned", 2e-6), series("numpy", 4e-6))), (task("matmul:m=16,n=40,k=32"), (series("default", 2e-6), series("numpy", 4e-6))),
    )]  # fmt: skip
    print_bench(BenchResult(tuple(both), detect_machine(), LIMITS, ("numpy",), 1, ()))
    assert "geometric mean over 2 tasks, 1 of them by the default schedule: 2.00× the best peer of each" in capsys.readouterr().out


def test_records_that_do_not_count_are_noted(tmp_path):
    other = detect_machine().target.threads + 1
    with Store(tmp_path / "records.db") as store:
        store.append([record(threads=other, kind="trial", kept=False), record(threads=other)])
    result = run_bench([TASK], tmp_path / "records.db", ["numpy"], rounds=1, turn_seconds=1e-3)
    assert result.notes[1] == (
        f"{tmp_path / 'records.db'}: 1 trials of these tasks do not count: they are of this machine with {other} threads, not {other - 1}"
    )


def test_what_cannot_be_had_is_said_at_once(tmp_path):
    with pytest.raises(UserError, match=r"^unknown peer 'tvm'"):
        run_bench([TASK], peers=["tvm"])
    with pytest.raises(UserError, match="it does not exist"):
        run_bench([TASK], tmp_path / "missing.db", peers=["numpy"])


def test_errors_of_the_worker_reach_the_user():
    options = {"rounds": 1, "warm_seconds": 0, "turn_seconds": 0}
    job = {"parent": os.getpid(), "cpus": sorted(allowed_cpus()), "target": {"cpu": "?"}, "options": options}
    with pytest.raises(UserError, match=r"^a target has the fields"):
        list(answers(job))
    with pytest.raises(UserError, match=r"^the process that benchmarks died: the worker ended by itself with status 1: KeyError: 'parent'$"):
        list(answers({name: value for name, value in job.items() if name != "parent"}))


def test_schedules_that_cannot_be_used_are_left_out_and_noted(monkeypatch):
    target = detect_machine().target
    problem = Problem(TASK, random_inputs(TASK.key, bench_worker.SEED), target.threads)
    monkeypatch.setattr(bench_worker, "calibrate", lambda run, timing: (Repeat(7, 1), 1e-6))  # how often hangs on how busy the machine is
    contenders, notes = bench_worker.our_contenders(problem, Candidate("no such", (1,)), target)
    assert [(each.name, each.times) for each in contenders] == [("default", 1), ("again", 1), ("in a row", 7)]
    assert len(notes) == 1
    assert notes[0].startswith("tuned is left out: no sketch 'no such' for matmul:m=24,n=40,k=32")

    def refuse(output, expected):
        raise WrongAnswer("all wrong")

    monkeypatch.setattr(bench_worker, "check_output", refuse)
    assert bench_worker.our_contenders(problem, None, target) == ([], ["default is left out: all wrong"])

    def none(sketch):
        raise Unsupported("too large to be packed")

    monkeypatch.setattr(bench_worker.Candidate, "default", none)
    assert bench_worker.our_contenders(problem, None, target) == ([], ["default is left out: too large to be packed"])
