"""What progress lines and results say."""

from collections import Counter
from types import SimpleNamespace

import pytest

from ir.task import task
from schedule.measurement import Candidate, Measurement
from search.tuner import Progress, TuneOptions
from tilewright.display import Watcher, print_result, seconds_left


@pytest.mark.parametrize(
    ("n_trials", "n_resumed", "options", "left"),
    [
        (50, 0, TuneOptions(max_trials=200), 30.0),  # 5 a second
        (150, 100, TuneOptions(max_trials=200), 10.0),  # what was there before took none of this run's time
        (150, 100, TuneOptions(max_trials_per_task=80), 2.0),  # two tasks
        (150, 100, TuneOptions(max_trials=200, max_seconds=12.0), 2.0),  # what ends first
        (100, 100, TuneOptions(max_trials=200), None),
        (100, 100, TuneOptions(max_trials=200, max_seconds=15.0), 5.0),
        (210, 100, TuneOptions(max_trials=200), 0.0),
    ],
)
def test_time_left_is_told_by_the_speed_of_this_run(n_trials, n_resumed, options, left):
    progress = Progress(None, None, 0, 2, n_trials, n_resumed, 0, 10.0, 10.0, options)  # type: ignore[arg-type]  # of the task nothing is asked
    assert seconds_left(progress) == left


def test_a_trial_that_failed_is_told_with_its_reason(capsys):
    of, candidate = task("matmul:m=24,n=40,k=32"), Candidate("tile_n", (1, 2))
    state = SimpleNamespace(task=of, best_seconds=None)
    with Watcher("tuning", quiet=False, verbose=True) as watcher:
        for measurement in (Measurement((1e-6,)), Measurement((), "timeout", "took longer than 10 s")):
            watcher(Progress(state, (candidate, measurement), 0, 1, 1, 0, 0, 1.0, 1.0, TuneOptions()))  # type: ignore[arg-type]
        watcher(Progress(state, None, 0, 1, 1, 0, 0, 1.0, 1.0, TuneOptions()))  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"tile_n [1, 2]: {1e-9 * of.flops / 1e-6:.1f} GFLOP/s" in told
    assert "tile_n [1, 2]: failed, timeout: took longer than 10 s" in told
    assert told.count("tile_n") == 2


@pytest.mark.parametrize(("interrupted", "words"), [(True, "the run was interrupted"), (False, "the budget ran out")])
def test_what_ended_a_run_before_its_first_trial(interrupted, words, capsys):
    of = task("matmul:m=24,n=40,k=32")
    untried = SimpleNamespace(
        task=of, best=None, best_seconds=None, default_seconds=None, n_trials=0, failures=Counter(), final_failures=Counter(), messages={}, given_up="",
        is_judged=False,
    )  # fmt: skip
    result = SimpleNamespace(states=(untried,), interrupted=interrupted, elapsed_seconds=1.0, peak_fraction=lambda state: None)
    assert not print_result(result, SimpleNamespace(tasks=(of,), n_layers=1, unsupported=()), None)  # type: ignore[arg-type]
    assert f"not tuned: {of.key}: no trial was made before {words}" in capsys.readouterr().out
