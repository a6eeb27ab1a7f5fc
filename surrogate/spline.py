"""Monotone rational-quadratic spline on [0, 1], for comparison with the smooth maps of :mod:`surrogate.univariate`.

Durkan et al., "Neural Spline Flows", arXiv:1906.04032, section 3.1. The spline is only once differentiable: as its
parameters move, a knot crosses an event and the derivative of the log density jumps, which second-order fits dislike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from surrogate.errors import ConfigError
from surrogate.univariate import Move


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
        x, y, slope = self._knots(raw)
        index = (u.unsqueeze(-1) >= x[..., 1:-1]).sum(dim=-1, keepdim=True)
        x0, width, y0, height, d0, d1 = _bin(x, y, slope, index)
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
        x, y, slope = self._knots(raw)
        index = (z.unsqueeze(-1) >= y[..., 1:-1]).sum(dim=-1, keepdim=True)
        x0, width, y0, height, d0, d1 = _bin(x, y, slope, index)
        s, rise = height / width, z - y0
        curvature = rise * (d0 + d1 - 2.0 * s)
        a, b, c = height * (s - d0) + curvature, height * d0 - curvature, -s * rise
        root = 2.0 * c / (-b - (b.square() - 4.0 * a * c).clamp(min=0.0).sqrt())
        return (x0 + width * root).clamp(0.0, 1.0)

    @torch.no_grad()
    def sample(self, noise: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) for noise (*, 2), of which the first uniform is inverted."""
        return self.inverse(noise[..., 0], raw)

    def _knots(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the knots x, y and the slopes there, each (*, bins + 1)."""
        widths, heights, slopes = raw.split([self.bins, self.bins, self.bins + 1], dim=-1)
        return self._edges(widths), self._edges(heights), self.slope_floor + softplus(slopes)

    def _edges(self, raw: Tensor) -> Tensor:
        size = self.floor + (1.0 - self.floor * self.bins) * raw.softmax(dim=-1)
        inner = size.cumsum(dim=-1)[..., :-1]
        return torch.cat([torch.zeros_like(raw[..., :1]), inner, torch.ones_like(raw[..., :1])], dim=-1)


def _bin(x: Tensor, y: Tensor, slope: Tensor, index: Tensor) -> tuple[Tensor, ...]:
    """Return left edge, width, bottom, height and the two slopes of the bin ``index`` (*, 1), each (*,)."""

    def at(values: Tensor, shift: int) -> Tensor:
        return values.gather(-1, index + shift).squeeze(-1)

    x0, y0 = at(x, 0), at(y, 0)
    return x0, at(x, 1) - x0, y0, at(y, 1) - y0, at(slope, 0), at(slope, 1)
