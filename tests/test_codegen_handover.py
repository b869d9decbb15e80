"""Patience on a clock of its own; regions on this machine."""

import itertools
from collections.abc import Sequence

import pytest

from codegen import handover
from codegen.handover import LONGEST_WAIT_SECONDS, NEAR, PAUSE_SECONDS, Patience, emit_regions, region_timer
from codegen.machine import detect_machine
from codegen.openmp import register_openmp

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
    monkeypatch.setattr(handover.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(handover.time, "sleep", clock.sleep)
    return clock


def patience_of(regions: Sequence[float]) -> Patience:
    """The last of them for ever."""
    found = itertools.chain(regions[:-1], itertools.repeat(regions[-1]))
    return Patience(lambda: next(found))


def test_waits_until_threads_are_near(clock: Clock) -> None:
    patience = patience_of([NEAR_SECONDS, *[FAR_SECONDS] * 7, NEAR * NEAR_SECONDS])
    assert patience.wait(0.5) == 0  # it has seen no better
    clock.now += 10
    assert patience.wait(0.5) == pytest.approx(7 * PAUSE_SECONDS)
    assert patience.wait(0.5) == 0


def test_waits_no_longer_than_its_share(clock: Clock) -> None:
    """A machine that never gets better again costs the share, whatever the shares of the waits."""
    patience = patience_of([NEAR_SECONDS, FAR_SECONDS])
    patience.wait(0.25)
    waited = worked = 0.0
    for seconds in [1.0, 0.1, 0.01, 2.0] * 10:
        clock.now += seconds
        worked += seconds
        waited += patience.wait(0.25)
    assert waited == pytest.approx(0.25 * worked, rel=0.1)
    clock.now += 1000
    assert patience.wait(0.25) <= LONGEST_WAIT_SECONDS + PAUSE_SECONDS


def test_a_nearer_state_than_any_before_is_the_new_measure(clock: Clock) -> None:
    patience = patience_of([FAR_SECONDS, FAR_SECONDS, NEAR_SECONDS, FAR_SECONDS])
    for expected in (0, 0, 0):
        clock.now += 1
        assert patience.wait(0.5) == expected
    clock.now += 1
    assert patience.wait(0.5) >= 0.5


@pytest.mark.skipif(register_openmp() is None, reason="no OpenMP library is found here")
def test_a_region_takes_some_time() -> None:
    target = detect_machine(2).target if detect_machine().target.threads > 1 else detect_machine(1).target
    timer = region_timer(target)
    assert 1e-9 < timer() < 1


def test_one_thread_waits_for_nobody() -> None:
    patience = handover.patience(detect_machine(1).target)
    assert patience is handover.patience(detect_machine(1).target)
    assert patience.wait(1.0) < 0.5


def test_regions_have_as_many_threads_as_asked() -> None:
    assert "i32 7, i32 0" in emit_regions(7)
