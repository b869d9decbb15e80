"""What a prior (a model trained before, or the roofline) leaves unexplained, learned from a few measurements of new tasks."""

from __future__ import annotations

from typing import Self

from numpy.typing import ArrayLike

from costmodel.model import CostModel, Ranker, Scores


class ResidualModel:
    """A ranker whose scores are to be added to those of `prior`: boosting goes on from these, as if trees were appended to it, but from the level of what was
    measured of each task, since a score says nothing across tasks.

    (Appending them to the booster itself would do the same, but cost a prediction by all trees of the prior at every fit, and leave no way to weigh the two.)
    """

    def __init__(self, prior: Ranker, local: CostModel) -> None:
        self._prior, self._local = prior, local

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> Self:
        self._local.fit(X, y, groups, margin=self._prior.predict(X))
        return self

    def predict(self, X: ArrayLike) -> Scores:
        """(n,) what to add to the scores of the prior."""
        return self._local.predict(X)
