"""Monotone rational-quadratic spline on [0, 1], for comparison with the smooth maps of :mod:`surrogate.univariate`.

Durkan et al., "Neural Spline Flows", arXiv:1906.04032, section 3.1. The spline is only once differentiable: as its
parameters move, a knot crosses an event and the derivative of the log density jumps, which second-order fits dislike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from surrogate.errors import ConfigError
from surrogate.univariate import Move


class _Bin(NamedTuple):
    """Left edge, width, bottom, height and the slopes at the two ends of one bin per point, each (*,)."""

    x0: Tensor
    width: Tensor
    y0: Tensor
    height: Tensor
    d0: Tensor
    d1: Tensor


@dataclass(frozen=True)
class RationalQuadraticMap:
    """Monotone rational-quadratic spline on [0, 1] with free slopes at the edges.

    Parameters
    ----------
    bins
        Number of bins.
    floor
        Smallest bin width and height, as a fraction of the window.
    slope_floor
        Smallest slope at a knot.

    Raises
    ------
    ConfigError
        If there is no bin, or the floors leave no room for the bins.
    """

    bins: int = 24
    floor: float = 1e-3
    slope_floor: float = 1e-3

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise ConfigError(f"bins = {self.bins} must be >= 1")
        if not (0 < self.floor * self.bins < 1 and self.slope_floor > 0):
            raise ConfigError(
                f"floor = {self.floor} and slope_floor = {self.slope_floor} must be > 0, and floor < 1/{self.bins}"
            )

    @property
    def n_parameters(self) -> int:
        """3 bins + 1: widths, heights, slopes at all knots."""
        return 3 * self.bins + 1

    @property
    def movable(self) -> bool:
        """A spline has no locations to move."""
        return False

    def at(self, column: int) -> RationalQuadraticMap:
        """Return the map itself: all columns are alike."""
        return self

    def initial(self) -> Tensor:
        """Return raw parameters of the identity."""
        raw = torch.zeros(self.n_parameters, dtype=torch.float64)
        raw[2 * self.bins :] = math.log(math.expm1(1.0 - self.slope_floor))
        return raw

    def forward(self, u: Tensor, raw: Tensor, move: Move | None = None) -> tuple[Tensor, Tensor]:
        """Return z = F(u) and ln dF/du, both (*,)."""
        x0, width, y0, height, d0, d1 = self._bin(u, raw, along=0)
        s, t = height / width, ((u - x0) / width).clamp(0.0, 1.0)
        mixed = t * (1.0 - t)
        denominator = s + (d0 + d1 - 2.0 * s) * mixed
        z = y0 + height * (s * t.square() + d0 * mixed) / denominator
        slope_numerator = d1 * t.square() + 2.0 * s * mixed + d0 * (1.0 - t).square()
        return z.clamp(0.0, 1.0), 2.0 * s.log() + slope_numerator.log() - 2.0 * denominator.log()

    def log_derivative(self, u: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return ln dF/du (*,)."""
        return self.forward(u, raw)[1]

    @torch.no_grad()
    def inverse(self, z: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) with F(u) = z, the root of a quadratic (arXiv:1906.04032, section 3.1)."""
        x0, width, y0, height, d0, d1 = self._bin(z, raw, along=1)
        s, rise = height / width, z - y0
        curvature = rise * (d0 + d1 - 2.0 * s)
        a, b, c = height * (s - d0) + curvature, height * d0 - curvature, -s * rise
        root = 2.0 * c / (-b - (b.square() - 4.0 * a * c).clamp(min=0.0).sqrt())
        return (x0 + width * root).clamp(0.0, 1.0)

    @torch.no_grad()
    def sample(self, noise: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) for noise (*, 2), of which the first uniform is inverted."""
        return self.inverse(noise[..., 0], raw)

    def _bin(self, value: Tensor, raw: Tensor, along: int) -> _Bin:
        """Return the bin in which a value (*,) of x (``along`` = 0) or y (1) lies.

        All bins share a softmax; edges are sums over the bins below, and only the slopes at the two ends are computed.
        Values outside [0, 1] belong to the outermost bins.
        """
        scale = 1.0 - self.floor * self.bins
        widths, heights, slopes = raw.split([self.bins, self.bins, self.bins + 1], dim=-1)
        shares = widths.softmax(dim=-1), heights.softmax(dim=-1)
        number = torch.arange(self.bins, dtype=raw.dtype, device=raw.device)
        with torch.no_grad():
            right = shares[along][..., :-1].cumsum(dim=-1).mul_(scale).add_(self.floor * (number[:-1] + 1.0))
            index = (value.unsqueeze(-1) >= right).sum(dim=-1, keepdim=True)
            below = (number < index).to(raw.dtype)
        base = self.floor * index.squeeze(-1).to(raw.dtype)
        x0, y0 = (base + scale * (share * below).sum(dim=-1) for share in shares)
        width, height = (self.floor + scale * share.gather(-1, index).squeeze(-1) for share in shares)
        ends = self.slope_floor + softplus(slopes.gather(-1, torch.cat([index, index + 1], dim=-1)))
        return _Bin(x0, width, y0, height, *ends.unbind(dim=-1))
