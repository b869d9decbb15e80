"""How the seconds of a candidate are measured.

A repeat is made of stretches, of which the fastest counts. A stretch times several calls in a row, in a native loop, long enough (`stretch_seconds`) that
the clock and the return to Python hardly count, and no longer: where another guest computes on the other halves of our cores, it leaves them alone for moments
only. The seconds of a repeat are per call. Repeats go on until there are enough (`min_repeats`, and `total_seconds` of them) and the two fastest agree: on a
machine where something else runs now and then, one undisturbed repeat among disturbed ones would be luck. `max_repeats` and `max_seconds` bound it.

Caches are warm: each repeat begins where the same kernel has just run on the same buffers. In a network a layer's input has just been written by
the layer before it, so warm is nearer to the truth than cold for all but the largest tensors, and it is what can be measured with little noise.
A call before the clock starts is needed in any case: it brings memory pages in, and wakes OpenMP's helper threads, which then spin from region
to region (`codegen.openmp`).

A candidate is given up as slow after a whole repeat, never after a single call: one call of a short kernel can be disturbed to a hundred times its time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_CALLS = 1 << 20  # in a stretch
TIMING_VERSION = 2  # of what the seconds of a record mean; 1: a repeat was one long stretch

Run = Callable[[int], object]  # runs a kernel so many times in a row


@dataclass(frozen=True)
class Repeat:
    """So many stretches of so many calls each."""

    calls: int
    stretches: int

    def seconds(self, run: Run) -> float:
        """Per call, of the fastest stretch."""
        return min(time_stretch(run, self.calls) for _ in range(self.stretches))


@dataclass(frozen=True)
class Timing:
    """`agreement`: the fastest two repeats agree if they differ by no more than this part. A candidate whose first repeat takes longer than
    `give_up_seconds` (None: no such limit) is not worth another. `patience`: the share of the time that may be spent waiting for a quiet
    machine (`codegen.quiet`)."""

    repeat_seconds: float = 1.5e-3
    stretch_seconds: float = 5e-5
    min_repeats: int = 3
    max_repeats: int = 12
    total_seconds: float = 15e-3
    max_seconds: float = 0.1
    agreement: float = 0.05
    give_up_seconds: float | None = None
    patience: float = 0.0


PATIENT = Timing(max_repeats=24, total_seconds=30e-3, patience=0.3)  # for measurements that are to be kept


def time_calls(run: Run, timing: Timing) -> tuple[float, ...]:
    """The seconds per call of each repeat. The kernel must have run before."""
    repeat, seconds = calibrate(run, timing)
    repeats = [seconds]
    if timing.give_up_seconds is not None and seconds > timing.give_up_seconds:
        return tuple(repeats)
    elapsed = repeat.calls * repeat.stretches * seconds
    start = time.perf_counter() - elapsed
    while len(repeats) < timing.max_repeats and elapsed < timing.max_seconds:
        if len(repeats) >= timing.min_repeats and elapsed >= timing.total_seconds and agree(repeats, timing.agreement):
            break
        repeats.append(repeat.seconds(run))
        elapsed = time.perf_counter() - start
    return tuple(repeats)


def agree(repeats: Sequence[float], part: float) -> bool:
    """Whether the two fastest of at least two repeats are alike."""
    fastest, second = sorted(repeats)[:2]
    return second <= (1 + part) * fastest


def time_in_turns(runs: Sequence[Run], timing: Timing, rounds: int, max_seconds: float, least: int = 3) -> list[tuple[float, ...]]:
    """For each kernel, the seconds per call of a repeat in each round; in every round all kernels take their turn.

    What slows the machine for a while so slows all of them. Every other round goes in the opposite order, and each repeat has a call before it that is
    not timed, as the others have used the caches. There are `rounds` of them, or as many as fit into `max_seconds`, but not less than `least`.
    """
    repeats = [calibrate(run, timing)[0] if timing.repeat_seconds else Repeat(1, 1) for run in runs]
    results: list[list[float]] = [[] for _ in runs]
    stop = time.perf_counter() + max_seconds
    for number in range(rounds):
        if number >= least and time.perf_counter() > stop:
            break
        order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
        for i in order:
            runs[i](1)
            results[i].append(repeats[i].seconds(runs[i]))
    return [tuple(found) for found in results]


def calibrate(run: Run, timing: Timing) -> tuple[Repeat, float]:
    """How long a repeat has to be, and the seconds per call of the first one. What is timed to find out is timed twice: by one disturbed stretch all others
    would be too few, or too short."""
    calls, seconds = 1, time_stretch(run, 1)
    if seconds < timing.max_seconds:
        seconds = min(seconds, time_stretch(run, 1))
    while calls * seconds < timing.stretch_seconds and calls < MAX_CALLS:
        calls = min(MAX_CALLS, max(2 * calls, math.ceil(1.1 * timing.stretch_seconds / max(seconds, 1e-9))))
        seconds = min(time_stretch(run, calls), time_stretch(run, calls))
    repeat = Repeat(calls, math.ceil(timing.repeat_seconds / max(calls * seconds, timing.stretch_seconds)))
    return repeat, seconds if repeat.stretches == 1 else repeat.seconds(run)


def time_stretch(run: Run, calls: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    run(calls)
    return (time.perf_counter() - start) / calls
