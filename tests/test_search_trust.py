"""Who is right gets a say: shares of a model that learns while tuning, moved by what was measured."""

import numpy as np
import pytest

from search.trust import MIN_PAIRS, START_SHARE, Trust


def batches(trust, prior_is_right, local_is_right, n_batches=8, n=16, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n_batches):
        throughputs = rng.random(n)
        prior = throughputs if prior_is_right else rng.random(n)
        local = 3 * throughputs if local_is_right else 3 * rng.random(n)
        trust.judge(prior, local, throughputs)


@pytest.mark.parametrize(("prior_is_right", "share"), [(False, 1.0), (True, 0.0)])
def test_the_share_goes_to_the_model_that_orders_better(prior_is_right, share):
    trust = Trust(has_prior=True)
    assert trust.share == START_SHARE
    batches(trust, prior_is_right, not prior_is_right)
    assert abs(trust.share - share) < 0.15
    assert trust.accuracy() > 0.8


def test_without_a_prior_the_share_stays_one():
    trust = Trust(has_prior=False)
    batches(trust, True, False)
    assert trust.share == 1.0


def test_a_share_without_steps_stays_what_it_is():
    trust = Trust(has_prior=True, start=0.25, step=0.0)
    batches(trust, False, True)
    assert trust.share == 0.25


def test_a_model_that_has_learned_nothing_moves_nothing():
    trust = Trust(has_prior=True)
    throughputs = np.random.default_rng(0).random(16)
    trust.judge(throughputs, np.zeros(16), throughputs)
    assert trust.share == START_SHARE
    assert trust.accuracy() == 1.0


def test_scores_against_all_measurements_are_lost():
    trust = Trust(has_prior=True)
    throughputs = np.arange(16.0)
    assert MIN_PAIRS == 3 * 16 * 15 // 2
    for _ in range(3):
        assert not trust.is_lost  # a batch or two may be bad luck
        trust.judge(-throughputs, np.zeros(16), throughputs)
    assert trust.is_lost
    for _ in range(4):
        trust.judge(throughputs, np.zeros(16), throughputs)
    assert not trust.is_lost


def test_a_batch_that_says_nothing_is_no_judgement():
    trust = Trust(has_prior=True)
    trust.judge(np.array([1.0]), np.array([1.0]), np.array([2.0]))
    trust.judge(np.arange(20.0), np.arange(20.0), np.ones(20))
    assert not trust.is_lost
    assert trust.accuracy() == 0.5
