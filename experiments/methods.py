"""Ways to search that experiments compare, live or on what was recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from costmodel.model import CostModel, RandomModel
from schedule.target import Target
from search.learner import Learner, MakeDescribe, describer
from search.tuner import SearchFactory


class MakeLearner(Protocol):
    """Such as `Learner.from_scratch`."""

    def __call__(self, target: Target, seed: int, *, make_describe: MakeDescribe = ...) -> Learner: ...


@dataclass(frozen=True)
class Method:
    """A way to search: which search, what its candidates are scored by, and how many trials it gets with how many seeds. `batches`: their sizes in order, the
    last one for all that follow."""

    search: SearchFactory
    learner: MakeLearner
    n_trials: int
    n_seeds: int
    batches: tuple[int, ...] = (16,)


def learner_alone(target: Target, seed: int, *, make_describe: MakeDescribe = describer) -> Learner:
    """Learns from scratch, without the roofline."""
    return Learner(CostModel(seed=seed), target, make_describe=make_describe)


def no_learner(target: Target, seed: int, *, make_describe: MakeDescribe = describer) -> Learner:
    """For searches that take no notice of scores."""
    return Learner(RandomModel(seed), target, make_describe=make_describe)
