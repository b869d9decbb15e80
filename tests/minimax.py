"""The polynomials of `codegen.functions`: fits them anew and prints their coefficients and errors.

    python tests/minimax.py

A polynomial is the best one in the sense of the largest weighted error (a linear program over a dense grid). Coefficients are fp32: they are
rounded from the lowest power up, each time with the higher ones fitted again, so that these make up for the rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import erf, log_ndtr

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A polynomial that approximates `target` over [low, high]; its error counts `weight` times. The coefficients of the lowest powers may be `given`.

    `single`: coefficients are fp32.
    """

    target: Callable[[Doubles], Doubles]
    weight: Callable[[Doubles], Doubles]
    low: float
    high: float
    n_terms: int
    given: tuple[float, ...] = ()
    single: bool = True

    def error(self, coefficients: Sequence[float]) -> float:
        """The largest weighted one."""
        grid = np.linspace(self.low, self.high, 20_000)
        return float(np.abs((polyval(grid, coefficients) - self.target(grid)) * self.weight(grid)).max())

    def solve(self) -> tuple[float, ...]:
        fixed = self.given
        while self.single and len(fixed) < self.n_terms:
            fixed = (*fixed, float(np.float32(self._best(fixed)[0])))
        return fixed if self.single else tuple(self._best(fixed))

    def _best(self, fixed: tuple[float, ...]) -> list[float]:
        """The coefficients of the powers above those that are fixed."""
        grid = (self.low + self.high) / 2 - (self.high - self.low) / 2 * np.cos((np.arange(1000) + 0.5) * math.pi / 1000)
        weight = self.weight(grid)
        wanted = weight * (self.target(grid) - polyval(grid, fixed or (0.0,)))
        # The best in the sense of squares, then a linear program for what is better than that, in units of its error.
        powers = range(len(fixed), self.n_terms)
        q, r = np.linalg.qr(np.stack([weight * grid**power for power in powers], 1))
        q, r = q * math.sqrt(len(grid)), r / math.sqrt(len(grid))
        squares = q.T @ wanted / len(grid)
        left = wanted - q @ squares
        unit = np.abs(left).max()
        limits = np.vstack([np.column_stack([sign * q, -np.ones(len(grid))]) for sign in (1, -1)])
        answer = linprog([0] * len(powers) + [1], limits, np.concatenate([left, -left]) / unit, bounds=(None, None))
        return [float(c) for c in np.linalg.solve(r, squares + answer.x[:-1] * unit)]


def _log_tail(f: Doubles) -> Doubles:
    """(log(1 + f) - f + f^2 / 2) / f^3."""
    series = sum((-f) ** k / (k + 3) for k in range(24))
    return np.where(np.abs(f) < 0.1, series, (np.log1p(f) - f + f * f / 2) / np.where(f == 0, 1, f) ** 3)


def _atanh(s: Doubles) -> Doubles:
    """2 / ln(2) atanh(sqrt(s)) / sqrt(s)."""
    return 2 / math.log(2) * sum(s**k / (2 * k + 1) for k in range(24))


def _erf_tail(s: Doubles) -> Doubles:
    """erf(sqrt(s)) / sqrt(s) - 1."""
    root = np.sqrt(np.maximum(s, 1e-12))
    return erf(root) / root - 1


def _log_erfc(x: Doubles) -> Doubles:
    return np.log(2) + log_ndtr(-x * math.sqrt(2))


def _tanh_tail(s: Doubles) -> Doubles:
    """(tanh(sqrt(s)) / sqrt(s) - 1) / s."""
    root = np.sqrt(np.maximum(s, 1e-4))  # the first terms of its series are exact enough below
    return np.where(s < 1e-4, -1 / 3 + s * 2 / 15 - s * s * 17 / 315, (np.tanh(root) / root - 1) / np.maximum(s, 1e-4))


LN2 = math.log(2)
MOST = (math.sqrt(2) - 1) / (math.sqrt(2) + 1)  # of (m - 1) / (m + 1)
FITS = {
    # A little further than ln(2)/2: rounding goes to the wrong one of two numbers that are almost as near.
    "exp": Fit(np.exp, lambda r: np.exp(-r), -0.502 * LN2, 0.502 * LN2, 7, given=(1.0, 1.0)),
    "exp2": Fit(np.exp2, lambda f: np.exp2(-f), -0.5, 0.5, 6, given=(1.0,)),
    "tanh": Fit(_tanh_tail, lambda s: s / (1 + s * _tanh_tail(s)), 0, 0.65**2, 5),
    "log": Fit(_log_tail, lambda f: f**3 / np.log1p(f), math.sqrt(0.5) - 1, math.sqrt(2) - 1, 8),
    "log2": Fit(_atanh, lambda s: 1 / _atanh(s), 0, MOST * MOST, 5, single=False),
    "erf_near": Fit(_erf_tail, lambda s: 1 / (1 + _erf_tail(s)), 0, 0.85**2, 6),
    "erf_far": Fit(_log_erfc, lambda x: np.exp(_log_erfc(x)) / erf(x), 0.85, 4, 7),
}


def main() -> None:
    for name, fit in FITS.items():
        coefficients = fit.solve()
        print(f"{name}: {', '.join(map(repr, coefficients))}; largest error 2^{math.log2(fit.error(coefficients)):.1f}")


if __name__ == "__main__":
    main()
