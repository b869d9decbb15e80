"""What a records file tells about each tuning: the trials in order, the batches, the default and the best schedule."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path

import pandas as pd

from data.meaning import usable_best
from data.record import Record, Round, Setting, default_of, versions_of
from data.store import Store
from ir.convolution import KERNEL, RANKS, SPATIAL
from ir.errors import UserError
from ir.task import Task, known_task

MAX_LABEL = 48  # characters

# The scores of a round: their names, and what they are shares of.
SCORES = {
    "pairwise_accuracy": ("pairwise accuracy", "pairs ranked rightly"),
    "recall_at_k": ("recall@k", "fastest k among the first k"),
    "top_1": ("top-1", "first choice, of the fastest"),
    "top_5": ("top-5", "best of five, of the fastest"),
}
OPTIONS = ("axis", "axes", "before", "after", "mode", "starts", "stops", "steps", "from", "to")  # of an operator on one tensor, that its short name tells
PARTS = ("search", "build", "measure", "model")  # of the time of a round


@dataclass(frozen=True)
class TaskHistory:
    """One task on one machine with one number of threads.

    `trials` has a row a trial in the order in which they were made, final measurements not among them: elapsed_seconds, seed, round, seconds
    (infinite where it failed), so_far (the least seconds until then), failure and message. `rounds` has a row a batch: round, the `SCORES`, for each
    of them what ranking by chance can expect as `chance_…` (NaN where a batch was not judged), and the seconds of the `PARTS`.
    """

    key: str
    number: int | None  # as `tilewright best` lists it; None where no trial is valid
    label: str  # the key in short
    task: Task | None  # None where this version does not know it
    trials: pd.DataFrame
    rounds: pd.DataFrame
    default: Record | None  # None where it failed or is not recorded
    best: Record | None

    @property
    def title(self) -> str:
        return self.label if self.number is None else f"#{self.number} {self.label}"

    @property
    def n_trials(self) -> int:
        return len(self.trials)

    @property
    def n_failed(self) -> int:
        return int((self.trials["failure"] != "").sum())

    @property
    def n_batches(self) -> int:
        return int(self.trials["round"].nunique())

    @property
    def unit(self) -> str:
        """Of speeds."""
        return "runs/s" if self.task is None else self.task.speed_unit

    @property
    def work(self) -> float:
        """Speed times seconds."""
        return 1.0 if self.task is None else self.task.speed(1.0)

    @property
    def best_seconds(self) -> float:
        """Infinite where no trial is valid."""
        return self.best.best_seconds if self.best else math.inf

    @property
    def default_seconds(self) -> float:
        """Infinite where unknown."""
        return self.default.best_seconds if self.default else math.inf

    @property
    def best_speed(self) -> float:
        return self.work / self.best_seconds

    @property
    def compared(self) -> bool:
        """Whether it is known how long both the default and the best schedule take."""
        return self.default is not None and self.best is not None

    @property
    def speedup(self) -> float:
        """Of the best over the default schedule, where they can be `compared`."""
        return self.default_seconds / self.best_seconds

    @property
    def n_until_fastest(self) -> int:
        """How many trials it took to find the fastest one."""
        return int(self.trials["seconds"].to_numpy().argmin()) + 1

    @property
    def kept_after_seconds(self) -> float:
        """When the best schedule was measured for the last time; for one that was kept at the end, that is the end."""
        return self.best.elapsed_seconds if self.best else math.inf

    @property
    def kept_after_trials(self) -> int:
        return int((self.trials["elapsed_seconds"] <= self.kept_after_seconds).sum())

    @property
    def tuning_seconds(self) -> float:
        ends = [self.trials["elapsed_seconds"].max(), self.rounds["elapsed_seconds"].max(), self.best.elapsed_seconds if self.best else 0.0]
        return max((float(end) for end in ends if not math.isnan(end)), default=0.0)


@dataclass(frozen=True)
class Section:
    """The tasks that were tuned on one machine with one number of threads, in the order in which they were recorded."""

    machine: dict[str, str | int]
    threads: int
    versions: dict[str, str]  # several of one name, joined by a comma, if they changed on the way
    tasks: tuple[TaskHistory, ...]

    @property
    def title(self) -> str:
        cpu = self.machine.get("cpu_model") or self.machine.get("cpu") or "unknown CPU"
        return f"{cpu}, {self.threads} thread{'' if self.threads == 1 else 's'}"

    @cached_property
    def tuned(self) -> tuple[TaskHistory, ...]:
        """Those with a valid trial, the one that takes most time first."""
        return tuple(sorted((t for t in self.tasks if t.best), key=lambda t: -t.best_seconds))

    @cached_property
    def compared(self) -> tuple[TaskHistory, ...]:
        """Those whose default schedule is known to be slower or faster, the one that takes most time first."""
        return tuple(t for t in self.tuned if t.compared)

    @property
    def default_seconds(self) -> float:
        """All `compared` tasks, once, one after another."""
        return sum(t.default_seconds for t in self.compared)

    @property
    def best_seconds(self) -> float:
        """All `compared` tasks, once, one after another."""
        return sum(t.best_seconds for t in self.compared)

    @property
    def speedup(self) -> float:
        """Of all `compared` tasks together, where there are any."""
        return self.default_seconds / self.best_seconds

    @property
    def n_trials(self) -> int:
        return sum(t.n_trials for t in self.tasks)

    @property
    def n_failed(self) -> int:
        return sum(t.n_failed for t in self.tasks)

    @property
    def tuning_seconds(self) -> float:
        return sum(t.tuning_seconds for t in self.tasks)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """A row for each class of failure, the most frequent first: failure, n, and one message as an example."""
        trials = pd.concat([t.trials for t in self.tasks], ignore_index=True)
        failed = trials[trials["failure"] != ""]
        classes = failed.groupby("failure").agg(n=("failure", "size"), message=("message", "first")).reset_index()
        return classes.sort_values(["n", "failure"], ascending=[False, True], ignore_index=True)

    @cached_property
    def judged(self) -> pd.DataFrame:
        """All rounds in which the cost model could be judged; `task` is the number of the task in `tasks`."""
        rounds = pd.concat([t.rounds.assign(task=i) for i, t in enumerate(self.tasks)], ignore_index=True)
        return rounds[rounds[list(SCORES)].notna().any(axis=1)]

    @cached_property
    def part_seconds(self) -> pd.DataFrame:
        """How long each part of tuning took: a row a task of `tasks`, a column for each of the `PARTS`."""
        return pd.DataFrame([t.rounds[[f"{part}_seconds" for part in PARTS]].sum() for t in self.tasks]).set_axis(list(PARTS), axis=1)


@dataclass(frozen=True)
class History:
    """A whole records file."""

    path: Path
    changed: datetime  # when the file was last written
    sections: tuple[Section, ...]


def read_history(path: Path) -> History:
    """All that a records file holds; `UserError` if it cannot be read or holds no trial."""
    changed = _last_change(path)
    with Store(path, create=False) as store:
        records, rounds = store.records(), store.rounds()
    if not records:
        raise UserError(f"{path} holds no trial; there is nothing to report")
    by_setting: dict[Setting, tuple[list[Record], list[Round]]] = defaultdict(lambda: ([], []))
    for record in records:
        by_setting[record.setting][0].append(record)
    for entry in rounds:
        if entry.setting in by_setting:
            by_setting[entry.setting][1].append(entry)
    sections: dict[tuple[str, int], list[TaskHistory]] = defaultdict(list)
    number = 0
    for setting, (mine, my_rounds) in by_setting.items():
        found = task_history(mine, my_rounds, number)
        number += found.best is not None
        sections[setting.machine, setting.threads].append(found)
    return History(path, changed, tuple(_section(tasks, records, machine, threads) for (machine, threads), tasks in sections.items()))


def task_history(records: Sequence[Record], rounds: Iterable[Round], number: int) -> TaskHistory:
    """The history of one setting from its records (at least one) and rounds, oldest first; `number` is for the task if some trial is valid."""
    key, best = records[0].task, usable_best(records)
    of = known_task(key)
    label = short_name(of.key) if of else key
    if len(label) > MAX_LABEL:
        label = label[: MAX_LABEL - 1] + "…"
    trials = _trials(records)
    return TaskHistory(key, None if best is None else number, label, of, trials, _rounds(rounds, trials), default_of(records), best)


def short_name(key: str) -> str:
    """A valid task key as one says it: `conv2d 3×3, 64→128, 56×56, stride 2, bias+relu`."""
    operator, _, rest = key.partition(":")
    value = dict(part.split("=", 1) for part in rest.split(","))
    if operator in RANKS:
        words = _convolution_words(operator, value)
    elif "shape" in value and operator != "reduce":
        words = [f"{operator.replace('_', ' ')} of {value['shape'].replace('x', '×')}"]
        words += [f"{name} {value[name].replace('x', ', ')}" for name in OPTIONS if name in value]
    elif operator == "attention":
        words = [f"attention of {value['heads']} heads, {value['queries']}×{value['keys']}, {value['dim']} each", *_batch(value["batch"])]
    elif "c" in value:
        words = _image_words(operator, value)
    elif operator == "einsum":
        words = [f"einsum {value['equation'].replace('.', ' ')}", value["sizes"].replace(".", " ")]
    elif operator == "reduce":
        words = [f"{value['function']} of {value['shape'].replace('x', '×')}", f"axes {value['axes'].replace('x', ', ')}"]
    elif operator == "concat":
        words = [f"concat of {_shapes(value['shapes'])}", f"axis {value['axis']}"]
    elif operator == "elementwise":
        words = [f"{value['value']} of {_shapes(value['shapes'])}"]
        words += value["types"].split(".") if "types" in value else []
    else:
        sizes = "×".join(value[name] for name in ("m", "n", "k"))
        words = [f"matmul {sizes}" if operator == "matmul" else f"batch matmul {value['batch']} of {sizes}"]
    if "b" in value:
        words += [f"{value['b']} b"] * ((operator == "matmul") != (value["b"] == "constant"))
    prologue, epilogue = (value.get(name, "none") for name in ("prologue", "epilogue"))
    words += [f"{prologue} before"] * (prologue != "none") + [epilogue] * (epilogue != "none")
    return ", ".join(words)


def _convolution_words(operator: str, value: Mapping[str, str]) -> list[str]:
    kernel, sizes = ("×".join(value[name] for name in names[RANKS[operator]]) for names in (KERNEL, SPATIAL))
    depthwise = value.get("groups") == value["c"] == value["k"] != "1"
    channels = f"{value['c']} channels" if depthwise else f"{value['c']}→{value['k']}"
    words = [f"{'depthwise' if depthwise and operator == 'conv2d' else operator.replace('_', ' ')} {kernel}", channels, sizes]
    words += [f"{name} {value[name]}" for name in ("stride", "dilation") if value.get(name, "1") != "1"]
    groups = value.get("groups", "1")
    return words + [f"{groups} groups"] * (groups != "1" and not depthwise) + _batch(value["n"])


def _image_words(operator: str, value: Mapping[str, str]) -> list[str]:
    """Of pooling and normalization."""
    name = operator.replace("_", " ").removesuffix("2d")
    window = [f"{name} {value['r']}×{value['s']}"] if "r" in value else [name]
    words = [*window, f"{value['c']} channels", f"{value['h']}×{value['w']}"]
    return words + [f"{each} {value[each]}" for each in ("stride", "dilation") if value.get(each, "1") != "1"] + _batch(value["n"])


def _shapes(text: str) -> str:
    """Those that are alike one after the other once."""
    alike = [(shape, len(list(same))) for shape, same in groupby(text.replace("x", "×").split("."))]
    return ", ".join(shape if n == 1 else f"{shape} ({n} times)" for shape, n in alike)


def _batch(size: str) -> list[str]:
    return [f"batch {size}"] * (size != "1")


def chance_of_best(speeds: Sequence[float], k: int) -> float:
    """The best speed of k drawn by chance from `speeds` that can be expected, over the best of all; 0 is the speed of a failure."""
    ordered, k = sorted(speeds), min(k, len(speeds))
    expected = sum(speed * math.comb(i, k - 1) for i, speed in enumerate(ordered)) / math.comb(len(ordered), k)
    return expected / ordered[-1]


def _section(tasks: Sequence[TaskHistory], records: Sequence[Record], machine: str, threads: int) -> Section:
    mine = [record for record in records if (record.setting.machine, record.threads) == (machine, threads)]
    versions = {name: ", ".join(found) for name, found in versions_of(mine).items()}
    return Section(mine[0].machine, threads, versions, tuple(tasks))


def _trials(records: Iterable[Record]) -> pd.DataFrame:
    """Tunings that were recorded apart and came together later are shown as if they had run side by side."""
    fields = {"elapsed_seconds": float, "seed": int, "round": int, "seconds": float, "failure": object, "message": object}
    rows = [(r.elapsed_seconds, r.seed, r.round, r.best_seconds, r.failure, r.message) for r in records if r.is_trial]
    trials = pd.DataFrame(rows, columns=list(fields)).astype(fields)
    trials = trials.sort_values("elapsed_seconds", kind="stable", ignore_index=True)
    return trials.assign(so_far=trials["seconds"].cummin())


def _rounds(rounds: Iterable[Round], trials: pd.DataFrame) -> pd.DataFrame:
    shown = ["round", *SCORES, *(f"{part}_seconds" for part in PARTS), "elapsed_seconds"]
    rows = [{name: getattr(entry, name) for name in shown} | _chances(entry, trials) for entry in rounds]
    return pd.DataFrame(rows, columns=[*shown, *(f"chance_{score}" for score in SCORES)]).astype(float)


def _chances(entry: Round, trials: pd.DataFrame) -> dict[str, float]:
    """What a ranking by chance can expect of this batch, for each score that was given."""
    batch = trials["seconds"][(trials["round"] == entry.round) & (trials["seed"] == entry.seed)]
    n_valid = entry.n_measured - entry.n_failed
    chances = {"chance_pairwise_accuracy": 0.5, "chance_recall_at_k": min(entry.k, n_valid) / max(entry.n_measured, 1)}
    speeds = (1.0 / batch).tolist()
    if any(speeds):
        chances |= {"chance_top_1": chance_of_best(speeds, 1), "chance_top_5": chance_of_best(speeds, 5)}
    return {name: chance for name, chance in chances.items() if getattr(entry, name.removeprefix("chance_")) is not None}


def _last_change(path: Path) -> datetime:
    """Of the file, or of the log that SQLite keeps beside it while somebody writes, or has it open, so this is to be asked before. 1970 where there is none."""
    log = path.with_name(path.name + "-wal")
    return datetime.fromtimestamp(max((file.stat().st_mtime for file in (path, log) if os.path.exists(file)), default=0.0), UTC)
