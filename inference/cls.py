"""CLs limits from toys (A. L. Read, J. Phys. G 28 (2002) 2693, doi:10.1088/0954-3899/28/10/313).

    CLs(mu) = CL_s+b / CL_b = P(q_mu >= q_obs | mu) / P(q_mu >= q_obs | 0)

A signal strength is excluded at confidence level CL when CLs < 1 - CL. CLs limits over-cover by construction; the
frequentist intervals of this package do not use them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.counting import Fraction, check_level, clopper_pearson
from surrogate.errors import DataError


@dataclass(frozen=True)
class CLsPoint:
    """CLs at one signal strength.

    Attributes
    ----------
    mu
        The signal strength.
    signal
        CL_s+b with its error.
    background
        CL_b with its error.
    """

    mu: float
    signal: Fraction
    background: Fraction

    @property
    def value(self) -> float:
        """CL_s+b / CL_b; 1 where no background-only toy reaches the data, which excludes nothing."""
        return min(1.0, self.signal.value / self.background.value) if self.background.successes else 1.0

    @property
    def error(self) -> float:
        """Standard error of the ratio from both numbers of toys."""
        s, b = self.signal, self.background
        if not (s.successes and b.successes):
            return max(s.high, b.high)
        relative = (1 - s.value) / s.successes + (1 - b.value) / b.successes
        return self.value * math.sqrt(relative)


def cls_point(mu: float, observed: float, signal: np.ndarray, background: np.ndarray) -> CLsPoint:
    """Return CLs at mu.

    Parameters
    ----------
    mu
        The signal strength.
    observed
        q_mu of the data.
    signal, background
        The same q_mu of toys made at mu, and of toys made without signal.

    Raises
    ------
    DataError
        If there are no toys, or the observed value is NaN.
    """
    if math.isnan(observed):
        raise DataError("CLs: the observed q_mu is NaN; look at the status of the fit")
    tails = [clopper_pearson(int((np.asarray(q) >= observed).sum()), len(q)) for q in (signal, background)]
    return CLsPoint(mu, *tails)


def cls_limit(points: Sequence[CLsPoint], cl: float = 0.9) -> float:
    """Return the largest signal strength that is not excluded, ln CLs being joined by straight lines.

    Raises
    ------
    DataError
        If CLs does not fall through 1 - CL on the grid.
    ConfigError
        If the level is none.
    """
    check_level("cl", cl)
    ordered = sorted(points, key=lambda p: p.mu)
    allowed = [p.value >= 1 - cl for p in ordered]
    if True not in allowed or allowed[-1]:
        raise DataError(f"CLs: does not fall through {1 - cl:.3g} on the grid of signal strengths; widen the grid")
    k = len(allowed) - 1 - allowed[::-1].index(True)
    first, second = ordered[k], ordered[k + 1]
    floor = 0.5 / second.signal.trials
    high, low = math.log(first.value), math.log(max(second.value, floor))
    return first.mu + (high - math.log(1 - cl)) / (high - low) * (second.mu - first.mu)
