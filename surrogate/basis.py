"""Smooth basis functions of theta: Chebyshev polynomials of bounded total degree, with optional smoothed kinks.

With t_k(theta_k) in [-1, 1] the standardised parameters, the basis holds all products

    B_j(theta) = prod_k T_{a_jk}(t_k),    sum_k a_jk/n_k <= degree,

with n_k = 1 unless a parameter is asked for in finer detail (a recoil energy over which the response spans decades),
and, for each parameter with a kink (a response whose slope differs on the two sides of the nominal value, as that to a
yield band with unequal half-widths), additionally h and h T_a(t_k), 1 <= a <= n_k, with the C-infinity kink

    h(t) = sqrt((t - t_0)^2 + w^2),    w = 0.05.

Values, gradients and Hessians in theta are closed forms.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.context import smooth_kink
from surrogate.errors import ConfigError, unknown_name
from surrogate.nuisance import NuisanceSpace


@dataclass(frozen=True)
class ThetaBasis:
    """Chebyshev basis of total degree ``degree`` over the box of a nuisance space.

    Parameters
    ----------
    nuisances
        The parameters; none gives the constant function alone.
    degree
        Total degree, >= 0.
    kinks
        Names of parameters with a smoothed kink at their nominal value.
    fine
        Pairs (name, n): powers of that parameter count 1/n each. Not for a parameter with a kink.

    Raises
    ------
    ConfigError
        For a negative degree, an unknown name, or n < 1.
    """

    nuisances: NuisanceSpace
    degree: int
    kinks: tuple[str, ...] = ()
    fine: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.degree < 0:
            raise ConfigError(f"degree = {self.degree} must be >= 0")
        for where, names in (("kinks", self.kinks), ("fine", tuple(name for name, _ in self.fine))):
            for name in names:
                if name not in self.nuisances.names:
                    raise ConfigError(unknown_name("nuisance", name, self.nuisances.names, where))
        for name, n in self.fine:
            if n < 1 or name in self.kinks:
                raise ConfigError(f"fine: {name}: {n} must be at least 1, and {name} have no kink")

    @property
    def size(self) -> int:
        """Number of basis functions P."""
        return len(self._index)

    @cached_property
    def groups(self) -> tuple[int, ...]:
        """Group of each function: 0 for the constant, then one per set of parameters involved and total degree."""
        kink = self._highest + 1
        keys = [(max(a, default=0) >= kink, sum(a), tuple(f > 0 for f in a)) for a in self._index]
        distinct = sorted(set(keys))
        return tuple(distinct.index(key) for key in keys)

    def values(self, theta: Tensor) -> Tensor:
        """Return B (*, P) for theta (*, K)."""
        factors = self._factors(self.nuisances.standardise(theta), order=0)[0]
        return self._pick(factors).prod(dim=-1)

    def jet(self, theta: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value (*,), gradient (*, K) and Hessian (*, K, K) of sum_j c_j B_j at theta (*, K)."""
        k = self.nuisances.dim
        value, first, second = (self._pick(f) for f in self._factors(self.nuisances.standardise(theta), order=2))
        gradient = theta.new_zeros(theta.shape)
        hessian = theta.new_zeros(*theta.shape, k)
        for i in range(k):
            slope = value.clone()
            slope[..., i] = first[..., i]
            gradient[..., i] = slope.prod(dim=-1) @ coefficients
            for j in range(i + 1):
                mixed = slope.clone()
                mixed[..., j] = second[..., i] if i == j else first[..., j]
                hessian[..., i, j] = hessian[..., j, i] = mixed.prod(dim=-1) @ coefficients
        slope, curvature = self.nuisances.standardise_derivatives(theta)
        hessian = hessian * slope.unsqueeze(-1) * slope.unsqueeze(-2) + torch.diag_embed(gradient * curvature)
        return value.prod(dim=-1) @ coefficients, gradient * slope, hessian

    def _factors(self, t: Tensor, order: int) -> list[Tensor]:
        """Return the one-dimensional functions and their first ``order`` derivatives, each (*, M, K).

        The M functions are T_0, T_1, ... up to the highest power, h and t h.
        """
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        functions = [(one, zero, zero), (t, one, zero)]
        for _ in range(2, self._highest + 1):
            (f, df, ddf), (g, dg, ddg) = functions[-1], functions[-2]
            functions.append((2 * t * f - g, 2 * f + 2 * t * df - dg, 4 * df + 2 * t * ddf - ddg))
        if self.kinks:
            nominal = self.nuisances.standardise(self.nuisances.nominal(t))
            h, dh, ddh = smooth_kink(t - nominal)
            functions += [(h, dh, ddh), (t * h, h + t * dh, 2 * dh + t * ddh)]
        return [torch.stack([f[i] for f in functions], dim=-2) for i in range(order + 1)]

    def _pick(self, factors: Tensor) -> Tensor:
        """Return the factors (*, P, K) of every basis function from the one-dimensional ones (*, M, K)."""
        index = torch.tensor(self._index, dtype=torch.long, device=factors.device).reshape(
            self.size, self.nuisances.dim
        )
        return factors.gather(-2, index.expand(*factors.shape[:-2], -1, -1))

    @property
    def _highest(self) -> int:
        """Highest power of any parameter, at least 1."""
        return max(self.degree * max((n for _, n in self.fine), default=1), 1)

    @cached_property
    def _index(self) -> list[tuple[int, ...]]:
        """Return, for every basis function, which one-dimensional function it takes of each parameter."""
        k = self.nuisances.dim
        detail = [dict(self.fine).get(name, 1) for name in self.nuisances.names]
        common = math.lcm(*detail)
        cost = [common // n for n in detail]
        ranges = [range(self.degree * n + 1) for n in detail]
        budget = self.degree * common
        powers = [a for a in itertools.product(*ranges) if sum(f * c for f, c in zip(a, cost, strict=True)) <= budget]
        kink = self._highest + 1
        for name in self.kinks:
            where = self.nuisances.names.index(name)
            for factor, power in [(-1, 0), *((i, p) for i in range(k) for p in range(1, detail[i] + 1))]:
                index = [power if i == factor else 0 for i in range(k)]
                index[where] = kink + 1 if factor == where else kink
                powers.append(tuple(index))
        return powers
