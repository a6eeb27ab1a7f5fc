"""Second-order jets: a positive function of theta with its gradient and Hessian, per point.

The likelihood needs d ln L/d theta and d^2 ln L/d theta^2 of sums of densities. A jet carries

    f = exp(log_scale) * value,    df/dtheta_j = exp(log_scale) * gradient_j,    d2f/dtheta_j dtheta_k likewise,

so that a density as small as exp(-1000) and one that vanishes exactly are both represented without loss. For a smooth
density log_scale = ln f and value = 1; for a histogram log_scale = 0 and value = f, which may be 0 where its gradient
is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Jet:
    """Value, gradient and Hessian of f >= 0 in theta, in units of exp(log_scale).

    Attributes
    ----------
    log_scale
        (*,); -inf where f vanishes together with its derivatives.
    value
        (*,).
    gradient
        (*, K).
    hessian
        (*, K, K), symmetric.
    """

    log_scale: Tensor
    value: Tensor
    gradient: Tensor
    hessian: Tensor


def jet_of_log(log_f: Tensor, gradient: Tensor, hessian: Tensor) -> Jet:
    """Return the jet of f from ln f (*,) and the gradient (*, K) and Hessian (*, K, K) of ln f."""
    outer = gradient.unsqueeze(-1) * gradient.unsqueeze(-2)
    return Jet(log_f, torch.ones_like(log_f), gradient, hessian + outer)


def mean_jet(jets: Sequence[Jet], weights: Tensor) -> Jet:
    """Return the jet of sum_m w_m f_m, for the jets of m functions and weights (m,) >= 0."""
    log_scales = torch.stack([jet.log_scale for jet in jets])
    top = log_scales.max(dim=0).values
    share = weights.to(top).reshape(-1, *(1,) * top.ndim)
    scale = share * torch.where(torch.isfinite(top), torch.exp(log_scales - top), 1.0)
    return Jet(
        top,
        (scale * torch.stack([jet.value for jet in jets])).sum(dim=0),
        (scale.unsqueeze(-1) * torch.stack([jet.gradient for jet in jets])).sum(dim=0),
        (scale[..., None, None] * torch.stack([jet.hessian for jet in jets])).sum(dim=0),
    )


def autograd_log_jet(log_function: Callable[[Tensor], Tensor], theta: Tensor) -> Jet:
    """Return the jet in theta of f = exp(log_function), for a function that treats its rows independently.

    Parameters
    ----------
    log_function
        Takes theta (n, K) to ln f (n,), row i depending on theta[i] alone, twice differentiable.
    theta
        (n, K).

    Notes
    -----
    One reverse pass gives all gradients, K more give all Hessians: rows are independent, so the derivative of a sum
    over rows is the row-wise derivative. Where ln f = -inf the jet vanishes.
    """
    k = theta.shape[-1]
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_(True)
        log_f = log_function(leaf)
        inside = torch.isfinite(log_f)
        gradient = torch.zeros_like(leaf)
        if log_f.requires_grad:
            total = torch.where(inside, log_f, torch.zeros_like(log_f)).sum()
            (gradient,) = torch.autograd.grad(total, leaf, create_graph=True, materialize_grads=True)
        rows = [
            torch.autograd.grad(gradient[:, j].sum(), leaf, retain_graph=j + 1 < k, materialize_grads=True)[0]
            for j in range(k)
            if gradient.requires_grad
        ]
    hessian = torch.stack(rows, dim=-2) if rows else leaf.new_zeros(*leaf.shape, k)
    return jet_of_log(log_f.detach(), gradient.detach(), 0.5 * (hessian + hessian.mT).detach())
