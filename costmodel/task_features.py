"""Features of candidates of one task: as they are, and against what is usual for the task.

Only candidates of one task are compared, so what matters of most quantities is how far a candidate is from the others. Beside each feature, but those of the
slots task and machine, stands its distance from the mean over a sample of the task's spaces: a tree cuts that at one place for tasks of all sizes.

Notation: n rows (candidates), c columns, f features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from costmodel.features import FEATURES, FeatureExtractor
from ir.garbage import without_collection
from schedule.sketch import Sketch
from schedule.space import Population
from schedule.target import Target

SAMPLED_ROWS = 128  # of each sketch: the mean of a feature is then off by a tenth of its spread

RELATIVE = ".relative"  # ends the names of distances from what is usual

_RELATIVE = [i for i, name in enumerate(FeatureExtractor.names) if name.split(".")[0] not in ("task", "machine")]


class TaskFeatures:
    """Describes candidates of all sketches of a task; `sketches` are all that the task has, also those that a user does not allow."""

    names: tuple[str, ...] = (*FeatureExtractor.names, *(f"{FeatureExtractor.names[i]}{RELATIVE}" for i in _RELATIVE))
    groups: tuple[str, ...] = (*(feature.group for feature in FEATURES), *(FEATURES[i].group for i in _RELATIVE))  # of `costmodel.feature_table.GROUPS`

    def __init__(self, sketches: Sequence[Sketch], target: Target) -> None:
        with without_collection():
            self._extractors = {sketch.name: FeatureExtractor(sketch, target) for sketch in sketches}
        self._usual = _usual([self._extractors[sketch.name](_sample(sketch)) for sketch in sketches])

    def __call__(self, sketch: Sketch, X: Population) -> NDArray[np.float32]:
        """(n, c) valid rows of the sketch's space -> (n, f) features, columns as `names`."""
        return _with_distances(self._extractors[sketch.name](X), self._usual)


def described_once(populations: Iterable[tuple[Sketch, Population]], target: Target) -> list[NDArray[np.float32]]:
    """The features of rows of all sketches of a task, of which some may have none: the same as by `TaskFeatures`, but faster where nothing else is described,
    for rows and sample are described together."""
    samples, features = list[NDArray[np.float32]](), list[NDArray[np.float32]]()
    for sketch, X in populations:
        sample = _sample(sketch)
        found = FeatureExtractor(sketch, target)(np.concatenate([sample, X]))
        samples.append(found[: len(sample)])
        features.append(found[len(sample) :])
    usual = _usual(samples)
    return [_with_distances(each, usual) for each in features]


def _sample(sketch: Sketch) -> Population:
    return sketch.space.sample(SAMPLED_ROWS, np.random.default_rng(0))


def _usual(samples: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    every: NDArray[np.float32] = np.concatenate(samples)[:, _RELATIVE]
    return every.mean(axis=0) if len(every) else np.full(len(_RELATIVE), np.nan, np.float32)  # unknown where valid rows are too rare to be found


def _with_distances(features: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([features, features[:, _RELATIVE] - usual], axis=1)
