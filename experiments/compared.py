"""What experiments share that compare tuned kernels with others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from codegen.limits import package_version
from codegen.machine import Machine, detect_machine
from data.record import Record, machine_id
from data.store import Store
from experiments.command import whole
from experiments.files import RESULTS, check_same_machine, read_results
from ir.task import Task
from tilewright import api
from tilewright.bench import BenchFailed, BenchResult, TaskBench, run_bench
from tilewright.peers import PEERS, choose_peers
from tilewright.this_machine import machine_record


def tuning_of(of: Task, records: Path, machine: Machine) -> dict[str, float]:
    """What the tuning of a task took here, all its runs together: `trials`, how many of them `failed`, `tuning_seconds`."""
    known = _records_of(of, records, machine)
    trials = [record for record in known if record.is_trial]
    return {
        "trials": len(trials),
        "failed": sum(not record.ok for record in trials),
        "tuning_seconds": max((record.elapsed_seconds for record in known), default=0.0),
    }


def trials_of(of: Task, records: Path, machine: Machine) -> pd.DataFrame:
    """The trials of a task here, in their order: `seconds`, infinite where one failed, and `elapsed_seconds`, when that was known."""
    trials = [record for record in _records_of(of, records, machine) if record.is_trial]
    rows = [(record.trial, record.elapsed_seconds, record.best_seconds) for record in trials]
    return pd.DataFrame(rows, columns=["trial", "elapsed_seconds", "seconds"]).sort_values("trial", ignore_index=True)


def _records_of(of: Task, records: Path, machine: Machine) -> Sequence[Record]:
    with Store(records, create=False) as store:
        return store.records(of.key, machine_id(machine_record(machine)), machine.target.threads)


def refuse_early(peers: Sequence[str] | None, threads: int | None, output: Path, columns: Sequence[str]) -> None:
    """`UserError` for what would be refused after hours of tuning: peers that are not there, and an earlier run whose rows these cannot stand beside."""
    choose_peers(peers)
    check_same_machine(output, detect_machine(api.one_thread_without_openmp(threads)))
    if (output / RESULTS).exists():
        read_results(output, columns)


@contextmanager
def compared(*arguments: Any, **options: Any) -> Iterator[BenchResult]:
    """What `run_bench` finds, for the block to write down. If the process that compares dies, that is what it had compared by then, and `BenchFailed` after
    the block."""
    failed: BenchFailed | None = None
    try:
        result = whole(run_bench(*arguments, watch=print_notes, **options))
    except BenchFailed as error:
        result, failed = error.result, error
    for note in result.notes:
        print(note, file=sys.stderr)
    yield result
    if failed is not None:
        raise failed


def with_earlier(results: pd.DataFrame, output: Path, columns: Sequence[str], order: Sequence[str], name: str = RESULTS) -> pd.DataFrame:
    """With the rows that an earlier run wrote of other tasks into the CSV of that name, in this order of tasks; others last."""
    if (output / name).exists():
        earlier = read_results(output, columns, name)
        results = pd.concat([earlier[~earlier["task"].isin(results["task"])], results])
    place = {key: number for number, key in enumerate(order)}
    return results.iloc[np.argsort(results["task"].map(lambda key: place.get(key, len(place))), kind="stable")].reset_index(drop=True)


def about(result: BenchResult) -> dict[str, object]:
    """For machine.json."""
    versions = api.versions() | {name: package_version(name) for name in PEERS}
    return {"machine": result.machine.to_json(), "limits": dict(result.limits), "versions": versions, "rounds": result.rounds}


def print_notes(bench: TaskBench) -> None:
    print(f"compared {bench.task.key}", *bench.notes, sep="\n    ", file=sys.stderr, flush=True)
