"""Taking turns: order, series, waiting for threads that are still busy."""

import pytest

from tilewright import turns
from tilewright.turns import Contender, OtherWork, Series, TurnOptions, take_turn, take_turns, time_calls, wait_for_quiet

SHORT = TurnOptions(rounds=3, warm_seconds=0.0, turn_seconds=0.0)


@pytest.fixture
def log(monkeypatch):
    """What happened, in order; waiting is noted and not done."""
    events = []
    monkeypatch.setattr(turns, "wait_for_quiet", lambda: events.append("quiet") or len(events) != 1)
    return events


def test_contenders_take_turns_in_an_order_that_turns_round_each_after_a_quiet_moment(log):
    contenders = [Contender(name, "", lambda name=name: log.append(name)) for name in "abc"]
    series = take_turns(contenders, SHORT)
    calls = turns.WARM_CALLS + turns.TIMED_CALLS
    assert log == [event for name in "abccbaabc" for event in ("quiet", *[name] * calls)]
    assert [each.contender for each in series] == ["a", "b", "c"]
    assert all(len(each.minima) == len(each.medians) == 3 for each in series)
    assert [each.n_disturbed for each in series] == [1, 0, 0]


def test_a_turn_is_spent_inside_the_contender_s_context():
    depth = 0
    seen = []

    class Context:
        def __enter__(self):
            nonlocal depth
            depth += 1

        def __exit__(self, *_):
            nonlocal depth
            depth -= 1

    seconds = take_turn(Contender("a", "", lambda: seen.append(depth), Context), SHORT)
    assert depth == 0
    assert set(seen) == {1}
    assert len(seconds) == turns.TIMED_CALLS


def test_seconds_of_a_call_that_computes_several_times_are_those_of_one(monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(turns.time, "perf_counter", lambda: next(clock))
    assert set(take_turn(Contender("a", "", lambda: None, times=8), SHORT)) == {0.25}


def test_calls_go_on_until_they_took_long_enough(monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(turns.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(turns, "LONG_SECONDS", 10)
    assert time_calls(lambda: None, 20, 2) == [2] * 5  # a reading before, and two a call
    assert time_calls(lambda: None, 0, 2) == [2] * 2
    assert time_calls(lambda: None, 0, 7) == [2] * 3  # long calls
    monkeypatch.setattr(turns, "LONG_SECONDS", 1)
    assert time_calls(lambda: None, 0, 7) == [2]


def test_series_tell_the_fastest_call_and_the_median_of_medians():
    series = Series("a", "b", (3.0, 1.0, 2.0), (9.0, 4.0, 5.0), 1)
    assert (series.min_seconds, series.median_seconds) == (1.0, 5.0)
    assert Series.from_json(series.to_json()) == series


class Clock:
    """Passes while somebody sleeps, and other threads use a share of it, sleep by sleep; then none."""

    def __init__(self, *shares):
        self.seconds = self.used = 0.0
        self.shares = iter(shares)

    def perf_counter(self):
        return self.seconds

    def process_time(self):
        return self.used

    def sleep(self, seconds):
        self.seconds += seconds
        self.used += seconds * next(self.shares, 0.0)


@pytest.mark.parametrize(
    ("shares", "is_quiet", "n_slices"),
    [((), True, 1), ((0.05,), True, 1), ((1.0, 0.5), True, 3), ((2.0,) * 9, False, 5)],
)
def test_a_busy_thread_is_waited_for(shares, is_quiet, n_slices, monkeypatch):
    clock = Clock(*shares)
    monkeypatch.setattr(turns, "time", clock)
    assert wait_for_quiet(limit_seconds=4.5 * turns.QUIET_SLICE_SECONDS) == is_quiet
    assert clock.seconds == pytest.approx(n_slices * turns.QUIET_SLICE_SECONDS)


def test_other_work_is_what_this_process_did_not_do(monkeypatch):
    readings = iter([10.0, 13.0])
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(turns, "_others_seconds", lambda: next(readings))
    monkeypatch.setattr(turns.time, "perf_counter", lambda: next(clock))
    with OtherWork() as other:
        pass
    assert other.cpus == 1.5


def test_waiting_and_guests_are_no_work():
    times = {"user": 5.0, "nice": 0.5, "system": 1.0, "idle": 70.0, "iowait": 3.0, "steal": 0.25, "guest": 2.0, "guest_nice": 0.1}
    assert turns._busy_seconds(times) == 6.75
