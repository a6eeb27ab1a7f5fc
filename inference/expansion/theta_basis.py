"""The functions of theta by which ln f of an event is expanded, with what a likelihood needs of their derivatives.

They are monomials in the coordinates of a chart, or R combinations of them. Outside the unit ball they are continued
by their tangent at the nearest point of the ray to the centre, so that a fit whose step leads outside ends somewhere
from where it finds its way back: a polynomial, or a parabola, may rise without end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from inference.expansion.chart import Chart
from inference.expansion.polynomial import PolynomialBasis

#: Excess of |t| over 1 that is rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class BasisPoint:
    """The functions at B points.

    Attributes
    ----------
    value, slope
        (B, R) and, in the S parameters, (B, S, R).
    """

    value: Tensor
    slope: Tensor
    _basis: ThetaBasis
    _first: Tensor
    _second: Tensor
    _jacobian: Tensor
    _bend: Tensor

    def curvature(self, amount: Tensor) -> Tensor:
        """Return the Hessian (B, S, S) in the parameters of the sum of the functions, ``amount`` (B, R) of each."""
        monomials = self._basis.to_monomials(amount).unsqueeze(-1)
        second = (self._second @ monomials).squeeze(-1)[:, self._basis.pair_index]
        hessian = self._jacobian.mT @ second @ self._jacobian
        kinks = self._basis.chart.kinks
        if kinks is not None:
            s = self._basis.chart.n_parameters
            bent = (self._first[:, s:] @ monomials).squeeze(-1) * self._bend
            for j, owner in enumerate(kinks.owners):
                hessian[:, owner, owner] += bent[:, j]
        return hessian


@dataclass(frozen=True, eq=False)
class ThetaBasis:
    """R functions of theta.

    Attributes
    ----------
    chart
        The coordinates.
    polynomials
        The M monomials.
    modes
        (M, R), the combinations; None for the monomials themselves.
    """

    chart: Chart
    polynomials: PolynomialBasis
    modes: Tensor | None = None

    def __len__(self) -> int:
        """Return R."""
        return len(self.polynomials) if self.modes is None else self.modes.shape[1]

    def to(self, device: torch.device) -> ThetaBasis:
        """Return the functions on a device."""
        modes = None if self.modes is None else self.modes.to(device)
        return ThetaBasis(self.chart.to(device), self.polynomials, modes)

    @cached_property
    def pair_index(self) -> Tensor:
        """Position (e, e) of each second derivative among the pairs."""
        e = self.polynomials.dim
        index = torch.zeros(e, e, dtype=torch.long)
        for n, (j, k) in enumerate(self.polynomials.pairs):
            index[j, k] = index[k, j] = n
        return index

    def inside(self, theta: Tensor) -> Tensor:
        """Return whether theta (B, K) lies in the region: (B,)."""
        return self.chart.to_ball(theta).square().sum(dim=-1) <= 1.0 + ROUNDING

    def from_monomials(self, monomials: Tensor) -> Tensor:
        """Return the functions (*, R) of monomials (*, M)."""
        return monomials if self.modes is None else monomials @ self.modes

    def to_monomials(self, amount: Tensor) -> Tensor:
        """Return how much of each monomial (*, M) there is in amounts (*, R) of the functions."""
        return amount if self.modes is None else amount @ self.modes.T

    def values(self, theta: Tensor) -> Tensor:
        """Return the functions (B, R) at theta (B, K), differentiable within the region."""
        if bool(self.inside(theta.detach()).all()):
            return self.from_monomials(self.polynomials.values(self.chart.coordinates(theta)))
        return self.at(theta).value

    def at(self, theta: Tensor) -> BasisPoint:
        """Return the functions with their derivatives at theta (B, K)."""
        inside = self.inside(theta)
        if bool(inside.all()):
            point = self.inner(theta)
            return replace(point, value=self.from_monomials(point.value), slope=self.from_monomials(point.slope))
        t = self.chart.to_ball(theta)
        anchor = torch.where(inside.unsqueeze(-1), theta, self.chart.theta(t / t.norm(dim=-1, keepdim=True)))
        point = self.inner(anchor)
        distance = (theta - anchor)[:, list(self.chart.columns)]
        value = point.value + torch.einsum("bsm,bs->bm", point.slope, distance)
        straight = inside.to(theta)
        return replace(
            point,
            value=self.from_monomials(value),
            slope=self.from_monomials(point.slope),
            _second=point._second * straight[:, None, None],
            _bend=point._bend * straight[:, None],
        )

    def inner(self, theta: Tensor) -> BasisPoint:
        """Return the monomials with their derivatives at theta (B, K), with nothing special outside the ball."""
        e = self.polynomials.dim
        rows = self.polynomials.derivatives(self.chart.coordinates(theta))
        value, first, second = rows[:, 0], rows[:, 1 : 1 + e], rows[:, 1 + e :]
        jacobian, bend = self.chart.jacobian(theta)
        return BasisPoint(value, jacobian.mT @ first, self, first, second, jacobian, bend)
