"""Our schedules beside other libraries: what is compared, the process that does it, and what its seconds mean.

Everything is timed in one process of its own (`tilewright.bench_worker`), whose environment has no settings that decide about threads or kernels:
libraries read those when they are loaded, so they cannot be undone in this process. `OPENBLAS_CORETYPE`, for one, can force a slower kernel on numpy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codegen.machine import Machine, allowed_cpus, detect_machine
from codegen.process import ONE_THREAD, SPIN, Tail, death, environment
from data.store import Store
from ir.errors import UserError
from ir.task import Task
from schedule.algorithms import ALGORITHMS
from schedule.measurement import Candidate
from tilewright.api import one_thread_without_openmp, recorded_best, unused_records
from tilewright.bench_worker import AGAIN, IN_A_ROW, PEAK
from tilewright.peers import PEERS, choose_peers
from tilewright.turns import Series, TurnOptions

OURS = ("tuned", "default")
DISTURBING_CPUS = 0.1  # of other work, that is worth a note
DROPPED = ("OPENBLAS_", "MKL_", "GOTO_", "BLIS_", "VECLIB_", "ONEDNN_", "DNNL_", "ORT_", "ATEN_")


@dataclass(frozen=True)
class Row:
    """A contender on a task. GFLOP/s, GB/s and fractions are those of its fastest call. Ratios are seconds of the best peer over the contender's:
    above 1 is faster than that peer; None where there is no peer."""

    task: str
    name: str
    count: int
    contender: str
    setting: str
    min_seconds: float
    median_seconds: float
    kernel_seconds: float | None  # of the fastest runs in a row, without the way through Python; None but of the first of our schedules
    gflops: float
    peak_gflops: float  # of multiply-adds in registers, which took turns with the contenders
    peak_fraction: float
    gb_per_second: float  # if each input was read once and the result written once
    memory_level: str  # the first level that has room for all of these
    bandwidth_fraction: float  # of what can be read from there
    best_peer: str
    ratio_to_best_peer: float | None
    median_ratio_to_best_peer: float | None
    noise_minima: float | None  # A/A: one of our kernels against itself, 1 is no noise; None where none of them could be used
    noise_medians: float | None
    other_cpus: float  # CPUs' worth of work that others did meanwhile; much more than none, and nothing here is to be trusted


@dataclass(frozen=True)
class TaskBench:
    """The series of one task: "tuned" (if there is a record) and "default", the first of them "again" and "in a row", "peak", and the peers by name. Each
    peer is in the setting that was its fastest one. `notes` tell what is left out and why."""

    task: Task
    series: tuple[Series, ...]
    peak_flops: int  # of a call of "peak"
    other_cpus: float  # see `Row`
    notes: tuple[str, ...]

    @property
    def tuned(self) -> bool:
        return any(each.contender == "tuned" for each in self.series)

    @property
    def ours(self) -> Series | None:
        """The tuned schedule, or the default one; None if neither could be used."""
        return next((each for name in OURS for each in self.series if each.contender == name), None)

    @property
    def peers(self) -> tuple[Series, ...]:
        return tuple(each for each in self.series if each.contender in PEERS)

    def rows(self, limits: Mapping[str, Any]) -> list[Row]:
        """A row for each of our schedules and each peer. `limits`: of the machine, as `codegen.limits` writes them."""
        return [self._row(each, limits) for each in self.series if each.contender not in (AGAIN, IN_A_ROW, PEAK)]

    def noise(self) -> tuple[float, float] | tuple[None, None]:
        """Of the minima and of the medians: our second series over our first."""
        ours, again = self.ours, self._series(AGAIN)
        return (None, None) if ours is None or again is None else (again.min_seconds / ours.min_seconds, again.median_seconds / ours.median_seconds)

    def _series(self, contender: str) -> Series | None:
        return next((each for each in self.series if each.contender == contender), None)

    def _row(self, series: Series, limits: Mapping[str, Any]) -> Row:
        peak = next(each for each in self.series if each.contender == PEAK)
        best = min(self.peers, key=lambda each: each.min_seconds, default=None)
        gflops, peak_gflops = 1e-9 * self.task.flops / series.min_seconds, 1e-9 * self.peak_flops / peak.min_seconds
        level, bandwidth = memory_bandwidth(limits, self.task.program.n_bytes)
        gb_per_second = 1e-9 * self.task.program.n_bytes / series.min_seconds
        noise_minima, noise_medians = self.noise()
        in_a_row = self._series(IN_A_ROW) if series is self.ours else None
        return Row(
            task=self.task.key,
            name=self.task.name,
            count=self.task.count,
            contender=series.contender,
            setting=series.setting,
            min_seconds=series.min_seconds,
            median_seconds=series.median_seconds,
            kernel_seconds=in_a_row.min_seconds if in_a_row else None,
            gflops=gflops,
            peak_gflops=peak_gflops,
            peak_fraction=gflops / peak_gflops,
            gb_per_second=gb_per_second,
            memory_level=level,
            bandwidth_fraction=gb_per_second / bandwidth,
            best_peer=best.contender if best else "",
            ratio_to_best_peer=best.min_seconds / series.min_seconds if best else None,
            median_ratio_to_best_peer=min(each.median_seconds for each in self.peers) / series.median_seconds if best else None,
            noise_minima=noise_minima,
            noise_medians=noise_medians,
            other_cpus=self.other_cpus,
        )


@dataclass(frozen=True)
class BenchResult:
    """`limits` as `codegen.limits` writes them, measured in the process that benchmarked. `notes` are about the whole run. `interrupted`: tasks are missing."""

    tasks: tuple[TaskBench, ...]
    machine: Machine
    limits: Mapping[str, Any]
    peers: tuple[str, ...]
    rounds: int
    notes: tuple[str, ...]
    interrupted: bool = False

    def rows(self) -> list[Row]:
        return [row for bench in self.tasks for row in bench.rows(self.limits)]

    def to_json(self) -> dict[str, object]:
        return {
            "machine": self.machine.to_json(),
            "limits": dict(self.limits),
            "peers": list(self.peers),
            "rounds": self.rounds,
            "notes": list(self.notes),
            "interrupted": self.interrupted,
            "rows": [asdict(row) for row in self.rows()],
            "series": {bench.task.key: [each.to_json() for each in bench.series] for bench in self.tasks},
            "task_notes": {bench.task.key: list(bench.notes) for bench in self.tasks},
        }


def run_bench(
    tasks: Sequence[Task],
    records: str | Path | None = None,
    peers: Sequence[str] | None = None,
    rounds: int = TurnOptions.rounds,
    threads: int | None = None,
    *,
    algorithms: Collection[str] = ALGORITHMS,
    turn_seconds: float = TurnOptions.turn_seconds,
    watch: Callable[[TaskBench], None] = lambda bench: None,
) -> BenchResult:
    """Time the recorded best schedule of each task (by one of these `algorithms`), the default one, and the peers, in turns of `turn_seconds`.

    `peers` by name; None means all that are installed. A task without a record is compared with its default schedule, which a note says.
    `watch` is called with each task as it is done. Ctrl-C ends the run with the tasks that are done by then, if there are any. `UserError` if a peer, the
    records or the threads asked for cannot be had, or the process that compares dies; `BenchFailed` if some tasks were done by then.
    """
    cpus = sorted(allowed_cpus())  # before an OpenMP library is loaded, which may narrow them
    chosen, notes = choose_peers(peers)
    machine = detect_machine(one_thread_without_openmp(threads))
    schedules, remarks = _schedules(records, tasks, machine, algorithms)
    notes += remarks
    job = {
        "parent": os.getpid(),
        "cpus": cpus,
        "target": machine.target.to_json(),
        "peers": [peer.name for peer in chosen],
        "options": asdict(TurnOptions(rounds, turn_seconds=turn_seconds)),
        "tasks": [{"task": task.key, "tuned": asdict(schedule) if schedule else None} for task, schedule in zip(tasks, schedules, strict=True)],
    }
    limits: dict[str, Any] = {}
    benches: list[TaskBench] = []

    def so_far(how_it_ended: str) -> BenchResult:
        counts = [f"{how_it_ended}: {len(benches)} of {len(tasks)} tasks are compared"] if how_it_ended else []
        is_interrupted = how_it_ended == "interrupted"
        return BenchResult(tuple(benches), machine, limits, tuple(peer.name for peer in chosen), rounds, (*notes, *counts), is_interrupted)

    try:
        for answer in answers(job):
            if "limits" in answer:
                limits = answer["limits"]
                continue
            benches.append(_compared(tasks[len(benches)], answer))
            watch(benches[-1])
    except KeyboardInterrupt:
        if not benches:
            raise
        return so_far("interrupted")
    except UserError as error:
        if not benches:
            raise
        raise BenchFailed(str(error), so_far("failed")) from None
    return so_far("")


def _schedules(records: str | Path | None, tasks: Sequence[Task], machine: Machine, algorithms: Collection[str]) -> tuple[list[Candidate | None], list[str]]:
    """The schedule to use for each task, if there is one, and why there is none."""
    if records is None:
        return [None] * len(tasks), ["no records are given: default schedules only"]
    schedules = recorded_schedules(records, tasks, machine, algorithms)
    missing = [task for task, schedule in zip(tasks, schedules, strict=True) if schedule is None]
    notes = [f"no record of {task.key} for this machine with {machine.target.threads} threads: default schedule only" for task in missing]
    with Store(records, create=False) as store:
        unused = unused_records(store, missing, machine)
    return schedules, notes + ([] if unused is None else [unused])


class BenchFailed(UserError):
    """The process that compares ended before its time. `result`: what it had compared by then, one task at least."""

    def __init__(self, message: str, result: BenchResult) -> None:
        super().__init__(message)
        self.result = result


def _compared(of: Task, answer: Mapping[str, Any]) -> TaskBench:
    """What the bench process answers of a task."""
    other_cpus = answer["other_cpus"]
    notes = [f"other processes kept {other_cpus:.1f} CPUs busy meanwhile"] if other_cpus > DISTURBING_CPUS else []
    return TaskBench(of, tuple(Series.from_json(each) for each in answer["series"]), answer["peak_flops"], other_cpus, (*answer["notes"], *notes))


def recorded_schedules(records: str | Path, tasks: Sequence[Task], machine: Machine, algorithms: Collection[str] = ALGORITHMS) -> list[Candidate | None]:
    """The schedule to use for each task, None where there is no record that fits this machine, these algorithms and today's sketches."""
    with Store(records, create=False) as store:
        best = [recorded_best(store, task, machine, algorithms) for task in tasks]
    return [None if record is None else Candidate(record.sketch, record.row) for record in best]


def memory_bandwidth(limits: Mapping[str, Any], n_bytes: int) -> tuple[str, float]:
    """The first level of memory that has room for so many bytes, and how fast all threads read from it, in GB/s."""
    reads = [each for each in limits["bandwidths"] if each["operation"] == "read" and each["threads"] == limits["threads"]]
    # The buffers that were measured fill half of a cache; the last level, which is memory where that was measured, has room for anything.
    found = next((each for each in reads if each["level"] != "DRAM" and n_bytes <= 2 * each["buffer_bytes"]), reads[-1])
    return found["level"], found["gb_per_second"]["best"]


# --- the process ----------------------------------------------------------------------------------------------------


def answers(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers of a bench process to this job, as they come; the process ends with the iterator. `UserError` if it says so, or dies."""
    command = [sys.executable, "-P", "-m", "tilewright.bench_worker"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=bench_environment(os.environ), stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        tail = Tail(process.stderr)
        try:
            with suppress(BrokenPipeError):  # it died: what it left on its standard error says why
                process.stdin.write(json.dumps(job).encode())
                process.stdin.close()
            for line in process.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise UserError(answer["error"])
                yield answer
            if process.wait() != 0:
                raise UserError(f"the process that benchmarks died: {death(process.returncode, tail.text()).message}")
        finally:
            process.kill()
            tail.text()  # which waits until nobody writes there any more


def bench_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker, without what sets the threads or the kernels of a library."""
    return {name: value for name, value in environment(own).items() if name not in (*ONE_THREAD, *SPIN) and not name.startswith(DROPPED)}
