"""Densities of events as polynomials in theta, fitted once to each event, for :class:`Likelihood`.

Inside a region (:mod:`inference.expansion.region`) with natural coordinates t, |t| <= 1,

    ln f(x_i | theta) = sum_m C_im phi_m(t(theta)),

so that values and gradients of all events are one product of the coefficients C (events x M) with the monomials and
their slopes (M x 1 + S), and the Hessian of ln L needs of C only its sums over events, weighted (1 x events x M): no
network is run inside a fit, and no Hessian of an event is ever formed. Outside the region the functions are continued;
whoever fits sees to it that no result rests on that.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.expansion.event_table import EventTable
from inference.expansion.theta_basis import ThetaBasis
from inference.likelihood.event_density import EventJet, per_row, without_hessian
from surrogate.source import Source


@runtime_checkable
class Scored(Protocol):
    """A source that gives ln f with its gradient faster than a whole jet."""

    def score(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln f (n,) and its gradient in theta (n, K) to single precision, for x (n, D) and theta (n, K)."""
        ...


def score(source: Source, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln f (n,) and its gradient (n, K) in theta, float64, for x (n, D) and theta (n, K)."""
    if isinstance(source, Scored):
        log_f, gradient = source.score(x, theta)
        return log_f.to(torch.float64), gradient.to(torch.float64)
    jet = source.density_jet(x, theta)
    return jet.log_scale + jet.value.log(), jet.gradient / jet.value.unsqueeze(-1)


class ExpandedDensity:
    """ln f as a combination of functions of theta per event; an :class:`EventDensity`.

    Parameters
    ----------
    basis
        The functions.
    table
        How much of each there is in ln f of the events of T data sets.
    """

    def __init__(self, basis: ThetaBasis, table: EventTable) -> None:
        self._basis, self._table = basis, table

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N), differentiable in theta (B, K) within the region."""
        return self._table.combine(self._basis.values(theta).unsqueeze(1), rows)[:, 0]

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the jet over (B, N); see :class:`inference.likelihood.event_density.EventDensity`."""
        point, columns, k = self._basis.at(theta), list(self._basis.chart.columns), theta.shape[-1]
        out = self._table.combine(torch.cat([point.value.unsqueeze(1), point.slope], dim=1), rows)
        log_f, slope = out[:, 0], out[:, 1:]

        def hessian_sum(weight: Tensor) -> Tensor:
            hessian = point.curvature(self._table.collect(weight, rows))
            hessian = hessian + (slope * weight.unsqueeze(1)) @ slope.mT
            if len(columns) == k:
                return hessian
            wide = hessian.new_zeros(len(hessian), k, k)
            wide[:, torch.tensor(columns).unsqueeze(-1), columns] = hessian
            return wide

        gradient = slope
        if len(columns) < k:
            # derivatives in S parameters are put at the nuisances that stand for them
            gradient = slope.new_zeros(len(slope), k, slope.shape[-1])
            gradient[:, columns] = slope
        return EventJet(log_f, torch.ones_like(log_f), gradient.mT, hessian_sum)


class ConstantDensity:
    """ln f of a source that does not move, from a table.

    Parameters
    ----------
    table
        ln f (E, 1), and which events make up the data sets.
    """

    def __init__(self, table: EventTable) -> None:
        self._log_f = table.coefficients[:, 0][table.index]

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the constant jet over (B, N)."""
        log_f = per_row(self._log_f, rows)
        return without_hessian(log_f, log_f.new_zeros(1).expand(*log_f.shape, theta.shape[-1]))

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N)."""
        return per_row(self._log_f, rows)


class ScoreDensity:
    """ln f and its gradient, without a Hessian: f counts as linear in theta.

    The Hessian of sum_i ln lambda_i is then minus the sum of the outer products of the events' scores, which is not
    positive and, to leading order, its expectation (Berndt, Hall, Hall and Hausman, Annals of Economic and Social
    Measurement 3 (1974) 653). Fits on it need more steps, but each costs a fraction of a step with a full Hessian.

    Parameters
    ----------
    source
        The source.
    x
        Events (T, N, D).
    """

    def __init__(self, source: Source, x: Tensor) -> None:
        self._source, self._x = source, x

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> EventJet:
        """Return the jet over (B, N) with a vanishing Hessian."""
        x = self._x[rows] if len(self._x) > 1 else self._x.expand(len(rows), -1, -1)
        shape, k = x.shape[:-1], theta.shape[-1]
        expanded = theta.unsqueeze(1).expand(*shape, k)
        log_f, gradient = score(self._source, x.reshape(-1, x.shape[-1]), expanded.reshape(-1, k))
        return without_hessian(log_f.reshape(shape), gradient.reshape(*shape, k))

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N)."""
        return self.density_jet(theta, rows).log_scale
