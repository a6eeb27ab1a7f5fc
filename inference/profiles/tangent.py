"""The profile likelihood near a conditional fit, to second order.

Along a parameter of interest mu with the others profiled, nu = nu_hat(mu),

    d ln L_p / d mu   = d ln L / d mu                                  (envelope theorem),
    d2 ln L_p / d mu2 = H_mm - H_mn H_nn^-1 H_nm,    d nu / d mu = -H_nn^-1 H_nm,

with H the Hessian of ln L over the parameters nu in which it is stationary; those held, on a bound or on a kink stay
where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch


@dataclass(frozen=True)
class Tangent:
    """First and second derivative of the profile ln L in mu (B,), and how all parameters move with mu (B, P)."""

    slope: Tensor
    curvature: Tensor
    direction: Tensor


def profile_tangent(batch: FitBatch, poi: int) -> Tangent:
    """Return the local behaviour of the profile likelihood at fits that hold, or have freely found, parameter ``poi``.

    Where H_nn is not negative definite the other parameters are taken to stand still.
    """
    # A parameter without curvature acts on nothing here.
    follows = batch.smooth & (batch.hessian.diagonal(dim1=-2, dim2=-1) < 0)
    follows[:, poi] = False
    p = follows.shape[-1]
    eye = torch.eye(p, dtype=torch.float64, device=follows.device)
    pair = follows[:, :, None] & follows[:, None, :]
    information = torch.where(pair, -batch.hessian, eye)
    unit = information.diagonal(dim1=-2, dim2=-1).abs().clamp_min(1e-300).rsqrt()
    factor, info = torch.linalg.cholesky_ex(information * unit.unsqueeze(-1) * unit.unsqueeze(-2))
    definite = (info == 0) & (factor.diagonal(dim1=-2, dim2=-1).amin(dim=-1) > 1e-6)
    factor = torch.where(definite[:, None, None], factor, eye)
    mixed = torch.where(follows & definite.unsqueeze(-1), batch.hessian[:, poi], 0.0)
    moved = torch.cholesky_solve((mixed * unit).unsqueeze(-1), factor).squeeze(-1) * unit
    direction = moved.clone()
    direction[:, poi] = 1.0
    curvature = batch.hessian[:, poi, poi] + (mixed * moved).sum(dim=-1)
    return Tangent(batch.gradient[:, poi], curvature, direction)
