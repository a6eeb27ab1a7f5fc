"""Acceptance of a detector that depends on drift time and electron lifetime through their ratio.

Where electrons are lost only to attachment and nothing else depends on depth, an event generated at drift time t is
kept with a probability a(s, phi), with s = exp(-t/elife) the share of electrons that survive and phi the other
parameters. Events are generated uniformly in t over a window W, so that

    eps(theta) = 1/|W| int_W a(exp(-t/elife), phi) dt.

The drift times of the kept events, which the counts alone ignore, then say how eps depends on elife. Of n events
generated at theta, in J cells of drift time, n_j are kept in cell j and m are lost, with

    ln L = sum_j n_j ln a_j + m ln(1 - mean_j a_j),    logit a = sum_k c_k B_k(s, phi),

fitted with the learned shrinkage of :mod:`surrogate.logistic`. The result is then written as an ordinary acceptance:
the polynomial in theta that is closest to logit eps, with the covariance that follows.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from surrogate.acceptance import AcceptanceModel, goodness_of_fit, merged_blocks
from surrogate.basis import ThetaBasis
from surrogate.errors import DataError
from surrogate.logistic import shrunken_fit
from surrogate.nuisance import Nuisance, NuisanceSpace

BLOCK_CHUNK = 1024
"""Blocks whose cells are handled at a time."""

POINTS = 2048
"""Points of theta at which eps is written as a polynomial of theta."""

HIGHEST = 8
"""Highest degree of that polynomial."""

CLOSE = 0.1
"""Largest deviation of the polynomial from eps, r.m.s., in standard errors of eps."""


@dataclass(frozen=True, eq=False)
class KeptEvents:
    """Counts of blocks of common theta, the kept ones by drift time.

    Attributes
    ----------
    theta
        (n, K) parameters of the blocks.
    generated
        (n,) events generated.
    kept
        (n, J) events kept in J equal cells of the drift time over the window.
    lifetime
        Name of the electron lifetime among the parameters.
    window
        Least and largest drift time, in the unit of the lifetime.
    """

    theta: Tensor
    generated: Tensor
    kept: Tensor
    lifetime: str
    window: tuple[float, float]


class _RayLikelihood:
    """ln L as a function of the coefficients; see the module."""

    def __init__(self, basis: ThetaBasis, column: int, events: KeptEvents) -> None:
        self._basis, self._column, self._events = basis, column, events

    @property
    def start(self) -> float:
        """The logit of the share of all events that is kept."""
        kept, generated = float(self._events.kept.sum()), float(self._events.generated.sum())
        return math.log(kept / (generated - kept))

    def cells(self, theta: Tensor) -> Tensor:
        """Return B (n, J, P) in the cells of the drift time at theta (n, K)."""
        count, (low, high) = self._events.kept.shape[-1], self._events.window
        middle = low + (torch.arange(count, dtype=torch.float64) + 0.5) * ((high - low) / count)
        rows = theta.double().unsqueeze(1).expand(-1, count, -1).clone()
        rows[..., self._column] = torch.exp(-middle / theta[:, self._column, None])
        return self._basis.values(rows)

    def share(self, theta: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return eps (n,) at theta (n, K) and its gradient (n, P) in the coefficients."""
        values = self.cells(theta)
        a = torch.sigmoid(values @ coefficients)
        return a.mean(dim=-1), ((a * (1 - a)).unsqueeze(-1) * values).mean(dim=1)

    def evaluate(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L, its gradient (P,) and the Fisher information (P, P)."""
        size = len(coefficients)
        value, gradient = coefficients.new_zeros(()), coefficients.new_zeros(size)
        information = coefficients.new_zeros(size, size)
        parts = (self._events.theta, self._events.generated.double(), self._events.kept.double())
        for theta, generated, kept in zip(*(part.split(BLOCK_CHUNK) for part in parts), strict=True):
            values = self.cells(theta)
            eta = values @ coefficients
            a = torch.sigmoid(eta)
            slope = (a * (1 - a)).unsqueeze(-1) * values
            eps, mean_slope = a.mean(dim=-1), slope.mean(dim=1)
            lost = generated - kept.sum(dim=-1)
            value = value + (kept * logsigmoid(eta)).sum() + (lost * torch.log1p(-eps)).sum()
            gradient = gradient + torch.einsum("nj,njp->p", kept * (1 - a), values) - (lost / (1 - eps)) @ mean_slope
            weighted = (slope * (generated[:, None] / (a * kept.shape[-1])).sqrt().unsqueeze(-1)).flatten(0, 1)
            information = information + weighted.T @ weighted
            information = information + mean_slope.T @ (mean_slope * (generated / (1 - eps)).unsqueeze(-1))
        return value, gradient, information


def fit_ray_acceptance(
    nuisances: NuisanceSpace, events: KeptEvents, degree: int | None = None, max_degree: int = 6
) -> AcceptanceModel:
    """Fit eps(theta) to counts and drift times.

    Parameters
    ----------
    nuisances
        The parameters and the ranges of the model.
    events
        The counts.
    degree
        Total degree in s and phi; None takes the one with the best Akaike criterion, with the number of coefficients
        that the data determine.
    max_degree
        Largest degree tried.

    Raises
    ------
    DataError
        If no event was kept, or none was lost.
    """
    kept = events.kept.sum(dim=-1)
    if not 0 < float(kept.sum()) < float(events.generated.sum()):
        raise DataError("acceptance: some events must be kept and some lost to fit it along the drift time")
    column = nuisances.names.index(events.lifetime)
    space = _with_survival(nuisances, column, events.window)
    found = []
    for d in range(max_degree + 1) if degree is None else (degree,):
        basis = ThetaBasis(space, d)
        likelihood = _RayLikelihood(basis, column, events)
        fit = shrunken_fit(likelihood, torch.tensor(basis.groups))
        criterion = fit.determined - float(likelihood.evaluate(fit.coefficients)[0])
        found.append((criterion, likelihood, fit))
    _, likelihood, fit = min(found, key=lambda entry: entry[0])
    basis, coefficients, covariance = _in_theta(nuisances, likelihood, fit.coefficients, fit.covariance)
    blocks = merged_blocks(nuisances, events.theta, events.generated, kept)
    chi2, n_dof = goodness_of_fit(basis, coefficients, blocks)
    return AcceptanceModel(
        basis, coefficients, covariance, chi2, n_dof, int(events.generated.sum()), int(events.kept.sum())
    )


def _with_survival(nuisances: NuisanceSpace, column: int, window: tuple[float, float]) -> NuisanceSpace:
    """Return the parameters with the lifetime replaced by the share of surviving electrons."""
    lifetime = nuisances.nuisances[column]
    least, most = math.exp(-window[1] / lifetime.low), math.exp(-window[0] / lifetime.high)
    survival = Nuisance("survival", "", least, most, 0.5 * (least + most))
    return NuisanceSpace(tuple(survival if k == column else n for k, n in enumerate(nuisances.nuisances)))


def _in_theta(
    nuisances: NuisanceSpace, likelihood: _RayLikelihood, coefficients: Tensor, covariance: Tensor
) -> tuple[ThetaBasis, Tensor, Tensor]:
    """Return basis, coefficients (Q,) and covariance (Q, Q) of the polynomial of theta that is closest to logit eps."""
    low, high = nuisances.bounds(torch.zeros((), dtype=torch.float64))
    points = torch.quasirandom.SobolEngine(nuisances.dim, scramble=True, seed=0).draw(POINTS, dtype=torch.float64)
    theta = low + (high - low) * points
    eps, slope = likelihood.share(theta, coefficients)
    slope = slope / (eps * (1 - eps)).unsqueeze(-1)
    error = ((slope @ covariance) * slope).sum(dim=-1).sqrt()
    for degree in range(1, HIGHEST + 1):
        basis = ThetaBasis(nuisances, degree)
        inverse = torch.linalg.pinv(basis.values(theta))
        projected = inverse @ torch.logit(eps)
        deviation = (basis.values(theta) @ projected - torch.logit(eps)) / error
        if float(deviation.square().mean().sqrt()) <= CLOSE:
            break
    else:
        warnings.warn(
            f"acceptance: the polynomial of theta of degree {HIGHEST} follows the symmetric fit only to "
            f"{float(deviation.square().mean().sqrt()):.2g} of its standard errors; narrow the ranges of the nuisance "
            "parameters, or train without symmetries",
            RuntimeWarning,
            stacklevel=2,
        )
    carried = inverse @ slope
    return basis, projected, (carried @ covariance @ carried.T).contiguous()
