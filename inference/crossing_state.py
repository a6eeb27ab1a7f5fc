"""The state of searches for crossings: points on profiles with their parabolas, brackets, and where to look next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.fit_rows import FitBatch
from inference.rows import put_rows, take_rows

#: Largest first step, in standard deviations that the parameter would have alone: where it is all but degenerate with
#: others the parabola at the best fit reaches nowhere.
FIRST_STEP = 30.0
#: Largest outward step, in distances from the best fit; it doubles with every further step.
EXPANSION = 3.0
#: Ratio of the ends of a bracket above which it is halved in the logarithm, by at most so much, and so much to zero.
WIDE, DECADES, ORDERS_TO_ZERO = 10.0, 1e-3, 0.1
#: Halvings of a bracket after which fits are made from several starts.
HALVINGS = 4


@dataclass(frozen=True)
class Anchor:
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
class Search:
    """The searches that go on: t is below c at ``inner``, and above at ``outer`` where that is finite.

    ``first`` is the largest first step. ``wary`` searches have met a lower maximum: their fits have several starts.
    """

    index: Tensor
    best: FitBatch
    mu_hat: Tensor
    sign: Tensor
    bound: Tensor
    inner: Anchor
    outer: Anchor
    critical: Tensor
    first: Tensor
    expansions: Tensor
    halvings: Tensor
    wary: Tensor

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
        """Middle of the bracket (A,), of the logarithms where its ends differ by orders of magnitude."""
        inner, outer = self.inner.mu, self.outer.mu
        near, far = torch.minimum(inner.abs(), outer.abs()), torch.maximum(inner.abs(), outer.abs())
        least = torch.where(near > 0, DECADES**2, ORDERS_TO_ZERO**2) * far
        geometric = torch.sign(inner + outer) * (torch.maximum(near, least) * far).sqrt()
        wide = (inner * outer >= 0) & (far > WIDE * near) & torch.isfinite(far)
        return torch.where(wide, geometric, 0.5 * (inner + outer))

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
        start = self.mu_hat + self.sign * torch.minimum((target - self.mu_hat).abs(), self.first)
        return torch.where(moved, target, torch.where(ahead, start, self.bound))


def updated(s: Search, anchor: Anchor, critical: Tensor) -> Search:
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
        wary=s.wary | reopened,
    )
