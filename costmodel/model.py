"""The cost model: gradient-boosted trees that score candidates, so that of one task the fastest stand first.

Notation, n candidates with f features each, of one or more tasks.
  X       (n, f) float32  features, one row a candidate; NaN means unknown
  y       (n,)   float64  throughput, measured: anything proportional to 1 / seconds; 0 where the candidate failed
  groups  (n,)            the task of each candidate: any names or numbers
  z       (n,)   float64  normalized throughput: y over the best y of its group, 0..1

Tasks differ in speed by orders of magnitude, so what is learned is z, and a score says nothing across tasks.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import sklearn
import xgboost as xgb
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import Tags, check_array, check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from costmodel.model_file import ModelCard, read_model, write_model
from ir.errors import UserError

Scores = NDArray[np.float32]

# The small forest that tells which features matter: trees as coarse as that, of a fourth of the tasks, find them in a thirtieth of the time.
CHOOSING: Mapping[str, Any] = {"n_estimators": 40, "learning_rate": 0.15, "n_features": 0, "n_throughput_trees": 0}
CHOOSING_PART = 4

MIN_THROUGHPUT_WEIGHT = 0.01  # what failures and the slowest candidates still count: that they are slow is worth knowing

# XGBoost's parameters for each objective. A ranking objective takes relevances; with linear gain these may be fractions, so z itself serves and
# no grades are cut (exponential gain needs whole grades up to 31, and then only the very best count).
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "squared": {"objective": "reg:squarederror"},
    "pairwise": {"objective": "rank:pairwise", "lambdarank_pair_method": "mean", "lambdarank_num_pair_per_sample": 16},
    "ndcg": {"objective": "rank:ndcg", "ndcg_exp_gain": False, "lambdarank_pair_method": "topk", "lambdarank_num_pair_per_sample": 32},
}

# Of the trees that estimate throughput beside those that order pairs. They are deeper, for an estimate needs more cuts than an order does; their scores are
# spread within a task about half as far as those of the others.
THROUGHPUT_DEPTH = 7
THROUGHPUT_SCALE = 3.0


class Ranker(Protocol):
    """What a search needs of a cost model; a baseline is another ranker passed in."""

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> Self:
        """Learns from all that was measured, and forgets what it learned before."""
        ...

    def predict(self, X: ArrayLike) -> Scores:
        """(n,) scores, higher is better; comparable within one task only."""
        ...


class CostModel(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """XGBoost behind the interface of a scikit-learn estimator; the same data, seed and number of threads give the same scores.

    `objective`: "squared" (error of z), "pairwise" (order of pairs) or "ndcg" (order, the top first).
    `throughput_weight`: between weights that are all the same (0) and weights that are z (1), as in Ansor, where slow candidates hardly count.
    `n_features`: how many features the trees may use: those that a small forest gains most by. Most say again what others say, and the time to fit goes with
    their number; 0 means all.
    `feature_share`: of all features, useful or not, how many are drawn for a split to choose from.
    `n_throughput_trees`: with an objective that ranks, so many trees more, which estimate z with squared error and know nothing of the others: each kind is
    wrong about other candidates, and the sum of both scores is better than either.
    `n_threads`: 0 means all. XGBoost's threads wait for each other by spinning, which is dear where other processes compute, as compilers and
    measurements do here: to fit 2,000 × 200, two of them took 0.2 s against 0.3 s with two cores to themselves, 5 s against 0.7 s on busy ones.
    """

    def __init__(
        self,
        objective: str = "squared",
        throughput_weight: float = 0.0,
        n_estimators: int = 100,
        max_depth: int = 6,
        learning_rate: float = 0.1,
        max_bin: int = 64,
        n_features: int = 0,
        feature_share: float = 0.3,
        n_throughput_trees: int = 0,
        seed: int = 0,
        n_threads: int = 1,
    ) -> None:
        self.objective = objective
        self.throughput_weight = throughput_weight
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.max_bin = max_bin
        self.n_features = n_features
        self.feature_share = feature_share
        self.n_throughput_trees = n_throughput_trees
        self.seed = seed
        self.n_threads = n_threads

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike, margin: ArrayLike | None = None) -> Self:
        """For the ranking objectives a group weighs the mean of its candidates.

        `margin` (n,) are scores of another model to begin with: the trees learn what these leave unexplained within each group, and `predict` gives that alone.
        `ValueError` for shapes that do not fit, infinite features, throughputs that are negative or not finite, and trees for throughput beside an objective
        that has such already, or beside a margin.
        """
        if self.n_throughput_trees and (self.objective == "squared" or margin is not None):
            raise ValueError("trees for throughput go with an objective that ranks, and with no margin")
        parameters = self._parameters()
        matrix, throughput = validate_data(self, X, y, dtype=np.float32, ensure_all_finite="allow-nan", y_numeric=True)
        check_consistent_length(throughput, groups)
        tasks = np.unique(column_or_1d(groups), return_inverse=True)[1]
        z = normalized_throughput(throughput, tasks)
        weight = self._weight(z)
        # For an objective that ranks XGBoost wants the candidates of a task together, and one weight a task.
        order = np.arange(len(z)) if self.objective == "squared" else np.argsort(tasks, kind="stable")
        rows = matrix[order]
        rows[:, self._unused(matrix, throughput, tasks)] = np.nan  # so no tree has a use for them
        estimates = None
        if self.objective == "squared":  # (a QuantileDMatrix would start threads whatever `nthread` says, xgboost 3.2)
            data = xgb.DMatrix(rows, z, weight=weight, nthread=self.n_threads)
        else:
            data = xgb.DMatrix(rows, qid=tasks[order], nthread=self.n_threads)
            estimates = self._estimates(data, z[order], parameters)
            data.set_label(z[order])
            data.set_weight(np.bincount(tasks, weight) / np.bincount(tasks))
        if margin is not None:
            data.set_base_margin(_around(column_or_1d(margin), z, tasks)[order])
            parameters["base_score"] = 0.0  # what `predict` starts from
        self.booster_ = xgb.train(parameters, data, self.n_estimators, xgb_model=estimates)
        return self

    def _estimates(self, data: xgb.DMatrix, z: NDArray[np.float64], parameters: Mapping[str, Any]) -> xgb.Booster | None:
        """The trees for throughput, if there are to be any. The margin of `data` then takes their scores away again, so that trees which are appended to them
        learn as if they were not there."""
        if not self.n_throughput_trees:
            return None
        data.set_label(THROUGHPUT_SCALE * z)
        others = {name: value for name, value in parameters.items() if name not in OBJECTIVES[self.objective]}
        booster = xgb.train({**others, **OBJECTIVES["squared"], "max_depth": THROUGHPUT_DEPTH}, data, self.n_throughput_trees)
        data.set_base_margin(-booster.predict(data, output_margin=True))
        return booster

    def predict(self, X: ArrayLike) -> Scores:
        """(n,) scores, higher is better: estimates of z for "squared", on a scale of their own for the ranking objectives."""
        check_is_fitted(self)
        matrix = validate_data(self, X, reset=False, dtype=np.float32, ensure_all_finite="allow-nan")
        return np.asarray(self.booster_.inplace_predict(matrix), dtype=np.float32)

    def save(
        self,
        path: str | Path,
        feature_version: int,
        feature_names: Sequence[str],
        data_sha256: str,
        scores: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> ModelCard:
        """Writes the fitted model and what it is, as UBJSON of XGBoost; returns what it says of itself. `UserError` if the file cannot be written.

        `ValueError` where the model was fitted to another number of features. `scores` and `training` are anything JSON can hold.
        """
        check_is_fitted(self)
        if len(feature_names) != self.n_features_in_:
            raise ValueError(f"the model was fitted to {self.n_features_in_} features, not to {len(feature_names)}")
        versions = {"python": platform.python_version(), "xgboost": xgb.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__}
        card = ModelCard(feature_version, tuple(feature_names), self.get_params(), data_sha256, dict(scores or {}), dict(training or {}), versions)
        write_model(path, self.booster_, card)
        return card

    @classmethod
    def load(cls, path: str | Path, feature_version: int, feature_names: Sequence[str], n_threads: int = 1) -> Self:
        """The model of a file that `save` wrote, with what it says of itself as `card_`; it predicts on `n_threads`, however many trained it.

        `UserError` with the reason in one line for any other file, and for a model of features of another version or other names.
        """
        booster, card = read_model(path, feature_version, feature_names)
        if unknown := sorted(card.parameters.keys() - cls().get_params().keys()):
            raise UserError(f"cost model {path}: a newer Tilewright wrote it, with parameters that this one does not know: {', '.join(unknown)}")
        model = cls(**{**card.parameters, "n_threads": n_threads})
        booster.set_param({"nthread": model.n_threads})
        model.booster_, model.card_, model.n_features_in_ = booster, card, len(card.feature_names)
        return model

    def _parameters(self) -> dict[str, Any]:
        if self.objective not in OBJECTIVES:
            raise UserError(f"unknown objective {self.objective!r} of a cost model; expected {', '.join(OBJECTIVES)}")
        return {
            **OBJECTIVES[self.objective],
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "max_bin": self.max_bin,
            "colsample_bynode": self.feature_share,
            "seed": self.seed,
            "nthread": self.n_threads,
        }

    def _unused(self, matrix: NDArray[np.float32], throughput: NDArray[np.float64], tasks: NDArray[np.intp]) -> NDArray[np.intp]:
        """The columns of all but the `n_features` most useful features; none where a small forest can tell nothing of their use."""
        nothing = np.empty(0, dtype=np.intp)
        if not 0 < self.n_features < matrix.shape[1] or not (part := self._choosing(throughput, tasks)).any():
            return nothing
        forest = clone(self).set_params(**CHOOSING).fit(matrix[part], throughput[part], tasks[part])
        gains = forest.booster_.get_score(importance_type="total_gain")
        of_column = np.array([gains.get(f"f{column}", 0.0) for column in range(matrix.shape[1])])
        return np.argsort(-of_column, kind="stable")[self.n_features :] if gains else nothing

    def _choosing(self, throughput: NDArray[np.float64], tasks: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(n,) the candidates of a share of those tasks that have something to order, drawn by the seed: names of tasks may come in the order of machines."""
        slowest, fastest = np.full(tasks.max() + 1, np.inf), np.zeros(tasks.max() + 1)
        np.minimum.at(slowest, tasks, throughput)
        np.maximum.at(fastest, tasks, throughput)
        useful = np.flatnonzero(fastest > slowest)
        return np.isin(tasks, np.random.default_rng(self.seed).choice(useful, -(-len(useful) // CHOOSING_PART), replace=False))

    def _weight(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) what each candidate counts."""
        return np.asarray(1 - self.throughput_weight + self.throughput_weight * np.maximum(z, MIN_THROUGHPUT_WEIGHT))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.target_tags.positive_only = True
        return tags


class RandomModel(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A ranker that learns nothing. Its scores are uniform in 0..1 and depend on the features and the seed alone, so equal rows have equal scores."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> Self:
        return self

    def predict(self, X: ArrayLike) -> Scores:
        """(n,) the multilinear hash of each row's bits (Lemire and Kaser 2014, "Strongly universal string hashing is fast"): rows that differ in a
        single bit have independent scores."""
        bits = np.ascontiguousarray(check_array(X, dtype=np.float32, ensure_all_finite=False)).view(np.uint32).astype(np.uint64)
        factors = np.random.default_rng(self.seed).integers(2**64, size=1 + bits.shape[1], dtype=np.uint64)
        hashed = bits @ factors[1:] + factors[0]  # modulo 2^64, as it should be
        return np.asarray((hashed >> 40) / 2**24, dtype=np.float32)  # the upper bits are the good ones; 24 fill a float32


def _around(margin: NDArray[np.floating[Any]], z: NDArray[np.float64], tasks: NDArray[np.intp]) -> NDArray[np.float64]:
    """(n,) the margins, moved within each task to the mean of z: a score says nothing across tasks, so no tree shall be spent on that."""
    missing = np.bincount(tasks, z - margin) / np.bincount(tasks)
    return np.asarray(margin + missing[tasks], dtype=np.float64)


def normalized_throughput(y: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """(n,) y over the best y of its group: 1 for the fastest, 0 for a failure, all 0 in a group where all failed.

    `ValueError` where a throughput is negative or not finite.
    """
    throughput = np.asarray(y, dtype=np.float64)
    wrong = ~np.isfinite(throughput) | (throughput < 0)
    if wrong.any():
        raise ValueError(f"throughput must be finite and not negative, found {throughput[wrong][0]:g}")
    names, ids = np.unique(np.asarray(groups), return_inverse=True)
    best = np.zeros(len(names))
    np.maximum.at(best, ids, throughput)
    return np.asarray(np.divide(throughput, best[ids], out=np.zeros_like(throughput), where=best[ids] > 0))
