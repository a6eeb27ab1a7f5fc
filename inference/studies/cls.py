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

#: Degree of ln CLs in the signal strength where toys are made at few values, and from how many on it is one more.
LEAST_DEGREE, CURVED_FROM = 1, 4
#: Steps of the fit to numbers of toys, and by how much one may change ln CLs: few toys do not bound the curve.
REWEIGHTINGS, STRIDE = 20, 1.0


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
    """Return the signal strength at which CLs falls to 1 - CL, and its error.

    ln CLs is a polynomial of second degree in mu, fitted to the numbers of toys of all points: single points scatter by
    more than CLs changes between them, so that the last of them above 1 - CL lies too high. The degree is one where
    there are less than four values of mu.

    Raises
    ------
    DataError
        If CLs does not fall through 1 - CL on the grid.
    ConfigError
        If the level is none.
    """
    check_level("cl", cl)
    known = sorted((p for p in points if p.background.successes), key=lambda p: p.mu)
    failed = DataError(f"CLs: does not fall through {1 - cl:.3g} on the grid of signal strengths; widen the grid")
    mu = np.array([p.mu for p in known])
    if (distinct := len(np.unique(mu))) < 2:
        raise failed
    low, span = float(mu[0]), float(mu[-1] - mu[0])
    x, degree = (mu - low) / span, LEAST_DEGREE if distinct < CURVED_FROM else LEAST_DEGREE + 1
    coefficient, covariance = _log_cls(known, np.vander(x, degree + 1))
    level = np.poly1d(coefficient) - math.log(1 - cl)
    falling = [r.real for r in level.roots if abs(r.imag) < 1e-9 and 0 <= r.real <= 1 and level.deriv()(r.real) < 0]
    if not falling:
        raise failed
    root = max(falling)
    features = np.vander([root], degree + 1)[0]
    error = math.sqrt(features @ covariance @ features) / abs(float(level.deriv()(root)))
    return float(low + span * root), float(span * error)


def _log_cls(points: Sequence[CLsPoint], design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients of ln CLs in a design (G, C), and their covariance.

    By iteratively reweighted least squares, in which a point without a single toy beyond the data counts as any other:
    CL_s+b is a binomial fraction whose expectation is CL_b times the curve.
    """
    signal, background = np.array([p.signal.value for p in points]), np.array([p.background.value for p in points])
    n, m = np.array([p.signal.trials for p in points]), np.array([p.background.trials for p in points])
    ratio, noise = signal / background, (1 - background) / (background * m)
    coefficient = np.linalg.lstsq(design, np.log(np.maximum(ratio, 0.5 / (n * background))), rcond=None)[0]
    for _ in range(REWEIGHTINGS):
        fitted = np.exp(design @ coefficient)
        expected = np.clip(fitted * background, 0.5 / n, 1 - 0.5 / n)
        variance = (1 - expected) / (expected * n) + noise
        weighted = design / np.sqrt(variance)[:, None]
        step = np.linalg.lstsq(weighted, (ratio / fitted - 1) / np.sqrt(variance), rcond=None)[0]
        coefficient = coefficient + step * (STRIDE / max(float(np.abs(design @ step).max()), STRIDE))
    return coefficient, np.linalg.inv(weighted.T @ weighted)


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
