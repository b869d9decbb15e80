"""Training and held-out scores: what is held out is never learned from, and too little data is refused in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from costmodel.metrics import grouped_quality
from costmodel.model import CostModel, RandomModel
from costmodel.training import BY_TASK, LEAVE_ONE_TASK_OUT, WITHIN_TASK, cross_validate, data_sha256, train
from ir.errors import UserError


def measurements(n, n_tasks, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.random((n, 6), dtype=np.float32)
    groups = rng.integers(n_tasks, size=n)
    y = 10.0**groups * np.exp(2 * X[:, 0] - 3 * np.abs(X[:, 1] - X[:, 2]))
    y[X[:, 3] > 0.95] = 0
    return X, y, np.array([f"matmul:m={group}" for group in groups])


class Spy(BaseEstimator):
    """Notes what each copy learned from and was asked; the first feature is its score."""

    learned: list = []  # noqa: RUF012  # shared by the copies on purpose
    asked: list = []  # noqa: RUF012

    def fit(self, X, y, groups, sample_weight=None):
        self.learned.append((X, groups))
        return self

    def predict(self, X):
        self.asked.append(X)
        return X[:, 0]


@pytest.mark.parametrize(
    ("n_tasks", "split", "n_splits"), [(1, WITHIN_TASK, 5), (2, LEAVE_ONE_TASK_OUT, 2), (5, LEAVE_ONE_TASK_OUT, 5), (6, BY_TASK, 5), (11, BY_TASK, 5)]
)
def test_every_candidate_is_held_out_once_and_tasks_whole(n_tasks, split, n_splits, monkeypatch):
    monkeypatch.setattr(Spy, "learned", [])
    monkeypatch.setattr(Spy, "asked", [])
    X, y, groups = measurements(400, n_tasks)
    validation = cross_validate(X, y, groups, Spy())
    assert (validation.split, len(validation.per_split), len(Spy.learned)) == (split, n_splits, n_splits)
    task_of = dict(zip(X[:, 0].tolist(), groups.tolist(), strict=True))
    for (learned, names), asked in zip(Spy.learned, Spy.asked, strict=True):
        assert sorted([*learned[:, 0], *asked[:, 0]]) == sorted(X[:, 0])
        assert n_tasks == 1 or not {task_of[value] for value in asked[:, 0].tolist()} & set(names.tolist())
    assert sorted(np.concatenate([asked[:, 0] for asked in Spy.asked])) == sorted(X[:, 0])


def test_held_out_scores_are_those_of_the_metrics():
    X, y, groups = measurements(300, 4)
    validation = cross_validate(X, y, groups, Spy(), k=10)
    expected = grouped_quality(X[:, 0], y, groups, k=10)
    assert (validation.mean, validation.per_group, validation.k) == (expected.mean, expected.per_group, 10)


@pytest.mark.parametrize("n_tasks", [1, 3, 8])
def test_the_model_beats_random_on_what_it_has_not_seen(n_tasks):
    X, y, groups = measurements(800, n_tasks)
    learned, random = (cross_validate(X, y, groups, model).mean for model in (CostModel(), RandomModel(0)))
    assert learned.pairwise_accuracy > 0.8 > 0.6 > random.pairwise_accuracy
    assert learned.top_5 > random.top_5


def test_same_seed_same_validation():
    data = measurements(200, 1)
    first, again, other = (cross_validate(*data, CostModel(n_estimators=10), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_train_learns_from_all_and_leaves_the_model_alone():
    X, y, groups = measurements(200, 3)
    model = CostModel(n_estimators=20)
    fitted = train(X, y, groups, model)
    assert not hasattr(model, "booster_")
    np.testing.assert_array_equal(fitted.predict(X), CostModel(n_estimators=20).fit(X, y, groups).predict(X))


def test_summary_is_json_and_tasks_without_order_are_counted():
    X, y, groups = measurements(200, 3)
    y[groups == "matmul:m=1"] = 0
    validation = cross_validate(X, y, groups, CostModel(n_estimators=5))
    assert validation.n_left_out == 1
    assert set(validation.per_group) == {"matmul:m=0", "matmul:m=2"}
    summary = json.loads(json.dumps(validation.summary(), allow_nan=False))
    assert summary["split"] == "leave one task out"
    assert summary["mean"]["pairwise_accuracy"] == validation.mean.pairwise_accuracy
    assert (summary["n_splits"], summary["n_groups"], summary["n_left_out"], summary["k"]) == (3, 2, 1, 30)


def test_nothing_to_order_is_no_error():
    validation = cross_validate(np.ones((20, 2)), np.ones(20), np.arange(20) % 2, CostModel(n_estimators=2))
    assert (validation.mean, validation.per_group, validation.n_left_out) == (None, {}, 2)
    assert validation.summary()["mean"] is None


def test_the_digest_sees_every_change():
    X, y, groups = measurements(30, 3)
    digests = {data_sha256(*data) for data in [(X, y, groups), (X + 1, y, groups), (X, 2 * y, groups), (X, y, groups[::-1]), (X[:, :5], y, groups)]}
    assert len(digests) == 5
    assert data_sha256(X.copy(order="F"), y.tolist(), groups.tolist()) == data_sha256(X, y, groups)


@pytest.mark.parametrize("call", [cross_validate, train])
@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([], "a cost model needs measurements to learn from, the records have none"),
        ([0.0] * 40, "a cost model needs measurements to learn from, all 40 recorded trials failed"),
        ([0.0] * 40 + [1.0] * 15, "a cost model needs 16 measurements to learn from, of 55 recorded trials 15 succeeded"),
    ],
)
def test_too_little_data_is_refused(call, y, words):
    with pytest.raises(UserError) as caught:
        call(np.zeros((len(y), 3)), y, np.zeros(len(y)), CostModel())
    assert str(caught.value) == words


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        train(np.zeros((20, 3)), np.ones(20), np.zeros(19), CostModel())
