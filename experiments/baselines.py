"""Other rankers than the shipped one, to compare it with. All learn normalized throughput z, as `costmodel.model` has it, and take no sample weights.

SumOverStages is Ansor's structure (Zheng et al., OSDI 2020): one shared model scores every part of a program, by that part's features and those of the whole;
the program's score is their sum, and only the sum is compared with what was measured.

Notation, n programs, r rows (a row a part that is there, r >= n), q columns.
  w  (n,) what each program counts
  S  (n,) sums: S_i is that of the scores s_j of the rows j of program i
"""

from __future__ import annotations

from typing import Self

import numpy as np
import xgboost as xgb
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from costmodel.model import CostModel, Ranker, Scores, normalized_throughput
from costmodel.task_features import RELATIVE, TaskFeatures
from costmodel.training import pretraining_model

Values = NDArray[np.float64]

PARTS = ("compute", "pack_a", "pack_b", "epilogue", "final")  # slots of the feature vector that a program may have; what is in no part counts for all

_SLOTS, _QUANTITIES = zip(*(name.split(".", 1) for name in TaskFeatures.names), strict=True)
_COLUMNS = {part: [i for i, slot in enumerate(_SLOTS) if slot == part] for part in PARTS}
_ABSOLUTE = {part: [i for i in columns if not TaskFeatures.names[i].endswith(RELATIVE)] for part, columns in _COLUMNS.items()}
_OF_ALL = [i for i, slot in enumerate(_SLOTS) if slot not in PARTS]
_COMMON = list(dict.fromkeys(quantity for slot, quantity in zip(_SLOTS, _QUANTITIES, strict=True) if slot in PARTS))
_PLACES = {part: [_COMMON.index(_QUANTITIES[i]) for i in columns] for part, columns in _COLUMNS.items()}


def part_rows(X: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """(n, f) features -> (r, q) rows of the parts, and (r,) the program of each.

    A row has the part's quantities in columns that parts share (NaN where it has no such quantity), which part it is, and what counts for all parts.
    """
    rows, programs = [], []
    for number, part in enumerate(PARTS):
        of = np.flatnonzero(X[:, _ABSOLUTE[part]].any(axis=1))  # a part that is not there has zeros alone
        quantities = np.full((len(of), len(_COMMON)), np.nan, dtype=np.float32)
        quantities[:, _PLACES[part]] = X[np.ix_(of, _COLUMNS[part])]
        which = np.broadcast_to(np.eye(len(PARTS), dtype=np.float32)[number], (len(of), len(PARTS)))
        rows.append(np.hstack([quantities, which, X[np.ix_(of, _OF_ALL)]]))
        programs.append(of)
    return np.concatenate(rows), np.concatenate(programs)


def sum_gradients(scores: Values, programs: NDArray[np.intp], z: Values, w: Values) -> tuple[Values, Values]:
    """(r,) gradient and (r,) curvature, by the scores of the rows, of the half squared error of the sums: ½ Σ_i w_i (S_i - z_i)².

    Curvature leaves out that the k rows of a program move together, as Ansor's does: a step goes k times as far as it should, which the learning rate takes
    in. To divide by k is right for what the rows have in common, but what tells parts from each other then takes too many trees.
    """
    residuals = np.bincount(programs, scores, minlength=len(z)) - z
    return (w * residuals)[programs], w[programs]


class SumOverStages(CostModel):
    """With the cost model's own parameters; only its objective is the squared error of sums, which are learned as what is above the mean of z."""

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> Self:
        rows, programs = part_rows(np.asarray(X, dtype=np.float32))
        z = normalized_throughput(y, groups)
        w = self._weight(z)
        self.mean_ = np.average(z, weights=w)
        self.booster_ = xgb.train(
            {**self._parameters(), "base_score": 0.0},
            xgb.DMatrix(rows, nthread=self.n_threads),
            self.n_estimators,
            obj=lambda scores, _: sum_gradients(scores, programs, z - self.mean_, w),
        )
        return self

    def predict(self, X: ArrayLike) -> Scores:
        rows, programs = part_rows(np.asarray(X, dtype=np.float32))
        scores = self.booster_.inplace_predict(rows, predict_type="margin")
        return (self.mean_ + np.bincount(programs, scores, minlength=len(X))).astype(np.float32)


class Regression(BaseEstimator):
    """Any regressor of scikit-learn's kind as a ranker."""

    def __init__(self, regressor: RegressorMixin | Pipeline) -> None:
        self.regressor = regressor

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> Self:
        self.fitted_ = clone(self.regressor).fit(X, normalized_throughput(y, groups))
        return self

    def predict(self, X: ArrayLike) -> Scores:
        return np.asarray(self.fitted_.predict(X), dtype=np.float32)


def ridge() -> Ranker:
    return _scaled(Ridge(solver="svd"))  # many features are nearly the same


def neural_network(seed: int, hidden: tuple[int, ...] = (128, 64)) -> Ranker:
    """A tenth of the candidates is kept aside and says when to stop."""
    return _scaled(MLPRegressor(hidden_layer_sizes=hidden, early_stopping=True, n_iter_no_change=5, random_state=seed))


def light_gbm(seed: int, n_threads: int) -> Ranker | None:
    """As many trees as the cost model has, as large, and as slow to learn; None where LightGBM is not installed."""
    try:
        import lightgbm
    except ImportError:
        return None
    like = pretraining_model(seed)
    return Regression(
        lightgbm.LGBMRegressor(
            n_estimators=like.n_estimators, num_leaves=2**like.max_depth, learning_rate=like.learning_rate, max_bin=like.max_bin,
            colsample_bytree=like.feature_share, random_state=seed, n_jobs=n_threads, verbosity=-1,
        )
    )  # fmt: skip


def _scaled(regressor: RegressorMixin) -> Regression:
    return Regression(make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), regressor))
