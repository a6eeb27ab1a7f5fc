"""Weights of the events in a pool by which its truth is the one wanted, in spite of its finite size.

n_c events of a source stand for its density f_c with the scatter of n_c events: the parameters at which E[d ln L / d p]
vanishes are off by sqrt(N / n) of the errors that fits to N events have, and toys from the pool all share that shift.
It is taken out by exponential tilting, the weights nearest to the given ones, in relative entropy, among those with

    sum_c R_c sum_i w_ci d ln lambda(x_i) / d p  =  d mu_tot / d p      for every parameter p,

which is what densities that are integrated exactly fulfil (empirical likelihood: A. B. Owen, Biometrika 75 (1988) 237).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Newton steps, the imbalance in squared standard errors of a toy at which they end, and the largest |ln| of a factor.
STEPS, BALANCED, LARGEST = 30, 1e-12, 2.0
#: Imbalance in squared standard errors of a toy that is accepted where the steps do not end before.
ACCEPTED = 1e-4


def calibrated(weights: Tensor, counts: Tensor, rates: Tensor, scores: Tensor, expected: Tensor) -> Tensor:
    """Return tilted weights (E,), of sum 1 for each source.

    Far from where the events were drawn no bounded factors may balance them. The weights then are those given, which
    are right up to the scatter of the events.

    Parameters
    ----------
    weights
        (E,) > 0, source after source.
    counts, rates
        (C,) how many events are of each source, and R_c.
    scores
        Gradient of ln lambda (E, P) at the events.
    expected
        Gradient of mu_tot (P,).
    """
    source = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    size = scores.square().mean(dim=0).sqrt()
    used = size > 0
    scaled, goal = scores[:, used] / size[used], expected[used] / size[used]
    tilt = torch.zeros_like(goal)
    for _ in range(STEPS):
        chosen = _normalised(weights * (scaled @ tilt).clamp(-LARGEST, LARGEST).exp(), source, len(counts))
        density = (chosen * rates[source]).unsqueeze(-1)
        off = (density * scaled).sum(dim=0) - goal
        mean = torch.zeros(len(counts), len(goal), dtype=scaled.dtype, device=scaled.device)
        mean.index_add_(0, source, chosen.unsqueeze(-1) * scaled)
        spread = (density * scaled).T @ scaled - (rates.unsqueeze(-1) * mean).T @ mean
        step = -torch.linalg.pinv(spread, hermitian=True, rtol=1e-10) @ off
        imbalance = float(-(step * off).sum())
        if imbalance < BALANCED:
            break
        tilt = tilt + step
    return chosen if imbalance <= ACCEPTED else _normalised(weights, source, len(counts))


def _normalised(weights: Tensor, source: Tensor, n_sources: int) -> Tensor:
    total = weights.new_zeros(n_sources).index_add_(0, source, weights)
    return weights / total[source]
