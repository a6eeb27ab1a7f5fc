"""Multilinear interpolation between anchors, with exact gradient and Hessian inside a cell.

On the cell of the anchor grid that contains theta, with local coordinates u_k = (theta_k - a_k)/(b_k - a_k),

    g(theta) = sum_{s in {0,1}^K} g_s prod_k [u_k if s_k else 1 - u_k],

so that g is linear along each axis, continuous across cells, and its derivatives jump at the anchors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.errors import ConfigError


@dataclass(frozen=True)
class Stencil:
    """Where theta lies on an anchor grid, and how corner values make g and its derivatives.

    Attributes
    ----------
    cell
        int64 (*,): number of the cell.
    weights
        (*, M, 2^K): row 0 gives g, rows 1..K the gradient, the others the mixed second derivatives in the order of
        itertools.combinations(range(K), 2); pure second derivatives vanish.
    dim
        K.
    """

    cell: Tensor
    weights: Tensor
    dim: int

    def derivatives(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (*, M) into value (*,), gradient (*, K) and Hessian (*, K, K)."""
        k = self.dim
        hessian = rows.new_zeros(*rows.shape[:-1], k, k)
        for m, (i, j) in enumerate(itertools.combinations(range(k), 2), start=1 + k):
            hessian[..., i, j] = rows[..., m]
            hessian[..., j, i] = rows[..., m]
        return rows[..., 0], rows[..., 1 : 1 + k], hessian


@dataclass(frozen=True, eq=False)
class AnchorGrid:
    """A full grid of anchors over named parameters; without parameters it is one single cell.

    Parameters
    ----------
    anchors
        Name -> increasing values, at least two each.

    Raises
    ------
    ConfigError
        If anchors do not increase or there are fewer than two.
    """

    anchors: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        for name, values in self.anchors.items():
            if len(values) < 2 or any(not b > a for a, b in itertools.pairwise(values)):
                raise ConfigError(f"anchors of '{name}': at least two increasing values are needed, got {list(values)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in order."""
        return tuple(self.anchors)

    @property
    def dim(self) -> int:
        """Number of parameters K."""
        return len(self.anchors)

    @cached_property
    def axes(self) -> tuple[Tensor, ...]:
        """The anchors of each parameter, float64."""
        return tuple(torch.tensor([float(v) for v in a], dtype=torch.float64) for a in self.anchors.values())

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of anchors of each parameter."""
        return tuple(len(a) for a in self.axes)

    def positions(self) -> Tensor:
        """Return the steps of every anchor along each parameter, (n_anchors, K) in C order."""
        steps = [torch.arange(n, dtype=torch.float64) for n in self.shape]
        if not steps:
            return torch.zeros((1, 1), dtype=torch.float64)
        return torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).reshape(-1, self.dim)

    def gather_corners(self, table: Tensor) -> Tensor:
        """Return, for values at the anchors (n_anchors, ...) in C order, those at the corners (n_cells, 2^K, ...)."""
        strides = [math.prod(self.shape[k + 1 :]) for k in range(self.dim)]
        cells = torch.zeros(1, dtype=torch.int64)
        corners = torch.zeros(1, dtype=torch.int64)
        for n, stride in zip(self.shape, strides, strict=True):
            cells = (cells[:, None] + stride * torch.arange(n - 1)).reshape(-1)
            corners = (corners[:, None] + stride * torch.arange(2)).reshape(-1)
        return table[cells[:, None] + corners]

    def stencil(self, theta: Tensor, centre: Tensor | None = None, derivatives: bool = True) -> Stencil:
        """Locate theta (*, K) on the grid.

        Parameters
        ----------
        theta
            (*, K), inside the range of the anchors.
        centre
            (*, K); the cell that contains it is used instead of the one that contains theta.
        derivatives
            Whether rows for the gradient and the Hessian are wanted (M = 1 + K + K(K-1)/2, else M = 1).
        """
        where = theta if centre is None else centre
        cell = torch.zeros(where.shape[:-1], dtype=torch.int64, device=theta.device)
        values, slopes = [], []
        for k, axis in enumerate(self.axes):
            grid = axis.to(theta.device)
            lower = (torch.bucketize(where[..., k].contiguous(), grid, right=True) - 1).clamp(0, len(grid) - 2)
            cell = cell * (len(grid) - 1) + lower
            width = grid[lower + 1] - grid[lower]
            u = (theta[..., k] - grid[lower]) / width
            values.append(torch.stack([1 - u, u], dim=-1))
            slopes.append(torch.stack([-1 / width, 1 / width], dim=-1).expand(values[-1].shape))
        orders: list[tuple[int, ...]] = [()]
        if derivatives:
            orders += [(i,) for i in range(self.dim)] + list(itertools.combinations(range(self.dim), 2))
        rows = [self._product(theta, [slopes[k] if k in o else values[k] for k in range(self.dim)]) for o in orders]
        return Stencil(cell, torch.stack(rows, dim=-2), self.dim)

    def _product(self, theta: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """Return the outer product (*, 2^K) of K factors (*, 2)."""
        out = torch.ones((*theta.shape[:-1], 1), dtype=torch.float64, device=theta.device)
        for factor in factors:
            out = (out.unsqueeze(-1) * factor.unsqueeze(-2)).flatten(-2)
        return out
