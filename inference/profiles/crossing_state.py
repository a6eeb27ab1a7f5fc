"""The state of searches for crossings: points on profiles with their parabolas, brackets, and where to look next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.fits.fit_rows import FitBatch
from inference.rows import put_rows, take_rows

#: Largest first step, in standard deviations that the parameter would have alone: where it is all but degenerate with
#: others the parabola at the best fit reaches nowhere.
FIRST_STEP = 30.0
#: Largest outward step, in distances from the best fit; it doubles with every further step. And the first step where
#: the best fit has no parabola at all, in the same standard deviations.
EXPANSION = 3.0
#: Ratio of the ends of a bracket above which it is halved in the logarithm, and by how much at most.
WIDE, DECADES = 10.0, 1e-2
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

    def target(self, sign: Tensor) -> Tensor:
        """Return the mu (A,) at the root of the parabola; NaN or infinite where it has none.

        Towards zero it is a parabola in ln mu: events fix the logarithm of a rate that falls, t rises by -2n ln mu.
        """
        logarithmic = replace(
            self, slope=self.mu * self.slope, curvature=self.mu * (self.slope + self.mu * self.curvature)
        )
        factor = logarithmic.root(-torch.ones_like(sign)).exp().clamp(DECADES, 1 / DECADES)
        return torch.where(sign * self.mu < 0, self.mu * factor, self.mu + self.root(sign))

    def follow(self, mu: Tensor, positive: Tensor) -> Tensor:
        """Return the parameters (A, P) at another mu, along the tangent.

        ``positive`` ones (P,) that fall do so as powers of mu: an efficiency of which only the product with mu is known
        falls as 1 / mu, and would soon be zero on a straight line.
        """
        straight = self.values + (mu - self.mu).unsqueeze(-1) * self.direction
        ratio, power = (mu / self.mu).unsqueeze(-1), self.mu.unsqueeze(-1) * self.direction / self.values
        falls = positive & (straight < self.values) & (self.values > 0) & (ratio > 0) & torch.isfinite(ratio)
        return torch.where(falls, self.values * ratio**power, straight)


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
    def wide(self) -> Tensor:
        """Whether the ends of a bracket differ by orders of magnitude (A,)."""
        near, far = self._ends()
        return self.bracketed & (self.inner.mu * self.outer.mu >= 0) & (far > WIDE * near)

    @property
    def middle(self) -> Tensor:
        """Middle of the bracket (A,), of the logarithms where it is wide."""
        near, far = self._ends()
        total = self.inner.mu + self.outer.mu
        geometric = torch.sign(total) * (torch.maximum(near, DECADES**2 * far) * far).sqrt()
        return torch.where(self.wide, geometric, 0.5 * total)

    @property
    def close(self) -> Tensor:
        """Whether t has come near the critical value on the inner side (A,)."""
        return self.inner.excess.abs() <= 0.1 * self.critical

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Return the distances (A,) of the ends of the bracket from zero, the smaller one first."""
        inner, outer = self.inner.mu.abs(), self.outer.mu.abs()
        return torch.minimum(inner, outer), torch.maximum(inner, outer)

    def within(self, mu: Tensor) -> Tensor:
        """Return whether mu (A,) lies strictly between inner and outer; false for NaN."""
        return (self.sign * (mu - self.inner.mu) > 0) & (self.sign * (mu - self.outer.mu) < 0)

    def next(self) -> Tensor:
        """Return where to look next (A,)."""
        from_inner, from_outer = self.inner.target(self.sign), self.outer.target(self.sign)
        # At zero t may be singular, and its derivatives there say nothing.
        good_inner, good_outer = self.within(from_inner), self.within(from_outer) & (self.outer.mu != 0)
        use_outer = good_outer & (~good_inner | (self.outer.excess.abs() < self.inner.excess.abs()))
        between = torch.where(use_outer, from_outer, torch.where(good_inner, from_inner, self.middle))
        between = torch.where(self.suspicious, self.outer.mu, between)
        mu = torch.where(self.bracketed, between, self._outwards())
        return torch.where(self.sign * (mu - self.bound) >= 0, self.bound, mu)

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
        blind = EXPANSION / FIRST_STEP * self.first
        target = torch.where(moved & far, reach, torch.where(moved & lags, doubled, target))
        first = torch.where(ahead, torch.minimum((target - self.mu_hat).abs(), self.first), blind)
        return torch.where(moved, target, self.mu_hat + self.sign * first)


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
