"""Monotone rational-quadratic spline on [0, 1], for comparison with the smooth maps of :mod:`surrogate.univariate`.

Durkan et al., "Neural Spline Flows", arXiv:1906.04032, section 3.1. The spline is only once differentiable: as its
parameters move, a knot crosses an event and the derivative of the log density jumps, which second-order fits dislike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from surrogate.errors import ConfigError
from surrogate.univariate import Move

# in double precision exp and softmax take several times longer than exp2 in the vector library that torch uses
LOG2_E = math.log2(math.e)


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
        """Return z = F(u) and ln dF/du, both (*,).

        With s = height/width, t = (u - x0)/width, a = s + t (d1 - s) and b = d0 + t (s - d0), equations 4 and 5 of the
        paper read z = y0 + height t b/[t b + (1 - t) a] and dF/du = s^2 [t a + (1 - t) b]/[t b + (1 - t) a]^2.
        """
        part = self._bin(u, raw, along=0)
        share, log_slope = _ratio(part, u)
        return (part.y0 + part.height * share).clamp(0.0, 1.0), log_slope

    def log_derivative(self, u: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return ln dF/du (*,)."""
        return _ratio(self._bin(u, raw, along=0), u)[-1]

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

        Values outside [0, 1] belong to the outermost bins.
        """
        start, size, slopes = _Selected.apply(raw, value, along, self.floor)
        ends = self.slope_floor + softplus(slopes)
        (x0, y0), (width, height), (d0, d1) = (pair.unbind(dim=-1) for pair in (start, size, ends))
        return _Bin(x0, width, y0, height, d0, d1)


def _ratio(part: _Bin, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return (z - y0)/height and ln dF/du of :meth:`RationalQuadraticMap.forward`, both (*,)."""
    per_width = part.width.reciprocal()
    t, s = ((u - part.x0) * per_width).clamp(0.0, 1.0), part.height * per_width
    a, b = torch.lerp(s, part.d1, t), torch.lerp(part.d0, s, t)
    inverse = torch.lerp(a, b, t).reciprocal()
    return t * b * inverse, ((s * inverse).square() * torch.lerp(b, a, t)).log()


class _Selected(torch.autograd.Function):
    """Edges and sizes of the bins in which values lie, and the raw slopes at their ends.

    Sizes are q_k = floor + (1 - floor B) p_k with shares p = softmax(l), edges are sums of the q_k below. The gradient
    is in closed form, which takes half the time of automatic differentiation: where g is that in the size of bin i,
    and h that in its edge,

        dL/dl_j = p_j (v_j - sum_k p_k v_k),    v_j = (1 - floor B) (h [j < i] + g [j = i]).

    Widths and heights go together. The derivative is itself differentiable.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, value: Tensor, along: int, floor: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return edges, sizes and raw slopes, each (*, 2), for raw (*, 3 B + 1) and values (*,) of x or y."""
        bins = raw.shape[-1] // 3
        ctx.scale = 1.0 - floor * bins
        shares = _shares(raw)
        sizes = torch.add(shares.new_tensor(floor), shares, alpha=ctx.scale)
        right = sizes.cumsum(dim=-1)
        index = (value.unsqueeze(-1) >= right[..., along, :-1]).sum(dim=-1, keepdim=True)
        both, ends = index.unsqueeze(-1).expand(*index.shape[:-1], 2, 1), torch.cat([index, index + 1], dim=-1)
        size = sizes.gather(-1, both).squeeze(-1)
        ctx.save_for_backward(raw, shares, both, ends)
        return right.gather(-1, both).squeeze(-1).sub_(size), size, raw[..., 2 * bins :].gather(-1, ends)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient in the raw parameters."""
        raw, shares, both, ends = ctx.saved_tensors
        bins = shares.shape[-1]
        if torch.is_grad_enabled():
            shares = _logits(raw).softmax(dim=-1)
        by_start, by_size = (slope.mul(ctx.scale).unsqueeze(-1) for slope in slopes[:2])
        below = shares.new_ones(bins, bins).tril_(-1).index_select(0, both.flatten()).view(shares.shape)
        weighted = shares * (below * by_start).scatter_(-1, both, by_size)
        by_logits = weighted.addcmul_(shares, weighted.sum(dim=-1, keepdim=True), value=-1.0)
        by_slopes = raw.new_zeros(*raw.shape[:-1], bins + 1).scatter_(-1, ends, slopes[2])
        return torch.cat([by_logits.flatten(-2), by_slopes], dim=-1), None, None, None


def _logits(raw: Tensor) -> Tensor:
    """Return those of widths and heights (*, 2, B)."""
    bins = raw.shape[-1] // 3
    return raw[..., : 2 * bins].unflatten(-1, (2, bins))


def _shares(raw: Tensor) -> Tensor:
    """Return the softmax of the logits (*, 2, B), by powers of two."""
    powers = _logits(raw) * LOG2_E
    powers.sub_(powers.amax(dim=-1, keepdim=True)).exp2_()
    return powers.mul_(powers.sum(dim=-1, keepdim=True).reciprocal_())
