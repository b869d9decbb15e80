"""The cost model learns, is deterministic, keeps scikit-learn's contract; its files come back the same, and no other file is taken for one."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from costmodel import model_file
from costmodel.metrics import grouped_quality
from costmodel.model import OBJECTIVES, THROUGHPUT_DEPTH, THROUGHPUT_SCALE, CostModel, RandomModel, Ranker, normalized_throughput
from ir.errors import UserError

NAMES = ("flops", "bytes", "lines", "unroll", "vector", "threads", "constant", "unknown")
TASK_SPEEDS = np.array([1e9, 3e10, 2e8, 5e11])  # tasks differ by orders of magnitude


def measurements(n, seed, n_tasks=4):
    """A smooth law with interactions; one feature is constant, one always missing, 5 % of the candidates fail for a reason in the features."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, len(NAMES)), dtype=np.float32)
    X[:, 6], X[:, 7] = 1.0, np.nan
    groups = rng.integers(n_tasks, size=n)
    y = TASK_SPEEDS[groups] * np.exp(np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] - 2 * np.abs(X[:, 3] - 0.5))
    y[X[:, 4] > 0.95] = 0
    return X, y, groups


@pytest.fixture(scope="module")
def learned():
    return {objective: CostModel(objective).fit(*measurements(1200, 0)) for objective in OBJECTIVES}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_learns_to_order_and_beats_random(learned, objective):
    X, y, groups = measurements(800, 1)
    model = grouped_quality(learned[objective].predict(X), y, groups).mean
    random = grouped_quality(RandomModel(0).predict(X), y, groups).mean
    assert model.pairwise_accuracy > (0.7 if objective == "ndcg" else 0.9)  # NDCG cares for the top alone
    assert model.top_5 > 0.95
    assert 0.45 < random.pairwise_accuracy < 0.55
    assert model.recall_at_k > random.recall_at_k + 0.3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_same_data_and_seed_give_the_same_scores(learned, objective):
    X = measurements(300, 2)[0]
    again = CostModel(objective).fit(*measurements(1200, 0))
    other = CostModel(objective, seed=1).fit(*measurements(1200, 0))
    np.testing.assert_array_equal(again.predict(X), learned[objective].predict(X))
    assert (other.predict(X) != again.predict(X)).any()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_may_use_but_the_most_useful_features(objective):
    """Those of the law, not noise; what else a candidate has makes no difference to its score."""
    (X, y, groups), (others, _, _) = measurements(1200, 0), measurements(1200, 5)
    X, others = (np.concatenate([each, noise], axis=1) for each, noise in zip((X, others), np.random.default_rng(1).random((2, 1200, 30)), strict=True))
    model = CostModel(objective, n_features=5, feature_share=1.0).fit(X, y, groups)
    useful = sorted(int(name[1:]) for name in model.booster_.get_score())
    assert len(useful) <= 5
    assert objective == "ndcg" or useful == [0, 1, 2, 3, 4]  # NDCG cares for the top alone
    others[:, useful] = X[:, useful]
    np.testing.assert_array_equal(model.predict(others), model.predict(X))
    everything = CostModel(objective, feature_share=1.0)
    for enough in (38, 100):  # of 38
        same = CostModel(objective, n_features=enough, feature_share=1.0).fit(X, y, groups)
        np.testing.assert_array_equal(same.predict(X), everything.fit(X, y, groups).predict(X))


@pytest.mark.parametrize("seed", range(4))
def test_features_are_chosen_from_tasks_that_have_something_to_order(seed):
    X, y, groups = measurements(2400, 0)
    y[groups != seed] = 0  # failures alone
    model = CostModel("pairwise", n_features=4, feature_share=1.0, seed=seed).fit(X, y, groups)
    assert set(model.booster_.get_score()) <= {"f0", "f1", "f2", "f3", "f4"}
    nothing = CostModel("pairwise", n_features=4).fit(X, np.zeros(2400), groups)
    assert np.isfinite(nothing.predict(X)).all()


def test_scores_do_not_depend_on_the_unit_of_a_tasks_throughput(learned):
    X, y, groups = measurements(1200, 0)
    scaled = CostModel().fit(X, y * np.array([2.0, 0.5, 4.0, 1.0])[groups], groups)  # powers of two: no rounding
    np.testing.assert_array_equal(scaled.predict(X), learned["squared"].predict(X))


@pytest.mark.parametrize("objective", ["pairwise", "ndcg"])
def test_the_order_of_a_ranking_models_tasks_does_not_matter(learned, objective):
    X, y, groups = measurements(1200, 0)
    order = np.argsort(groups, kind="stable")
    named = np.array(["conv2d", "dense", "matmul", "pool"])[groups]
    together = CostModel(objective).fit(X[order], y[order], named[order])
    np.testing.assert_array_equal(together.predict(X), learned[objective].predict(X))


def test_throughput_weight_favours_the_fast_half():
    """A law that is one thing for slow candidates and its opposite for fast ones, and a tree too small for both."""
    rng = np.random.default_rng(3)
    X = rng.random((2000, 1), dtype=np.float32)
    fast = rng.random(2000) < 0.3
    y = np.where(fast, 0.8 + 0.2 * X[:, 0], 0.3 * (1 - X[:, 0]))
    uniform, weighted = (CostModel(throughput_weight=w, feature_share=1.0).fit(X, y, np.zeros(2000)).predict([[0.02], [0.98]]) for w in (0.0, 1.0))
    assert uniform[0] > uniform[1]
    assert weighted[0] < weighted[1]


@pytest.mark.parametrize("throughput_weight", [0.0, 1.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("y", [np.zeros(20), np.ones(20), np.eye(20)[0]], ids=["all failed", "all the same", "one succeeded"])
def test_little_to_learn_from_is_no_error(objective, throughput_weight, y):
    X = np.random.default_rng(0).random((20, 3))
    scores = CostModel(objective, throughput_weight, n_estimators=10).fit(X, y, np.zeros(20)).predict(X)
    assert scores.shape == (20,)
    assert np.isfinite(scores).all()


class OneTask(CostModel):
    """scikit-learn's checks know no groups."""

    def fit(self, X, y):
        return super().fit(X, y, np.zeros(np.asarray(y).size))


def test_scikit_learn_contract():
    results = check_estimator(OneTask(n_estimators=5), on_skip=None)  # raises where a check fails
    assert sum(result["status"] == "passed" for result in results) > 30


def test_parameters_and_clones():
    model = CostModel("ndcg", max_depth=3, seed=7)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(max_depth=4).max_depth == 4
    rankers: list[Ranker] = [model, RandomModel(1)]
    assert [clone(ranker).get_params()["seed"] for ranker in rankers] == [7, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10), st.integers(1, 30), st.integers(1, 40))
def test_random_scores_depend_on_row_and_seed_alone(seed, n, f):
    X = np.random.default_rng([seed, n, f]).random((n, f), dtype=np.float32)
    X[0, 0] = np.nan
    scores = RandomModel(seed).fit(X, np.ones(n), np.zeros(n)).predict(X)
    assert ((scores >= 0) & (scores < 1)).all()
    np.testing.assert_array_equal(RandomModel(seed).predict(X[::-1])[::-1], scores)
    assert (RandomModel(seed + 1).predict(X) != scores).any()


def test_random_scores_are_uniform_and_unlike_for_like_rows():
    X = np.ones((4096, 50), dtype=np.float32)
    X[:, 7] = np.arange(4096)
    scores = RandomModel(5).predict(X)
    assert np.abs(np.histogram(scores, 16, (0, 1))[0] / 256 - 1).max() < 0.5
    assert abs(np.corrcoef(scores, X[:, 7])[0, 1]) < 0.1


def test_normalized_throughput():
    np.testing.assert_array_equal(normalized_throughput([2, 8, 0, 5, 0, 0], ["a", "a", "a", "b", "c", "c"]), [0.25, 1, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda X, y, g: CostModel("rank").fit(X, y, g), UserError, "unknown objective 'rank' of a cost model; expected squared, pairwise, ndcg"),
        (lambda X, y, g: CostModel().fit(X, y, g[:-1]), ValueError, "inconsistent numbers of samples"),
        (lambda X, y, g: CostModel().fit(X, -y, g), ValueError, "throughput must be finite and not negative, found -"),
        (lambda X, y, g: CostModel().fit(X, y * np.nan, g), ValueError, "Input y contains NaN"),
        (lambda X, y, g: CostModel().fit(X / 0, y, g), ValueError, "contains infinity"),
        (lambda X, y, g: CostModel().predict(X), NotFittedError, "not fitted"),
        (lambda X, y, g: CostModel(n_estimators=1).fit(X, y, g).predict(X[:, :3]), ValueError, "X has 3 features, but CostModel is expecting 8"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words), np.errstate(divide="ignore", invalid="ignore"):
        call(*measurements(50, 5))


# Files


@pytest.fixture
def saved(learned, tmp_path):
    path = tmp_path / "model.ubj"
    learned["squared"].save(path, 3, NAMES, "ab" * 32, {"mean": {"pairwise_accuracy": 0.93}})
    return path


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_file_gives_the_model_back(learned, objective, tmp_path):
    path = tmp_path / "model.ubj"
    card = learned[objective].save(path, 3, NAMES, "ab" * 32, {"mean": {"pairwise_accuracy": 0.93}})
    loaded = CostModel.load(path, 3, NAMES)
    X = measurements(500, 6)[0]
    np.testing.assert_array_equal(loaded.predict(X), learned[objective].predict(X))
    assert loaded.get_params() == learned[objective].get_params()
    assert loaded.card_ == card
    assert (card.feature_version, card.feature_names, card.data_sha256) == (3, NAMES, "ab" * 32)
    assert card.scores == {"mean": {"pairwise_accuracy": 0.93}}
    assert card.versions["xgboost"] == xgb.__version__
    assert learned[objective].booster_.attributes() == {}
    assert os.listdir(tmp_path) == ["model.ubj"]


def test_a_loaded_model_can_be_saved_and_fitted_again(saved, tmp_path):
    loaded = CostModel.load(saved, 3, NAMES)
    loaded.save(tmp_path / "again.ubj", 3, NAMES, "ab" * 32, {"mean": {"pairwise_accuracy": 0.93}})
    assert (tmp_path / "again.ubj").read_bytes() == saved.read_bytes()
    data = measurements(200, 7)
    np.testing.assert_array_equal(loaded.fit(*data).predict(data[0]), CostModel().fit(*data).predict(data[0]))


def test_other_tools_can_read_the_file(learned, saved):
    X = measurements(50, 8)[0]
    np.testing.assert_array_equal(xgb.Booster(model_file=saved).inplace_predict(X), learned["squared"].predict(X))


def refusal(path, version=3, names=NAMES):
    with pytest.raises(UserError) as caught:
        CostModel.load(path, version, names)
    prefix = f"cost model {path}: "
    message = str(caught.value)
    assert message.startswith(prefix)
    assert "\n" not in message
    return message.removeprefix(prefix)


def test_refuses_what_is_no_file(tmp_path):
    assert refusal(tmp_path / "none.ubj") == "it does not exist"
    assert refusal(tmp_path) == "it is a directory; expected a file"
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "it is a device or pipe; expected a file"
    assert refusal("/dev/zero") == "it is a device or pipe; expected a file"


NO_MODEL = "it is not an XGBoost model in UBJSON; expected a file that tilewright train wrote"


def test_refuses_what_is_no_model(tmp_path, learned):
    path = tmp_path / "model.ubj"
    path.write_bytes(b"")
    assert refusal(path) == "it is empty"
    rng = np.random.default_rng(9)
    contents = [rng.bytes(n) for n in (1, 7, 1000)] + [b"{", b"{L", b"{" + rng.bytes(500), b"{}", b'{"learner": 1}', b"\0" * 100, b"SQLite format 3\0"]
    for content in [*contents, bytes(learned["squared"].booster_.save_raw("json"))]:
        path.write_bytes(content)
        assert refusal(path) == NO_MODEL


def test_refuses_a_model_that_is_not_ours(tmp_path, learned):
    path = tmp_path / "model.ubj"
    learned["squared"].booster_.save_model(path)
    assert refusal(path) == "it is an XGBoost model, or the start of one, without Tilewright's seal; expected a file that tilewright train wrote"


def test_refuses_every_file_that_is_cut_short_or_changed(saved):
    content = saved.read_bytes()
    rng = np.random.default_rng(10)
    for length in (*rng.integers(len(content), size=50), len(content) - 1):
        saved.write_bytes(content[:length])
        assert "without Tilewright's seal" in (why := refusal(saved)) or f"its {length} bytes do not match its seal" in why or why in (NO_MODEL, "it is empty")
    for at in rng.integers(len(content), size=100):
        saved.write_bytes(content[:at] + bytes([content[at] ^ rng.integers(1, 256)]) + content[at + 1 :])
        assert "it is damaged" in (why := refusal(saved)) or "without Tilewright's seal" in why or why == NO_MODEL
    saved.write_bytes(content + b"\n")
    assert "it is damaged or cut short" in refusal(saved)


def test_refuses_another_format(saved, monkeypatch):
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 4)
    assert refusal(saved) == "its format has version 3, this Tilewright reads version 4"


def test_refuses_what_a_newer_xgboost_wrote(saved):
    """Our seal over a model that XGBoost cannot read: its list of trees has another name."""
    content = saved.read_bytes()
    renamed = content.replace(struct.pack(">cq", b"L", 5) + b"trees", struct.pack(">cq", b"L", 5) + b"woods")
    at = content.index(model_file._MARK) + len(model_file._MARK)
    assert renamed != content
    opened = renamed[:at] + b"0" * 64 + renamed[at + 64 :]
    saved.write_bytes(renamed[:at] + model_file._digest(opened) + renamed[at + 64 :])
    assert refusal(saved) == f"XGBoost {xgb.__version__} cannot read it, a newer version may have written it"


def test_refuses_a_model_with_parameters_of_a_newer_version(learned, saved, monkeypatch):
    monkeypatch.setattr(CostModel, "get_params", lambda self, deep=True: {**BaseEstimator.get_params(self), "forests": 2})
    learned["ndcg"].save(saved, 3, NAMES, "")
    monkeypatch.undo()
    assert refusal(saved) == "a newer Tilewright wrote it, with parameters that this one does not know: forests"


def test_refuses_other_features(saved):
    assert refusal(saved, version=4) == "it was trained on version 3 of the features, this Tilewright has version 4; train it again"
    swapped = ("bytes", "flops", *NAMES[2:])
    assert refusal(saved, names=swapped) == "it was trained on other features: expected bytes as number 0, found flops"
    fewer = refusal(saved, names=NAMES[:3])
    assert fewer == "it was trained on other features: expected 3, found 8; unknown: unroll, vector, threads and 2 more"
    assert refusal(saved, names=(*NAMES, "stride")) == "it was trained on other features: expected 9, found 8; missing: stride"


def test_a_failed_save_leaves_the_old_file(learned, saved, monkeypatch):
    before = saved.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"cost model {saved}: it cannot be written: No space left on device"):
        learned["ndcg"].save(saved, 3, NAMES, "")
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["model.ubj"]


def test_a_save_that_cannot_be(learned, tmp_path):
    with pytest.raises(UserError, match="it cannot be written: No such file or directory"):
        learned["squared"].save(tmp_path / "none" / "model.ubj", 3, NAMES, "")
    with pytest.raises(UserError, match="it cannot be written: something that is no file has its name"):
        learned["squared"].save(tmp_path, 3, NAMES, "")
    with pytest.raises(ValueError, match="fitted to 8 features, not to 7"):
        learned["squared"].save(tmp_path / "model.ubj", 3, NAMES[:-1], "")
    with pytest.raises(NotFittedError):
        CostModel().save(tmp_path / "model.ubj", 3, NAMES, "")
    assert os.listdir(tmp_path) == []


def test_trees_for_throughput_and_trees_that_order_know_nothing_of_each_other() -> None:
    """Without the others' scores each kind has those that it has alone, but for pairs that chance draws; boosted upon the others it would have less to do."""
    X, y, groups = measurements(1200, 0)
    options = {"feature_share": 1.0, "n_estimators": 40}
    both = CostModel("pairwise", n_throughput_trees=30, **options).fit(X, y, groups).predict(X)
    order = CostModel("pairwise", **options).fit(X, y, groups).predict(X)
    estimates = THROUGHPUT_SCALE * CostModel(feature_share=1.0, n_estimators=30, max_depth=THROUGHPUT_DEPTH).fit(X, y, groups).predict(X)
    alone, rest = (scores - (np.bincount(groups, scores) / np.bincount(groups))[groups] for scores in (order, both - estimates))
    assert np.corrcoef(alone, rest)[0, 1] > 0.99
    assert 0.95 < rest.std() / alone.std() < 1.05
    assert estimates.std() > 0.1 * alone.std()


@pytest.mark.parametrize(("objective", "margin"), [("squared", None), ("pairwise", np.zeros(1200))])
def test_trees_for_throughput_go_with_an_objective_that_ranks_alone(objective: str, margin: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="trees for throughput go with an objective that ranks, and with no margin"):
        CostModel(objective, n_throughput_trees=3).fit(*measurements(1200, 0), margin=margin)
