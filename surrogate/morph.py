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
        (*, M, 2^K): row 0 gives g, rows 1..K the gradient, then the mixed second derivatives in the order of
        itertools.combinations(range(K), 2), and a row of zeros last.
    hessian_rows
        (K, K): which row gives each second derivative; on the diagonal the one of zeros.
    """

    cell: Tensor
    weights: Tensor
    hessian_rows: Tensor

    def derivatives(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (*, M) into value (*,), gradient (*, K) and Hessian (*, K, K)."""
        k = len(self.hessian_rows)
        return rows[..., 0], rows[..., 1 : 1 + k], rows[..., self.hessian_rows]


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

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Anchors and widths of cells (K, A), padded with infinity; last cell and stride (K,) of each axis."""
        longest = max((len(a) for a in self.axes), default=2)
        anchors = torch.full((self.dim, longest), math.inf, dtype=torch.float64)
        widths = torch.full((self.dim, longest), math.inf, dtype=torch.float64)
        for k, axis in enumerate(self.axes):
            anchors[k, : len(axis)] = axis
            widths[k, : len(axis) - 1] = axis.diff()
        cells = [len(axis) - 1 for axis in self.axes]
        strides = [math.prod(cells[k + 1 :]) for k in range(self.dim)]
        last = torch.tensor(cells, dtype=torch.int64) - 1
        return anchors, widths, last, torch.tensor(strides, dtype=torch.int64)

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Which products of values and slopes are the rows of a stencil (M,), and which rows the Hessian (K, K).

        The products are numbered by K bits, the first parameter's the highest; a set bit takes the slope.
        """
        bit = [1 << (self.dim - 1 - k) for k in range(self.dim)]
        pairs = list(itertools.combinations(range(self.dim), 2))
        zero = 1 + self.dim + len(pairs)
        hessian = torch.full((self.dim, self.dim), zero, dtype=torch.int64)
        for m, (i, j) in enumerate(pairs, start=1 + self.dim):
            hessian[i, j] = hessian[j, i] = m
        return torch.tensor([0, *bit, *(bit[i] | bit[j] for i, j in pairs), 1 << self.dim]), hessian

    def stencil(self, theta: Tensor, centre: Tensor | None = None) -> Stencil:
        """Locate theta on the grid.

        Parameters
        ----------
        theta
            (*, K), inside the range of the anchors.
        centre
            (*, K); the cell that contains it is used instead of the one that contains theta.
        """
        anchors, widths, last, strides = (t.to(theta.device) for t in self._tables)
        where = theta if centre is None else centre
        lower = ((where.unsqueeze(-1) >= anchors).sum(dim=-1) - 1).clamp_min(0).minimum(last)
        picked = lower.unsqueeze(-1)
        width = widths.expand(*lower.shape, -1).gather(-1, picked)
        u = (theta.unsqueeze(-1) - anchors.expand(*lower.shape, -1).gather(-1, picked)) / width
        slope = width.reciprocal()
        pairs = torch.cat([1 - u, u, -slope, slope], dim=-1).unflatten(-1, (2, 2))
        product = torch.ones((*theta.shape[:-1], 1, 1), dtype=torch.float64, device=theta.device)
        for k in range(self.dim):
            product = product[..., :, None, :, None] * pairs[..., k, None, :, None, :]
            product = product.flatten(-4, -3).flatten(-2, -1)
        rows, hessian = (t.to(theta.device) for t in self._rows)
        weights = torch.nn.functional.pad(product, (0, 0, 0, 1))[..., rows, :]
        return Stencil((lower * strides).sum(dim=-1), weights, hessian)
