"""What a few measurements add to a model that was trained before."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.metrics import grouped_quality
from costmodel.model import OBJECTIVES, CostModel
from costmodel.residual import ResidualModel


def measurements(n, seed, here):
    """Of three tasks; the law of this machine has a part (`here`) that others have not."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, 6), dtype=np.float32)
    groups = rng.integers(3, size=n)
    y = np.exp(np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] - 2 * np.abs(X[:, 3] - 0.5) + 1.5 * here * np.abs(X[:, 4] - 0.4))
    return X, 10.0**groups * y, groups


def accuracy(scores, seen):
    return grouped_quality(scores, seen[1], seen[2]).mean.pairwise_accuracy


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_together_they_are_better_than_each_alone(objective):
    prior = CostModel(objective).fit(*measurements(3000, 0, here=0.0))
    few, seen = measurements(90, 1, here=1.0), measurements(1000, 2, here=1.0)
    residual = ResidualModel(prior, CostModel(objective)).fit(*few)
    alone = accuracy(CostModel(objective).fit(*few).predict(seen[0]), seen)
    before = accuracy(prior.predict(seen[0]), seen)
    together = accuracy(prior.predict(seen[0]) + residual.predict(seen[0]), seen)
    assert together > before + 0.02
    assert together > alone + (0.02 if objective != "ndcg" else -0.02)  # of pairs far from the top, ndcg learns little, with a prior or without


def test_nothing_is_added_where_the_prior_is_right():
    X, y, groups = measurements(500, 3, here=0.0)
    best = np.array([y[groups == group].max() for group in range(3)])
    prior = CostModel().fit(X, y, groups)
    z = prior.predict(X)  # exactly what the prior says, up to a factor for each task
    added = ResidualModel(prior, CostModel()).fit(X, z * best[groups], groups).predict(X)
    spread = [np.ptp(added[groups == group]) for group in range(3)]
    assert max(spread) < 0.05


def test_the_level_of_a_tasks_scores_is_nothing_to_learn():
    """Margins of each task are moved to its mean, so a prior that is off by a number for each task adds nothing."""
    X, y, groups = measurements(400, 4, here=0.0)
    plain = CostModel().fit(X, y, groups, margin=np.zeros(len(y))).predict(X)
    shifted = CostModel().fit(X, y, groups, margin=7.0 * groups).predict(X)
    np.testing.assert_allclose(shifted, plain, atol=1e-5)
