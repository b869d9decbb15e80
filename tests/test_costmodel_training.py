"""Training and held-out scores: what is held out is never learned from, and too little data is refused in words."""

from __future__ import annotations

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

    def fit(self, X, y, groups):
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
    assert (validation.split, validation.n_splits, len(Spy.learned)) == (split, n_splits, n_splits)
    task_of = dict(zip(X[:, 0].tolist(), groups.tolist(), strict=True))
    for (learned, names), asked in zip(Spy.learned, Spy.asked, strict=True):
        assert sorted([*learned[:, 0], *asked[:, 0]]) == sorted(X[:, 0])
        assert n_tasks == 1 or not {task_of[value] for value in asked[:, 0].tolist()} & set(names.tolist())
    assert sorted(np.concatenate([asked[:, 0] for asked in Spy.asked])) == sorted(X[:, 0])


def test_scores_are_those_of_the_copy_that_held_the_candidate_out():
    X, y, groups = measurements(300, 4)
    np.testing.assert_array_equal(cross_validate(X, y, groups, Spy()).scores, X[:, 0])


def test_what_is_one_program_is_held_out_together(monkeypatch):
    monkeypatch.setattr(Spy, "learned", [])
    X, y, groups = measurements(400, 4)
    programs = np.where(groups == "matmul:m=3", "matmul:m=2", groups)
    validation = cross_validate(X, y, groups, Spy(), programs=programs)
    assert (validation.split, validation.n_splits) == (LEAVE_ONE_TASK_OUT, 3)
    assert all(("matmul:m=2" in names) == ("matmul:m=3" in names) for _, names in Spy.learned)


def test_what_is_one_candidate_is_held_out_together(monkeypatch):
    """Of one program that two machines measured."""
    monkeypatch.setattr(Spy, "learned", [])
    X, y, groups = measurements(400, 2)
    candidates = np.arange(400) // 2
    validation = cross_validate(X, y, groups, Spy(), programs=np.zeros(400), candidates=candidates)
    assert (validation.split, validation.n_splits) == (WITHIN_TASK, 5)
    candidate_of = dict(zip(X[:, 0].tolist(), candidates.tolist(), strict=True))
    for learned, _ in Spy.learned:
        n_rows = np.bincount([candidate_of[value] for value in learned[:, 0].tolist()], minlength=200)
        assert set(n_rows.tolist()) == {0, 2}
    with pytest.raises(UserError, match="needs two candidates or more"):
        cross_validate(X, y, groups, Spy(), programs=np.zeros(400), candidates=np.zeros(400))


@pytest.mark.parametrize("n_tasks", [1, 3, 8])
def test_the_model_beats_random_on_what_it_has_not_seen(n_tasks):
    X, y, groups = measurements(800, n_tasks)
    learned, random = (grouped_quality(cross_validate(X, y, groups, model).scores, y, groups).mean for model in (CostModel(), RandomModel(0)))
    assert learned.pairwise_accuracy > 0.8 > 0.6 > random.pairwise_accuracy
    assert learned.top_5 > random.top_5


def test_same_seed_same_validation():
    data = measurements(200, 1)
    first, again, other = (cross_validate(*data, CostModel(n_estimators=10), seed=seed).scores for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_train_learns_from_all_and_leaves_the_model_alone():
    X, y, groups = measurements(200, 3)
    model = CostModel(n_estimators=20)
    fitted = train(X, y, groups, model)
    assert not hasattr(model, "booster_")
    np.testing.assert_array_equal(fitted.predict(X), CostModel(n_estimators=20).fit(X, y, groups).predict(X))


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
