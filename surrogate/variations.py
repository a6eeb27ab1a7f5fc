"""What finite training leaves open about a source, as other sources that would do as well.

The error of a result that rests on a source follows from the results with each of these in its place: of the members
of an ensemble, for the density; of acceptances with other coefficients, for the rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from scipy import special
from torch import Tensor

from surrogate.acceptance import AcceptanceModel
from surrogate.ensemble import EnsembleSource
from surrogate.flow_source import FlowSource

Trained = FlowSource | EnsembleSource

ONE_SIGMA = float(special.ndtr(1.0))
"""Probability below one standard deviation of a normal distribution."""

SMALLEST = 1e-8
"""Directions with less variance than this, relative to the largest, are left out."""


@dataclass(frozen=True, eq=False)
class Variation:
    """Sources in place of one, and how their effects make a variance.

    Attributes
    ----------
    kind
        ``density``: members of an ensemble, with effects x_k. The variance is ``factor`` times that among them, and
        times the square of Student's 68 % quantile for K - 1 degrees of freedom: the spread of few members is itself
        uncertain. ``rate``: the same densities with rates moved by one standard deviation in independent directions;
        the variance is the sum of the squares of their effects.
    sources
        V sources.
    factor
        Variance of the mean over the variance among the members; 1 for a rate.
    """

    kind: Literal["density", "rate"]
    sources: tuple[Trained, ...]
    factor: float = 1.0

    def covariance(self, effects: Tensor) -> Tensor:
        """Return the covariance (M, M) of M results, given how each source changes them, (V, M)."""
        if self.kind == "rate":
            return effects.T @ effects
        centred, freedom = effects - effects.mean(dim=0), len(effects) - 1
        return self.factor * float(special.stdtrit(freedom, ONE_SIGMA)) ** 2 / freedom * centred.T @ centred


def variations(source: Trained, theta: Tensor) -> tuple[Variation, ...]:
    """Return the variations of a trained source.

    Parameters
    ----------
    source
        A flow source or an ensemble.
    theta
        (B, K) where its rate and the derivatives of its rate matter.

    Returns
    -------
    tuple of Variation
        That of the rate, and that of the density where there are several members. Members that share no events have
        rates of their own, and their variation holds both.
    """
    found = []
    if isinstance(source, EnsembleSource) and len(source.members) > 1:
        found.append(Variation("density", source.members, source.variance_factor))
        if source.sharing == "none":
            return tuple(found)
    members = source.members if isinstance(source, EnsembleSource) else (source,)
    directions = rate_directions(members[0].acceptance, theta)
    moved = tuple(with_acceptance(source, _moved(members[0].acceptance, step)) for step in directions)
    return (*found, Variation("rate", moved)) if moved else tuple(found)


def is_complete(source: Trained) -> bool:
    """Return whether the variations of a source hold the whole error of its training.

    Not so for a single flow, and for members that were all trained on the same events.
    """
    return isinstance(source, EnsembleSource) and len(source.members) > 1 and source.sharing != "all"


def rate_directions(acceptance: AcceptanceModel, theta: Tensor) -> Tensor:
    """Return few changes (V, P) of the coefficients that stand for their whole covariance at some theta (B, K).

    The error of ln eps and of its gradient at the B thetas is linear in that of the coefficients: A dc, with A
    (B (1 + K), P). With A C A^T = U diag(l) U^T the changes C A^T u_v/sqrt(l_v) have the same covariance A C A^T, and
    there are at most B (1 + K) of them.
    """

    def slopes(t: Tensor) -> Tensor:
        """Return d ln eps/dc (B, P)."""
        values = acceptance.basis.values(t)
        return torch.sigmoid(-(values @ acceptance.coefficients)).unsqueeze(-1) * values

    theta = theta.double()
    rows = [slopes(theta)]
    low, high = acceptance.basis.nuisances.bounds(theta)
    for k in range(theta.shape[-1]):
        # a difference over 1e-4 of the range, towards the inside, says what a derivative says
        step = torch.zeros_like(theta)
        width = 1e-4 * (high - low)[k]
        step[:, k] = torch.where(theta[:, k] + width <= high[k], width, -width)
        rows.append((slopes(theta + step) - rows[0]) / 1e-4)
    a = torch.cat(rows)
    scale = max(1.0, acceptance.chi2 / acceptance.n_dof) if acceptance.n_dof else 1.0
    reach = scale * acceptance.covariance @ a.T
    variance, axes = torch.linalg.eigh(a @ reach)
    kept = variance > SMALLEST * variance.max().clamp_min(1e-300)
    return (reach @ axes[:, kept] / variance[kept].sqrt()).T


def _moved(acceptance: AcceptanceModel, step: Tensor) -> AcceptanceModel:
    return replace(acceptance, coefficients=acceptance.coefficients + step)


def with_acceptance(source: Trained, acceptance: AcceptanceModel) -> Trained:
    """Return the source with another acceptance, in all its members."""
    if isinstance(source, EnsembleSource):
        return replace(source, members=tuple(_member_with(member, acceptance) for member in source.members))
    return _member_with(source, acceptance)


def _member_with(source: FlowSource, acceptance: AcceptanceModel) -> FlowSource:
    device = source.acceptance.coefficients.device
    return FlowSource(source.flow, acceptance, source.generated_rate, source.flow.dtype, device)
