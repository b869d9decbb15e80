"""What the command line prints: progress, tables, and JSON files. Tables go to standard output, progress to standard error."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from graph.network import Network
from ir.files import write_file
from ir.task import Task

if TYPE_CHECKING:  # what makes them takes a second to import, and most commands make none
    from schedule.measurement import Candidate, Measurement
    from search import tuner
    from tilewright.api import Result
    from tilewright.bench import BenchResult, TaskBench

LINE_SECONDS = 10.0  # between two progress lines where there is no terminal
LONGEST_LINE = 4096  # where there is none, lines are not folded


class _StandardOutput(Console):
    def on_broken_pipe(self) -> None:
        """The reader of our output went away, as `head` does: that is no failure, and the command goes on to its own end."""
        with suppress(SystemExit):
            super().on_broken_pipe()


def console() -> Console:
    """Standard output; where it is no terminal, lines are as long as they need to be."""
    out = _StandardOutput(highlight=False)
    return out if out.is_terminal else _StandardOutput(highlight=False, width=LONGEST_LINE)


def say(text: object) -> None:
    """A line, or lines, as they are."""
    console().out(text, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> None:
    """A table whose first `left` columns are text and the others numbers."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", overflow="fold" if i < left else "ellipsis", no_wrap=i >= left)
    for row in rows:
        table.add_row(*(Text(cell if isinstance(cell, str) else str(cell)) for cell in row))
    console().print(table)


@contextmanager
def also_as_json(path: Path | None, data: object) -> Iterator[None]:
    """After what the block prints `data` as a JSON file, written in one step, where one is asked for. Each of the two is made although the other fails."""
    try:
        yield
    finally:
        if path is not None:
            write_file(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def counted(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1e3 * seconds:.4g} ms"


def speed(task: Task, seconds: float | None) -> str:
    """For a column of GFLOP/s; of data that are only moved, with its unit."""
    if not seconds:
        return "–"
    return f"{task.speed(seconds):.1f}" if task.flops else f"{task.speed(seconds):.1f} {task.speed_unit}"


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.0f} %"


# --- a network's tasks ----------------------------------------------------------------------------------------------


def print_network(network: Network) -> None:
    total = max(1, sum(task.flops * task.count for task in network.tasks))
    rows = [
        (i, task.key, task.count, f"{task.flops / 1e6:.1f}", percent(task.flops * task.count / total), task.name if task.name != task.key else "")
        for i, task in enumerate(network.tasks)
    ]
    print_table("", ("#", "task", "uses", "MFLOP", "share", "first layer"), rows, left=2)
    print_unsupported(network)


def print_unsupported(network: Network) -> None:
    """How much of the network can be tuned, and why the rest cannot."""
    n_uses = sum(task.count for task in network.tasks)
    out = console()
    n_tasks = len(network.tasks)
    out.print(f"{counted(n_tasks, 'task')} {'covers' if n_tasks == 1 else 'cover'} {n_uses} of {counted(network.n_layers, 'compute-heavy layer')}")
    print_refusals(network, "not supported")
    if network.other_operators:
        out.print("not tuned, being light: " + ", ".join(f"{n} {name}" for name, n in network.other_operators.most_common()))


def print_refusals(network: Network, outcome: str = "not tuned") -> None:
    """The compute-heavy layers for which there is no task."""
    for refusal in network.unsupported:
        console().print(Text(f"{outcome}: {refusal.op_type} {refusal.node}: {refusal.reason}"))


def tasks_json(network: Network) -> dict[str, object]:
    return {
        "path": str(network.path) if network.path else None,
        "tasks": [{"key": t.key, "name": t.name, "count": t.count, "flops": t.flops} for t in network.tasks],
        "unsupported": [{"op_type": r.op_type, "node": r.node, "reason": r.reason} for r in network.unsupported],
        "other_operators": dict(network.other_operators),
        "notes": list(network.notes),
    }


# --- tuning ---------------------------------------------------------------------------------------------------------


class Watcher:
    """Shows a tuning run: a live line in a terminal, plain lines elsewhere. The headline comes with the first trial, after all that can be refused."""

    def __init__(self, headline: str, *, quiet: bool, verbose: bool) -> None:
        self._headline: str | None = headline
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._verbose, self._last_line = verbose, 0.0
        self._live = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TextColumn("{task.fields[status]}", markup=False),
            console=self._console, transient=True, disable=quiet or not self._console.is_terminal,
        )  # fmt: skip
        self._bar = self._live.add_task("tuning", total=1.0, status="")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def note(self, text: str) -> None:
        self.say(f"note: {text}")

    def __call__(self, progress: tuner.Progress) -> None:
        if self._headline is not None:
            self.say(self._headline)
            self._headline = None
        status = status_line(progress)
        if self._verbose and progress.trial is not None:
            self.say(_trial_line(progress.state.task, *progress.trial))
        if self._live.disable:
            now = time.monotonic()
            if now - self._last_line >= LINE_SECONDS:
                self._last_line = now
                self.say(f"{progress.state.task.name}: {status}")
            return
        self._live.update(self._bar, completed=done_fraction(progress), description=progress.state.task.name[:48], status=status)


def _trial_line(task: Task, candidate: Candidate, measurement: Measurement) -> str:
    outcome = f"{task.speed(measurement.best_seconds):.1f} {task.speed_unit}" if measurement.ok else f"failed, {measurement.failure}: {measurement.message}"
    return f"{candidate.sketch} {list(candidate.row)}: {outcome}"


def status_line(progress: tuner.Progress) -> str:
    """Elapsed, left, task, trials, best, failed; at the end, that the best are measured again."""
    best = progress.state.best_seconds
    rate = f"{progress.state.task.speed(best):.1f} {progress.state.task.speed_unit}" if best else "nothing yet"
    left = seconds_left(progress)
    parts = [
        f"{clock(progress.elapsed_seconds)} elapsed",
        "measuring the best again" if progress.trial is None else f"{clock(left)} left" if left is not None else "",
        f"task {progress.task_number + 1}/{progress.n_tasks}",
        f"trials {progress.n_trials}" + (f"/{progress.options.max_trials}" if progress.options.max_trials else ""),
        f"best {rate}",
        f"failed {progress.n_failed}",
    ]
    return "  ".join(part for part in parts if part)


def done_fraction(progress: tuner.Progress) -> float:
    """How much of the budget is used up, of trials or of time, whichever is more."""
    options = progress.options
    shares = [0.0]
    if options.max_seconds:
        shares.append(progress.elapsed_seconds / options.max_seconds)
    if options.max_trials:
        shares.append(progress.n_trials / options.max_trials)
    if options.max_trials_per_task:
        shares.append(progress.n_trials / (options.max_trials_per_task * progress.n_tasks))
    return min(max(shares), 1.0)


def seconds_left(progress: tuner.Progress) -> float | None:
    """Until the budget is used up, by the speed of this run so far; None before anything can be said."""
    options, n_new = progress.options, progress.n_trials - progress.n_resumed
    per_task = options.max_trials_per_task
    wanted = [n for n in (options.max_trials, per_task and per_task * progress.n_tasks) if n and n_new]
    left = [progress.tuning_seconds * (n - progress.n_trials) / n_new for n in wanted]
    left += [options.max_seconds - progress.elapsed_seconds] if options.max_seconds else []
    return max(min(left), 0.0) if left else None


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def print_result(result: Result, network: Network, records: Path | None) -> bool:
    """The outcome by task, the failures by class, the coverage. `records`: where the trials are kept, if anywhere. True if every compute-heavy layer of the
    network is tuned."""
    rows = []
    numbers = {task.key: number for number, task in enumerate(network.tasks)}
    for state in result.states:
        speedup = f"{state.default_seconds / state.best_seconds:.2f}×" if state.best_seconds and state.default_seconds else "–"
        peak = result.peak_fraction(state)
        rows.append((
            numbers[state.task.key], state.task.key, state.task.count, state.n_trials, sum(state.failures.values()), milliseconds(state.default_seconds),
            milliseconds(state.best_seconds), speedup, speed(state.task, state.best_seconds), percent(peak),
        ))  # fmt: skip
    columns = ("#", "task", "uses", "trials", "failed", "default", "best", "speedup", "GFLOP/s", "of peak")
    print_table("", columns, rows, left=2)
    out = console()
    failures: Counter[str] = sum((state.failures for state in result.states), Counter())
    final_failures: Counter[str] = sum((state.final_failures for state in result.states), Counter())
    for what, counts in (("trials", failures), ("final measurements", final_failures)):
        if counts:
            out.print(f"failed {what}: " + ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    for name in failures | final_failures:
        example = next(state for state in result.states if name in state.messages)
        out.print(Text(f"  {name}: {example.messages[name]}"))
    if len(result.states) > 1:
        pairs = [(s.task.count * s.default_seconds, s.task.count * s.best_seconds) for s in result.states if s.default_seconds and s.best_seconds]
        before, after = sum(p[0] for p in pairs), sum(p[1] for p in pairs)
        if after:
            out.print(f"these layers together: default {milliseconds(before)}, tuned {milliseconds(after)}, {before / after:.2f}×")
    tuned = sum(state.task.count for state in result.states if state.best is not None)
    out.print(f"tuned {tuned}/{network.n_layers} layers in {clock(result.elapsed_seconds)}{', interrupted' if result.interrupted else ''}")
    for state in result.states:
        if state.best is None:
            ended = "the run was interrupted" if result.interrupted else "the budget ran out"
            reason = state.given_up or next(iter(state.messages.values()), f"no trial was made before {ended}")
            out.print(Text(f"not tuned: {state.task.key}: {reason}"))
        elif state.given_up:
            out.print(Text(f"given up: {state.task.key}: {state.given_up}"))
    unjudged = sum(state.best is not None and not state.is_judged and not state.given_up for state in result.states)
    if unjudged:
        why = "the run was interrupted" if result.interrupted else "the time was over, or that failed"
        later = "" if records is None else "; the next run with the same records file does so"
        out.print(f"{unjudged} of the best were not measured again beside the default schedule: {why}{later}")
    chosen = {state.task.key for state in result.states}
    for task in network.tasks:
        if task.key not in chosen:
            out.print(Text(f"not tuned: {task.key}: not among the chosen tasks"))
    print_refusals(network)
    return tuned == network.n_layers


# --- comparisons ----------------------------------------------------------------------------------------------------


def print_compared(bench: TaskBench) -> None:
    """That a task is done, for whoever waits for the table."""
    Console(stderr=True, highlight=False).print(Text(f"compared {bench.task.name}"), soft_wrap=True)


def print_bench(result: BenchResult) -> bool:
    """Every contender on every task, and the coverage. True if every task has a tuned schedule."""
    rows = []
    for bench in result.tasks:
        for number, row in enumerate(bench.rows(result.limits)):
            flops = (f"{row.gflops:.1f}", percent(row.peak_fraction)) if bench.task.flops else ("–", "–")
            ratio = f"{row.ratio_to_best_peer:.2f}×" if row.ratio_to_best_peer is not None else "–"
            noise = f"{row.noise_minima:.2f}" if row.noise_minima is not None else "–"
            rows.append((
                row.task if number == 0 else "", f"{row.contender} {row.setting}".strip(), milliseconds(row.min_seconds),
                milliseconds(row.median_seconds), *flops, f"{row.gb_per_second:.1f}", ratio,
                noise if number == 0 else "",
            ))  # fmt: skip
    columns = ("task", "contender", "fastest", "median", "GFLOP/s", "of peak", "GB/s", "× best peer", "A/A")
    print_table("", columns, rows, left=2)
    out = console()
    for note in (*result.notes, *(note for bench in result.tasks for note in bench.notes)):
        out.print(Text(f"note: {note}"))
    ratios = [min(peer.min_seconds for peer in bench.peers) / bench.ours.min_seconds for bench in result.tasks if bench.peers and bench.ours is not None]
    if ratios:
        n_default = sum(bool(bench.peers) and bench.ours is not None and not bench.tuned for bench in result.tasks)
        by_default = f", {n_default} of them by the default schedule" if n_default else ""
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        out.print(f"geometric mean over {counted(len(ratios), 'task')}{by_default}: {mean:.2f}× the best peer of each")
    n_tuned = sum(bench.tuned for bench in result.tasks)
    out.print(f"tuned {n_tuned}/{counted(len(result.tasks), 'task')}")
    return n_tuned == len(result.tasks)


# --- the machine ----------------------------------------------------------------------------------------------------


def print_doctor(found: Mapping[str, Any]) -> None:
    """Whatever `doctor` found, a line a fact, nested facts indented."""
    _print_facts(found, 0)


def _print_facts(facts: Mapping[str, Any], depth: int) -> None:
    out = console()
    for name, fact in facts.items():
        indent = "  " * depth
        if isinstance(fact, Mapping):
            out.print(Text(f"{indent}{name}:"))
            _print_facts(fact, depth + 1)
        elif isinstance(fact, list | tuple) and fact and isinstance(fact[0], Mapping):
            out.print(Text(f"{indent}{name}:"))
            for item in fact:
                out.print(Text(f"{indent}  " + ", ".join(f"{key} {_fact(value)}" for key, value in item.items())))
        else:
            out.print(Text(f"{indent}{name}: {_fact(fact)}"))


def _fact(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_fact(part)}" for key, part in value.items()) + ")"
    return "none" if value is None else str(value)
