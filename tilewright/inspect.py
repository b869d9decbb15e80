"""Reading records: the best schedule of each task, and its code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codegen.build import assembly, optimize, target_machine
from codegen.kernel import find_sketch, llvm_text
from codegen.lower import lower
from codegen.machine import detect_machine
from data.meaning import usable_best
from data.record import Record, best_by_setting, by_setting, default_of, machine_id
from data.store import Store, TaskCounts
from ir.errors import IllegalCandidate, UserError
from ir.nest import nest_text
from ir.task import Task, known_task, task
from schedule.algorithms import ALGORITHMS
from schedule.target import Target, vector_unit
from tilewright.display import counted, milliseconds, percent, print_table, say, speed
from tilewright.this_machine import machine_record, quiet_limits

MAX_DIGITS = 18  # of a task's number; Python reads no thousands of them


@dataclass(frozen=True)
class Best:
    """The record to use for one task on one machine with one number of threads; `here`: whether that machine is this one."""

    task: Task | None  # None where this version does not know it
    record: Record
    n_trials: int
    n_failed: int
    default_seconds: float | None
    peak_gflops: float | None  # of this machine with the record's threads, where the record is of this machine, and it has as many to use now
    here: bool

    @property
    def peak_fraction(self) -> float | None:
        return self.task.speed(self.record.best_seconds) / self.peak_gflops if self.peak_gflops and self.task and self.task.flops else None


def best_schedules(path: Path, threads: int | None, algorithms: Collection[str] = ALGORITHMS) -> list[Best]:
    """One by these algorithms for each recorded setting (only those with this many threads, if given), in the order in which their tasks were recorded."""
    with Store(path, create=False) as store:
        counts = {count.setting: (count.n_trials, count.n_failed) for count in store.tasks()}
        records = store.records(threads=threads)
    bests, of_setting = best_by_setting(records, algorithms, usable_best), by_setting(records)
    if not bests:
        n_others = sum(n_trials for setting, (n_trials, _) in counts.items() if threads not in (None, setting.threads))
        others = f"; {counted(n_others, 'trial')} with other numbers of threads" if n_others else ""
        raise UserError(f"{path} has no valid trial{'' if threads is None else f' with {threads} threads'}; {counted(len(records), 'record')} in all{others}")
    machine = detect_machine()
    peaks: dict[int, float] = {}
    found = []
    for setting, record in bests.items():
        here = setting.machine == machine_id(machine_record(machine))
        if here and setting.threads not in peaks and setting.threads <= machine.target.threads:
            peaks[setting.threads] = quiet_limits(detect_machine(setting.threads)).peak_gflops
        default = default_of(of_setting[setting])
        found.append(
            Best(
                known_task(record.task), record, *counts.get(setting, (0, 0)),  # where a schedule that was kept came without its trials
                default.best_seconds if default is not None else None, peaks.get(setting.threads) if here else None, here,
            )
        )  # fmt: skip
    return found


def without_valid_trial(path: Path, threads: int | None, found: Sequence[Best]) -> list[TaskCounts]:
    """The recorded settings of which nothing was found."""
    known = {best.record.setting for best in found}
    with Store(path, create=False) as store:
        return [count for count in store.tasks() if count.setting not in known and threads in (None, count.setting.threads)]


def print_best(found: Sequence[Best], untimed: Sequence[TaskCounts]) -> None:
    rows = []
    several = len({best.record.threads for best in found}) > 1
    for i, best in enumerate(found):
        speedup = f"{best.default_seconds / best.record.best_seconds:.2f}×" if best.default_seconds else "–"
        rows.append((
            i, best.record.task, schedule_text(best.record), *([best.record.threads] if several else []), best.n_trials,
            milliseconds(best.record.best_seconds), speedup,
            speed(best.task, best.record.best_seconds) if best.task else "unknown task",
            percent(best.peak_fraction) if best.here else "other machine",
        ))  # fmt: skip
    threads = ["threads"] if several else []
    print_table("", ("#", "task", "schedule", *threads, "trials", "best", "speedup", "GFLOP/s", "of peak"), rows, left=3)
    for count in untimed:
        say(f"no valid trial: {count.setting.task}: {count.n_failed} of {count.n_trials} trials failed, with {count.setting.threads} threads")


def best_json(found: Sequence[Best]) -> list[dict[str, object]]:
    def per_second(best: Best, quantity: Callable[[Task], int]) -> float | None:
        return 1e-9 * quantity(best.task) / best.record.best_seconds if best.task else None

    return [
        {
            "key": best.record.task, "sketch": best.record.sketch, "row": dict(zip(best.record.columns, best.record.row, strict=True)),
            "threads": best.record.threads, "trials": best.n_trials, "failed": best.n_failed, "default_seconds": best.default_seconds,
            "best_seconds": best.record.best_seconds, "best_gflops": per_second(best, lambda of: of.flops),
            "best_gb_per_second": per_second(best, lambda of: of.program.n_bytes), "peak_fraction": best.peak_fraction,
            "machine": best.record.machine,
        }
        for best in found
    ]  # fmt: skip


def schedule_text(record: Record) -> str:
    """The sketch and its choices in words: `tile_n: m 8×4×2, n 32×16×1, k 256, unroll 2`; sizes are register, block, chunk."""
    values = dict(zip(record.columns, record.row, strict=True))
    parts, done = [], set()
    for name, number in values.items():
        axis, _, level = name.rpartition(".")
        if level == "register" or (level == "block" and f"{axis}.register" not in values and f"{axis}.chunk" in values):
            sizes = [str(values[f"{axis}.{part}"]) for part in ("register", "block", "chunk") if f"{axis}.{part}" in values]
            parts.append(f"{axis} {'×'.join(sizes)}")
            done |= {f"{axis}.{part}" for part in ("register", "block", "chunk")}
        elif name not in done:
            parts.append(f"{axis} {number}" if level == "slice" else f"{name} {number}")
    return f"{record.sketch}: {', '.join(parts)}"


def code_text(which: str, path: Path, form: str, threads: int | None, algorithms: Collection[str] = ALGORITHMS) -> str:
    """The loop nest, optimized LLVM IR, or assembly of a recorded task's best schedule. `which`: operator text, or number in `best_schedules`."""
    record = _find(which, path, threads, algorithms)
    of, target = task(record.task), record.target
    if form != "nest":
        _refuse_foreign(record, target, path)
    try:
        sketch = find_sketch(of, record.sketch, target)
        if sketch.space.names != record.columns:
            raise IllegalCandidate(f"sketch {sketch.name} has columns {', '.join(sketch.space.names)}, the record {', '.join(record.columns)}")
        lowered = lower(sketch, np.array(record.row, dtype=np.int64), target)
    except IllegalCandidate as error:
        raise UserError(f"{path}: the schedule of {record.task} was recorded by another version and means nothing now: {error}") from None
    if form == "nest":
        return "\n\n".join(nest_text(nest) for nest in (lowered.kernel, *lowered.prepare.values()))
    if form == "llvm":
        return str(optimize(llvm_text(lowered, target), target_machine(target)))
    return assembly(llvm_text(lowered, target), target)


def _refuse_foreign(record: Record, target: Target, path: Path) -> None:
    """`UserError` for a CPU whose code is not made here, or that is none: LLVM may end the process that asks it for vectors which the CPU does not have."""
    theirs = _known_features(target)
    if not theirs:
        return
    if theirs.keys().isdisjoint(_known_features(detect_machine().target)):
        raise UserError(f"{path}: {record.task} was recorded on a CPU of another kind ({target.cpu}), whose code is not made here; its loop nest can be shown")
    if (target.lanes, target.vector_registers) != vector_unit(theirs):
        raise UserError(f"{path}: {record.task} was recorded with {target.lanes} lanes and {target.vector_registers} registers, which its CPU does not have")


def _known_features(target: Target) -> dict[str, bool]:
    """Whether its CPU has each, in LLVM's words; these differ from one kind of CPU to another."""
    return {feature[1:]: feature.startswith("+") for feature in target.features.split(",") if feature}


def _find(which: str, path: Path, threads: int | None, algorithms: Collection[str]) -> Record:
    with Store(path, create=False) as store:
        records = list(best_by_setting(store.records(threads=threads), algorithms, usable_best).values())
    if which.isdecimal():
        if len(which) > MAX_DIGITS or int(which) >= len(records):
            raise UserError(f"{path} has no task {which}; it holds {counted(len(records), 'task')} with a valid trial")
        return records[int(which)]
    key = task(which).key
    here = machine_id(machine_record(detect_machine()))
    mine = sorted((record for record in records if record.task == key), key=lambda record: (record.setting.machine != here, -record.threads))
    if not mine:
        raise UserError(f"{path} has no valid trial of {key}; it holds {', '.join(sorted({r.task for r in records})) or 'nothing'}")
    return mine[0]
