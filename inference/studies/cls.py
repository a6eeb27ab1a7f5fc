"""CLs, from toys and asymptotically (A. L. Read, J. Phys. G 28 (2002) 2693, doi:10.1088/0954-3899/28/10/313).

    CLs(mu) = CL_s+b / CL_b = P(q_mu >= q_obs | mu) / P(q_mu >= q_obs | 0)

A signal strength is excluded at confidence level CL when CLs < 1 - CL. CLs limits over-cover by construction; the
frequentist intervals of this package do not use them. As CLs falls with q_mu, they are limits with another critical
value: mu is excluded where q_mu exceeds the q at which CLs is 1 - CL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from inference.record import Record
from inference.studies.counting import Fraction, at_least, check_level, clopper_pearson
from surrogate.errors import DataError

#: Least q_mu of Asimov data: below it a signal cannot be seen, and the critical value stays where it is.
LEAST_ASIMOV = 1e-6
#: Halvings of the range in which a critical value is looked for: to the last digit.
BISECTIONS = 60


@dataclass(frozen=True)
class CLsPoint(Record):
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
        The same q_mu of toys made at mu, and of toys made without signal. One without valid fits, NaN, counts as beyond
        the data with signal and as below without, which can only raise the limit.

    Raises
    ------
    DataError
        If there are no toys, or the observed value is NaN.
    """
    if math.isnan(observed):
        raise DataError("CLs: the observed q_mu is NaN; look at the status of the fit")
    samples = np.nan_to_num(signal, nan=np.inf), np.nan_to_num(background, nan=-np.inf)
    tails = [clopper_pearson(int(at_least(q, observed).sum()), len(q)) for q in samples]
    return CLsPoint(mu, *tails)


def cls_limit(points: Sequence[CLsPoint], cl: float = 0.9) -> tuple[float, float]:
    """Return the largest signal strength that is not excluded, ln CLs being joined by straight lines, and its error.

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
    per_log = (second.mu - first.mu) / (high - low)
    return first.mu + (high - math.log(1 - cl)) * per_log, per_log * first.error / first.value


def asymptotic_cls(q: np.ndarray, q_asimov: np.ndarray) -> np.ndarray:
    """Return CLs (*,) of q_mu_tilde in the limit of many events (arXiv:1007.1727, Eqs. 65 and 66 with mu' = mu and 0).

    Parameters
    ----------
    q
        Observed q_mu_tilde, >= 0.
    q_asimov
        That of the background-only Asimov data, > 0: mu^2 / sigma^2.
    """
    root, edge = np.sqrt(q), np.sqrt(q_asimov)
    near = special.log_ndtr(-root) - special.log_ndtr(edge - root)
    far = special.log_ndtr(-(q + q_asimov) / (2 * edge)) - special.log_ndtr(-(q - q_asimov) / (2 * edge))
    cls: np.ndarray = np.exp(np.where(q <= q_asimov, near, far))
    return cls


def asymptotic_cls_critical(q_asimov: np.ndarray, cl: float = 0.9) -> np.ndarray:
    """Return the q_mu_tilde (*,) at which the asymptotic CLs is 1 - CL, by bisection.

    It lies between the critical value of the one-sided limit, for a signal that is easily seen, and -2 ln(1 - CL), for
    one that cannot be seen at all.
    """
    check_level("cl", cl)
    edge = np.maximum(np.asarray(q_asimov, dtype=float), LEAST_ASIMOV)
    low, high = np.zeros_like(edge), np.full_like(edge, 1 - 2 * math.log(1 - cl))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        allowed = asymptotic_cls(middle, edge) > 1 - cl
        low, high = np.where(allowed, middle, low), np.where(allowed, high, middle)
    return (low + high) / 2
