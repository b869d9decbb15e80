"""A ranker that has learned nothing and is right more often than not: the machine's own limits.

Its score is the share of the peak that a candidate reaches if computing and moving data overlap, as the feature `program.peak_longest` estimates it
(after Williams, Waterman and Patterson, Roofline, CACM 52, 2009). It chooses what is measured before there is anything to learn from, and has a say afterwards.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from costmodel.features import FeatureExtractor
from costmodel.model import Scores

_PEAK_SHARE = FeatureExtractor.names.index("program.peak_longest")


class RooflineModel:
    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        return self

    def predict(self, X: ArrayLike) -> Scores:
        """(n,) scores of features as `FeatureExtractor` makes them, higher is better."""
        return np.asarray(X, dtype=np.float32)[:, _PEAK_SHARE]
