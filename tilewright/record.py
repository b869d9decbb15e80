"""A measurement campaign into a directory: a working store while it runs, and at its end what is kept and shared.

`campaign.db` is the working store, in which every trial is safe as soon as it is measured. `<machine>.parquet`, `<machine>.about.json` and README.md are made
of it, each in one step, and are enough to go on from. Directories of several machines are merged by copying these files together.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codegen.limits import Limits
from codegen.machine import detect_machine
from codegen.runner import LiveRunner
from data import exchange
from data.measurements import ABOUT, read_about
from data.record import machine_id
from data.store import Store
from graph.suite import Suite
from ir.errors import UserError
from search.campaign import Campaign, CampaignOptions, CampaignProgress
from tilewright import api
from tilewright.data_card import write_card
from tilewright.display import LINE_SECONDS, clock
from tilewright.files import make_directory, write_file

STORE = "campaign.db"


@dataclass(frozen=True)
class Recorded:
    """What the directory holds of this machine after the run."""

    directory: Path
    n_tasks: int
    n_records: int
    n_failed: int
    n_repeats: int
    n_bytes: int  # of the Parquet file
    interrupted: bool


def record(suite: Suite, directory: Path, options: CampaignOptions, *, threads: int | None = None, quiet: bool = False) -> Recorded:
    """Measure the suite into the directory, going on from what is there. Ctrl-C ends it early, with all files written.

    `UserError` where the directory cannot be used, or code cannot run here on so many threads.
    """
    make_directory(directory)
    machine = detect_machine(api.one_thread_without_openmp(threads))
    description = api.machine_record(machine)
    part = directory / f"{machine_id(description)}.parquet"
    with Store(directory / STORE) as store:
        if part.exists():
            exchange.import_records(store, part)
        about = read_about(part.with_suffix(ABOUT))
        limits = _quieter(about.limits, api.quiet_limits(machine.target))
        sources = about.sources | {task: about.sources.get(task, {}) | uses for task, uses in suite.sources.items()}
        content = json.dumps({"machine": description, "limits": limits, "sources": sources}, indent=1, sort_keys=True)
        write_file(part.with_suffix(ABOUT), content.encode())  # now: a killed run has its tasks' sources too
        with LiveRunner(machine.target, seed=options.seed) as runner:
            campaign = Campaign(
                suite.tasks, machine.target, runner, store, options, machine=description, versions=api.versions(), watch=_Watcher(quiet),
            )  # fmt: skip
            interrupted = campaign.run()
        records = store.records(machine=machine_id(description))
        if not records:
            raise UserError(f"{directory}: nothing was measured before the time was over; the Parquet file is not written")
        exchange.write(part, records)
    write_card(directory)
    return Recorded(
        directory, len({each.task for each in records}), len(records), sum(not each.ok for each in records),
        sum(each.kind == "repeat" for each in records), part.stat().st_size, interrupted,
    )  # fmt: skip


def _quieter(known: Mapping[str, Any], found: Limits) -> dict[str, Any]:
    """Limits by number of threads, with those just measured where no other run has met the machine quieter."""
    threads = str(found.threads)
    if threads in known and known[threads]["fma_gflops_all"]["best"] >= found.fma_gflops_all.best:
        return dict(known)
    return {**known, threads: found.to_json()}


class _Watcher:
    """A line on standard error now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last = quiet, -LINE_SECONDS

    def __call__(self, progress: CampaignProgress) -> None:
        now = time.monotonic()
        if not self._quiet and now - self._last >= LINE_SECONDS:
            self._last = now
            counts = f"trials {progress.n_trials}/{progress.n_wanted}  failed {progress.n_failed}  measured twice {progress.n_repeats}"
            print(f"{clock(progress.elapsed_seconds)} elapsed  {counts}  {progress.task.key}", file=sys.stderr, flush=True)


def print_recorded(recorded: Recorded) -> None:
    per_record = recorded.n_bytes / recorded.n_records
    print(f"{recorded.n_records} measurements of {recorded.n_tasks} tasks in {recorded.directory}, {recorded.n_bytes} bytes ({per_record:.0f} each)")
    print(f"{recorded.n_failed} failed, {recorded.n_repeats} are repeats{'; interrupted, the same command goes on' if recorded.interrupted else ''}")
