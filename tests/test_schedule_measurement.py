import math

from schedule.measurement import Candidate, Measurement


def test_the_best_repeat_counts() -> None:
    measurement = Measurement((3.0, 1.0, 2.0))
    assert measurement.ok
    assert measurement.best_seconds == 1.0


def test_a_failure_has_no_time() -> None:
    measurement = Measurement((), "timeout", "no answer in 10 s")
    assert not measurement.ok
    assert measurement.best_seconds == math.inf


def test_two_measurements_of_a_candidate_are_one_with_the_repeats_of_both() -> None:
    failure = Measurement((), "timeout", "no answer in 10 s")
    assert Measurement((3.0, 2.0)).united(Measurement((1.0,))) == Measurement((3.0, 2.0, 1.0))
    assert Measurement((3.0,)).united(failure) == failure.united(Measurement((3.0,))) == failure


def test_candidates_are_equal_by_content() -> None:
    assert len({Candidate("tile_n", (1, 2)), Candidate("tile_n", (1, 2)), Candidate("tile_m", (1, 2))}) == 2
