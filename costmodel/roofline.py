"""A ranker that has learned nothing and is right more often than not: the machine's own limits.

Its score is the share of the peak that a candidate reaches if nearly all of computing and moving data overlap, as the features `program.peak_longest` and
`program.peak_sum` estimate it (after Williams, Waterman and Patterson, Roofline, CACM 52, 2009). It chooses what is measured before there is anything to learn
from, and has a say afterwards.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from costmodel.features import FeatureExtractor
from costmodel.model import Scores

_LONGEST, _SUM = (FeatureExtractor.names.index(f"program.peak_{name}") for name in ("longest", "sum"))
EXPOSED = 0.1  # of the time that would be hidden if everything overlapped; it tells candidates apart that are bound by the same part


class RooflineModel:
    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> Self:
        return self

    def predict(self, X: ArrayLike) -> Scores:
        """(n,) scores of features as `FeatureExtractor` makes them, higher is better."""
        features = np.asarray(X, dtype=np.float32)
        overlapping, one_by_one = features[:, _LONGEST], features[:, _SUM]  # shares of the peak
        both = np.maximum((1 - EXPOSED) * one_by_one + EXPOSED * overlapping, np.finfo(np.float32).tiny)
        return np.asarray(overlapping * one_by_one / both)
