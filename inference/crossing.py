"""Where the profile likelihood ratio crosses a critical value: the engine of all limits.

    t(mu) = 2 [ln L(best) - ln L(mu, nu_hat(mu))],    wanted: t(mu) = c(mu) on one side of the best fit.

The search starts at the best fit with the slope and the curvature of the profile, goes outwards by the root of the
local parabola, at most a few times further at each step, and refines inside the bracket by the same rule, whose
convergence is cubic. Conditional fits start from the tangent of the previous one. All rows and both ends are one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.batch_fit import FitBatch, FitOptions, fit_batch
from inference.crossing_records import Critical, CrossingCollector, Crossings, CrossingStatus
from inference.likelihood import Likelihood
from inference.rows import put_rows, take_rows
from inference.tangent import profile_tangent

#: The search ends when the next move is below this fraction of the distance to the best fit; it is made without a fit.
MOVE = 3e-5
#: And when t is this close to the critical value, as a fraction of it.
CLOSE = 1e-3
#: Largest outward step, in distances from the best fit; it doubles with every further step.
EXPANSION = 3.0
#: Relative width at which a bracket has closed; t jumps there.
NARROW = 1e-10
#: Halvings of a bracket after which fits are made from several starts, and from how many.
HALVINGS = 4
JUMP_STARTS = 5
#: A conditional fit whose t lies below this has found a better maximum than the free fit.
BETTER = -1e-6
#: Most conditional fits of one search.
MOST_FITS = 40


@dataclass(frozen=True)
class _Anchor:
    """A point on the profile with its local parabola.

    ``excess`` is t - c at ``mu``, ``slope`` and ``curvature`` its derivatives; ``values`` are the parameters there, and
    move along ``direction`` with mu.
    """

    mu: Tensor
    excess: Tensor
    slope: Tensor
    curvature: Tensor
    values: Tensor
    direction: Tensor

    def root(self, sign: Tensor) -> Tensor:
        """Return the signed move (A,) to the root of the parabola; NaN or infinite where it has none."""
        outward = sign * self.slope
        inside = outward.square() - 2 * self.curvature * self.excess
        return sign * (-2 * self.excess / (outward + inside.sqrt()))

    def follow(self, mu: Tensor) -> Tensor:
        """Return the parameters (A, P) at another mu, along the tangent."""
        return self.values + (mu - self.mu).unsqueeze(-1) * self.direction


@dataclass(frozen=True)
class _Search:
    """The searches that go on: t is below c at ``inner``, and above at ``outer`` where that is finite."""

    index: Tensor
    best: FitBatch
    mu_hat: Tensor
    sign: Tensor
    bound: Tensor
    inner: _Anchor
    outer: _Anchor
    critical: Tensor
    expansions: Tensor
    halvings: Tensor

    @property
    def bracketed(self) -> Tensor:
        """Whether a point beyond the crossing is known (A,)."""
        return torch.isfinite(self.outer.mu)

    @property
    def suspicious(self) -> Tensor:
        """Whether a bracket closes by halves only (A,): t jumps, and its outer end may be a lower maximum."""
        return self.bracketed & (self.halvings == HALVINGS)

    @property
    def middle(self) -> Tensor:
        """Middle of the bracket (A,)."""
        return 0.5 * (self.inner.mu + self.outer.mu)

    @property
    def close(self) -> Tensor:
        """Whether t has come near the critical value on the inner side (A,)."""
        return self.inner.excess.abs() <= 0.1 * self.critical

    def within(self, mu: Tensor) -> Tensor:
        """Return whether mu (A,) lies strictly between inner and outer; false for NaN."""
        return (self.sign * (mu - self.inner.mu) > 0) & (self.sign * (mu - self.outer.mu) < 0)

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the next mu (A,) and where its fit starts (A, P)."""
        outwards = self._outwards()
        from_inner = self.inner.mu + self.inner.root(self.sign)
        from_outer = self.outer.mu + self.outer.root(self.sign)
        good_inner, good_outer = self.within(from_inner), self.within(from_outer)
        use_outer = good_outer & (~good_inner | (self.outer.excess.abs() < self.inner.excess.abs()))
        between = torch.where(use_outer, from_outer, torch.where(good_inner, from_inner, self.middle))
        between = torch.where(self.suspicious, self.outer.mu, between)
        use_outer = use_outer & ~self.suspicious
        mu = torch.where(self.bracketed, between, outwards)
        mu = torch.where(self.sign * (mu - self.bound) >= 0, self.bound, mu)
        # The inner branch of the profile is connected to the best fit; the outer one may be another, lower maximum.
        start = torch.where(use_outer.unsqueeze(-1), self.outer.follow(mu), self.inner.follow(mu))
        return mu, start

    def _outwards(self) -> Tensor:
        """Return the next mu without a bracket: the root of the parabola, within a reach that grows; else the bound."""
        target = self.inner.mu + self.inner.root(self.sign)
        distance = (self.inner.mu - self.mu_hat).abs()
        reach = self.inner.mu + self.sign * distance * EXPANSION * 2.0**self.expansions
        ahead = torch.isfinite(target) & (self.sign * (target - self.inner.mu) > 0)
        far = ~ahead | (self.sign * (target - reach) > 0)
        # Where t flattens out the parabola's root stays near; a search that is not yet close goes on by doubling.
        doubled = self.inner.mu + self.sign * distance
        lags = (self.expansions >= 2) & ~self.close & (self.sign * (target - doubled) < 0)
        moved = distance > 0
        target = torch.where(moved & far, reach, torch.where(moved & lags, doubled, target))
        return torch.where(moved | ahead, target, self.bound)


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
        anchor = self._anchor(best, mu_hat, -_critical(self.critical, mu_hat), (bound - mu_hat).abs().clamp(max=1.0))
        # Inside the bounds the slope at the maximum is rounding; on a bound it points outwards of the maximum.
        inner = replace(
            anchor,
            slope=torch.where(sign * anchor.slope > 0, anchor.slope, 0.0),
            curvature=anchor.curvature.clamp_min(0.0),
        )
        outer = replace(anchor, mu=sign * torch.full_like(mu_hat, torch.inf), excess=torch.full_like(mu_hat, torch.inf))
        index = torch.arange(len(mu_hat), device=mu_hat.device)
        none = torch.zeros_like(index)
        return _Search(index, best, mu_hat, sign.to(mu_hat), bound, inner, outer, -inner.excess, none, none)

    def _anchor(self, fits: FitBatch, mu: Tensor, excess: Tensor, size: Tensor) -> _Anchor:
        tangent = profile_tangent(fits, self.column)
        slope = -2 * tangent.slope - _critical_slope(self.critical, mu, size)
        return _Anchor(mu, excess, slope, -2 * tangent.curvature, fits.values, tangent.direction)

    def _step(self, s: _Search, result: CrossingCollector) -> _Search:
        """Make one conditional fit for every search; write down and drop those that end."""
        mu, start = s.next()
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
        anchor = self._anchor(fits, mu, t - c, (mu - s.mu_hat).abs())
        stopped = (mu == s.bound) & (t < c)
        s = _updated(s, anchor, c)
        better = t < BETTER
        found = self._finish(s, anchor, c, better, result)
        result.better[s.index] = better
        result.end(s.index, stopped & ~found, CrossingStatus.NO_CROSSING)
        lost = (~fits.success & torch.isfinite(fits.log_likelihood)) | torch.isnan(t)
        result.end(s.index, lost | better, CrossingStatus.FAILED)
        return take_rows(s, ~(found | stopped | lost | better))

    def _fit(self, s: _Search, mu: Tensor, start: Tensor) -> FitBatch:
        """Return conditional fits, from several starts where t seems to jump."""
        fits = fit_batch(self.likelihood, {**self.fixed, self.poi: mu}, s.best.rows, start, self.options)
        jumps = s.suspicious.nonzero().flatten()
        if not len(jumps):
            return fits
        options = self.options or FitOptions()
        options = replace(options, starts=max(options.starts, JUMP_STARTS))
        at: dict[str, float | Tensor] = {**self.fixed, self.poi: mu[jumps]}
        return fits.put(jumps, fit_batch(self.likelihood, at, s.best.rows[jumps], start[jumps], options))

    def _finish(
        self, s: _Search, anchor: _Anchor, critical: Tensor, better: Tensor, result: CrossingCollector
    ) -> Tensor:
        """Write down the searches that are as good as at their crossing; return which (A,)."""
        move = anchor.root(s.sign)
        small = (anchor.excess.abs() <= CLOSE * critical.abs()) & (move.abs() <= MOVE * (anchor.mu - s.mu_hat).abs())
        small = small & (s.within(anchor.mu + move) | (anchor.mu + move == anchor.mu))
        width = (s.outer.mu - s.inner.mu).abs()
        found = (small | (anchor.excess == 0) | (width <= NARROW * anchor.mu.abs())) & ~better
        move = torch.where(small, move, 0.0)[found]
        crossed = _critical(self.critical, anchor.mu[found] + move)
        result.finish(s.index[found], move, anchor.direction[found], s.best.log_likelihood[found], crossed)
        return found


def _updated(s: _Search, anchor: _Anchor, critical: Tensor) -> _Search:
    """Return the searches with the new points as inner or outer ends of their brackets.

    A suspicious outer end that turns out to lie below the critical value opens the bracket again.
    """
    beyond = (anchor.excess >= 0).nonzero().flatten()
    before = (~(anchor.excess >= 0)).nonzero().flatten()
    outer = put_rows(s.outer, beyond, take_rows(anchor, beyond))
    reopened = s.suspicious & ~(anchor.excess >= 0)
    unknown = s.sign * torch.full_like(s.mu_hat, torch.inf)
    halved = s.bracketed & ((anchor.mu == s.middle) | s.suspicious)
    return replace(
        s,
        inner=put_rows(s.inner, before, take_rows(anchor, before)),
        outer=replace(outer, mu=torch.where(reopened, unknown, outer.mu)),
        critical=critical,
        expansions=s.expansions + (~s.bracketed & (s.inner.mu != s.mu_hat)),
        halvings=torch.where(reopened, 0, s.halvings + halved.long()),
    )
