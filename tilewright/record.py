"""A measurement campaign into a directory: a working store while it runs, and at its end what is kept and shared.

`campaign.db` is the working store, in which every trial is safe as soon as it is measured. Of each machine `<machine>.parquet` and `<machine>.about.json`, and
README.md, are made of it, each in one step, and are enough to go on from. Other such directories are merged into it, of the same machine or another.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from codegen.machine import Machine, detect_machine
from codegen.runner import LiveRunner
from codegen.timing import PATIENT
from data import exchange
from data.measurements import ABOUT, STORE, About, read_abouts, read_measured
from data.record import Record, machine_id
from data.store import Store
from graph.suite import Suite
from ir.errors import UserError
from ir.files import make_directory, write_file
from search.campaign import Campaign, CampaignOptions, CampaignProgress
from tilewright import api
from tilewright.bounds import check_seconds
from tilewright.data_card import write_card
from tilewright.display import LINE_SECONDS, clock, counted, say
from tilewright.this_machine import machine_record, quiet_limits

MAX_TRIALS = 128  # of a task
PASSES = 2  # what is recorded is to be right: a candidate is measured twice, some seconds apart


@dataclass(frozen=True)
class Recorded:
    """What the directory holds after the run."""

    directory: Path
    n_tasks: int
    n_records: int
    failures: Mapping[str, int]  # measurements that failed, by class
    n_repeats: int
    n_bytes: int  # of the Parquet files
    untimed: tuple[str, ...]  # tasks of the suite all of whose candidates failed
    given_up: tuple[str, ...]  # reasons, of tasks that could not be measured
    interrupted: bool


def record(
    suite: Suite | None, directory: Path, options: CampaignOptions, *,
    merge: Sequence[Path] = (), threads: int | None = None, passes: int | None = None, quiet: bool = False,
) -> Recorded:  # fmt: skip
    """Measure the suite into the directory, going on from what is there and in the directories to `merge`; without a suite, merge alone. `passes`: how often
    each candidate is measured; as those with the same seed were, if None.

    Ctrl-C ends it early, with all files written. `UserError` where a directory cannot be used, or code cannot run here on so many threads.
    """
    check_seconds("max_seconds", options.max_seconds)
    machine = None if suite is None else detect_machine(api.one_thread_without_openmp(threads))
    others = read_measured(merge).records  # all is read now, so that what is damaged is found before anything is made or measured
    make_directory(directory)
    with _alone_in(directory), Store(directory / STORE) as store:
        places = [directory, *merge]
        store.append([*read_measured([directory]).records, *others])
        abouts = _united_abouts(places)
        _write_abouts(directory, abouts)
        interrupted, given_up = False, dict[str, str]()
        if suite is not None and machine is not None:
            interrupted, given_up = _measure(suite, directory, store, abouts, options, machine, passes, quiet)
        records = store.records()
        if interrupted and not records:
            raise KeyboardInterrupt
        if not records:
            why = "; ".join(given_up.values()) or "nothing was measured before the time was over"
            raise UserError(f"{directory}: it holds no measurement, so no Parquet file is written: {why}")
        n_bytes = _write_parts(directory, records)
    write_card(directory)
    timed, asked = {each.task for each in records if each.ok}, {of.key for of in suite.tasks} if suite is not None else set()
    return Recorded(
        directory, len({each.task for each in records}), len(records), Counter(each.failure for each in records if not each.ok),
        sum(each.kind == "repeat" for each in records), n_bytes, tuple(sorted({each.task for each in records} & asked - timed)),
        tuple(given_up.values()), interrupted,
    )  # fmt: skip


def _measure(
    suite: Suite, directory: Path, store: Store, abouts: Mapping[str, About], options: CampaignOptions, machine: Machine, asked: int | None, quiet: bool
) -> tuple[bool, dict[str, str]]:
    """Whether Ctrl-C ended it, and why tasks were given up. `asked`: the passes."""
    description = machine_record(machine)
    here = machine_id(description)
    earlier = abouts.get(here, About({}, {}))
    passes = _passes(directory, asked, earlier.passes.get(str(options.seed)), options.seed)
    limits = quiet_limits(machine)
    about = _united(earlier, About(suite.sources, {str(limits.threads): limits.to_json()}, {str(options.seed): passes}))
    _write_abouts(directory, {here: about})  # now: a killed run has its tasks' sources too
    with LiveRunner(machine.target, seed=options.seed, timing=PATIENT, passes=passes) as runner:
        campaign = Campaign(
            suite.tasks, machine.target, runner, store, options, machine=description, versions=api.versions(), watch=_Watcher(options.max_seconds, quiet),
        )  # fmt: skip
        interrupted = campaign.run()
    if not quiet:
        counts = f"{runner.n_disturbed} of {runner.n_measured} measurements were taken although it was not quiet"
        print(f"{runner.waited_seconds:.1f} s went to waiting for a quiet machine; {counts}", file=sys.stderr)
    return interrupted, campaign.given_up


def _passes(directory: Path, asked: int | None, earlier: int | None, seed: int) -> int:
    """What a seed began with it goes on with: the card tells one command for all its candidates, and what was measured more often is known better."""
    if asked is not None and earlier is not None and asked != earlier:
        raise UserError(f"{directory}: the candidates of seed {seed} are measured in {earlier} passes, not {asked}; ask for as many, or for another seed")
    return asked or earlier or PASSES


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two campaigns in one directory would measure the same candidates, and disturb each other: `UserError` for the second."""
    with ExitStack() as stack:
        try:
            descriptor = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{directory}: another tilewright record is at work in it; let it end first") from None
        except OSError as error:
            raise UserError(f"{directory}: it cannot be used by one campaign alone: {error.strerror}") from None
        yield


def _united_abouts(places: Sequence[Path]) -> dict[str, About]:
    """By machine."""
    found: dict[str, About] = {}
    for place in places:
        for machine, about in read_abouts(place).items():
            found[machine] = _united(found.get(machine, About({}, {})), about)
    return found


def _united(one: About, other: About) -> About:
    """All sources of both; of limits with as many threads those that met the machine quieter; of passes with the same seed those of the first."""
    sources = one.sources | {task: one.sources.get(task, {}) | uses for task, uses in other.sources.items()}
    limits = dict(one.limits)
    for threads, found in other.limits.items():
        limits[threads] = max(limits.get(threads, found), found, key=lambda each: each["fma_gflops_all"]["best"])
    return About(sources, limits, other.passes | one.passes)


def _write_abouts(directory: Path, abouts: Mapping[str, About]) -> None:
    for machine, about in abouts.items():
        write_file(directory / f"{machine}{ABOUT}", json.dumps(vars(about), indent=1, sort_keys=True).encode())


def _write_parts(directory: Path, records: Sequence[Record]) -> int:
    """A Parquet file for each machine; how many bytes they have together."""
    by_machine: dict[str, list[Record]] = defaultdict(list)
    for each in records:
        by_machine[each.setting.machine].append(each)
    parts = {directory / f"{machine}.parquet": found for machine, found in by_machine.items()}
    for part, found in parts.items():
        exchange.write(part, found)
    return sum(part.stat().st_size for part in parts)


class _Watcher:
    """A line on standard error now and then."""

    def __init__(self, max_seconds: float | None, quiet: bool) -> None:
        self._max_seconds, self._quiet, self._last = max_seconds, quiet, -LINE_SECONDS
        self._first: CampaignProgress | None = None

    def __call__(self, progress: CampaignProgress) -> None:
        now = time.monotonic()
        self._first = self._first or progress
        if not self._quiet and now - self._last >= LINE_SECONDS:
            self._last = now
            counts = f"trials {progress.n_trials}/{progress.n_wanted}  failed {progress.n_failed}  measured twice {progress.n_repeats}"
            times = f"{clock(progress.elapsed_seconds)} elapsed{_left(self._first, progress, self._max_seconds)}"
            print(f"{times}  {counts}  {progress.task.key}", file=sys.stderr, flush=True)


def _left(first: CampaignProgress, now: CampaignProgress, max_seconds: float | None) -> str:
    """How much time the trials still to be made take by the speed since the first, or is left of what they may take."""
    n_new = now.n_trials - first.n_trials
    left = [(now.elapsed_seconds - first.elapsed_seconds) * (now.n_wanted - now.n_trials) / n_new] if n_new else []
    left += [max_seconds - now.elapsed_seconds] if max_seconds is not None else []
    return f"  {clock(max(min(left), 0.0))} left" if left else ""


def print_recorded(recorded: Recorded) -> None:
    per_record = recorded.n_bytes / recorded.n_records
    measured = f"{counted(recorded.n_records, 'measurement')} of {counted(recorded.n_tasks, 'task')}"
    say(f"{measured} in {recorded.directory}, {recorded.n_bytes} bytes ({per_record:.0f} each)")
    classes = ", ".join(f"{n} {failure}" for failure, n in sorted(recorded.failures.items()))
    failed = f"{sum(recorded.failures.values())} failed" + (f" ({classes})" if classes else "")
    say(f"{failed}, {recorded.n_repeats} are repeats{'; interrupted, the same command goes on' if recorded.interrupted else ''}")
    for key in recorded.untimed:
        say(f"no valid trial: {key}")
    for reason in recorded.given_up:
        say(f"given up: {reason}")
