"""Coordinates in which curved valleys are straight.

Where data fix the product of two parameters, a rate and an efficiency, f is flat along a hyperbola, and a straight step
leaves it. In ln x the valley of a product is straight; in x and 1/y that of (x + c) y is, where one efficiency serves
several rates. With x0 the place where a step begins, d its length to first order in x, and p the power of a coordinate,

    p = 1:  x0 + d,        p = 0:  x0 exp(d / x0),        p = -1:  x0 / (1 - d / x0).

All have dx/dd = 1 and d2x/dd2 = (1 - p) / x0 at d = 0, so that the gradient of f is that in x, and its Hessian is
H_ij + delta_ij (1 - p_i) g_i / x_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The power after a step that failed, in this order; the last one is followed by the first.
POWERS = (1, 0, -1)
#: A step along a curve changes a coordinate by this factor at most.
FACTOR = 3.0
#: Coordinates below this, in units of their scale, go straight: by factors they would never come to zero.
NEGLIGIBLE = 1e-9


def powers(row: Tensor, x: Tensor, low: Tensor, scale: Tensor, fell: Tensor) -> Tensor | None:
    """Return the power of each coordinate (A, n); None where all rows go straight, as nearly always.

    Parameters
    ----------
    row
        Power of the row (A,). At 0 it is that of every coordinate that cannot be negative; at -1 of those of them that
        the row last tried to lower, while the others go straight.
    x, low, scale, fell
        Place, lower bounds, typical sizes, and whether the last step lowered a coordinate (A, n).
    """
    if not bool((row < 1).any()):
        return None
    curve = (low >= 0) & (x > NEGLIGIBLE * scale) & (fell | (row == 0).unsqueeze(-1))
    return torch.where(curve, row.unsqueeze(-1), 1)


def curved_hessian(hessian: Tensor, gradient: Tensor, x: Tensor, power: Tensor | None) -> Tensor:
    """Return the second derivatives (A, n, n) in the coordinates."""
    if power is None:
        return hessian
    return hessian + torch.diag_embed(torch.where(power < 1, (1 - power) * gradient / x, 0.0))


def sizes(scale: Tensor, x: Tensor, power: Tensor | None) -> Tensor:
    """Return a size (A, n) for each coordinate, x along a curve: there -ln x has no curvature to tell."""
    return scale if power is None else torch.where(power < 1, x, scale)


def distance(x: Tensor, end: Tensor, power: Tensor | None) -> Tensor:
    """Return the d (A, n) that leads from x to an end."""
    if power is None:
        return end - x
    return torch.where(power == 1, end - x, torch.where(power == 0, x * (end / x).log(), x - x.square() / end))


def moved(x: Tensor, step: Tensor, power: Tensor | None) -> Tensor:
    """Return where steps d (A, n) lead."""
    if power is None:
        return x + step
    curved = torch.where(power == 0, x * (step / x).exp(), x / (1 - step / x))
    return torch.where(power == 1, x + step, curved)


def reach(x: Tensor, unit: Tensor, radius: Tensor, power: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the longest steps down and up, in units (A, n): of the trust box (A, 1) and of the largest factor."""
    if power is None:
        return -radius, radius
    straight = power == 1
    down = torch.where(straight, -torch.inf, distance(x, x / FACTOR, power) / unit)
    up = torch.where(straight, torch.inf, distance(x, x * FACTOR, power) / unit)
    return torch.maximum(down, -radius), torch.minimum(up, radius)
