"""Where the profile likelihood ratio crosses a critical value: the engine of all limits.

    t(mu) = 2 [ln L(best) - ln L(mu, nu_hat(mu))],    wanted: t(mu) = c(mu) on one side of the best fit.

The search starts at the best fit with the slope and the curvature of the profile, goes outwards by the root of the
local parabola, at most a few times further at each step, and refines inside the bracket by the same rule, whose
convergence is cubic. Conditional fits start from the tangent of the previous one. All rows and both ends are one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.likelihood.extended import Likelihood
from inference.profiles.crossing_records import Critical, CrossingCollector, Crossings, CrossingStatus
from inference.profiles.crossing_state import FIRST_STEP, Anchor, Search, updated
from inference.profiles.tangent import profile_tangent
from inference.rows import take_rows

#: The search ends when the next move is below this fraction of the distance to the best fit; it is made without a fit.
MOVE = 3e-5
#: And when t is this close to the critical value, as a fraction of it.
CLOSE = 1e-3
#: Relative width at which a bracket has closed; t jumps there.
NARROW = 1e-10
#: Start points of fits where t seems to jump.
JUMP_STARTS = 5
#: A conditional fit whose t lies below this has found a better maximum than the free fit.
BETTER = -1e-6
#: Most conditional fits of one search.
MOST_FITS = 40


def _critical(critical: Critical, mu: Tensor) -> Tensor:
    return critical(mu) if callable(critical) else torch.full_like(mu, critical)


def _critical_slope(critical: Critical, mu: Tensor, sizes: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Return dc/dmu from values within the range of the search: a function may be defined on no more than that."""
    if not callable(critical):
        return torch.zeros_like(mu)
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    below, above = torch.maximum(mu - 1e-4 * sizes, low), torch.minimum(mu + 1e-4 * sizes, high)
    return (critical(above) - critical(below)) / (above - below)


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

    def find(self, best: FitBatch, sign: Tensor, bound: Tensor, near: Crossings | None = None) -> Crossings:
        """Search from best fits (Q rows) upwards (sign +1) or downwards (-1), up to ``bound`` (Q,).

        Parameters
        ----------
        best
            Free fits.
        sign, bound
            Direction, and where the search ends.
        near
            Crossings found before, with free fits or densities that were slightly different.

        Returns
        -------
        Crossings
            A search never fails with an exception: without a crossing before the bound its status is ``NO_CROSSING``,
            from a best fit on the bound ``AT_BOUND``, from one beyond it ``OUTSIDE_RANGE``.
        """
        mu_hat = best.values[:, self.column]
        result = CrossingCollector(best, mu_hat)
        room = sign * (bound - mu_hat)
        usable = best.success & torch.isfinite(best.log_likelihood)
        result.status[room == 0] = int(CrossingStatus.AT_BOUND)
        result.status[room < 0] = int(CrossingStatus.OUTSIDE_RANGE)
        result.status[~usable] = int(CrossingStatus.FAILED)
        result.critical = _critical(self.critical, mu_hat)
        search = take_rows(self._start(best, mu_hat, sign, bound), usable & (room > 0))
        mu, start = self._look(search)
        if near is not None:
            near = near.take(search.index)
            known = (near.status == int(CrossingStatus.FOUND)) & search.within(near.value)
            mu = torch.where(known, near.value, mu)
            start = torch.where(known.unsqueeze(-1), near.conditional.values, start)
        for _ in range(MOST_FITS):
            search = self._step(search, mu, start, result)
            if not len(search.index):
                break
            mu, start = self._look(search)
        result.status[search.index] = int(CrossingStatus.FAILED)
        return result.crossings()

    def _start(self, best: FitBatch, mu_hat: Tensor, sign: Tensor, bound: Tensor) -> Search:
        size = (bound - mu_hat).abs().clamp(max=1.0)
        anchor = self._anchor(best, mu_hat, -_critical(self.critical, mu_hat), size, (mu_hat, bound))
        # Inside the bounds the slope at the maximum is rounding; on a bound it points outwards of the maximum.
        inner = replace(
            anchor,
            slope=torch.where(sign * anchor.slope > 0, anchor.slope, 0.0),
            curvature=anchor.curvature.clamp_min(0.0),
        )
        outer = replace(anchor, mu=sign * torch.full_like(mu_hat, torch.inf), excess=torch.full_like(mu_hat, torch.inf))
        index = torch.arange(len(mu_hat), device=mu_hat.device)
        none = torch.zeros_like(index)
        alone = best.hessian[:, self.column, self.column].abs().rsqrt()
        first = FIRST_STEP * (-inner.excess).sqrt() * alone
        critical, no = -inner.excess, torch.zeros_like(best.success)
        return Search(index, best, mu_hat, sign.to(mu_hat), bound, inner, outer, critical, first, none, none, no)

    def _anchor(self, fits: FitBatch, mu: Tensor, excess: Tensor, size: Tensor, ends: tuple[Tensor, Tensor]) -> Anchor:
        tangent = profile_tangent(fits, self.column)
        slope = -2 * tangent.slope - _critical_slope(self.critical, mu, size, ends)
        return Anchor(mu, excess, slope, -2 * tangent.curvature, fits.values, tangent.direction)

    def _look(self, s: Search) -> tuple[Tensor, Tensor]:
        """Return where to look next (A,), and where the fits start (A, P): on the tangent that leads higher.

        The inner end of a bracket is connected to the best fit; the outer one may be another, lower maximum.
        """
        likelihood, mu = self.likelihood, s.next()
        start, outer = (
            torch.minimum(torch.maximum(end.follow(mu, likelihood.lower >= 0), likelihood.lower), likelihood.upper)
            for end in (s.inner, s.outer)
        )
        rows = (s.bracketed & ~s.suspicious).nonzero().flatten()
        if len(rows):
            both, data = torch.cat([start[rows], outer[rows]]), s.best.rows[rows].repeat(2)
            inner_height, outer_height = likelihood.log_likelihood(both, data).chunk(2)
            rows = rows[outer_height > inner_height]
        return mu, start.index_put((rows,), outer[rows])

    def _step(self, s: Search, mu: Tensor, start: Tensor, result: CrossingCollector) -> Search:
        """Make one conditional fit for every search at mu (A,) from (A, P); write down and drop those that end."""
        open_ended = ~torch.isfinite(mu)
        if bool(open_ended.any()):
            result.end(s.index, open_ended, CrossingStatus.NO_CROSSING)
            s, mu, start = take_rows(s, ~open_ended), mu[~open_ended], start[~open_ended]
        if not len(mu):
            return s
        fits = self._fit(s, mu, start)
        t = 2 * (s.best.log_likelihood - fits.log_likelihood)
        c = _critical(self.critical, mu)
        result.write(s.index, mu, t, c, fits)
        anchor = self._anchor(fits, mu, t - c, (mu - s.mu_hat).abs(), (s.mu_hat, s.bound))
        stopped = (mu == s.bound) & (t < c)
        s = updated(s, anchor, c)
        better = t < BETTER
        found = self._finish(s, anchor, c, better, result)
        result.better[s.index] = better
        result.end(s.index, stopped & ~found, CrossingStatus.NO_CROSSING)
        lost = (~fits.success & torch.isfinite(fits.log_likelihood)) | torch.isnan(t)
        result.end(s.index, lost | better, CrossingStatus.FAILED)
        return take_rows(s, ~(found | stopped | lost | better))

    def _fit(self, s: Search, mu: Tensor, start: Tensor) -> FitBatch:
        """Return conditional fits, from several starts where t seems to jump, or has done so."""
        fits = fit_batch(self.likelihood, {**self.fixed, self.poi: mu}, s.best.rows, start, self.options)
        jumps = (s.suspicious | s.wary).nonzero().flatten()
        if not len(jumps):
            return fits
        options = self.options or FitOptions()
        options = replace(options, starts=max(options.starts, JUMP_STARTS))
        at: dict[str, float | Tensor] = {**self.fixed, self.poi: mu[jumps]}
        return fits.put(jumps, fit_batch(self.likelihood, at, s.best.rows[jumps], start[jumps], options))

    def _finish(self, s: Search, anchor: Anchor, critical: Tensor, better: Tensor, result: CrossingCollector) -> Tensor:
        """Write down the searches that are as good as at their crossing; return which (A,)."""
        move = anchor.root(s.sign)
        small = (anchor.excess.abs() <= CLOSE * critical.abs()) & (move.abs() <= MOVE * (anchor.mu - s.mu_hat).abs())
        target = anchor.mu + move
        small = small & (s.within(target) | (target == anchor.mu)) & (s.sign * (target - s.bound) <= 0)
        width = (s.outer.mu - s.inner.mu).abs()
        found = (small | (anchor.excess == 0) | (width <= NARROW * anchor.mu.abs())) & ~better
        move = torch.where(small, move, 0.0)[found]
        crossed = _critical(self.critical, anchor.mu[found] + move)
        result.finish(s.index[found], move, anchor.direction[found], s.best.log_likelihood[found], crossed)
        return found
