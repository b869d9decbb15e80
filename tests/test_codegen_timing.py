"""On a clock of our own: nothing here takes time."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen import timing
from codegen.timing import MAX_CALLS, Timing, calibrate, time_calls, time_in_turns

DEFAULT = Timing()
FIRST_CALL = (0, 1, 2, 8)  # of what is timed to find out how long a repeat has to be, where a call takes 10 µs


class Clock:
    """Each call of a kernel takes its seconds, by a function of how many calls were made before; `log` holds (kernel, calls) of each run."""

    def __init__(self, *kernels: Callable[[int], float]) -> None:
        self.now = 100.0
        self.log: list[tuple[int, int]] = []
        self.made = [0] * len(kernels)
        self.kernels = kernels
        self.runs = [lambda times, i=i: self.run(i, times) for i in range(len(kernels))]

    def run(self, i: int, times: int) -> None:
        self.log.append((i, times))
        first = self.made[i]
        self.made[i] += times
        self.now += sum(self.kernels[i](first + n) for n in range(times)) if times < 1000 else times * self.kernels[i](first)

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    def make(*kernels: Callable[[int], float]) -> Clock:
        clock = Clock(*kernels)
        monkeypatch.setattr(timing.time, "perf_counter", clock.perf_counter)
        return clock

    return make


@given(exponent=st.floats(-6, 1))
def test_repeats_are_long_and_many_enough(exponent: float) -> None:
    seconds = 10.0**exponent
    clock = Clock(lambda n: seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.time, "perf_counter", clock.perf_counter)
        first, _ = calibrate(clock.runs[0], DEFAULT)
        calibrated = clock.now - first.calls * first.stretches * seconds  # which is the first repeat
        clock.now, clock.made = 100.0, [0]
        repeats = time_calls(clock.runs[0], DEFAULT)
    assert repeats == pytest.approx([seconds] * len(repeats), rel=1e-4)
    stretch = clock.log[-1][1] * seconds
    assert stretch == seconds or DEFAULT.stretch_seconds <= stretch < 2 * DEFAULT.stretch_seconds
    assert len(repeats) <= DEFAULT.max_repeats
    elapsed = clock.now - calibrated
    assert len(repeats) >= DEFAULT.min_repeats or elapsed >= DEFAULT.max_seconds
    assert len(repeats) == DEFAULT.max_repeats or elapsed >= DEFAULT.total_seconds
    repeat = max(seconds, 2 * DEFAULT.repeat_seconds)
    assert elapsed < max(DEFAULT.total_seconds + repeat, DEFAULT.min_repeats * repeat) * 1.001


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        ([10, 10, 10, 10], [10, 10, 10]),
        ([30, 10, 14, 12, 10.4], [10, 14, 12, 10.4]),  # of the first two calls the faster counts
        ([10, 20, 14, 4, 12, 11, 4.1], [10, 14, 4, 12, 11, 4.1]),
        ([10, 11, 12, 13, 30, 40, 50], [10, 12, 13, 30, 40]),  # no more than max_seconds
        ([60, 70, 90, 80], [60, 90]),
        ([120, 130, 100], [120]),
    ],
)
def test_repeats_go_on_until_two_agree(clock_of: Callable[..., Clock], milliseconds: list[float], expected: list[float]) -> None:
    clock = clock_of(lambda n: milliseconds[n] / 1000)
    assert time_calls(clock.runs[0], DEFAULT) == pytest.approx([number / 1000 for number in expected])


def test_a_hopeless_candidate_is_timed_once(clock_of: Callable[..., Clock]) -> None:
    clock = clock_of(lambda n: 0.01)
    assert time_calls(clock.runs[0], replace(DEFAULT, give_up_seconds=0.004)) == pytest.approx((0.01,))
    assert clock.log == [(0, 1), (0, 1)]  # the second in case that the first was disturbed
    assert len(time_calls(clock.runs[0], replace(DEFAULT, give_up_seconds=0.02))) == 3


@pytest.mark.parametrize("disturbed", [0, 1, 2, 3])  # in either of two calls alone, or of two stretches of six
def test_a_disturbed_stretch_does_not_make_a_candidate_hopeless(clock_of: Callable[..., Clock], disturbed: int) -> None:
    clock = clock_of(lambda n: 0.01 if n == FIRST_CALL[disturbed] else 1e-5)
    assert len(time_calls(clock.runs[0], replace(DEFAULT, give_up_seconds=2e-5))) > 1


@pytest.mark.parametrize("disturbed", [0, 1, 2, 3])
def test_a_disturbed_stretch_does_not_make_the_repeats_short(clock_of: Callable[..., Clock], disturbed: int) -> None:
    clock = clock_of(lambda n: 0.01 if n == FIRST_CALL[disturbed] else 1e-5)
    repeats = time_calls(clock.runs[0], DEFAULT)
    assert repeats == pytest.approx([1e-5] * len(repeats))
    stretches = [calls for _, calls in clock.log[4:]]
    assert set(stretches) == {6}  # 50 µs and a tenth
    assert len(stretches) == 25 * len(repeats)  # of 1.5 ms


def test_one_undisturbed_stretch_is_enough_for_a_repeat(clock_of: Callable[..., Clock]) -> None:
    """Of 150 calls in a row 10 take as long as they should: no repeat in a row is undisturbed, a stretch in each is."""
    clock = clock_of(lambda n: 1e-5 if n % 150 < 10 else 1.6e-5)
    assert min(time_calls(clock.runs[0], DEFAULT)) == pytest.approx(1e-5)
    assert min(time_calls(clock.runs[0], replace(DEFAULT, stretch_seconds=DEFAULT.repeat_seconds))) > 1.5e-5


def test_a_kernel_that_takes_no_time_ends(clock_of: Callable[..., Clock]) -> None:
    clock = clock_of(lambda n: 0.0)
    assert time_calls(clock.runs[0], DEFAULT) == (0.0,) * DEFAULT.max_repeats
    assert max(calls for _, calls in clock.log) == MAX_CALLS


def test_turns_are_fair(clock_of: Callable[..., Clock]) -> None:
    """A machine that slows down all the time slows all kernels alike."""
    clock = clock_of()
    clock.kernels = tuple((lambda n, s=s: s * (1 + (clock.now - 100) / 10)) for s in (0.002, 0.002, 0.004))
    clock.made, clock.runs = [0, 0, 0], [lambda times, i=i: clock.run(i, times) for i in range(3)]
    a, b, c = (np.median(repeats) for repeats in time_in_turns(clock.runs, DEFAULT, 20, 10.0))
    assert b / a == pytest.approx(1, abs=1e-3)
    assert c / a == pytest.approx(2, abs=2e-3)
    kernels = [kernel for kernel, _ in clock.log[-12:]]
    assert [kernel for kernel, _ in itertools.groupby(kernels)] in ([0, 1, 2, 1, 0], [2, 1, 0, 1, 2])
    assert len(kernels) == 12  # each repeat has a call before it


@pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 8), (0.5, 3), (0.01, 8)])
def test_turns_end(clock_of: Callable[..., Clock], seconds: float, rounds: int) -> None:
    clock = clock_of(lambda n: seconds, lambda n: 2 * seconds)
    first, second = time_in_turns(clock.runs, DEFAULT, 8, 2.0)
    assert len(first) == len(second) == rounds
    assert second == pytest.approx([2 * seconds] * rounds)
