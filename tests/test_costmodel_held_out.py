"""Scores over tasks, on small cases that can be counted by hand."""

import numpy as np
import pytest

from costmodel.held_out import held_out_scores

NET = [{"net": 1}, {"net": 3}]


def judge(tasks, uses):
    """`tasks`: for each (scores, seconds)."""
    scores = np.concatenate([np.asarray(s, dtype=np.float32) for s, _ in tasks])
    seconds = np.concatenate([np.asarray(t, dtype=float) for _, t in tasks])
    groups = np.repeat(np.arange(len(tasks)), [len(s) for s, _ in tasks])
    return held_out_scores(scores, seconds, groups, uses)


def test_a_perfect_model():
    rng = np.random.default_rng(0)
    seconds = rng.random((2, 50)) + 1e-3
    found = judge([(-t, t) for t in seconds], NET)
    assert (found.pairwise_accuracy, found.recall_at_30, found.top_1, found.top_5) == (1, 1, 1, 1)
    assert found.recall_at_30_by_chance == 0.6
    assert (found.n_tasks, found.n_candidates, found.n_tasks_left_out) == (2, 100, 0)


def test_pairwise_accuracy_is_weighted_by_candidates():
    """2 of 3 pairs right in the first task of 3 candidates, the one pair wrong in the second of 2."""
    found = judge([([3, 1, 2], [1, 2, 3]), ([1, 2], [1, 2])], NET)
    assert found.pairwise_accuracy == pytest.approx((3 * 2 / 3 + 2 * 0) / 5)


def test_top_1_sums_seconds_by_uses():
    """The model finds 2 where 1 is best, and 5 where 4 is best; the second is used three times."""
    found = judge([([1, 2], [1, 2]), ([1, 2], [4, 5])], NET)
    assert found.top_1 == pytest.approx((1 + 3 * 4) / (2 + 3 * 5))
    assert found.top_5 == 1


def test_networks_are_averaged():
    found = judge([([1, 2], [1, 2]), ([2, 1], [4, 5])], [{"one": 1}, {"one": 1, "other": 2}])
    assert found.top_1 == pytest.approx(((1 + 4) / (2 + 4) + 1) / 2)


def test_where_the_first_choice_failed_the_slowest_stands_for_it():
    found = judge([([1, 3, 2], [1, np.inf, 4])], NET[:1])
    assert found.top_1 == pytest.approx(1 / 4)
    assert found.top_5 == 1


def test_tasks_with_nothing_to_order_are_left_out():
    found = judge([([1, 2], [3, 3]), ([2, 1], [4, 5]), ([1], [np.inf])], [*NET, {"net": 1}])
    assert (found.n_tasks, found.n_candidates, found.n_tasks_left_out, found.top_1) == (1, 2, 2, 1)
    assert judge([([1, 2], [3, 3])], NET[:1]) is None
