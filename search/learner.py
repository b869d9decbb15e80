"""The cost model at work in a tuning run: features of what was measured, refits, scores for the search, and its own marks.

One model learns across all tasks of a run; it is judged on each batch before it learns from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costmodel.features import FeatureExtractor
from costmodel.metrics import Quality, quality
from costmodel.model import Ranker
from ir.task import Task
from schedule.measurement import Candidate
from schedule.sketch import Sketch
from schedule.space import Population
from schedule.target import Target
from search.strategy import Scorer, Scores

REFIT_GROWTH = 1.1  # the model is fitted anew when there is a tenth more data
RECALL_K = 8


@dataclass
class _Data:
    """What was measured of one task."""

    features: list[NDArray[np.float32]] = field(default_factory=list)
    throughputs: list[float] = field(default_factory=list)


class Learner:
    """Scores candidates of any task by `model`, and teaches it. A `prior`, trained before, scores alone until there is something to
    learn from, and keeps half of the say afterwards; a `draft` scores alone until then, and has no say afterwards."""

    def __init__(self, model: Ranker, target: Target, *, prior: Ranker | None = None, draft: Ranker | None = None) -> None:
        self._model, self._target, self._prior, self._draft = model, target, prior, draft
        self._fitted = False
        self._extractors: dict[tuple[str, str], FeatureExtractor] = {}
        self._data: dict[str, _Data] = {}
        self._n_fitted = 0
        self.seconds = 0.0  # spent in features, fits and predictions

    @property
    def _rankers(self) -> list[Ranker]:
        """Those that have a say at this time."""
        if not self._fitted and self._prior is None:
            return [] if self._draft is None else [self._draft]
        return [ranker for ranker in (self._prior, self._model if self._fitted else None) if ranker is not None]

    @property
    def name(self) -> str:
        return type(self._model).__name__

    def scorer(self, task: Task) -> Scorer:
        """Scores for the rows of the task's sketches; all equal where nothing was learned and there is neither prior nor draft."""

        def score(sketch: Sketch, X: Population) -> Scores:
            scores = np.zeros(len(X))
            rankers = self._rankers
            if not rankers or not len(X):
                return scores
            start = time.perf_counter()
            features = self._features(task, sketch, X)
            for ranker in rankers:
                scores += ranker.predict(features)
            self.seconds += time.perf_counter() - start
            return scores / len(rankers)

        return score

    def quality(self, task: Task, sketches: Sequence[Sketch], candidates: Sequence[Candidate], throughputs: Sequence[float]) -> Quality | None:
        """The model's marks on this batch, before it learns from it; None where the batch, or a model that knows nothing yet, says nothing."""
        if not self._rankers:
            return None
        return quality(self._predict(task, sketches, candidates), throughputs, RECALL_K)

    def observe(self, task: Task, sketches: Sequence[Sketch], candidates: Sequence[Candidate], throughputs: Sequence[float]) -> None:
        """Keep a measured batch, and fit again when enough is new."""
        data = self._data.setdefault(task.key, _Data())
        by_name = {sketch.name: sketch for sketch in sketches}
        start = time.perf_counter()
        for name in dict.fromkeys(candidate.sketch for candidate in candidates):
            mine = [i for i, candidate in enumerate(candidates) if candidate.sketch == name]
            X = np.array([candidates[i].row for i in mine], dtype=np.int64)
            data.features.append(self._features(task, by_name[name], X))
            data.throughputs += [throughputs[i] for i in mine]
        self.seconds += time.perf_counter() - start

    def fit(self) -> None:
        """Fit to all that was observed, if enough of it is new and something was measured at all."""
        n = sum(len(data.throughputs) for data in self._data.values())
        if n < max(REFIT_GROWTH * self._n_fitted, 8) or not any(t > 0 for data in self._data.values() for t in data.throughputs):
            return
        start = time.perf_counter()
        X = np.concatenate([features for data in self._data.values() for features in data.features])
        y = np.array([throughput for data in self._data.values() for throughput in data.throughputs])
        groups = np.repeat(np.arange(len(self._data)), [len(data.throughputs) for data in self._data.values()])
        self._model.fit(X, y, groups)
        self._fitted, self._n_fitted = True, n
        self.seconds += time.perf_counter() - start

    def _predict(self, task: Task, sketches: Sequence[Sketch], candidates: Sequence[Candidate]) -> Scores:
        by_name = {sketch.name: sketch for sketch in sketches}
        scores = np.empty(len(candidates))
        scorer = self.scorer(task)
        for name in dict.fromkeys(candidate.sketch for candidate in candidates):
            mine = [i for i, candidate in enumerate(candidates) if candidate.sketch == name]
            scores[mine] = scorer(by_name[name], np.array([candidates[i].row for i in mine], dtype=np.int64))
        return scores

    def _features(self, task: Task, sketch: Sketch, X: Population) -> NDArray[np.float32]:
        key = (task.key, sketch.name)
        if key not in self._extractors:
            self._extractors[key] = FeatureExtractor(sketch, self._target)
        return self._extractors[key](X)


def throughput(task: Task, seconds: float) -> float:
    """Flops a second; 0 for a candidate that failed."""
    return task.work / seconds if math.isfinite(seconds) else 0.0
