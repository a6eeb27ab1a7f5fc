"""Test statistics from the profile likelihood ratio, with their asymptotic p-values (arXiv:1007.1727).

With ln L(mu) the profile likelihood, its maximum at mu_hat, and mu the value that is tested:

* ``t_mu``        2 [ln L(mu_hat) - ln L(mu)]                                                        (Eqs. 7 and 8)
* ``t_mu_tilde``  the same with mu_hat >= 0: the maximum is that at mu = 0 where mu_hat < 0           (Eqs. 10 and 11)
* ``q0``          t_mu at mu = 0 where mu_hat >= 0, else 0: is there a signal?                        (Eq. 12)
* ``q_mu``        t_mu where mu_hat <= mu, else 0: an upper limit                                     (Eq. 14)
* ``q_mu_tilde``  t_mu_tilde where mu_hat <= mu, else 0                                               (Eq. 16)
* ``l_mu``        t_mu where mu_hat >= mu, else 0: a lower limit

A parameter bounded at zero has mu_hat >= 0 by itself; the two forms are then the same. Intervals and toys have the best
fit within the bounds alone: of a parameter that may be negative their statistics are ``t_mu`` and ``q_mu``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from scipy import special
from torch import Tensor

from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.likelihood.extended import Likelihood
from surrogate.errors import ConfigError, RangeError, unknown_name

Statistic = Literal["t_mu", "t_mu_tilde", "q_mu", "q_mu_tilde", "q0", "l_mu"]
STATISTICS: tuple[str, ...] = get_args(Statistic)

#: -2 ln Lambda below this marks a failed fit.
FAILED_BELOW = -1e-3


@dataclass(frozen=True, eq=False)
class StatisticBatch:
    """A test statistic for the rows of a batch.

    Attributes
    ----------
    value
        (B,), not negative; NaN where ``valid`` is false.
    valid
        (B,) whether both fits converged, with -2 ln Lambda >= -1e-3.
    refits
        (B,) how many free fits were repeated because the conditional one was higher.
    free, conditional
        The fits at mu_hat, unbounded by any tilde, and at mu.
    """

    value: Tensor
    valid: Tensor
    refits: Tensor
    free: FitBatch
    conditional: FitBatch


def check_statistic(name: str) -> None:
    """Raise ConfigError unless there is a statistic of that name."""
    if name not in STATISTICS:
        raise ConfigError(unknown_name("statistic", name, STATISTICS))


def one_sided(name: str, t: Tensor, mu_hat: Tensor, mu: Tensor) -> Tensor:
    """Return the statistic (B,) from t = 2 [ln L(mu_hat) - ln L(mu)] (B,): zero on the side that does not count."""
    check_statistic(name)
    if name == "q0":
        return torch.where(mu_hat < 0, 0.0, t)
    if name == "l_mu":
        return torch.where(mu_hat < mu, 0.0, t)
    return torch.where(mu_hat > mu, 0.0, t) if name in ("q_mu", "q_mu_tilde") else t


def evaluate(
    likelihood: Likelihood,
    poi: str,
    mu: float | Tensor,
    name: Statistic = "t_mu_tilde",
    rows: Tensor | None = None,
    free: FitBatch | None = None,
    options: FitOptions | None = None,
) -> StatisticBatch:
    """Evaluate a test statistic.

    Parameters
    ----------
    likelihood
        The model with its data sets.
    poi
        The parameter of interest.
    mu
        Its tested value, one for all rows or one per row (B,); 0 for ``q0``, not negative for one with a tilde.
    name
        The statistic.
    rows
        (B,) data set of each row; every data set once by default.
    free
        Free fits made before, one per row.
    options
        How fits are made.

    Raises
    ------
    ConfigError
        If the statistic or the parameter is unknown.
    RangeError
        If mu is outside the bounds, not 0 for ``q0``, or negative for a statistic with a tilde.
    """
    check_statistic(name)
    if name == "q0" and bool((torch.as_tensor(mu) != 0).any()):
        raise RangeError("q0 tests the value 0; use t_mu or q_mu for another value")
    if name.endswith("tilde") and bool((torch.as_tensor(mu) < 0).any()):
        raise RangeError(
            f"{name} tests values >= 0, of a signal that is not negative; use {name.removesuffix('_tilde')}"
        )
    column = likelihood.parameters.index(poi)
    free = free if free is not None else fit_batch(likelihood, None, rows, None, options)
    tested = torch.as_tensor(mu, dtype=torch.float64).expand(len(free)).clone()
    conditional = fit_batch(likelihood, {poi: tested}, free.rows, free.values, options)
    free, refits = _repaired(likelihood, free, conditional, options)
    best, mu_hat = free.log_likelihood, free.values[:, column]
    below = (mu_hat < 0).nonzero().flatten() if name.endswith("tilde") else torch.zeros(0, dtype=torch.long)
    converged = free.success & conditional.success
    if len(below):
        at_zero = fit_batch(likelihood, {poi: 0.0}, free.rows[below], free.values[below], options)
        best = best.index_put((below,), at_zero.log_likelihood)
        converged = converged.index_put((below,), converged[below] & at_zero.success)
    ratio = 2 * (best - conditional.log_likelihood)
    valid = converged & (ratio >= FAILED_BELOW)
    value = one_sided(name, ratio.clamp_min(0.0), mu_hat, tested)
    return StatisticBatch(torch.where(valid, value, math.nan), valid, refits, free, conditional)


def _repaired(
    likelihood: Likelihood, free: FitBatch, conditional: FitBatch, options: FitOptions | None
) -> tuple[FitBatch, Tensor]:
    """Repeat free fits that a conditional one exceeds, from there; return them and which were repeated (B,)."""
    refits = torch.zeros_like(free.status)
    low = (conditional.log_likelihood > free.log_likelihood).nonzero().flatten()
    if not len(low):
        return free, refits
    again = fit_batch(likelihood, None, free.rows[low], conditional.values[low], options)
    higher = again.log_likelihood > free.log_likelihood[low]
    # Where mu_hat is the tested value itself the two maxima differ by rounding, which is no failure.
    lost = 2 * (conditional.log_likelihood - free.log_likelihood)[low] > -FAILED_BELOW
    refits[low] = lost.long()
    return free.put(low[higher], again.take(higher)), refits


def asymptotic_p_value(name: Statistic, value: float, mu: float = 0.0, sigma: float | None = None) -> float:
    """Return the probability of a statistic at least as large when mu is true, in the limit of many events.

    Parameters
    ----------
    name
        The statistic. ``t_mu``: 2 [1 - Phi(sqrt t)] (section 3.3); ``q0`` and ``q_mu``: 1 - Phi(sqrt q) (sections 3.5
        and 3.6); the tilde forms (sections 3.4 and 3.7) deviate beyond mu^2 / sigma^2.
    value
        Its value.
    mu, sigma
        The tested value and the standard deviation of mu_hat; needed by the tilde forms alone.

    Raises
    ------
    ConfigError
        If the statistic is unknown.
    RangeError
        If the value is negative, or sigma is needed and not positive.
    """
    check_statistic(name)
    if not value >= 0:
        raise RangeError(f"{name} = {value} must be >= 0")
    root = math.sqrt(value)
    upper = float(special.ndtr(-root))
    if name in ("q0", "q_mu", "l_mu"):
        return upper
    if name == "t_mu":
        return 2 * upper
    if sigma is None or not sigma > 0 or not mu >= 0:
        raise RangeError(f"the asymptotic law of {name} needs mu >= 0 and sigma > 0, got {mu} and {sigma}")
    edge = mu / sigma
    if edge == 0:  # Estimates below zero all have t = 0.
        below = 0.5 if value == 0 else 0.0
    else:
        below = upper if root <= edge else float(special.ndtr(-(value + edge**2) / (2 * edge)))
    return below if name == "q_mu_tilde" else upper + below
