"""Sums, products and reciprocals of jets, and moves of their points: what a mixture with rates that move needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from surrogate.jet import Jet


def product(a: Jet, b: Jet) -> Jet:
    """Return the jet of f g, for jets that broadcast over their points."""
    mixed = a.gradient.unsqueeze(-1) * b.gradient.unsqueeze(-2)
    left, right = a.value.unsqueeze(-1), b.value.unsqueeze(-1)
    return Jet(
        a.log_scale + b.log_scale,
        a.value * b.value,
        a.gradient * right + left * b.gradient,
        a.hessian * right.unsqueeze(-1) + left.unsqueeze(-1) * b.hessian + mixed + mixed.mT,
    )


def reciprocal(f: Jet) -> Jet:
    """Return the jet of 1/f, for f > 0."""
    value = f.value.reciprocal()
    slope = -value.square().unsqueeze(-1) * f.gradient
    outer = f.gradient.unsqueeze(-1) * f.gradient.unsqueeze(-2)
    curvature = 2.0 * value.pow(3)[..., None, None] * outer - value.square()[..., None, None] * f.hessian
    return Jet(-f.log_scale, value, slope, curvature)


def grouped_sum(f: Jet, group: Tensor, n: int) -> Jet:
    """Return, of a row of jets (m,), the sums (n,) over the rows of each group (m,) in 0 .. n - 1.

    A group without rows, or with rows that all vanish, gives a jet that vanishes.
    """
    top = f.log_scale.new_full((n,), -torch.inf).scatter_reduce(0, group, f.log_scale, "amax")
    scale = torch.exp(f.log_scale - torch.where(torch.isfinite(top), top, 0.0)[group])
    k = f.gradient.shape[-1]
    return Jet(
        top,
        scale.new_zeros(n).index_add(0, group, scale * f.value),
        scale.new_zeros(n, k).index_add(0, group, scale.unsqueeze(-1) * f.gradient),
        scale.new_zeros(n, k, k).index_add(0, group, scale[..., None, None] * f.hessian),
    )


def weighted_sum(f: Jet, weights: Tensor) -> Jet:
    """Return the jet (*,) of sum_m w_m f_m, for a jet over (*, M) and weights (M,) >= 0."""
    top = f.log_scale.amax(dim=-1)
    scale = weights * torch.exp(f.log_scale - torch.where(torch.isfinite(top), top, 0.0).unsqueeze(-1))
    return Jet(
        top,
        (scale * f.value).sum(dim=-1),
        (scale.unsqueeze(-1) * f.gradient).sum(dim=-2),
        (scale[..., None, None] * f.hessian).sum(dim=-3),
    )


def picked(f: Jet, index: tuple[Tensor, ...]) -> Jet:
    """Return the jet at some of its points."""
    return Jet(f.log_scale[index], f.value[index], f.gradient[index], f.hessian[index])


def joined(jets: Sequence[Jet]) -> Jet:
    """Return rows of jets one after the other."""
    return Jet(
        torch.cat([f.log_scale for f in jets]),
        torch.cat([f.value for f in jets]),
        torch.cat([f.gradient for f in jets]),
        torch.cat([f.hessian for f in jets]),
    )


def reshaped(f: Jet, shape: Sequence[int]) -> Jet:
    """Return a jet whose points have another shape."""
    k, points = f.gradient.shape[-1], tuple(shape)
    gradient, hessian = f.gradient.reshape(*points, k), f.hessian.reshape(*points, k, k)
    return Jet(f.log_scale.reshape(points), f.value.reshape(points), gradient, hessian)
