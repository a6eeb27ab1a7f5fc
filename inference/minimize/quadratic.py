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


def convexify(matrix: Tensor, movable: Tensor) -> tuple[Tensor, Tensor]:
    """Make matrices positive definite on the coordinates that may move.

    Parameters
    ----------
    matrix
        (B, n, n), symmetric and finite, of about unit diagonal.
    movable
        (B, n); the other coordinates are cut out.

    Returns
    -------
    tuple of Tensor
        The matrix with the identity on coordinates that are held, eigenvalues replaced by max(|eigenvalue|, FLOOR) in
        rows where it is not safely positive definite, and which rows needed no change: bool (B,).
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    masked = torch.where(movable[:, :, None] & movable[:, None, :], matrix, eye)
    # A coordinate on which f does not depend is no reason for an eigenvalue decomposition.
    flat = masked.abs().amax(dim=-1) <= FLOOR
    masked = torch.where(flat.unsqueeze(-1), FLAT * eye, masked)
    factor, info = torch.linalg.cholesky_ex(masked)
    convex = (info == 0) & (factor.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1) > FLOOR)
    if bool(convex.all()):
        return masked, convex
    bent = ~convex
    eigenvalues, vectors = torch.linalg.eigh(masked[bent])
    lifted = eigenvalues.abs().clamp_min(FLOOR)
    masked[bent] = (vectors * lifted.unsqueeze(-2)) @ vectors.mT
    return masked, convex


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


def _projected_gradient(gradient: Tensor, matrix: Tensor, low: Tensor, high: Tensor) -> BoxStep:
    """Return the step along -g, of a length that cannot raise the model, cut to the box."""
    length = 1 / matrix.abs().sum(dim=-1).amax(dim=-1, keepdim=True)
    step = torch.minimum(torch.maximum(-length * gradient, low), high)
    return BoxStep(step, _reduction(gradient, matrix, step))
