"""Measures of a density against fresh events: NLL, normalisation, score bias, probability integral transforms."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from surrogate.flow import ConditionalFlow
from training.event_set import UnitEvents

ROWS = 32_768


class NllResult(NamedTuple):
    """NLL in nats per event in the unit cube, and its standard error."""

    value: float
    error: float


def mean_nll(flow: ConditionalFlow, events: UnitEvents) -> NllResult:
    """Return the weighted mean of -ln p(u | theta) over events and its standard error."""
    log_p = log_density(flow, events)
    w = events.weight.double()
    mean = (w * log_p).sum() / w.sum()
    error = (w * (log_p - mean)).square().sum().sqrt() / w.sum()
    return NllResult(-float(mean), float(error))


@torch.no_grad()
def log_density(flow: ConditionalFlow, events: UnitEvents) -> Tensor:
    """Return ln p(u | theta) (n,) float64."""
    parts = zip(events.u.split(ROWS), events.theta.split(ROWS), strict=True)
    return torch.cat([flow.log_prob_unit(u.to(flow.dtype), t.to(flow.dtype)).double() for u, t in parts])


@torch.no_grad()
def normalisation(flow: ConditionalFlow, theta: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Return the integral of p(u | theta) over the unit cube at theta (K,), and an estimate of its numerical error.

    The integral is a product of composite Gauss-Legendre rules with panels between quantiles of the flow's own
    marginals, so that nodes lie where the density is; its error is the difference from a rule with half the panels.
    """
    space = flow.config.observables
    sample, _ = space.to_unit(flow.sample(20_000, theta.to(flow.dtype), generator).double())
    fine = _product_rule(flow, theta, sample, _panels(space.dim))
    coarse = _product_rule(flow, theta, sample, max(_panels(space.dim) // 2, 1))
    return fine, abs(fine - coarse)


def _panels(dim: int) -> int:
    """Return the panels per dimension that keep a rule of three nodes a panel below a million points."""
    return max(int(1e6 ** (1 / dim) / 3), 2) if dim > 1 else 2000


def _product_rule(flow: ConditionalFlow, theta: Tensor, sample: Tensor, panels: int) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(3)
    axes, logs = [], []
    for column in sample.T:
        inner = torch.quantile(column, torch.linspace(0, 1, panels + 1, dtype=torch.float64)[1:-1])
        edges = torch.cat([torch.zeros(1), inner, torch.ones(1)]).double()
        half = (edges.diff() / 2).unsqueeze(-1)
        axes.append(((edges[:-1] + edges[1:]).unsqueeze(-1) / 2 + half * torch.from_numpy(nodes)).reshape(-1))
        logs.append((half * torch.from_numpy(weights)).reshape(-1).clamp(min=1e-300).log())
    total, rows = 0.0, len(axes[0]) ** len(axes)
    shape = [len(axis) for axis in axes]
    for start in range(0, rows, ROWS):
        index = torch.unravel_index(torch.arange(start, min(start + ROWS, rows)), shape)
        u = torch.stack([axis[i] for axis, i in zip(axes, index, strict=True)], dim=-1).to(flow.dtype)
        log_w = torch.stack([log[i] for log, i in zip(logs, index, strict=True)]).sum(dim=0)
        log_p = flow.log_prob_unit(u, theta.to(flow.dtype).expand(len(u), -1)).double()
        total += float((log_p + log_w).exp().sum())
    return total


class ScoreBias(NamedTuple):
    """Score bias (m, K) per cell of theta and component, in standard deviations of theta_j; errors; mean thetas."""

    bias: Tensor
    error: Tensor
    theta: Tensor


def score_bias(flow: ConditionalFlow, events: UnitEvents, cells: Tensor, n_reference: int = 1000) -> ScoreBias:
    """Return sqrt(N/I_jj) E[d ln f/d theta_j] per cell of theta.

    For the true density the expectation of the score vanishes and its variance is the Fisher information I_jj, so a
    maximum-likelihood estimate from N events is biased by about E[score_j]/I_jj, in units of its standard error
    sqrt(N/I_jj) E[score_j]. From n events the measurement has the error sqrt(N/n).

    Parameters
    ----------
    flow
        The flow.
    events
        Fresh events, each at its own theta.
    cells
        (n,) cell number of each event.
    n_reference
        N.
    """
    score = _scores(flow, events)
    m, k = int(cells.max()) + 1, score.shape[-1]
    w = events.weight.double().unsqueeze(-1)
    zeros = torch.zeros(m, k, dtype=torch.float64)
    weight = zeros.index_add(0, cells, w.expand(-1, k))
    mean = zeros.index_add(0, cells, w * score) / weight
    information = zeros.index_add(0, cells, w * score.square()) / weight
    effective = weight.square() / zeros.index_add(0, cells, w.square().expand(-1, k))
    theta = zeros.index_add(0, cells, w * events.theta.double()) / weight
    bias = mean * (n_reference / information.clamp(min=1e-300)).sqrt()
    return ScoreBias(bias, (n_reference / effective).sqrt(), theta)


def _scores(flow: ConditionalFlow, events: UnitEvents) -> Tensor:
    """Return d ln p(u | theta)/d theta (n, K), float64."""
    parts = []
    for u, t in zip(events.u.split(ROWS), events.theta.split(ROWS), strict=True):
        leaf = t.to(flow.dtype).requires_grad_(True)
        (gradient,) = torch.autograd.grad(flow.log_prob_unit(u.to(flow.dtype), leaf).sum(), leaf)
        parts.append(gradient.double())
    return torch.cat(parts)


class PitResult(NamedTuple):
    """Probability integral transforms: z (n, D) in autoregressive order, and their distances to uniform (D,)."""

    names: tuple[str, ...]
    z: Tensor
    distance: list[float]
    error: float


@torch.no_grad()
def integral_transforms(flow: ConditionalFlow, events: UnitEvents) -> PitResult:
    """Return z = T(u), uniform on the cube for the true density, and the Kolmogorov distance of each coordinate.

    The error is the standard deviation of sqrt(n) D under Kolmogorov's distribution, divided by sqrt(n), plus its mean:
    what a perfect flow shows.
    """
    parts = zip(events.u.split(ROWS), events.theta.split(ROWS), strict=True)
    z = torch.cat([flow.to_base(u.to(flow.dtype), t.to(flow.dtype))[0].double() for u, t in parts])
    names = tuple(flow.config.observables.names[d] for d in flow.config.permutation)
    distance = [float(stats.kstest(column.clamp(0, 1).numpy(), "uniform").statistic) for column in z.T]
    return PitResult(names, z, distance, math.sqrt(math.pi / 2) * math.log(2) / math.sqrt(len(z)))
