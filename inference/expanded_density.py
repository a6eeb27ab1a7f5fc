"""Densities of events as polynomials in theta, fitted once to each event, for :class:`inference.likelihood.Likelihood`.

Inside a region (:mod:`inference.region`) with natural coordinates t, |t| <= 1,

    ln f(x_i | theta) = sum_m C_im phi_m(t(theta)),

so value, gradient and Hessian of all events at many theta are one product of the coefficients C (events x M) with the
derivatives of the monomials (M x 1 + K + K^2): no network is run inside a fit. Outside the region the exact density is
asked, so that results never rest on an extrapolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.event_density import EventDensity, per_row
from inference.polynomial import PolynomialBasis
from inference.region import Region
from surrogate.jet import Jet
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


@dataclass(frozen=True, eq=False)
class Chart:
    """How the nuisances theta of a source map to the natural coordinates of a region.

    Attributes
    ----------
    region
        Of the parameters that drive the source.
    columns
        For each of them the first nuisance that it drives; others that it drives are equal to that one.
    held
        (K,) the nuisances at the centre.
    sources
        (K,) position in the region of the parameter that drives each nuisance; -1 where it is held at a number.
    """

    region: Region
    columns: tuple[int, ...]
    held: Tensor
    sources: tuple[int, ...]

    def to_ball(self, theta: Tensor) -> Tensor:
        """Return t (*, S) at theta (*, K)."""
        return self.region.to_ball(theta[..., list(self.columns)])

    def theta(self, t: Tensor) -> Tensor:
        """Return theta (n, K) at points t (n, S) of the ball, cut by the bounds."""
        values = self.region.from_ball(t)
        theta = self.held.expand(len(t), -1).clone()
        for k, s in enumerate(self.sources):
            if s >= 0:
                theta[:, k] = values[:, s]
        return theta

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient (*, S) in t of a function with gradient (*, K) in theta."""
        by_parameter = gradient.new_zeros(*gradient.shape[:-1], len(self.columns))
        for k, s in enumerate(self.sources):
            if s >= 0:
                by_parameter[..., s] += gradient[..., k]
        return by_parameter @ self.region.axes


@dataclass(frozen=True, eq=False)
class EventTable:
    """Coefficients of events, and which events make up each of T data sets.

    Attributes
    ----------
    coefficients
        (E, M).
    index
        (T, N) row of each event; any row on the padding.
    """

    coefficients: Tensor
    index: Tensor


class ExpandedDensity:
    """ln f as a polynomial per event; implements :class:`inference.event_density.EventDensity`.

    Parameters
    ----------
    chart
        The region, in the source's nuisances.
    basis
        The monomials.
    table
        Coefficients of the events of T data sets.
    exact
        The density itself, which is asked outside the region.
    """

    def __init__(self, chart: Chart, basis: PolynomialBasis, table: EventTable, exact: EventDensity) -> None:
        self._chart, self._basis, self._exact = chart, basis, exact
        self._table = table
        self._chain = _chain_matrix(torch.linalg.inv(chart.region.axes), basis)
        self._held_rows: Tensor | None = None
        self._gathered: Tensor | None = None

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet over (B, N); see :class:`inference.event_density.EventDensity`."""
        t = self._chart.to_ball(theta)
        inside = t.square().sum(dim=-1) <= 1.0 + 1e-9
        if bool(inside.all()):
            return self._jet(t, rows, theta.shape[-1])
        far = self._exact.density_jet(theta[~inside], rows[~inside], None if centre is None else centre[~inside])
        if not bool(inside.any()):
            return far
        near = self._jet(t[inside], rows[inside], theta.shape[-1])
        parts = zip((near.log_scale, near.value, near.gradient, near.hessian), _fields(far), strict=True)
        return Jet(*(_merged(inside, a, b) for a, b in parts))

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N), differentiable in theta (B, K)."""
        t = self._chart.to_ball(theta)
        inside = t.detach().square().sum(dim=-1) <= 1.0 + 1e-9
        if not bool(inside.any()):
            return self._exact.log_prob(theta, rows)
        near = self._product(self._basis.values(t[inside]).unsqueeze(1), rows[inside])[:, 0]
        if bool(inside.all()):
            return near
        return _merged(inside, near, self._exact.log_prob(theta[~inside], rows[~inside]))

    def _jet(self, t: Tensor, rows: Tensor, k: int) -> Jet:
        s = self._basis.dim
        out = self._product(self._chain @ self._basis.derivatives(t), rows)
        gradient = out[:, 1 : 1 + s].mT
        hessian = out[:, 1 + s :].unflatten(1, (s, s)).permute(0, 3, 1, 2)
        hessian = hessian + gradient.unsqueeze(-1) * gradient.unsqueeze(-2)
        if s < k:
            gradient, hessian = self._widened(gradient, hessian, k)
        return Jet(out[:, 0], torch.ones_like(out[:, 0]), gradient, hessian)

    def _widened(self, gradient: Tensor, hessian: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Put derivatives in S parameters at the nuisances that stand for them, zero at the others."""
        columns = list(self._chart.columns)
        wide = gradient.new_zeros(*gradient.shape[:-1], k)
        wide[..., columns] = gradient
        square = hessian.new_zeros(*gradient.shape[:-1], k, k)
        square[..., torch.tensor(columns).unsqueeze(-1), columns] = hessian
        return wide, square

    def _product(self, phi: Tensor, rows: Tensor) -> Tensor:
        """Return phi (B, J, M) times the coefficients of each row's events: (B, J, N)."""
        index = self._table.index
        if len(index) == 1:
            if self._gathered is None:
                self._gathered = self._table.coefficients[index[0]].T.contiguous()
            return phi @ self._gathered
        if self._gathered is None or self._held_rows is None or not torch.equal(self._held_rows, rows):
            # the rows of a fit change only when some of them end
            self._gathered, self._held_rows = self._table.coefficients[index[rows]], rows.clone()
        return phi @ self._gathered.mT


def _chain_matrix(inverse_axes: Tensor, basis: PolynomialBasis) -> Tensor:
    """Return the matrix (1 + S + S^2, J) from derivatives in t, pairs once, to derivatives in the parameters."""
    s, pairs = basis.dim, basis.pairs
    chain = inverse_axes.new_zeros(1 + s + s * s, 1 + s + len(pairs))
    chain[0, 0] = 1.0
    chain[1 : 1 + s, 1 : 1 + s] = inverse_axes.T
    for n, (j, k) in enumerate(pairs):
        block = torch.outer(inverse_axes[j], inverse_axes[k])
        chain[1 + s :, 1 + s + n] = (block if j == k else block + block.T).flatten()
    return chain


def _fields(jet: Jet) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return jet.log_scale, jet.value, jet.gradient, jet.hessian


def _merged(inside: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Return rows of ``near`` where inside (B,) and of ``far`` elsewhere."""
    out = near.new_empty(len(inside), *near.shape[1:])
    out[inside], out[~inside] = near, far
    return out


class ConstantDensity:
    """ln f of a source that does not move, from a table.

    Parameters
    ----------
    table
        ln f (E, 1), and which events make up the data sets.
    """

    def __init__(self, table: EventTable) -> None:
        self._log_f = table.coefficients[:, 0][table.index]

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the constant jet over (B, N)."""
        log_f, k = per_row(self._log_f, rows), theta.shape[-1]
        gradient = log_f.new_zeros(1).expand(*log_f.shape, k)
        return Jet(log_f, torch.ones_like(log_f), gradient, gradient.unsqueeze(-1).expand(*log_f.shape, k, k))

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

    def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet over (B, N) with a vanishing Hessian."""
        x = self._x[rows] if len(self._x) > 1 else self._x.expand(len(rows), -1, -1)
        shape, k = x.shape[:-1], theta.shape[-1]
        expanded = theta.unsqueeze(1).expand(*shape, k)
        log_f, gradient = score(self._source, x.reshape(-1, x.shape[-1]), expanded.reshape(-1, k))
        zero = gradient.new_zeros(1).expand(*shape, k, k)
        return Jet(log_f.reshape(shape), torch.ones(shape, dtype=log_f.dtype), gradient.reshape(*shape, k), zero)

    def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ln f (B, N)."""
        return self.density_jet(theta, rows).log_scale
