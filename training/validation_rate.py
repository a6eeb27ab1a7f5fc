"""Measure of mu(theta) against fresh counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surrogate.ensemble import EnsembleSource
from surrogate.errors import DataError
from surrogate.flow_source import FlowSource
from training.event_set import BlockCounts
from training.validation_sample import theta_cells


class RateResidual(NamedTuple):
    """Kept over expected events minus one, its standard error, and the mean theta (m, K), per cell of theta."""

    deviation: list[float]
    error: list[float]
    theta: Tensor


def rate_residuals(source: FlowSource | EnsembleSource, blocks: BlockCounts, cells: int) -> RateResidual:
    """Compare kept with expected events, sum_b n_b eps(theta_b), in cells of theta.

    The error is binomial, sqrt(sum_b n_b eps_b (1 - eps_b)) over the expectation; cells that expect fewer than 10
    events are left out.

    Raises
    ------
    DataError
        If no cell expects that many.
    """
    eps = source.expected_events(blocks.theta) / source.generated_rate
    n, kept = blocks.n_generated.double(), blocks.n_accepted.double()
    cell = theta_cells(source.nuisances, blocks.theta, cells)
    zeros = torch.zeros(int(cell.max()) + 1, dtype=torch.float64)
    expected = zeros.index_add(0, cell, n * eps)
    variance = zeros.index_add(0, cell, n * eps * (1 - eps))
    observed = zeros.index_add(0, cell, kept)
    weight = zeros.index_add(0, cell, n)
    theta = torch.zeros(len(zeros), source.nuisances.dim, dtype=torch.float64)
    theta = theta.index_add(0, cell, n.unsqueeze(-1) * blocks.theta) / weight.unsqueeze(-1)
    enough = expected >= 10
    if not bool(enough.any()):
        raise DataError("validation: fewer than 10 events are expected in every cell of theta; simulate more")
    deviation = observed[enough] / expected[enough] - 1
    error = variance[enough].sqrt() / expected[enough]
    return RateResidual(deviation.tolist(), error.tolist(), theta[enough])
