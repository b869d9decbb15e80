"""The cost model at work in a tuning run: features of what was measured, refits, scores for the search, and its own marks.

One model learns across all tasks of a run; it is judged on each batch before it learns from it. It learns what a prior leaves unexplained, a model trained
before or the roofline, and how much of a say it has follows from how well it does (`search.trust`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from costmodel.metrics import Quality, quality
from costmodel.model import CostModel, Ranker
from costmodel.residual import ResidualModel
from costmodel.roofline import RooflineModel
from costmodel.task_features import TaskFeatures
from ir.task import Task
from schedule.measurement import Candidate
from schedule.rules import sketches as sketches_of
from schedule.sketch import Sketch
from schedule.space import Population
from schedule.target import Target
from search.strategy import Scorer, Scores, by_sketch
from search.trust import Trust

REFIT_GROWTH = 1.2  # the model is fitted anew when there is a fifth more data,
REFIT_OWN = 2.0  # or, for the task that is next, twice as much of it: of a new task beside thousands of trials of others a fifth would be all its trials
LEAST_TO_LEARN = 8  # measurements
RECALL_K = 8

# The model that learns while tuning has few measurements and is fitted often: by small steps, with a tenth of the features at a node and few bins, it orders
# what it has not seen better than by the defaults of `CostModel`, in a third of their time.
LOCAL: Mapping[str, Any] = {"learning_rate": 0.05, "max_bin": 16, "feature_share": 0.1}

Describe: TypeAlias = Callable[[Sketch, Population], NDArray[np.float32]]  # (n, c) rows of a sketch of one task -> (n, f) features
MakeDescribe: TypeAlias = Callable[[Task, Target], Describe]


def describer(task: Task, target: Target) -> Describe:
    """Of all sketches of a task, whatever a search is allowed."""
    return TaskFeatures(sketches_of(task.program, target), target)


@dataclass
class _Data:
    """What was measured of one task."""

    features: list[NDArray[np.float32]] = field(default_factory=list)
    throughputs: list[float] = field(default_factory=list)
    n_fitted: int = 0  # of these, what the model has learned from


class Learner:
    """Scores candidates of any task by `model`, and teaches it. With a `prior`, which knows something before anything is measured, the model's scores are
    added to that one's (`costmodel.residual`)."""

    def __init__(
        self, model: Ranker, target: Target, *, prior: Ranker | None = None, trust: Trust | None = None, make_describe: MakeDescribe = describer,
    ) -> None:  # fmt: skip
        """`trust`: how the say of the model moves, where it is not to do so as it does by default."""
        self._model, self._target, self._prior, self._make_describe = model, target, prior, make_describe
        self._trust = trust or Trust(has_prior=prior is not None)
        self._describe: dict[str, Describe] = {}  # by task
        self._data: dict[str, _Data] = {}
        self.seconds = 0.0  # spent in features, fits and predictions

    @classmethod
    def from_scratch(cls, target: Target, seed: int, *, make_describe: MakeDescribe = describer) -> Learner:
        """The roofline, which has learned nothing, is the prior."""
        prior = RooflineModel()
        return cls(ResidualModel(prior, CostModel(seed=seed, **LOCAL)), target, prior=prior, make_describe=make_describe)

    @classmethod
    def with_prior(cls, prior: CostModel, target: Target, seed: int, *, trust: Trust | None = None, make_describe: MakeDescribe = describer) -> Learner:
        """A model that was trained before, and one that learns what it leaves unexplained."""
        local = CostModel(prior.objective, seed=seed, **LOCAL)  # the scores of another objective have another scale
        return cls(ResidualModel(prior, local), target, prior=prior, trust=trust, make_describe=make_describe)

    @property
    def name(self) -> str:
        """What scores."""
        return " + ".join(type(model).__name__ for model in (self._prior, self._model) if model is not None)

    @property
    def is_lost(self) -> bool:
        """Whether the scores have lately been no better than chance, so that a search had better explore."""
        return self._trust.is_lost

    def scorer(self, task: Task) -> Scorer:
        """Scores for the rows of the task's sketches; all equal where nothing was learned and there is no prior."""

        def score(sketch: Sketch, X: Population) -> Scores:
            prior, local = self._parts(task, sketch, X)
            return prior + self._trust.share * local

        return score

    def quality(self, task: Task, sketches: Sequence[Sketch], candidates: Sequence[Candidate], throughputs: Sequence[float]) -> Quality | None:
        """The marks of the scores on this batch, before anything learns from it, and from them how much of a say each model has from now on.

        None where the batch, or models that know nothing yet, say nothing.
        """
        if not self._knows or not candidates:
            return None
        prior, local = self._predict(task, sketches, candidates)
        measured = np.asarray(throughputs, dtype=np.float64)
        found = quality(prior + self._trust.share * local, measured, RECALL_K)
        self._trust.judge(prior, local, measured)
        return found

    def observe(self, task: Task, sketches: Sequence[Sketch], candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        """Keep a measured batch; `fit` learns from it before the next is chosen."""
        data = self._data.setdefault(task.key, _Data())
        start = time.perf_counter()
        for mine, sketch, X in by_sketch(sketches, candidates):
            data.features.append(self._features(task, sketch, X))
            data.throughputs += [throughputs[i] for i in mine]
        self.seconds += time.perf_counter() - start

    def fit(self, task: Task) -> None:
        """Fit to all that was observed, of whatever task, if enough of it, or of what was observed of this task, is new, and something was measured at all."""
        if not self._is_due(task) or not any(t > 0 for data in self._data.values() for t in data.throughputs):
            return
        start = time.perf_counter()
        X = np.concatenate([features for data in self._data.values() for features in data.features])
        y = np.array([throughput for data in self._data.values() for throughput in data.throughputs])
        groups = np.repeat(np.arange(len(self._data)), [len(data.throughputs) for data in self._data.values()])
        self._model.fit(X, y, groups)
        for data in self._data.values():
            data.n_fitted = len(data.throughputs)
        self.seconds += time.perf_counter() - start

    def _is_due(self, task: Task) -> bool:
        n, mine = sum(len(data.throughputs) for data in self._data.values()), self._data.get(task.key, _Data())
        enough = n >= REFIT_GROWTH * self._n_fitted or len(mine.throughputs) >= max(REFIT_OWN * mine.n_fitted, 1)
        return n > self._n_fitted and n >= LEAST_TO_LEARN and enough

    @property
    def _n_fitted(self) -> int:
        """How many measurements the model has learned from."""
        return sum(data.n_fitted for data in self._data.values())

    @property
    def _fitted(self) -> bool:
        return self._n_fitted > 0

    @property
    def _knows(self) -> bool:
        """Whether anything says how good a candidate is."""
        return self._fitted or self._prior is not None

    def _parts(self, task: Task, sketch: Sketch, X: Population) -> tuple[Scores, Scores]:
        """(n,) scores by what was known before tuning, and by what was learned since."""
        prior, local = np.zeros(len(X)), np.zeros(len(X))
        if not self._knows or not len(X):
            return prior, local
        start = time.perf_counter()
        features = self._features(task, sketch, X)
        if self._prior is not None:
            prior += self._prior.predict(features)
        if self._fitted:
            local += self._model.predict(features)
        self.seconds += time.perf_counter() - start
        return prior, local

    def _predict(self, task: Task, sketches: Sequence[Sketch], candidates: Sequence[Candidate]) -> tuple[Scores, Scores]:
        """`_parts` of candidates of any of the task's sketches."""
        prior, local = np.empty(len(candidates)), np.empty(len(candidates))
        for mine, sketch, X in by_sketch(sketches, candidates):
            prior[mine], local[mine] = self._parts(task, sketch, X)
        return prior, local

    def _features(self, task: Task, sketch: Sketch, X: Population) -> NDArray[np.float32]:
        if task.key not in self._describe:
            self._describe[task.key] = self._make_describe(task, self._target)
        return self._describe[task.key](sketch, X)


def throughput(task: Task, seconds: float) -> float:
    """`Task.work` a second; 0 for a candidate that failed."""
    return task.work / seconds if math.isfinite(seconds) else 0.0
