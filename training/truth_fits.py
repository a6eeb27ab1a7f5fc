"""What the error of a density does to fits, from exact densities at a few points of theta.

The fit of N events along the line from theta_0, at which they were generated, to theta_1 compares likelihoods. With
D_i(theta) = ln f_flow(x_i | theta) - ln f_exact(x_i | theta), the flow changes the mean slope of ln L between the two
points by sum_i [D_i(theta_1) - D_i(theta_0)] over their distance. In standard deviations of a fit the distance is
d = sqrt(2 N k), with k = E_0[ln f_exact(x | theta_0) - ln f_exact(x | theta_1)] the Kullback-Leibler divergence per
event, and the maximum of ln L moves by

    sum_i [D_i(theta_1) - D_i(theta_0)] / sqrt(2 N k)

standard deviations. No fit is made, and all but D is exact. Events that are impossible at theta_1 are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surrogate.source import Source

SIZES = (25, 100, 400)
"""Events N of the data sets."""

LEAST = 25
"""Fewest events at a theta of which anything is said."""


@dataclass(frozen=True)
class FitShift:
    """How far fits along one line move.

    Attributes
    ----------
    origin, other
        theta_0 and theta_1.
    distance
        Standard deviations of a fit to 25 events between the two.
    shifts
        N -> root mean square of flow minus exact over all disjoint data sets of N events, in standard deviations.
    """

    origin: tuple[float, ...]
    other: tuple[float, ...]
    distance: float
    shifts: dict[int, float]


def fit_shifts(source: Source, x: Tensor, theta: Tensor, own: Tensor, log_exact: Tensor) -> list[FitShift]:
    """Return the shift from each theta at which events were generated towards the nearest other one.

    Parameters
    ----------
    source
        The surrogate.
    x
        (N, D) events inside the region of interest.
    theta
        (T, K) parameters.
    own
        (N,) row of theta at which each event was generated.
    log_exact
        (N, T) exact ln f of each event at each theta.
    """
    found = []
    for row in own.unique().tolist():
        events = own == row
        if int(events.sum()) < LEAST or len(theta) < 2:
            continue
        ratio = log_exact[events, row, None] - log_exact[events]
        possible = torch.isfinite(ratio)
        squared = 2 * torch.where(possible, ratio, 0.0).sum(dim=0) / possible.sum(dim=0)
        squared[row] = torch.inf
        other = int(squared.argmin())
        error = [source.log_prob(x[events], theta[k]) - log_exact[events, k] for k in (row, other)]
        difference = (error[1] - error[0])[possible[:, other]] / squared[other].sqrt()
        found.append(
            FitShift(
                tuple(theta[row].tolist()),
                tuple(theta[other].tolist()),
                math.sqrt(25 * float(squared[other])),
                _rms_by_size(difference, SIZES),
            )
        )
    return found


def _rms_by_size(difference: Tensor, sizes: Sequence[int]) -> dict[int, float]:
    """Return the rms of sums over N of the entries (n,) divided by sqrt(N), for the sizes N that there are."""
    rms = {}
    for n in sizes:
        sets = difference[: len(difference) // n * n].reshape(-1, n)
        if len(sets):
            rms[n] = float((sets.sum(dim=-1) / math.sqrt(n)).square().mean().sqrt())
    return rms
