"""The measures against their definitions, written out as loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from costmodel.metrics import Quality, grouped_quality, pairwise_accuracy, quality, recall_at_k, top_k_score

# Few distinct values, so that ties in scores and throughputs are frequent.
GROUPS = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.sampled_from([-2.0, -0.5, 0.0, 0.1, 0.3, 7.0, 7.5, 1e9])),
        hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0, 2.0, 2.5, 1e9, 3e11])),
    ).filter(lambda group: len(set(group[1])) > 1)
)


def naive_pairwise_accuracy(s, y):
    pairs = [(i, j) for i, j in itertools.permutations(range(len(y)), 2) if y[i] > y[j]]
    return sum(1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0 for i, j in pairs) / len(pairs)


def naive_first(s, y, k):
    return sorted(range(len(y)), key=lambda i: (-s[i], y[i]))[:k]


def naive_recall(s, y, k):
    k = min(k, sum(value > 0 for value in y))
    fastest = sorted(y, reverse=True)[:k]
    return sum(y[i] in fastest for i in naive_first(s, y, k)) / k


def naive_top_k(s, y, k):
    return max(y[i] for i in naive_first(s, y, k)) / max(y)


@settings(max_examples=150, deadline=None)
@given(GROUPS, st.integers(1, 50))
def test_measures_equal_their_definitions(group, k):
    s, y = group
    assert pairwise_accuracy(s, y) == pytest.approx(naive_pairwise_accuracy(s, y), abs=1e-12)
    assert recall_at_k(s, y, k) == pytest.approx(naive_recall(s, y, k), abs=1e-12)
    assert top_k_score(s, y, k) == naive_top_k(s, y, k)
    assert quality(s, y, k) == Quality(pairwise_accuracy(s, y), recall_at_k(s, y, k), top_k_score(s, y, 1), top_k_score(s, y, 5))


@settings(max_examples=50, deadline=None)
@given(GROUPS, st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(group, random):
    s, y = group
    order = list(range(len(y)))
    random.shuffle(order)
    assert quality(s, y, 5) == pytest.approx(quality(s[order], y[order], 5))


def test_perfect_inverted_and_constant_scores():
    y = np.random.default_rng(0).random(5000)  # a loop over the 12 million pairs would be felt here
    assert quality(3 * y - 7, y) == Quality(1.0, 1.0, 1.0, 1.0)
    assert quality(-y, y) == Quality(0.0, 0.0, y.min() / y.max(), np.sort(y)[4] / y.max())
    assert quality(np.zeros(5000), y) == Quality(0.5, 0.0, y.min() / y.max(), np.sort(y)[4] / y.max())


def test_ties_in_the_measurement_are_left_out():
    assert pairwise_accuracy([5, 1, 9, 2], [1, 1, 2, 2]) == 0.75  # 1<9, 1<2, 5<9 right; 5<2 wrong


def test_failures_are_not_among_the_fastest():
    assert recall_at_k([4, 3, 2, 1], [10, 0, 20, 0], k=30) == 0.5
    assert recall_at_k([4, 1, 2, 1], [10, 0, 20, 0], k=30) == 1.0


def test_groups_are_judged_apart_and_degenerate_ones_counted():
    rng = np.random.default_rng(1)
    groups = rng.choice(["a", "b", "c"], 90)
    s, y = rng.random(90), rng.integers(0, 5, 90) * np.where(groups == "a", 1e9, 1.0)
    groups = np.concatenate([groups, ["one", "same", "same", "failed", "failed"]])
    s, y = np.append(s, [1, 2, 3, 4, 5]), np.append(y, [3, 4, 4, 0, 0])
    found = grouped_quality(s, y, groups, k=7)
    assert found.n_left_out == 3
    assert found.per_group == {name: quality(s[groups == name], y[groups == name], 7) for name in "abc"}
    assert found.mean.top_5 == pytest.approx(np.mean([top_k_score(s[groups == name], y[groups == name], 5) for name in "abc"]))


def test_all_groups_count_the_same():
    s, y, groups = [1, 2, 1, 2, 3, 4], [1, 2, 2, 1, 0, -0.0], [7, 7, 8, 8, 8, 8]
    found = grouped_quality(s, y, groups)
    assert found.mean.pairwise_accuracy == np.mean([measures.pairwise_accuracy for measures in found.per_group.values()])


def test_nothing_to_judge():
    empty = grouped_quality([], [], [])
    assert (empty.mean, empty.per_group, empty.n_left_out) == (None, {}, 0)
    assert quality([1, 2], [0, 0]) is None
    assert quality([1], [1]) is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quality([1, np.nan], [1, 2]), "1 of 2 score values are NaN or infinite"),
        (lambda: quality([1, 2], [np.inf, np.nan]), "2 of 2 throughput values are NaN or infinite"),
        (lambda: pairwise_accuracy([1, np.nan], [1, 2]), "1 of 2 score values are NaN or infinite"),
        (lambda: quality([1, 2], [-1, 2]), "must not be negative, found -1"),
        (lambda: quality([1, 2, 3], [1, 2]), r"shapes \(3,\) and \(2,\)"),
        (lambda: quality([[1, 2]], [[1, 2]]), "vectors of one length"),
        (lambda: quality([1, 2], [1, 2], k=0), "k must be at least 1, not 0"),
        (lambda: pairwise_accuracy([1, 2], [3, 3]), "needs two distinct throughputs to be judged, found 1 in 2 candidates"),
        (lambda: grouped_quality([1, 2], [1, 2], [0]), r"groups have shape \(1,\), the scores \(2,\)"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
