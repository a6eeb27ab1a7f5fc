"""The quadratic model of a Newton step inside a box, for a batch of rows.

    minimise  q(d) = g.d + d.A.d / 2    over    low <= d <= high    (low <= 0 <= high)

with A made convex first where it is not. All functions treat rows independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Smallest eigenvalue of the model, relative to a unit diagonal: flat directions are given this much curvature.
FLOOR = 1e-10
#: Curvature of a coordinate on which the function does not depend to second order.
FLAT = 1e-8
#: A bound is released when moving off it would lower the model by more than half its square.
RELEASE = 1e-7


@dataclass(frozen=True)
class BoxStep:
    """The minimiser of the model.

    Attributes
    ----------
    step
        d (B, n).
    reduction
        -q(d) (B,), not negative.
    """

    step: Tensor
    reduction: Tensor


def _cut(matrix: Tensor, keep: Tensor, eye: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrices with the identity on the coordinates that are not kept, and where they are positive definite."""
    cut = torch.where(keep[:, :, None] & keep[:, None, :], matrix, eye)
    # A coordinate on which f does not depend is no reason for an eigenvalue decomposition.
    flat = cut.abs().amax(dim=-1) <= FLOOR
    cut = torch.where(flat.unsqueeze(-1), FLAT * eye, cut)
    factor, info = torch.linalg.cholesky_ex(cut)
    return cut, (info == 0) & (factor.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1) > FLOOR)


def convexify(matrix: Tensor, movable: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make matrices positive definite on the coordinates that may move.

    Where a matrix is not, coordinates pressed against their bounds are held in this step: a product of two rates is
    indefinite in both, yet convex in the other once one of them is held at zero. What is still not convex gets the
    absolute values of its eigenvalues.

    Parameters
    ----------
    matrix
        (B, n, n), symmetric and finite, of about unit diagonal.
    movable, free
        (B, n): coordinates that may move; those of them that are not pressed against a bound.

    Returns
    -------
    tuple of Tensor
        The matrices with the identity on coordinates that are held; which coordinates may move (B, n); and which rows
        needed no eigenvalues changed: bool (B,).
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    result, convex = _cut(matrix, movable, eye)
    if bool(convex.all()):
        return result, movable, convex
    rows = (~convex).nonzero().flatten()
    movable = movable.index_put((rows,), free[rows])
    reduced, good = _cut(matrix[rows], free[rows], eye)
    convex[rows] = good
    bent = ~good
    if bool(bent.any()):
        eigenvalues, vectors = torch.linalg.eigh(reduced[bent])
        lifted = eigenvalues.abs().clamp_min(FLOOR)
        reduced[bent] = (vectors * lifted.unsqueeze(-2)) @ vectors.mT
    result[rows] = reduced
    return result, movable, convex


def _solve_free(gradient: Tensor, matrix: Tensor, eye: Tensor, free: Tensor, held: Tensor) -> Tensor:
    """Return the minimiser over the free coordinates, the others standing at ``held``."""
    still = torch.where(free, 0.0, held)
    right = torch.where(free, -(gradient + (matrix @ still.unsqueeze(-1)).squeeze(-1)), 0.0)
    block = torch.where(free[:, :, None] & free[:, None, :], matrix, eye)
    factor, _ = torch.linalg.cholesky_ex(block)
    return torch.where(free, torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1), held)


def minimise_in_box(gradient: Tensor, matrix: Tensor, low: Tensor, high: Tensor) -> BoxStep:
    """Minimise the convex model in the box by an active set.

    Coordinates that overshoot are held at their bounds, all at once; when none overshoots, those whose multiplier has
    the wrong sign are released. A few passes settle it. Should they not, a projected gradient step stands in, which
    lowers the model as well.

    Parameters
    ----------
    gradient, matrix
        g (B, n) and A (B, n, n), positive definite.
    low, high
        The box (B, n), low <= 0 <= high; equal to zero both where a coordinate is held.
    """
    n = gradient.shape[-1]
    eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    movable = low < high
    free = movable & ~((low >= 0) & (gradient > 0)) & ~((high <= 0) & (gradient < 0))
    step = torch.zeros_like(gradient)
    for _ in range(2 * n + 2):
        target = _solve_free(gradient, matrix, eye, free, step)
        step = torch.minimum(torch.maximum(target, low), high)
        overshot = free & (target != step)
        slope = gradient + (matrix @ step.unsqueeze(-1)).squeeze(-1)
        wrong = ((step <= low) & (slope < -RELEASE)) | ((step >= high) & (slope > RELEASE))
        release = movable & ~free & wrong & ~overshot.any(dim=-1, keepdim=True)
        if not bool((overshot | release).any()):
            return BoxStep(step, _reduction(gradient, matrix, step))
        free = (free & ~overshot) | release
    reduction, cauchy = _reduction(gradient, matrix, step), _projected_gradient(gradient, matrix, low, high)
    better = cauchy.reduction > reduction
    return BoxStep(
        torch.where(better.unsqueeze(-1), cauchy.step, step), torch.where(better, cauchy.reduction, reduction)
    )


def _reduction(gradient: Tensor, matrix: Tensor, step: Tensor) -> Tensor:
    return -(step * (gradient + 0.5 * (matrix @ step.unsqueeze(-1)).squeeze(-1))).sum(dim=-1)


def predicted_decrease(gradient: Tensor, hessian: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return by how much (B,) the quadratic model of a function promises to fall inside a box around a point.

    Parameters
    ----------
    gradient, hessian
        (B, n) and (B, n, n) at the point.
    low, high
        The box (B, n) relative to the point, low <= 0 <= high.
    """
    curvature = hessian.diagonal(dim1=-2, dim2=-1).abs()
    unit = torch.where(curvature > 0, curvature.rsqrt(), 1.0)
    low, high = low / unit, high / unit
    scaled = hessian * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    matrix, movable, _ = convexify(scaled, low < high, low < high)
    low, high = torch.where(movable, low, 0.0), torch.where(movable, high, 0.0)
    return minimise_in_box(gradient * unit, matrix, low, high).reduction


def _projected_gradient(gradient: Tensor, matrix: Tensor, low: Tensor, high: Tensor) -> BoxStep:
    """Return the step along -g, of a length that cannot raise the model, cut to the box."""
    length = 1 / matrix.abs().sum(dim=-1).amax(dim=-1, keepdim=True)
    step = torch.minimum(torch.maximum(-length * gradient, low), high)
    return BoxStep(step, _reduction(gradient, matrix, step))
