"""Which task gets the next batch."""

import math

import numpy as np

from search.allocation import HOPELESS_TRIALS, TaskProgress, choose_task


def progress(weight, flops, seconds, trials):
    return TaskProgress(weight, flops, list(seconds), list(trials))


def test_every_task_gets_a_first_batch_in_order():
    tasks = [TaskProgress(1, 1e6), TaskProgress(9, 1e9)]
    rng = np.random.default_rng(0)
    assert choose_task(tasks, rng) == 0
    tasks[0].best_seconds, tasks[0].n_trials = [1e-3], [8]
    assert choose_task(tasks, rng) == 1


def most_chosen(tasks):
    rng = np.random.default_rng(0)
    return np.bincount([choose_task(tasks, rng) for _ in range(200)], minlength=len(tasks)).argmax()


def test_heavier_use_is_preferred_where_all_else_is_equal():
    assert most_chosen([progress(1, 1e8, [1e-2, 9e-3], [8, 16]), progress(5, 1e8, [1e-2, 9e-3], [8, 16])]) == 1


def test_progress_is_preferred_over_standstill():
    assert most_chosen([progress(1, 1e8, [1e-2] * 5, [8, 16, 24, 32, 40]), progress(1, 1e8, [3e-2, 2.5e-2, 2e-2, 1.5e-2, 1e-2], [8, 16, 24, 32, 40])]) == 1


def test_a_task_without_valid_trial_comes_before_all():
    assert most_chosen([progress(1, 1e6, [math.inf], [8]), progress(50, 1e9, [1.0], [8])]) == 0


def test_a_task_whose_trials_keep_failing_gets_what_others_leave():
    other = progress(50, 1e9, [1.0], [8])
    for trials in (range(16, HOPELESS_TRIALS + 1, 16), [HOPELESS_TRIALS]):  # in this run, or before
        hopeless = progress(1, 1e6, [math.inf] * len(trials), trials)
        assert most_chosen([hopeless, other]) == 1
        assert choose_task([hopeless], np.random.default_rng(0)) == 0
    assert most_chosen([progress(1, 1e6, [math.inf] * 3, range(16, HOPELESS_TRIALS, 16)), other]) == 0


def test_closed_tasks_are_left_alone():
    tasks = [progress(9, 1e9, [1.0], [8]), progress(1, 1e6, [1e-3], [8])]
    tasks[0].open = False
    rng = np.random.default_rng(0)
    assert {choose_task(tasks, rng) for _ in range(50)} == {1}
    tasks[1].open = False
    assert choose_task(tasks, rng) is None
