"""From recorded measurements to a cost model, and how good it is on tasks, or candidates, that it has not seen.

X, y and groups are as in `costmodel.model`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut
from sklearn.utils import check_consistent_length

from costmodel.metrics import GroupedQuality, Quality, grouped_quality, mean_quality
from costmodel.model import Ranker
from ir.errors import UserError

MIN_VALID = 16  # fewer measurements than this say nothing that holds

WITHIN_TASK = "within task"  # candidates of the only task, shuffled: easier than a task never seen
LEAVE_ONE_TASK_OUT = "leave one task out"
BY_TASK = "by task"  # each split holds out several tasks

R = TypeVar("R", bound=Ranker)
Split = tuple[NDArray[np.intp], NDArray[np.intp]]  # the rows to learn from, the rows held out


@dataclass(frozen=True)
class Validation:
    """Held-out quality. Every candidate is held out once.

    `per_split` in the order of the splits; `per_group` for each task that can be judged (within one task: the mean over its splits); `mean` over these
    tasks, None where there is none. `n_left_out` counts the tasks of a split, summed over splits, that have nothing to order.
    """

    split: str  # WITHIN_TASK, LEAVE_ONE_TASK_OUT or BY_TASK
    k: int  # of recall@k
    mean: Quality | None
    per_group: Mapping[Any, Quality]
    per_split: tuple[GroupedQuality, ...]

    @property
    def n_left_out(self) -> int:
        return sum(one.n_left_out for one in self.per_split)

    def summary(self) -> dict[str, Any]:
        """What a model file keeps of it, as JSON can hold it."""
        mean = asdict(self.mean) if self.mean else None
        return {"split": self.split, "k": self.k, "n_splits": len(self.per_split), "n_groups": len(self.per_group), "n_left_out": self.n_left_out, "mean": mean}


def cross_validate(
    X: ArrayLike, y: ArrayLike, groups: ArrayLike, model: Ranker, n_splits: int = 5, k: int = 30, seed: int = 0, programs: ArrayLike | None = None
) -> Validation:
    """Fits copies of the model to all but one split and judges them on that split, for each split. The model itself stays as it is.

    Tasks are held out whole: in `n_splits` splits, or one at a time where there are no more than that. Of one task, candidates are held out.
    `programs` (n,): what is held out together, where several groups (one task on several machines, say) are one; the groups if None.
    `UserError` where there is too little to learn from.
    """
    X, y, groups = _checked(X, y, groups)
    split, rows = _splits(groups if programs is None else np.asarray(programs), n_splits, seed)
    per_split = tuple(_held_out(clone(model), X, y, groups, learn, hold, k) for learn, hold in rows)
    found: defaultdict[Any, list[Quality]] = defaultdict(list)
    for judged in per_split:
        for name, quality in judged.per_group.items():
            found[name].append(quality)
    per_group = {name: mean for name, qualities in found.items() if (mean := mean_quality(dict(enumerate(qualities)))) is not None}
    return Validation(split, k, mean_quality(per_group), per_group, per_split)


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


def _held_out(
    model: Ranker, X: NDArray[np.float32], y: NDArray[np.float64], groups: NDArray[Any], learn: NDArray[np.intp], hold: NDArray[np.intp], k: int
) -> GroupedQuality:
    scores = model.fit(X[learn], y[learn], groups[learn]).predict(X[hold])
    return grouped_quality(scores, y[hold], groups[hold], k=k)


def _splits(groups: NDArray[Any], n_splits: int, seed: int) -> tuple[str, Iterator[Split]]:
    n_groups = len(np.unique(groups))
    if n_groups == 1:
        return WITHIN_TASK, KFold(n_splits, shuffle=True, random_state=seed).split(groups)
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
