"""Measures of a density against fresh events: NLL, normalisation, score bias, probability integral transforms."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from training.event_set import UnitEvents
from training.validation_target import UnitDensity, in_double

ROWS = 32_768

LEVELS = (0.0005, 0.01, 0.1, 0.4, 0.7, 0.95, 0.995, 0.9998)
"""Conditional quantiles between which the quadrature has its panels."""

UNIFORM = 0.02
"""A coordinate whose conditional quantiles are never further than this from uniform needs no panels."""

LATTICE = {1: 32}
"""Points of the lattice that covers the leading near-uniform coordinates, by their number; 256 for more than one."""

NODES: dict[int, tuple[int, ...]] = {0: (), 1: (16,), 2: (8, 16), 3: (5, 5, 16), 4: (2, 2, 3, 16)}
"""Nodes of a panel in each coordinate that has panels, by their number; where there are more, 2, and 16 in the last.

Of all conditional densities the last one, given all others, has the sharpest features: edges that thresholds leave.
"""


class NllResult(NamedTuple):
    """NLL in nats per event in the unit cube, and its standard error."""

    value: float
    error: float


def mean_nll(flow: UnitDensity, events: UnitEvents) -> NllResult:
    """Return the weighted mean of -ln p(u | theta) over events and its standard error."""
    log_p = log_density(flow, events)
    w = events.weight.double()
    mean = (w * log_p).sum() / w.sum()
    error = (w * (log_p - mean)).square().sum().sqrt() / w.sum()
    return NllResult(-float(mean), float(error))


@torch.no_grad()
def log_density(flow: UnitDensity, events: UnitEvents) -> Tensor:
    """Return ln p(u | theta) (n,) float64."""
    parts = zip(events.u.split(ROWS), events.theta.split(ROWS), strict=True)
    return torch.cat([flow.log_prob_unit(u.to(flow.dtype), t.to(flow.dtype)).double() for u, t in parts])


@torch.no_grad()
def normalisation(flow: UnitDensity, theta: Tensor) -> float:
    """Return the integral of p(u | theta) over the unit cube at theta (K,), by quadrature in float64.

    The leading coordinates, in autoregressive order, that are close to uniform are covered by a rank-1 lattice, which
    resolves weak ripples with few points. Each further one has Gauss-Legendre panels between quantiles of the flow's
    own conditional distribution: nodes lie where the density is. Where they lie does not affect what the rule
    converges to. A histogram is summed over its cells, which is exact.
    """
    exact = in_double(flow)
    if flow.config.family == "histogram":
        u = _cell_centres(flow)
        return float(log_density(exact, UnitEvents(u, theta.expand(len(u), -1), torch.ones(len(u)))).exp().mean())
    order = flow.config.permutation
    u, placed = _lattice(flow, theta)
    weight = torch.full((len(u),), 1.0 / len(u), dtype=torch.float64)
    left = len(order) - placed
    per_panel = NODES.get(left, (2,) * (left - 1) + (16,))
    for place, number in zip(range(placed, len(order)), per_panel, strict=True):
        nodes, node_weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(number))
        edges = _conditional_quantiles(flow, theta, u, place)
        half = (edges.diff(dim=-1) / 2).unsqueeze(-1)
        values = (edges[:, :-1, None] + half * (1 + nodes)).reshape(len(u), -1)
        weight = (weight[:, None] * (half * node_weights).reshape(len(u), -1)).reshape(-1)
        u = u.repeat_interleave(values.shape[1], dim=0)
        u[:, order[place]] = values.reshape(-1)
    log_p = log_density(exact, UnitEvents(u, theta.expand(len(u), -1), weight))
    return float((weight * log_p.exp()).sum())


def _cell_centres(flow: UnitDensity) -> Tensor:
    """Return the centres (n, D) of all cells of a histogram, in the order of its observables."""
    cells = dict(zip(flow.config.permutation, flow.config.cells, strict=True))
    axes = [(torch.arange(cells[d], dtype=torch.float64) + 0.5) / cells[d] for d in range(len(cells))]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def _lattice(flow: UnitDensity, theta: Tensor) -> tuple[Tensor, int]:
    """Return lattice points (n, D) over the leading near-uniform coordinates, 0.5 in the others, and their number.

    The generators are powers of the golden ratio's generalisation to the dimension, whose points fill the cube evenly.
    """
    order = flow.config.permutation
    u = torch.full((1, len(order)), 0.5, dtype=torch.float64)
    placed = 0
    while placed < len(order):
        inner = _conditional_quantiles(flow, theta, u, placed)[:, 1:-1]
        if float((inner - torch.tensor(LEVELS)).abs().max()) >= UNIFORM:
            break
        placed += 1
    if placed == 0:
        return u, 0
    golden = 2.0
    for _ in range(50):
        golden = (1.0 + golden) ** (1.0 / (placed + 1))
    n = LATTICE.get(placed, 256)
    u = u.repeat(n, 1)
    steps = torch.arange(n, dtype=torch.float64) + 0.5
    for place in range(placed):
        u[:, order[place]] = steps / n if place == 0 else (steps * golden**-place) % 1
    return u, placed


def _conditional_quantiles(flow: UnitDensity, theta: Tensor, u: Tensor, place: int) -> Tensor:
    """Return panel edges (n, m) from 0 to 1 of one coordinate, given those before it in the rows of u (n, D)."""
    levels, theta = torch.tensor(LEVELS, dtype=flow.dtype), theta.to(flow.dtype)
    z = flow.to_base(u.to(flow.dtype), theta.expand(len(u), -1))[0].repeat_interleave(len(levels), dim=0)
    z[:, place] = levels.repeat(len(u))
    inner = flow.from_base(z, theta.expand(len(z), -1))[:, flow.config.permutation[place]]
    inner = inner.reshape(len(u), -1).sort(dim=-1).values
    return functional.pad(functional.pad(inner, (1, 0), value=0.0), (0, 1), value=1.0).double()


class ScoreBias(NamedTuple):
    """Score bias (m, K) per cell of theta and component, in standard deviations of theta_j; errors; mean thetas."""

    bias: Tensor
    error: Tensor
    theta: Tensor


def score_bias(flow: UnitDensity, events: UnitEvents, cells: Tensor, n_reference: int = 1000) -> ScoreBias:
    """Return sqrt(N/I_jj) E[d ln f/d theta_j] per cell of theta.

    For the true density the expectation of the score vanishes and its variance is the Fisher information I_jj, so a
    maximum-likelihood estimate from N events is biased by about E[score_j]/I_jj, in units of its standard error
    sqrt(N/I_jj) E[score_j]. From n events the measurement has the error sqrt(N/n).

    Parameters
    ----------
    flow
        The density.
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


def _scores(flow: UnitDensity, events: UnitEvents) -> Tensor:
    """Return d ln p(u | theta)/d theta (n, K), float64."""
    if not events.theta.shape[-1]:
        return events.theta.double()
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
def integral_transforms(flow: UnitDensity, events: UnitEvents) -> PitResult:
    """Return z = T(u), uniform on the cube for the true density, and the Kolmogorov distance of each coordinate.

    The error is the mean of Kolmogorov's distribution, sqrt(pi/2) ln 2, divided by sqrt(n): what a perfect flow shows.
    """
    parts = zip(events.u.split(ROWS), events.theta.split(ROWS), strict=True)
    z = torch.cat([flow.to_base(u.to(flow.dtype), t.to(flow.dtype))[0].double() for u, t in parts])
    names = tuple(flow.config.observables.names[d] for d in flow.config.permutation)
    distance = [float(stats.kstest(column.clamp(0, 1).numpy(), "uniform").statistic) for column in z.T]
    return PitResult(names, z, distance, math.sqrt(math.pi / 2) * math.log(2) / math.sqrt(len(z)))
