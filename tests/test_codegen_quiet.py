"""Patience on a clock of its own; probes on this machine."""

import itertools
from collections.abc import Sequence

import pytest

from codegen import quiet
from codegen.machine import detect_machine
from codegen.openmp import register_openmp
from codegen.quiet import ALONE, LONGEST_WAIT_SECONDS, NEAR, PAUSE_SECONDS, Patience, Probe, emit_regions, multiply_add_timer, region_timer

NEAR_SECONDS, FAR_SECONDS = 1e-6, 3e-6


class Clock:
    """Sleeping is all that takes time."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(quiet.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(quiet.time, "sleep", clock.sleep)
    return clock


def probe(seconds: Sequence[float], tolerance: float = NEAR) -> Probe:
    """Finds these one after another, the last of them for ever."""
    found = itertools.chain(seconds[:-1], itertools.repeat(seconds[-1]))
    return Probe(lambda: next(found), tolerance)


def patience_of(regions: Sequence[float]) -> Patience:
    return Patience([probe(regions)])


def waited(patience: Patience, share: float) -> float:
    """The seconds that it waits now."""
    before = patience.waited_seconds
    patience.wait(share)
    return patience.waited_seconds - before


def test_waits_until_threads_are_near(clock: Clock) -> None:
    patience = patience_of([NEAR_SECONDS, *[FAR_SECONDS] * 7, NEAR * NEAR_SECONDS])
    assert waited(patience, 0.5) == 0  # it has seen no better
    clock.now += 10
    assert waited(patience, 0.5) == pytest.approx(7 * PAUSE_SECONDS)
    assert waited(patience, 0.5) == 0


def test_waits_for_all_probes(clock: Clock) -> None:
    """Threads that are near each other are no help while another guest is on their cores."""
    alone = probe([1e-4, *[2e-4] * 3, ALONE * 1e-4], ALONE)
    patience = Patience([alone, probe([NEAR_SECONDS, *[FAR_SECONDS] * 5, NEAR_SECONDS])])
    assert patience.wait(0.5)
    clock.now += 10
    assert waited(patience, 0.5) == pytest.approx(5 * PAUSE_SECONDS)


def test_waits_no_longer_than_its_share(clock: Clock) -> None:
    """A machine that never gets better again costs the share, whatever the shares of the waits."""
    patience = patience_of([NEAR_SECONDS, FAR_SECONDS])
    patience.wait(0.25)
    worked = 0.0
    for seconds in [1.0, 0.1, 0.01, 2.0] * 10:
        clock.now += seconds
        worked += seconds
        assert not patience.wait(0.25)
    assert patience.waited_seconds == pytest.approx(0.25 * worked, rel=0.1)
    clock.now += 1000
    assert waited(patience, 0.25) <= LONGEST_WAIT_SECONDS + PAUSE_SECONDS


def test_a_nearer_state_than_any_before_is_the_new_measure(clock: Clock) -> None:
    patience = patience_of([FAR_SECONDS, FAR_SECONDS, NEAR_SECONDS, FAR_SECONDS])
    for expected in (0, 0, 0):
        clock.now += 1
        assert waited(patience, 0.5) == expected
    clock.now += 1
    assert waited(patience, 0.5) >= 0.5


class Candidate:
    """Takes nine tenths of a second, if nothing else is said; each time another number of seconds is found."""

    def __init__(self, clock: Clock, takes_seconds: float = 0.9) -> None:
        self.n_runs, self._clock, self._takes_seconds = 0, clock, takes_seconds

    def __call__(self) -> tuple[float, ...]:
        self._clock.now += self._takes_seconds
        self.n_runs += 1
        return (float(self.n_runs),)


@pytest.mark.parametrize(
    ("regions", "expected", "n_disturbed"),
    [
        ([NEAR_SECONDS], (1.0,), 0),  # quiet all the time
        ([NEAR_SECONDS, FAR_SECONDS, FAR_SECONDS, NEAR_SECONDS], (1.0, 2.0), 0),  # not at its end; soon again
        ([NEAR_SECONDS, FAR_SECONDS], (1.0,), 1),  # never again
        ([NEAR_SECONDS, FAR_SECONDS, NEAR_SECONDS, FAR_SECONDS], (1.0, 2.0), 1),  # soon again, but not for long
    ],
)
def test_what_was_disturbed_is_measured_again_once_it_is_quiet(clock: Clock, regions: list[float], expected: tuple[float, ...], n_disturbed: int) -> None:
    patience, candidate = patience_of(regions), Candidate(clock)
    assert patience.measure(candidate, 0.5) == expected
    assert candidate.n_runs == len(expected)
    assert patience.n_disturbed == n_disturbed
    assert patience.waited_seconds <= 0.45 + PAUSE_SECONDS


def test_what_takes_long_is_not_measured_again(clock: Clock) -> None:
    for takes_seconds, n_runs in ((0.9, 2), (1.1, 1)):
        patience = patience_of([NEAR_SECONDS, FAR_SECONDS, NEAR_SECONDS])
        candidate = Candidate(clock, takes_seconds)
        patience.measure(candidate, 0.5)
        assert candidate.n_runs == n_runs
        assert patience.n_disturbed == 2 - n_runs


def test_multiply_adds_take_some_time() -> None:
    assert 1e-6 < multiply_add_timer(detect_machine(1).target)() < 1


@pytest.mark.skipif(register_openmp() is None, reason="no OpenMP library is found here")
def test_a_region_takes_some_time() -> None:
    target = detect_machine(2).target if detect_machine().target.threads > 1 else detect_machine(1).target
    timer = region_timer(target)
    assert 1e-9 < timer() < 1


def test_a_process_has_one_patience_for_a_target() -> None:
    target = detect_machine(1).target
    assert quiet.patience(target) is quiet.patience(target)
    assert waited(quiet.patience(target), 0.0) < 0.5


def test_regions_have_as_many_threads_as_asked() -> None:
    assert "i32 7, i32 0" in emit_regions(7)
