"""Probabilities and quantiles from a finite number of toys, with their errors.

Clopper and Pearson, Biometrika 26 (1934) 404, for fractions; order statistics for quantiles: the number of toys below
the q-quantile is binomial with probability q, so the k-th smallest values at k = n q -+ sqrt(n q (1 - q)) bound it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from inference.record import Record
from surrogate.errors import ConfigError, DataError

#: Confidence level of one standard deviation of a normal distribution.
ONE_SIGMA = float(special.ndtr(1) - special.ndtr(-1))
#: Relative difference of two test statistics that is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Fraction(Record):
    """An estimated probability k/n with its Clopper-Pearson interval.

    Attributes
    ----------
    successes, trials
        k and n.
    low, high
        The central interval at confidence level ``cl``.
    cl
        Confidence level of the interval.
    """

    successes: int
    trials: int
    low: float
    high: float
    cl: float

    @property
    def value(self) -> float:
        """The estimate k/n."""
        return self.successes / self.trials


def clopper_pearson(successes: int, trials: int, cl: float = ONE_SIGMA) -> Fraction:
    """Return k/n with its exact central interval.

    Raises
    ------
    DataError
        If there are no trials, or k is not between 0 and n.
    ConfigError
        If cl is not between 0 and 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise DataError(f"{successes} successes in {trials} trials: at least one trial is needed and 0 <= k <= n")
    check_level("cl", cl)
    tail = (1 - cl) / 2
    low = 0.0 if successes == 0 else float(special.betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(special.betainccinv(successes + 1, trials - successes, tail))
    return Fraction(successes, trials, low, high, cl)


def at_least(t: float | np.ndarray, observed: float | np.ndarray) -> np.ndarray:
    """Return whether statistics, not negative, reach an observed value up to the rounding of fits: t >= t_obs.

    Where counts are all that is known the data and many toys have the same t. Fits to toys stop elsewhere within their
    tolerance than those to the data, and digits compared would leave out many of the equal ones. NaN reaches nothing.
    """
    reached: np.ndarray = np.asarray(t) >= np.asarray(observed) * (1 - ROUNDING) - ROUNDING
    return reached


def check_level(name: str, value: float) -> None:
    """Raise ConfigError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ConfigError(f"{name} = {value} must lie strictly between 0 and 1, such as 0.9")


@dataclass(frozen=True)
class Quantile:
    """An estimated quantile with the one-sigma interval of its order statistics.

    Attributes
    ----------
    probability
        q.
    value
        Smallest sample value t with at least a fraction q of the samples <= t; +inf where those samples are.
    low, high
        Order statistics at n q -+ sqrt(n q (1 - q)).
    n
        Number of samples.
    """

    probability: float
    value: float
    low: float
    high: float
    n: int

    @property
    def error(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def quantile(samples: np.ndarray, probability: float) -> Quantile:
    """Return a quantile of samples.

    The inverse of the empirical distribution is used, not an interpolation between neighbours: where samples repeat, as
    in counting experiments, it keeps P(t <= value) >= q. NaN counts as +inf, so that a toy without a result can only
    make a critical value larger.

    Raises
    ------
    DataError
        If there is no sample.
    ConfigError
        If the probability is not between 0 and 1.
    """
    check_level("probability", probability)
    n = len(samples)
    if n == 0:
        raise DataError("quantile: there are no samples; run toys first")
    ordered = np.sort(np.nan_to_num(np.asarray(samples, dtype=float), nan=np.inf, posinf=np.inf, neginf=-np.inf))
    # Rounding of n q must not move an exact rank up by one.
    rank = math.ceil(n * probability * (1 - 1e-12))
    spread = math.sqrt(n * probability * (1 - probability))
    low = max(1, math.floor(n * probability - spread))
    high = min(n, math.ceil(n * probability + spread))
    value, below, above = (float(ordered[k - 1]) for k in (max(1, rank), low, high))
    return Quantile(probability, value, below, above, n)
