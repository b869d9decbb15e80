"""What a change of the search is worth: runs with it less the runs without it that have the same seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


def differences(by_run: pd.DataFrame, baseline: Callable[[str], str]) -> pd.DataFrame:
    """Of each method (rows) less its baseline, which is no row: the mean over seeds, and half the confidence interval of it (columns: those of `by_run`, and
    "mean" or "half"). `by_run`: a row a method and seed, in which all methods have the same seeds."""
    found = {}
    for method in dict.fromkeys(by_run.index.get_level_values(0)):
        if method != baseline(method):
            paired = by_run.loc[method] - by_run.loc[baseline(method)]
            n = len(paired)
            half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * paired.std() / np.sqrt(n)
            found[method] = pd.concat({"mean": paired.mean(), "half": half}).swaplevel()
    return pd.DataFrame(found).T
