"""The power constraint on upper limits: no claim where the experiment has no sensitivity.

A power-constrained limit (Cowan, Cranmer, Gross and Vitells, arXiv:1105.3166) never goes below mu_min, the smallest mu
whose power reaches a threshold,

    mu_PCL = max(mu_up, mu_min),    mu_min = inf { mu : M(mu) >= threshold }.

Two definitions of the power M are in use (arXiv:2105.00599, section 2.3), and a limit must say which was taken:

``rejection``
    M(mu) = P(mu is excluded | background only), the probability that a background-only experiment has a limit below
    mu; mu_min is then the threshold-quantile of background-only limits (0.16: the lower edge of the one-sigma band,
    0.5: the median).
``discovery``
    M(mu) = P(background only is excluded at significance alpha | mu).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inference.studies.counting import at_least, check_level, quantile
from surrogate.errors import ConfigError, DataError

Power = Literal["rejection", "discovery"]

#: The threshold of arXiv:1105.3166; 0.5 is the other in use.
DEFAULT_THRESHOLD = 0.16


@dataclass(frozen=True)
class PowerConstraint:
    """The smallest value that a limit may have.

    Attributes
    ----------
    minimum
        mu_min, in units of the parameter of interest.
    low, high
        Its one-sigma interval from the number of toys.
    threshold
        The power required.
    power
        Which definition of power.
    """

    minimum: float
    low: float
    high: float
    threshold: float
    power: Power


@dataclass(frozen=True)
class ConstrainedLimit:
    """An upper limit before and after the power constraint; both are always kept.

    Attributes
    ----------
    unconstrained
        The upper limit mu_up.
    constrained
        max(mu_up, mu_min).
    constraint
        What was applied.
    """

    unconstrained: float
    constrained: float
    constraint: PowerConstraint

    @property
    def active(self) -> bool:
        """Whether the constraint moved the limit."""
        return self.constrained > self.unconstrained


def rejection_constraint(limits: np.ndarray, threshold: float = DEFAULT_THRESHOLD) -> PowerConstraint:
    """Return mu_min from the upper limits (n,) of background-only toys; a toy without a limit counts as +inf.

    Raises
    ------
    DataError
        If there is no toy, or so few have a limit that the power never reaches the threshold.
    ConfigError
        If the threshold is not between 0 and 1.
    """
    q = quantile(limits, threshold)
    if not np.isfinite(q.value):
        raise DataError(
            f"power constraint: fewer than {threshold:.3g} of the background-only toys have an upper limit; raise the "
            "interval bounds of the parameter of interest"
        )
    return PowerConstraint(q.value, q.low, q.high, threshold, "rejection")


def discovery_constraint(
    mu: Sequence[float], statistics: Sequence[np.ndarray], critical: float, threshold: float = DEFAULT_THRESHOLD
) -> PowerConstraint:
    """Return mu_min from toys with signal.

    Parameters
    ----------
    mu
        Increasing signal strengths (G,).
    statistics
        For each, q0 of toys made there.
    critical
        Value of q0 above which background only is excluded; from background-only toys, or z_alpha^2.
    threshold
        The power required.

    Returns
    -------
    PowerConstraint
        mu_min where the power, joined by straight lines, first reaches the threshold.

    Raises
    ------
    DataError
        If it is reached nowhere on the grid, or already at its first point above zero signal.
    ConfigError
        If the threshold is not between 0 and 1 or the grid does not increase.
    """
    check_level("threshold", threshold)
    grid = np.asarray(mu, dtype=float)
    if len(grid) < 2 or not bool((np.diff(grid) > 0).all()) or len(statistics) != len(grid):
        raise ConfigError(f"mu: at least two increasing values with toys for each are needed, got {list(mu)}")
    # Exceeded is a critical value by what it does not reach itself; a toy without valid fits excludes nothing.
    excluded = [~at_least(critical, np.nan_to_num(q, nan=-np.inf)) for q in statistics]
    power = np.array([float(np.mean(e)) for e in excluded])
    error = np.sqrt(power * (1 - power) / np.array([len(q) for q in statistics]))
    edges = [_first_crossing(grid, power + s * error, threshold) for s in (0.0, 1.0, -1.0)]
    if edges[0] is None:
        raise DataError(
            f"power constraint: the power runs from {power[0]:.3g} to {power[-1]:.3g} between {grid[0]:.4g} and "
            f"{grid[-1]:.4g} and does not cross {threshold}; widen the grid of signal strengths"
        )
    low = edges[1] if edges[1] is not None else grid[0]
    high = edges[2] if edges[2] is not None else grid[-1]
    return PowerConstraint(float(edges[0]), float(low), float(high), threshold, "discovery")


def _first_crossing(x: np.ndarray, y: np.ndarray, level: float) -> float | None:
    """Return where y, joined by straight lines, first rises through a level; None where it does not."""
    above = y >= level
    if above[0] or not bool(above.any()):
        return None
    k = int(np.argmax(above))
    return float(x[k - 1] + (level - y[k - 1]) * (x[k] - x[k - 1]) / (y[k] - y[k - 1]))


def constrain(limit: float, constraint: PowerConstraint) -> ConstrainedLimit:
    """Apply a power constraint to an upper limit.

    Raises
    ------
    DataError
        If the limit is NaN.
    """
    if np.isnan(limit):
        raise DataError("power constraint: the upper limit is NaN; look at the status of the interval")
    return ConstrainedLimit(limit, max(limit, constraint.minimum), constraint)
