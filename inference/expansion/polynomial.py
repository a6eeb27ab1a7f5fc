"""Polynomials in several variables with a degree for each, their derivatives, and their fit to values and slopes."""

from __future__ import annotations

import itertools
from functools import cached_property

import torch
from torch import Tensor

#: Weight of a slope relative to a value in fits, in units of the unit ball: both errors then count about alike.
SLOPE_WEIGHT = 0.5


class PolynomialBasis:
    """All monomials t^a = prod_k t_k^a_k under the simplex sum_k a_k / p_k <= 1.

    With equal p_k these are the polynomials of total degree p; a variable in which a function varies less gets a
    smaller p_k, and none at all where p_k = 0.

    Parameters
    ----------
    degrees
        p_k >= 0 for each of the K variables.
    linear
        How many of the variables, the last ones, appear to no higher power than the first: their squares are
        polynomials in others.
    """

    def __init__(self, degrees: tuple[int, ...], linear: int = 0) -> None:
        self.degrees, self.linear = degrees, linear
        first_linear = len(degrees) - linear
        ranges = [range((p if k < first_linear else min(p, 1)) + 1) for k, p in enumerate(degrees)]
        powers = [
            a
            for a in itertools.product(*ranges)
            if sum(x / p for x, p in zip(a, degrees, strict=True) if p) <= 1.0 + 1e-9
        ]
        powers.sort(key=lambda a: (sum(a), [-x for x in a]))
        self._powers = torch.tensor(powers, dtype=torch.long).reshape(len(powers), len(degrees))
        self._position = {a: m for m, a in enumerate(powers)}

    def __len__(self) -> int:
        """Return the number M of monomials."""
        return len(self._powers)

    @property
    def dim(self) -> int:
        """Number K of variables."""
        return len(self.degrees)

    def values(self, t: Tensor) -> Tensor:
        """Return all monomials (B, M) at t (B, K), differentiable."""
        total = t.new_ones(len(t), len(self))
        for k, degree in enumerate(self.degrees):
            if degree:
                powers = torch.cumprod(t[:, k, None].expand(-1, degree), dim=-1)
                powers = torch.cat([torch.ones_like(t[:, :1]), powers], dim=-1)
                total = total * powers[:, self._powers[:, k].to(t.device)]
        return total

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The K(K+1)/2 second derivatives (j, k), j <= k."""
        return tuple(itertools.combinations_with_replacement(range(self.dim), 2))

    @cached_property
    def _derivatives(self) -> tuple[Tensor, Tensor]:
        """Each derivative of a monomial is a multiple of another: which (J, M), and the multiple (J, M)."""
        orders: list[tuple[int, ...]] = [(), *((k,) for k in range(self.dim)), *self.pairs]
        source = torch.zeros(len(orders), len(self), dtype=torch.long)
        factor = torch.zeros(len(orders), len(self), dtype=torch.float64)
        for j, order in enumerate(orders):
            for m, start in enumerate(self._powers.tolist()):
                a, multiple = list(start), 1.0
                for k in order:
                    multiple *= a[k]
                    a[k] -= 1
                if multiple:
                    source[j, m], factor[j, m] = self._position[tuple(a)], multiple
        return source, factor

    def derivatives(self, t: Tensor) -> Tensor:
        """Return value, K first and K(K+1)/2 second derivatives of all monomials: (B, J, M) at t (B, K)."""
        source, factor = (x.to(t.device) for x in self._derivatives)
        return self.values(t)[:, source] * factor


def least_squares(values: Tensor, slopes: Tensor) -> Tensor:
    """Return the matrix (M, n (1 + S)) that makes coefficients of n values and n S slopes, node by node.

    Parameters
    ----------
    values, slopes
        Of the M functions at the nodes, (n, M) and (n, S, M).
    """
    rows = torch.cat([values.unsqueeze(1), SLOPE_WEIGHT * slopes], dim=1).flatten(0, 1)
    weight = values.new_tensor([1.0] + [SLOPE_WEIGHT] * slopes.shape[1]).repeat(len(values))
    return torch.linalg.pinv(rows, rtol=1e-12) * weight


def chebyshev_design(t: Tensor, degree: int) -> Tensor:
    """Return the values, then the slopes, of the Chebyshev polynomials up to a degree at t (n,): (2 n, degree + 1)."""
    columns, slopes = [torch.ones_like(t), t], [torch.zeros_like(t), torch.ones_like(t)]
    for _ in range(2, degree + 1):
        columns.append(2 * t * columns[-1] - columns[-2])
        slopes.append(2 * columns[-2] + 2 * t * slopes[-1] - slopes[-2])
    return torch.cat([torch.stack(columns[: degree + 1], dim=-1), torch.stack(slopes[: degree + 1], dim=-1)])
