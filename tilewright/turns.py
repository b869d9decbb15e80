"""Contenders take turns: each is timed alone, in rounds, so that whatever slows the machine for a while slows all of them.

A turn is: wait until nothing of the contender before is left running, call until caches, clocks and threads are warm, then time call by call.

The waiting matters. After a parallel call the threads of a library spin, to be ready for the next one, and take a core from whoever is timed
meanwhile. Measured with two threads on two cores, CPU time used after the last call: libgomp (ours, PyTorch) 9 to 11 ms, ONNX Runtime 46 ms,
OpenBLAS 104 ms, elsewhere above a second is reported for ONNX Runtime. So there is no fixed pause; the process's own CPU time tells when it is quiet.
Spinning is left on within a turn: without it ONNX Runtime is 4 to 8 % slower on convolutions of half a millisecond, and 40 % on a matrix-vector product.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Self

import psutil

from codegen.machine import allowed_cpus

QUIET_SLICE_SECONDS = 10e-3  # the system counts the CPU time of other threads in ticks of up to 4 ms; a slice must hold two
QUIET_SHARE = 0.1  # of one CPU in a slice
QUIET_LIMIT_SECONDS = 3.0
WARM_CALLS, TIMED_CALLS = 3, 5  # at least, but for calls so long that they pass `LONG_SECONDS` together: then one is enough
LONG_SECONDS = 0.3


@dataclass(frozen=True)
class Contender:
    """One way to compute a task, on buffers made beforehand: `run` computes it `times` times. `setting` says which of the contender's ways it is.

    A turn is spent inside of `turn()`. `alive` holds what `run` needs without referring to it, such as memory that it has the addresses of.
    """

    name: str
    setting: str
    run: Callable[[], object]
    turn: Callable[[], AbstractContextManager[object]] = nullcontext
    alive: object = None
    times: int = 1


@dataclass(frozen=True)
class TurnOptions:
    """`warm_seconds` of calls that do not count, then `turn_seconds` of calls that do."""

    rounds: int = 10
    warm_seconds: float = 10e-3
    turn_seconds: float = 20e-3


@dataclass(frozen=True)
class Series:
    """The seconds in which a contender computes its task: the minimum and the median of each turn's calls. `n_disturbed` turns began although threads of this
    process were still busy after `QUIET_LIMIT_SECONDS`."""

    contender: str
    setting: str
    minima: tuple[float, ...]
    medians: tuple[float, ...]
    n_disturbed: int = 0

    @property
    def min_seconds(self) -> float:
        """Of all calls."""
        return min(self.minima)

    @property
    def median_seconds(self) -> float:
        """The median over turns of the median over calls."""
        return statistics.median(self.medians)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Series:
        return Series(data["contender"], data["setting"], tuple(data["minima"]), tuple(data["medians"]), data["n_disturbed"])


def take_turns(contenders: Sequence[Contender], options: TurnOptions) -> list[Series]:
    """A series for each contender. The order turns round from one round to the next."""
    minima: list[list[float]] = [[] for _ in contenders]
    medians: list[list[float]] = [[] for _ in contenders]
    n_disturbed = [0 for _ in contenders]
    for number in range(options.rounds):
        order = range(len(contenders))
        for i in order if number % 2 == 0 else reversed(order):
            n_disturbed[i] += not wait_for_quiet()
            seconds = take_turn(contenders[i], options)
            minima[i].append(min(seconds))
            medians[i].append(statistics.median(seconds))
    return [Series(c.name, c.setting, tuple(minima[i]), tuple(medians[i]), n_disturbed[i]) for i, c in enumerate(contenders)]


def take_turn(contender: Contender, options: TurnOptions) -> list[float]:
    """The seconds of computing the task once, as each call tells them."""
    with contender.turn():
        time_calls(contender.run, options.warm_seconds, WARM_CALLS)
        return [seconds / contender.times for seconds in time_calls(contender.run, options.turn_seconds, TIMED_CALLS)]


def time_calls(run: Callable[[], object], seconds: float, least: int) -> list[float]:
    """The seconds of each call; as many calls as take `seconds` together, and at least so many or as take `LONG_SECONDS`."""
    found: list[float] = []
    now = time.perf_counter()
    stop, long = now + seconds, now + max(seconds, LONG_SECONDS)
    while not found or now < stop or (len(found) < least and now < long):
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        found.append(now - start)
    return found


def wait_for_quiet(limit_seconds: float = QUIET_LIMIT_SECONDS) -> bool:
    """Sleep until no thread of this process runs any more; False if some still did when the time was up."""
    stop = time.perf_counter() + limit_seconds
    while True:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(QUIET_SLICE_SECONDS)
        if time.process_time() - used < QUIET_SHARE * (time.perf_counter() - start):
            return True
        if time.perf_counter() > stop:
            return False


class OtherWork:
    """Measures, while it is entered, how many CPUs' worth of work others did on the CPUs that this process may use: `cpus`. A host that takes
    time from a virtual machine counts too."""

    cpus = 0.0

    def __enter__(self) -> Self:
        self._start, self._others = time.perf_counter(), _others_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpus = max(0.0, (_others_seconds() - self._others) / (time.perf_counter() - self._start))


def _others_seconds() -> float:
    """CPU time that was not idle and not ours."""
    mine = allowed_cpus()
    busy = sum(_busy_seconds(times._asdict()) for cpu, times in enumerate(psutil.cpu_times(percpu=True)) if cpu in mine)
    return busy - time.process_time()


def _busy_seconds(times: Mapping[str, float]) -> float:
    """Guests' time is counted in user time already."""
    return sum(seconds for kind, seconds in times.items() if kind not in ("idle", "iowait", "guest", "guest_nice"))
