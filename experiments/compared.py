"""What experiments share that compare tuned kernels with others."""

from __future__ import annotations

import sys
from pathlib import Path

from codegen.limits import package_version
from codegen.machine import Machine
from data.record import machine_id
from data.store import Store
from ir.task import Task
from tilewright import api
from tilewright.bench import BenchResult, TaskBench
from tilewright.peers import PEERS
from tilewright.this_machine import machine_record


def tuning_of(of: Task, records: Path, machine: Machine) -> dict[str, float]:
    """What the tuning of a task took here, all its runs together: `trials`, how many of them `failed`, `tuning_seconds`."""
    with Store(records, create=False) as store:
        known = store.records(of.key, machine_id(machine_record(machine)), machine.target.threads)
    trials = [record for record in known if record.is_trial]
    return {
        "trials": len(trials),
        "failed": sum(not record.ok for record in trials),
        "tuning_seconds": max((record.elapsed_seconds for record in known), default=0.0),
    }


def about(result: BenchResult) -> dict[str, object]:
    """For machine.json."""
    versions = api.versions() | {name: package_version(name) for name in PEERS}
    return {"machine": result.machine.to_json(), "limits": dict(result.limits), "versions": versions, "rounds": result.rounds}


def print_notes(bench: TaskBench) -> None:
    print(f"compared {bench.task.key}", *bench.notes, sep="\n    ", file=sys.stderr, flush=True)
