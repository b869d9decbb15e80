"""The README of a directory of measurements: what they are, how they were made, how far they can be trusted. Made from the files there alone."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data.measurements import About, Measured, read_abouts, read_measured
from data.record import UNCHECKED, Record, Setting, versions_of
from data.repeatability import Repeatability, repeatability
from ir.files import write_file

CARD = "README.md"
MAX_TARGETS = 20  # tasks that a command names one by one; of more it cannot be told what they were named by

_HEAD = """# Measured candidates

{n_candidates} candidates of {n_tasks} tasks: tensor programs that were scheduled, compiled, checked and timed by Tilewright. Written by
`tilewright record`; `tilewright train` and `tilewright evaluate` read the directory. `tilewright record --out A --merge B` adds those of B to A.

A row of a `.parquet` file is one measurement: the task as an operator text, the name of the sketch, its columns (the names of its choices) and the row (their
values), the seconds of every repeat or the class of failure, machine, threads, and versions. No features are kept: they are computed again from the row,
so the data outlive changes of the features. The `.about.json` beside it says where each task comes from, and what the machine can do.

## How it was measured

- `sample`: drawn uniformly, each column over the choices that the earlier ones leave, over all sketches of the task (the first sketch twice as often as each
  other), rows that break a limit left out; about half of each task's candidates. Unbiased, but where a campaign was asked for more trials later on: what the
  search had taken by then is missing among the later samples.
- `trial`: asked for by the evolutionary search with a cost model that had learned from this task's earlier measurements.
- `repeat`: a candidate (same task, sketch and row) measured once more at the end of the campaign, built anew; {share} of all, in groups of a task.
- `final`: the end of a tuning, where the records come from one.

Every candidate's result was compared with a reference{unchecked}.
Tasks took turns of up to 96 trials, or half as many as they had, in an order drawn by the seed, the one with the fewest first.
The fastest repeat is the label: threads and caches warm, several calls in a row, repeated until two agree, of timing 2 the fastest stretch of 50 µs in each
repeat; a candidate four times slower than the best has a single repeat, or one for each pass over its group, and is so known less well than the others; {few}
of those that succeeded have one or two. A failure is kept with its class.
"""

_AGAIN = """## Make it again

{commands}

{instead}goes on where it was stopped, and appends where more trials or other tasks are asked.
The same seed draws the same samples; what the search asks for depends on what was measured. Where a campaign was stopped, its command makes more than
what is here.
"""

_INSTEAD = "(or with the targets that the table above names instead of the suite) "


def write_card(directory: Path) -> None:
    """Writes the README of what all Parquet files in the directory hold; `UserError` where one of them cannot be read."""
    measured = read_measured([directory])
    write_file(directory / CARD, card_text(measured, read_abouts(directory)).encode())


def card_text(measured: Measured, abouts: Mapping[str, About]) -> str:
    """`abouts`: by machine."""
    records = measured.records
    trials = [record for record in records if record.is_trial]
    by_task = Counter(record.task for record in trials)
    share = f"{sum(record.kind == 'repeat' for record in records) / max(len(trials), 1):.1%}"
    parts = [
        _HEAD.format(n_candidates=f"{len(trials):,}", n_tasks=len(by_task), share=share, few=_few_share(trials), unchecked=_unchecked(trials)),
        "## Machines\n\n" + "\n".join(_machines(records, abouts)),
        "## Counts\n\n" + _counts(measured, trials),
        "## Repeatability\n\n" + repeatability_text(repeatability(records)),
        _AGAIN.format(commands="\n".join(_commands(trials, abouts)), instead=_INSTEAD if len(by_task) > MAX_TARGETS else ""),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _commands(trials: Sequence[Record], abouts: Mapping[str, About]) -> Iterable[str]:
    """One for each machine, number of threads and seed, in the order in which they were given: of one machine the trials that a later one asks for count those
    of the earlier."""
    tasks = sorted({record.task for record in trials})
    targets = "--suite standard" if len(tasks) > MAX_TARGETS else " ".join(shlex.quote(task) for task in tasks)
    n_trials: Counter[Setting] = Counter()
    most: dict[tuple[str, int, int], int] = {}
    for record in trials:
        n_trials[record.setting] += 1
        run = (record.setting.machine, record.threads, record.seed)
        most[run] = max(most.get(run, 0), n_trials[record.setting])
    several = len({machine for machine, _, _ in most}) > 1
    for (machine, threads, seed), n in most.items():
        passes = abouts[machine].passes.get(str(seed)) if machine in abouts else None
        more, where = f" --passes {passes}" if passes else "", f"  # on {machine}" if several else ""
        yield f"    tilewright record {targets} --out DIRECTORY --max-trials {n} --threads {threads} --seed {seed}{more}{where}"


def _few_share(trials: Sequence[Record]) -> str:
    """Of the valid ones, those with one or two repeats in all."""
    few = [len(record.seconds) <= 2 for record in trials if record.ok]
    return f"{sum(few) / max(len(few), 1):.1%}"


def _unchecked(trials: Sequence[Record]) -> str:
    n = sum(UNCHECKED in record.versions for record in trials)
    return f", but for {n} of tunings that asked for no checks, which `train` leaves out" if n else ""


def repeatability_text(found: Repeatability) -> str:
    if found.agreement is None or found.pairwise_bound is None or found.noise is None:
        return "No two candidates of one task were measured twice, so nothing is known of how well measurements repeat."
    spread = "" if found.spread is None else f" Inside one measurement the median repeat is {found.spread:.1%} above the fastest (median)."
    return (
        f"{found.n_candidates} candidates were measured twice; the second time differs by {found.noise:.1%} (median).{spread} Of {found.n_pairs} pairs of\n"
        f"one task {found.agreement:.1%} stood in the same order both times. Of all pairs that pairwise accuracy judges {found.mixed_share:.1%} have one\n"
        f"candidate that failed, which is taken as certain. So no model can be expected to reach more than {found.pairwise_bound:.3f} pairwise accuracy on\n"
        f"such measurements (`data/repeatability.py` says why). {found.n_failed_once} candidates failed one time and not the other."
    )


def _machines(records: Sequence[Record], abouts: Mapping[str, About]) -> Iterable[str]:
    """A paragraph a machine and number of threads; where there are several, each says what it measured and how well that repeats."""
    seen: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        seen[record.setting.machine, record.threads].append(record)
    for (machine, threads), mine in sorted(seen.items()):
        about = mine[-1].machine
        caches = ", ".join(f"{name.upper()} {size >> 10} KiB" for name in ("l1", "l2", "l3") if isinstance(size := about.get(f"{name}_bytes"), int))
        cpu = f"{about.get('cpu_model', 'unknown CPU')} ({about.get('cpu', '?')}), {about.get('lanes', '?')} fp32 lanes"
        yield f"- `{machine}`: {cpu}, {caches}; {threads} threads."
        versions = (f"{name} {' and '.join(found)}" for name, found in sorted(versions_of(mine).items()))
        yield f"  Versions: {', '.join(versions)}."
        found = abouts[machine].limits.get(str(threads)) if machine in abouts else None
        if found is not None:
            peaks = f"{found['fma_gflops_one']['best']:.0f} GFLOP/s on one thread, {found['fma_gflops_all']['best']:.0f} on all"
            memory = ", ".join(
                f"{b['level']} {b['operation']} {b['gb_per_second']['best']:.0f}" for b in found["bandwidths"] if b["threads"] == found["threads"]
            )
            yield f"  Measured: {peaks}; 10⁹ bytes/s with all threads: {memory}; A/A ratio of minima {found['noise']['minima_ratio']:.3f}."
        yield f"  Vector features: {_vector_features(str(about.get('features', '')))}."
        if len(seen) > 1:
            trials, found_again = [each for each in mine if each.is_trial], repeatability(mine)
            yield f"  {len(trials):,} candidates of {len({each.task for each in trials})} tasks.{_in_short(found_again)}"


def _vector_features(features: str) -> str:
    names = [name[1:] for name in features.split(",") if name.startswith("+")]
    return ", ".join(name for name in names if name.startswith(("avx", "fma", "sse4.2", "neon", "sve"))) or "none"


def _in_short(found: Repeatability) -> str:
    """A sentence; nothing where nothing is known."""
    if found.agreement is None or found.pairwise_bound is None or found.noise is None:
        return ""
    return (
        f" Measured again they differ by {found.noise:.1%} (median), {found.agreement:.1%} of the pairs stand in the same order:"
        f" at most {found.pairwise_bound:.3f} pairwise accuracy."
    )


def _counts(measured: Measured, trials: Sequence[Record]) -> str:
    kinds = Counter(record.kind for record in measured.records)
    failures = Counter(record.failure for record in trials if not record.ok)
    operators = Counter(record.task.partition(":")[0] for record in trials)
    tasks_of: dict[str, set[str]] = {}
    for task in {record.task for record in trials}:
        for source in measured.sources.get(task, {"source not known": 1}):
            tasks_of.setdefault(source, set()).add(task)
    by_task = Counter(record.task for record in trials)
    sources = [(name, len(tasks), sum(by_task[task] for task in tasks)) for name, tasks in sorted(tasks_of.items())]
    return "\n\n".join([
        _table(("kind", "measurements"), kinds.most_common()),
        _table(("network or operator family", "tasks", "candidates"), sources) + "\n\nA task of several networks counts in each of them.",
        _table(("operator", "candidates"), operators.most_common()),
        _table(("failure", "candidates"), failures.most_common()) if failures else "No candidate failed.",
    ])  # fmt: skip


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])
