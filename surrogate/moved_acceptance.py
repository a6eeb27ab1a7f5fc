"""Acceptance from events that theta moves across the edges of the region of interest.

A guide (:mod:`surrogate.guides`) says how an event moves as theta changes: ln x_d by delta_d(x, theta). Then an event
kept in block i tells of all other blocks: it would have been kept in block b if its image x(theta_b) is inside. With
n_b events generated in block b the maximum-likelihood estimate of the acceptance is (Vardi, Ann. Statist. 13 (1985)
178: samples of one distribution, each through a window of its own)

    eps_m(theta) = sum_i 1[x_i(theta) inside] / sum_b n_b 1[x_i(theta_b) inside].

Counts tell how eps depends on theta by differences of large numbers; here only the events that cross an edge matter,
and what is left of the statistical error is nearly the same at all theta.

Guides are leading order: fluctuations do not scale as signals do, and counting thresholds do not move at all. So
(1) events of few quanta may be left to the counts, and

    eps_0(theta) = eps_m(theta) + eps_c(theta)

with eps_m that of the events above given values, and eps_c fitted to the counts of the others; (2) eps_0 is where the
fit to all counts starts: logit eps = sum_j c_j B_j(theta), with Gaussian priors of one learned variance around the
coefficients of logit eps_0 for all c_j but the constant (:mod:`surrogate.logistic`). Where events move as the guides
say, that variance is small, and eps has the shape of eps_0; where they do not, it is large, and the counts decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surrogate.acceptance import AcceptanceModel, binomial_design, goodness_of_fit, merged_blocks
from surrogate.basis import ThetaBasis
from surrogate.errors import ConfigError, DataError, unknown_name
from surrogate.guides import Guide
from surrogate.logistic import shrunken_fit
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace

POINTS = 512
"""Blocks at which eps_0 is evaluated, at most."""

PAIRS = 4_000_000
"""Pairs of events and blocks handled at a time, which bounds the memory."""

CLOSE = 0.2
"""Largest deviation of the polynomial from logit eps_0, r.m.s., in standard errors: it is smooth, eps_0 has steps."""


class KeptChunk(NamedTuple):
    """Kept events x (n, D) in physical units, with the number (n,) of the block of each."""

    x: Tensor
    block: Tensor


@dataclass(frozen=True)
class Motion:
    """How events move with theta, and where they do.

    Parameters
    ----------
    guides
        At most one per observable.
    observables, nuisances
        Spaces of the events.
    above
        Guided observable -> the value from which its events move; below they are counted. Absent: the edge.

    Raises
    ------
    ConfigError
        If a parameter is that of no guide, a name in ``above`` not that of a guided observable, or a value not in its
        window.
    """

    guides: tuple[Guide, ...]
    observables: ObservableSpace
    nuisances: NuisanceSpace
    above: Mapping[str, float]

    def __post_init__(self) -> None:
        guided = tuple(guide.observable for guide in self.guides)
        for name in self.nuisances.names:
            if name not in (guide.nuisance for guide in self.guides):
                raise ConfigError(
                    f"acceptance: no guide of the flow says how events move with '{name}'; leave moving_above out"
                )
        for name, value in self.above.items():
            if name not in guided:
                raise ConfigError(unknown_name("guided observable", name, guided, "acceptance: moving_above"))
            window = self.observables.observables[self.observables.names.index(name)]
            if not window.low <= value < window.high:
                raise ConfigError(
                    f"acceptance: moving_above: {name} = {value:g} must lie in its window, from {window.low:g} to "
                    f"{window.high:g}"
                )

    def moving(self, x: Tensor) -> Tensor:
        """Return the mask (n,) of the events x (n, D) that move."""
        mask = torch.ones(len(x), dtype=torch.bool)
        for name, value in self.above.items():
            mask &= x[:, self.observables.names.index(name)] >= value
        return mask

    def inside(self, x: Tensor, own: Tensor, theta: Tensor) -> Tensor:
        """Return whether the images of events x (n, D), seen at theta ``own`` (n, K), are inside at theta (B, K)."""
        mask = torch.ones(len(x), len(theta), dtype=torch.bool)
        for guide in self.guides:
            column = self.observables.names.index(guide.observable)
            window = self.observables.observables[column]
            k = self.nuisances.names.index(guide.nuisance)
            values = {name: x[:, self.observables.names.index(name), None] for name in guide.needs}
            nominal = self.nuisances.nuisances[k].nominal
            shift = guide.delta(values, theta[:, k], nominal) - guide.delta(values, own[:, k, None], nominal)
            image = x[:, column, None].log() + shift
            low, high = torch.tensor([self.above.get(guide.observable, window.low), window.high]).double().log()
            mask &= (image >= low) & (image <= high)
        return mask


class Shares(NamedTuple):
    """A share eps (Q,) of the generated events at points theta (Q, K), with its covariance (Q, Q)."""

    theta: Tensor
    eps: Tensor
    covariance: Tensor


def moved_shares(motion: Motion, theta: Tensor, n_generated: Tensor, events: Iterable[KeptChunk]) -> Shares:
    """Return eps_m at the theta of blocks, of the events that move.

    With h_i(theta) the terms of the sum for eps_m, generated events are independent within their block, so that

        cov(eps_m(theta), eps_m(theta')) = sum_i h_i(theta) h_i(theta') - sum_b H_b(theta) H_b(theta')/n_b,

    H_b the sum of h_i over the events kept in block b. The time it takes is proportional to events times blocks.

    Parameters
    ----------
    motion
        How events move with theta.
    theta, n_generated
        (n, K) and (n,): parameters of each block, and events generated there.
    events
        The kept events, in chunks.

    Raises
    ------
    DataError
        If at some theta no event moves.
    """
    theta, generated = theta.double(), n_generated.double()
    step = -(-len(theta) // POINTS)
    points = theta[::step]
    squares, sums = theta.new_zeros(len(points), len(points)), theta.new_zeros(len(theta), len(points))
    for chunk in events:
        moving = motion.moving(chunk.x)
        pieces = zip(*(column[moving].split(max(PAIRS // len(theta), 1)) for column in chunk), strict=True)
        for x, block in pieces:
            inside = motion.inside(x.double(), theta[block], theta).double()
            terms = inside[:, ::step] / (inside @ generated).unsqueeze(-1)
            squares += terms.T @ terms
            sums.index_add_(0, block, terms)
    eps = sums.sum(dim=0)
    if not bool((eps > 0).all()):
        row = int((eps <= 0).nonzero()[0])
        raise DataError(
            f"acceptance: no event moves into theta = {points[row].tolist()}; lower the values above which events move"
        )
    made = generated > 0
    covariance = squares - sums[made].T @ (sums[made] / generated[made].unsqueeze(-1))
    return Shares(points, eps, covariance)


def fit_moved_acceptance(
    nuisances: NuisanceSpace,
    theta: Tensor,
    n_generated: Tensor,
    n_accepted: Tensor,
    moved: Shares,
    counted: AcceptanceModel | None = None,
    degree: int | None = None,
    max_degree: int = 6,
) -> AcceptanceModel:
    """Fit eps(theta) to all counts, around the sum of the shares of events that move and of those that do not.

    Parameters
    ----------
    nuisances
        The parameters and the ranges of the model.
    theta, n_generated, n_accepted
        (n, K), (n,), (n,): parameters and counts of each block, of all events.
    moved
        eps_m, see :func:`moved_shares`.
    counted
        eps_c, fitted to the counts of the events that do not move; None if all do.
    degree
        Total degree of the polynomial; None takes the lowest one that follows eps_0.
    max_degree
        Largest degree tried.

    Raises
    ------
    DataError, RangeError
        As for :func:`surrogate.acceptance.fit_acceptance`, and if no event is lost at some theta.
    """
    blocks = merged_blocks(nuisances, theta, n_generated, n_accepted)
    start = moved if counted is None else _together(moved, counted)
    if not bool((start.eps < 1).all()):
        raise DataError("acceptance: no event is lost at some theta, so that none moves across an edge; count them")
    basis, centre, error = _polynomial(nuisances, start, degree, max_degree)
    fit = shrunken_fit(binomial_design(basis, blocks), (torch.arange(basis.size) > 0).long(), centre)
    carried = fit.covariance * fit.ridge  # of the coefficients of eps_0 to those of eps
    covariance = fit.covariance + carried @ error @ carried.T
    chi2, n_dof = goodness_of_fit(basis, fit.coefficients, blocks)
    totals = int(n_generated.sum()), int(n_accepted.sum())
    return AcceptanceModel(basis, fit.coefficients, covariance, chi2, n_dof, *totals)


def _together(moved: Shares, counted: AcceptanceModel) -> Shares:
    """Return eps_0, the sum of the shares of events that move and of those that are counted."""
    values = counted.basis.values(moved.theta)
    eps = torch.sigmoid(values @ counted.coefficients)
    slope = (eps * (1.0 - eps)).unsqueeze(-1) * values
    return Shares(moved.theta, moved.eps + eps, moved.covariance + slope @ counted.covariance @ slope.T)


def _polynomial(
    nuisances: NuisanceSpace, start: Shares, degree: int | None, max_degree: int
) -> tuple[ThetaBasis, Tensor, Tensor]:
    """Return basis, coefficients (P,) and covariance (P, P) of the polynomial of theta that follows logit eps_0."""
    logit, slope = torch.logit(start.eps), 1.0 / (start.eps * (1.0 - start.eps))
    error = slope * start.covariance.diagonal().sqrt()
    for tried in range(min(1, max_degree), max_degree + 1) if degree is None else (degree,):
        basis = ThetaBasis(nuisances, tried)
        values = basis.values(start.theta)
        inverse = torch.linalg.pinv(values)
        coefficients = inverse @ logit
        deviation = (values @ coefficients - logit) / error
        if float(deviation.square().mean().sqrt()) <= CLOSE:
            break
    carried = inverse * slope
    return basis, coefficients, carried @ start.covariance @ carried.T
