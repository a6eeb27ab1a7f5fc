"""Where the profile likelihood ratio crosses a critical value: the engine of all limits.

    t(mu) = 2 [ln L(best) - ln L(mu, nu_hat(mu))],    wanted: t(mu) = c(mu) on one side of the best fit.

The search starts at the best fit with the slope and the curvature of the profile, goes outwards by the root of the
local parabola, at most a few times further at each step, and refines inside the bracket by the same rule, whose
convergence is cubic. Conditional fits start from the tangent of the previous one. All rows and both ends are one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.batch_fit import FitBatch, FitOptions, fit_batch
from inference.crossing_records import Critical, CrossingCollector, Crossings, CrossingStatus
from inference.likelihood import Likelihood
from inference.rows import take_rows
from inference.tangent import Tangent, profile_tangent

#: The search ends when the next move is below this fraction of the distance to the best fit; it is made without a fit.
MOVE = 3e-5
#: And when t is this close to the critical value, as a fraction of it.
CLOSE = 1e-3
#: Largest outward step, in distances from the best fit.
EXPANSION = 3.0
#: A conditional fit whose t lies below this has found a better maximum than the free fit.
BETTER = -1e-6
#: Most conditional fits of one search.
MOST_FITS = 40


@dataclass
class _Search:
    """The searches that go on."""

    index: Tensor
    best: FitBatch
    mu_hat: Tensor
    sign: Tensor
    bound: Tensor
    inner: Tensor
    outer: Tensor
    mu: Tensor
    excess: Tensor
    slope: Tensor
    curvature: Tensor
    point: Tensor
    direction: Tensor

    def root(self) -> Tensor:
        """Return the signed move (A,) from mu to the root of the local parabola; NaN where it has none."""
        outward = self.sign * self.slope
        inside = outward.square() - 2 * self.curvature * self.excess
        return self.sign * (-2 * self.excess / (outward + inside.sqrt()))

    def next(self) -> Tensor:
        """Return the next mu (A,): the root of the parabola, kept within the bracket and the reach."""
        target = self.mu + self.root()
        distance = (self.mu - self.mu_hat).abs()
        bracketed = torch.isfinite(self.outer)
        middle = 0.5 * (self.inner + self.outer)
        outside = (self.sign * (target - self.inner) <= 0) | (self.sign * (target - self.outer) >= 0)
        target = torch.where(bracketed & (outside | ~torch.isfinite(target)), middle, target)
        started = ~bracketed & (distance > 0)
        reach = self.mu + self.sign * EXPANSION * distance
        short = torch.isfinite(target) & (self.sign * (target - self.mu) > 0)
        target = torch.where(started & (~short | (self.sign * (target - reach) > 0)), reach, target)
        target = torch.where(~bracketed & ~torch.isfinite(target), self.bound, target)
        beyond = self.sign * (target - self.bound) >= 0
        return torch.where(beyond, self.bound, target)


def _critical(critical: Critical, mu: Tensor) -> Tensor:
    return critical(mu) if callable(critical) else torch.full_like(mu, critical)


def _critical_slope(critical: Critical, mu: Tensor, sizes: Tensor) -> Tensor:
    if not callable(critical):
        return torch.zeros_like(mu)
    step = 1e-4 * sizes
    return (critical(mu + step) - critical(mu - step)) / (2 * step)


class CrossingFinder:
    """Searches along one parameter.

    Parameters
    ----------
    likelihood
        The model with its data.
    poi
        Name of the parameter.
    critical
        Critical value of t, or a function of mu.
    fixed
        Other parameters that stay fixed, as in the best fits.
    options
        How conditional fits are made.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        poi: str,
        critical: Critical,
        fixed: Mapping[str, float] | None = None,
        options: FitOptions | None = None,
    ) -> None:
        self.likelihood = likelihood
        self.poi = poi
        self.column = likelihood.parameters.index(poi)
        self.critical = critical
        self.fixed = dict(fixed or {})
        self.options = options

    def find(self, best: FitBatch, sign: Tensor, bound: Tensor) -> Crossings:
        """Search from best fits (Q rows) upwards (sign +1) or downwards (-1), up to ``bound`` (Q,).

        Returns
        -------
        Crossings
            A search never fails with an exception: without a crossing before the bound its status is ``NO_CROSSING``.
        """
        mu_hat = best.values[:, self.column]
        result = CrossingCollector(best, mu_hat)
        at_bound = sign * (bound - mu_hat) <= 0
        usable = best.success & torch.isfinite(best.log_likelihood)
        result.status[at_bound] = int(CrossingStatus.AT_BOUND)
        result.status[~usable] = int(CrossingStatus.FAILED)
        result.critical = _critical(self.critical, mu_hat)
        search = take_rows(self._start(best, mu_hat, sign, bound), usable & ~at_bound)
        for _ in range(MOST_FITS):
            if not len(search.index):
                break
            search = self._step(search, result)
        result.status[search.index] = int(CrossingStatus.FAILED)
        return result.crossings()

    def _start(self, best: FitBatch, mu_hat: Tensor, sign: Tensor, bound: Tensor) -> _Search:
        tangent = profile_tangent(best, self.column)
        size = (bound - mu_hat).abs().clamp(max=1.0)
        slope = -2 * tangent.slope
        # Inside the bounds the slope at the maximum is rounding; on a bound it points outwards of the maximum.
        slope = torch.where(sign * slope > 0, slope, 0.0) - _critical_slope(self.critical, mu_hat, size)
        return _Search(
            index=torch.arange(len(mu_hat), device=mu_hat.device),
            best=best,
            mu_hat=mu_hat,
            sign=sign.to(mu_hat),
            bound=bound,
            inner=mu_hat,
            outer=sign * torch.full_like(mu_hat, torch.inf),
            mu=mu_hat,
            excess=-_critical(self.critical, mu_hat),
            slope=slope,
            curvature=(-2 * tangent.curvature).clamp_min(0.0),
            point=best.values,
            direction=tangent.direction,
        )

    def _step(self, s: _Search, result: CrossingCollector) -> _Search:
        """Make one conditional fit for every search; write down and drop those that end."""
        mu = s.next()
        start = s.point + (mu - s.mu).unsqueeze(-1) * s.direction
        open_ended = ~torch.isfinite(mu)
        result.end(s.index, open_ended, CrossingStatus.NO_CROSSING)
        if bool(open_ended.any()):
            s, mu, start = take_rows(s, ~open_ended), mu[~open_ended], start[~open_ended]
        if not len(mu):
            return s
        fits = fit_batch(self.likelihood, {**self.fixed, self.poi: mu}, s.best.rows, start, self.options)
        t = 2 * (s.best.log_likelihood - fits.log_likelihood)
        c = _critical(self.critical, mu)
        excess = t - c
        result.write(s.index, mu, t, c, fits)
        better = t < BETTER
        result.better[s.index] = better
        beyond = excess >= 0
        stopped = (mu == s.bound) & ~beyond
        self._update(s, mu, excess, beyond, fits)
        move = s.root()
        near = (excess.abs() <= CLOSE * c.abs()) & (move.abs() <= MOVE * (mu - s.mu_hat).abs())
        inside = (s.sign * (mu + move - s.inner) >= 0) & (s.sign * (mu + move - s.outer) <= 0)
        found = (near & inside) | (excess == 0) | ((s.outer - s.inner).abs() <= 1e-13 * mu.abs())
        ends = found & ~better
        move = torch.where(near & inside, move, 0.0)[ends]
        crossed = _critical(self.critical, mu[ends] + move)
        result.finish(s.index[ends], move, s.direction[ends], s.best.log_likelihood[ends], crossed)
        result.end(s.index, stopped & ~found, CrossingStatus.NO_CROSSING)
        lost = (~fits.success & torch.isfinite(fits.log_likelihood)) | torch.isnan(t)
        result.end(s.index, lost | better, CrossingStatus.FAILED)
        return take_rows(s, ~(found | stopped | lost | better))

    def _update(self, s: _Search, mu: Tensor, excess: Tensor, beyond: Tensor, fits: FitBatch) -> None:
        """Tighten the brackets and move the local parabolas to the new points, where those are finite."""
        s.inner = torch.where(beyond, s.inner, mu)
        s.outer = torch.where(beyond, mu, s.outer)
        tangent: Tangent = profile_tangent(fits, self.column)
        here = torch.isfinite(excess)
        column = here.unsqueeze(-1)
        size = (mu - s.mu_hat).abs()
        slope = -2 * tangent.slope - _critical_slope(self.critical, mu, size)
        s.mu = torch.where(here, mu, s.mu)
        s.excess = torch.where(here, excess, s.excess)
        s.slope = torch.where(here, slope, s.slope)
        s.curvature = torch.where(here, -2 * tangent.curvature, s.curvature)
        s.point = torch.where(column, fits.values, s.point)
        s.direction = torch.where(column, tangent.direction, s.direction)
