"""From recorded measurements to a cost model, and what it makes of tasks, or candidates, that it has not seen.

X, y and groups are as in `costmodel.model`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut
from sklearn.utils import check_consistent_length

from costmodel.model import CostModel, Ranker
from ir.errors import UserError

MIN_VALID = 16  # fewer measurements than this say nothing that holds

WITHIN_TASK = "within task"  # candidates of the only task, shuffled: easier than a task never seen
LEAVE_ONE_TASK_OUT = "leave one task out"
BY_TASK = "by task"  # each split holds out several tasks

# Of a model that learns from campaigns, not from one run: what `experiments.objectives` found best, with as many trees as still help.
PRETRAINING: Mapping[str, Any] = {
    "objective": "pairwise", "n_estimators": 500, "n_throughput_trees": 200, "learning_rate": 0.05, "n_features": 300, "feature_share": 0.25,
}  # fmt: skip

R = TypeVar("R", bound=Ranker)
Split = tuple[NDArray[np.intp], NDArray[np.intp]]  # the rows to learn from, the rows held out


@dataclass(frozen=True)
class Validation:
    """`scores` (n,): each candidate's, by a model that has not seen it, nor what is held out together with it."""

    split: str  # WITHIN_TASK, LEAVE_ONE_TASK_OUT or BY_TASK
    n_splits: int
    scores: NDArray[np.float32]


def cross_validate(
    X: ArrayLike, y: ArrayLike, groups: ArrayLike, model: Ranker, n_splits: int = 5, seed: int = 0, *,
    programs: ArrayLike | None = None, candidates: ArrayLike | None = None,
) -> Validation:  # fmt: skip
    """Fits copies of the model to all but one split and has them score that split, for each split. The model itself stays as it is.

    Tasks are held out whole: in `n_splits` splits, or one at a time where there are no more than that. Of one task, candidates are held out, whose scores are
    then of several models, each fitted to the same task's throughput.
    `seed`: of how candidates of one task are shuffled; tasks always fall into the same splits.
    `programs` (n,): what is held out together, where several groups (one task on several machines, say) are one; the groups if None.
    `candidates` (n,): the same where candidates of one task are held out and several of them are one (measured on several machines); all differ if None.
    `UserError` where there is too little to learn from.
    """
    X, y, groups = _checked(X, y, groups)
    alone = np.arange(len(y)) if candidates is None else np.asarray(candidates)
    split, rows = _splits(groups if programs is None else np.asarray(programs), alone, n_splits, seed)
    scores = np.empty(len(y), dtype=np.float32)
    found = list(rows)
    for learn, hold in found:
        scores[hold] = clone(model).fit(X[learn], y[learn], groups[learn]).predict(X[hold])
    return Validation(split, len(found), scores)


def pretraining_model(seed: int, n_threads: int = 0, **changed: Any) -> CostModel:
    """A model to be trained on a campaign, with some of `PRETRAINING` changed; on all threads, for nothing is measured meanwhile."""
    return CostModel(**{**PRETRAINING, "seed": seed, "n_threads": n_threads, **changed})


def train(X: ArrayLike, y: ArrayLike, groups: ArrayLike, model: R) -> R:
    """A copy of the model, fitted to everything; `UserError` where there is too little to learn from."""
    X, y, groups = _checked(X, y, groups)
    fitted: R = clone(model)
    return fitted.fit(X, y, groups)


def data_sha256(X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> str:
    """Identifies what a model learned from: the values in their order, as fp32 (features), fp64 (throughput) and text (groups)."""
    digest = hashlib.sha256()
    for array in (np.asarray(X, dtype="<f4"), np.asarray(y, dtype="<f8")):
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    digest.update("\n".join(str(name) for name in np.asarray(groups).tolist()).encode())
    return digest.hexdigest()


def _splits(groups: NDArray[Any], candidates: NDArray[Any], n_splits: int, seed: int) -> tuple[str, Iterator[Split]]:
    n_groups = len(np.unique(groups))
    if n_groups == 1:
        n_candidates = len(np.unique(candidates))
        if n_candidates < 2:
            raise UserError("a cost model needs two candidates or more to be judged, all measurements are of one")
        return WITHIN_TASK, GroupKFold(min(n_splits, n_candidates), shuffle=True, random_state=seed).split(groups, groups=candidates)
    if n_groups <= n_splits:
        return LEAVE_ONE_TASK_OUT, LeaveOneGroupOut().split(groups, groups=groups)
    return BY_TASK, GroupKFold(n_splits).split(groups, groups=groups)


def _checked(X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[Any]]:
    features, throughput, names = np.asarray(X, dtype=np.float32), np.asarray(y, dtype=np.float64), np.asarray(groups)
    check_consistent_length(features, throughput, names)
    n, n_valid = len(throughput), np.count_nonzero(throughput)
    if not n:
        raise UserError("a cost model needs measurements to learn from, the records have none")
    if not n_valid:
        raise UserError(f"a cost model needs measurements to learn from, all {n} recorded trials failed")
    if n_valid < MIN_VALID:
        raise UserError(f"a cost model needs {MIN_VALID} measurements to learn from, of {n} recorded trials {n_valid} succeeded")
    return features, throughput, names
