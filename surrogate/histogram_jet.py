"""Second-order jets of the log density of a histogram, in closed form.

The density of a coordinate in bin i is ln F' = r_i - LSE_k(r_k) + ln n, with r the raw parameters. Along directions in
which r moves with velocities v, and with p = softmax(r),

    d_i ln F' = v_i - <v>_p,    d_i d_j ln F' = -(<v_i v_j>_p - <v_i>_p <v_j>_p),    d ln F'/dr_k = [k = i] - p_k,

besides what comes from second derivatives of r. Arrays are laid out as in :mod:`surrogate.mixture_jet`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.histogram import HistogramMap
from surrogate.mixture_jet import MixtureJet, outer_sum
from surrogate.observables import bin_of_unit


def histogram_jet(mapping: HistogramMap, u: Tensor, raw: Tensor, tangent: Tensor) -> MixtureJet:
    """Return the jet of the log density for raw parameters that move along K directions.

    Parameters
    ----------
    mapping
        The family, of P raw parameters per coordinate.
    u
        (D, n), points on the unit cube.
    raw
        (P D, n), of one coordinate after the other.
    tangent
        (P D, K, n), the derivatives of ``raw`` along the directions.
    """
    shape = (len(u), mapping.n_parameters)
    columns = raw.unflatten(0, shape).permute(2, 0, 1)
    value = mapping.log_derivative(u.T, columns).sum(dim=-1)
    p = mapping.log_probabilities(columns).exp().permute(1, 2, 0)
    bins = torch.as_tensor(mapping.bins, device=u.device).unsqueeze(-1)
    hit = torch.zeros_like(p).scatter_(1, bin_of_unit(u, bins.expand(u.shape)).unsqueeze(1), 1.0)
    adjoint = hit - p
    velocity = tangent.unflatten(0, shape)
    gradient = (adjoint.unsqueeze(2) * velocity).sum(dim=(0, 1))
    mean = (p.unsqueeze(2) * velocity).sum(dim=1)
    spread = outer_sum((p.unsqueeze(2) * velocity).flatten(0, 1), velocity.flatten(0, 1)) - outer_sum(mean, mean)
    return MixtureJet(value, gradient, -spread, adjoint.flatten(0, 1))
