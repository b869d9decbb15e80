"""What the figures of a report show, in a sentence or two, computed from the same data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tilewright.display import clock, counted, milliseconds
from tilewright.history import PARTS, SCORES, Section, TaskHistory

DRIFT = 1.2  # times the fastest trial: a final measurement that is slower than that wants explaining
LATE = 0.9  # of the trials: a task that still gains after that may gain from more


def learning(section: Section) -> str:
    tasks = [t for t in section.tuned if t.n_trials]
    if len(tasks) == 1:
        return f"{_found(tasks[0])}; {failed(section)}.{_drift(tasks)}"
    shares = [t.n_until_fastest / t.n_trials for t in tasks]
    late = sum(share > LATE for share in shares)
    hint = f"; {counted(late, 'task')} still gained in the last tenth and may gain from more" if late else ""
    return f"In the median task the fastest schedule came after {np.median(shares):.0%} of its trials{hint}. Over all, {failed(section)}.{_drift(tasks)}"


def _drift(tasks: Sequence[TaskHistory]) -> str:
    slower = [ratio for t in tasks if (ratio := t.best_seconds / t.trials["seconds"].min()) > DRIFT]
    if not slower:
        return ""
    which = "the final measurement" if len(tasks) == 1 else f"for {counted(len(slower), 'task')} the final measurement"
    return f" Note that {which} took {'' if len(slower) == 1 else 'up to '}{max(slower):.1f}× as long as the fastest trial: one of them was disturbed."


def _found(task: TaskHistory) -> str:
    n = task.n_until_fastest
    after = clock(float(task.trials["elapsed_seconds"].iloc[n - 1]))
    return f"The fastest schedule was found after {n:,} of {counted(task.n_trials, 'trial')} ({after} of {clock(task.tuning_seconds)} minutes)"


def failed(section: Section) -> str:
    if not section.n_failed:
        return f"none of {counted(section.n_trials, 'trial')} failed" if section.n_trials != 1 else "the one trial did not fail"
    classes = ", ".join(f"{n:,} {name}" for name, n in zip(section.failures["failure"], section.failures["n"], strict=True))
    return f"{section.n_failed:,} of {counted(section.n_trials, 'trial')} failed ({classes})"


def distances(section: Section) -> str:
    tasks = [t for t in section.tuned if t.n_trials]
    first = [_median_ratio(t, t.trials["round"] == t.trials["round"].min()) for t in tasks]
    last = [_median_ratio(t, t.trials["round"] == t.trials["round"].max()) for t in tasks if t.n_batches > 1]
    default = [t.speedup for t in tasks if t.compared]
    parts = [
        f"the median candidate of the first batch takes {_mean(first)} as long as the best" if first else "",
        f"that of the last batch {_mean(last)}" if last else "",
        f"the default schedule {_mean(default)}" if default else "",
    ]
    sentence = ", ".join(part for part in parts if part)
    return f"{sentence[0].upper()}{sentence[1:]}{' (geometric means over tasks)' if len(tasks) > 1 else ''}."


def _median_ratio(task: TaskHistory, batch: pd.Series[bool]) -> float:
    """Failed candidates are not counted; NaN where all failed."""
    seconds = task.trials["seconds"][batch & (task.trials["failure"] == "")]
    return float(seconds.median()) / task.best_seconds


def _mean(ratios: list[float]) -> str:
    known = np.array([ratio for ratio in ratios if np.isfinite(ratio)])
    return f"{np.exp(np.log(known).mean()):.2f}×" if len(known) else "unknown times"


def model(section: Section) -> str:
    means = section.judged.mean()
    scores = [
        f"{name} {means[score]:.0%} (chance {means[f'chance_{score}']:.0%})"
        for score, (name, _) in SCORES.items()
        if not np.isnan(means[score]) and not np.isnan(means[f"chance_{score}"])
    ]
    n = len(section.judged)
    return f"Mean of {counted(n, 'batch', 'batches')}: {', '.join(scores)}." if n > 1 else f"One batch was judged: {', '.join(scores)}."


def time(section: Section) -> str:
    totals = section.part_seconds.sum()
    whole = totals.sum()
    shares = ", ".join(f"{name} {totals[name] / whole:.0%}" for name in sorted(PARTS, key=lambda name: -totals[name]))
    rate = f" That is {section.n_trials / section.tuning_seconds:.1f} trials a second, everything included." if section.tuning_seconds else ""
    return f"Of {clock(whole)} minutes in {counted(int(sum(len(t.rounds) for t in section.tasks)), 'batch', 'batches')}: {shares}.{rate}"


def failing(section: Section) -> str:
    return f"{failed(section)}; below, what the first one of each class said."


def gains(section: Section) -> str:
    tasks = section.compared
    schedules = "schedule" if len(tasks) == 1 else "schedules"
    times = f"{milliseconds(section.default_seconds)} by the default {schedules} and {milliseconds(section.best_seconds)} by the best"
    if len(tasks) == 1:
        return f"One run takes {times}."
    gained = [t.speedup for t in tasks]
    spread = f"Single tasks gain from {min(gained):.2f}× to {max(gained):.2f}×"
    return f"Each of {len(tasks)} tasks once, one after another, takes {times}. {spread}, {_mean(gained)} in the geometric mean."
