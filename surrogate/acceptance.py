"""Acceptance eps(theta): the fraction of generated events that lie in the region of interest.

Blocks of events generated at known theta give binomial counts, n_accepted ~ Bin(n_generated, eps(theta)), with

    eps(theta) = s(eta(theta)),    eta(theta) = sum_j c_j B_j(theta),    s(x) = 1/(1 + exp(-x)),

in the basis of :mod:`surrogate.basis`, fitted by the shrunken logistic regression of :mod:`surrogate.logistic`: the
variances of the coefficients are learned for each set of parameters and total degree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from surrogate.basis import ThetaBasis
from surrogate.errors import ConfigError, DataError
from surrogate.jet import Jet, jet_of_log
from surrogate.logistic import BinomialDesign, leave_one_out_deviance, shrunken_fit
from surrogate.nuisance import NuisanceSpace

CELL_COUNT = 25.0
"""Accepted and rejected events expected in a cell of the goodness-of-fit test, at least."""

CHUNK = 16_384
"""Blocks whose basis functions are evaluated at a time."""


@dataclass(frozen=True)
class AcceptanceModel:
    """Fitted acceptance.

    Attributes
    ----------
    basis
        The functions of theta.
    coefficients
        (P,) float64.
    covariance
        (P, P) float64, of the coefficients.
    chi2, n_dof
        Goodness of fit over cells of theta; n_dof = 0 where the counts allow no test.
    n_generated, n_accepted
        Totals behind the fit.
    """

    basis: ThetaBasis
    coefficients: Tensor
    covariance: Tensor
    chi2: float
    n_dof: int
    n_generated: int
    n_accepted: int

    def acceptance(self, theta: Tensor) -> Tensor:
        """Return eps (*,), float64 and differentiable, for theta (*, K).

        Raises
        ------
        RangeError
            If theta is outside the trained ranges.
        """
        self.basis.nuisances.check(theta)
        return torch.sigmoid(self.basis.values(theta.double()) @ self.coefficients)

    def std(self, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of eps from the finite number of simulated events.

        It is scaled by sqrt(chi2/n_dof) where the fit is worse than its counts allow.
        """
        self.basis.nuisances.check(theta)
        values = self.basis.values(theta.double())
        eps = torch.sigmoid(values @ self.coefficients)
        variance = ((values @ self.covariance) * values).sum(dim=-1)
        scale = max(1.0, self.chi2 / self.n_dof) if self.n_dof else 1.0
        return eps * (1.0 - eps) * (variance.clamp(min=0.0) * scale).sqrt()

    def jet(self, theta: Tensor) -> Jet:
        """Return the jet in theta of eps, in closed form, for theta (*, K)."""
        self.basis.nuisances.check(theta)
        eta, gradient, hessian = self.basis.jet(theta.double(), self.coefficients)
        rest = torch.sigmoid(-eta).unsqueeze(-1)
        outer = gradient.unsqueeze(-1) * gradient.unsqueeze(-2)
        curvature = rest.unsqueeze(-1) * (hessian - torch.sigmoid(eta)[..., None, None] * outer)
        return jet_of_log(logsigmoid(eta), rest * gradient, curvature)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain data of the model; its tensors are ``coefficients`` and ``covariance``."""
        return {
            "degree": self.basis.degree,
            "kinks": list(self.basis.kinks),
            **({"fine": dict(self.basis.fine)} if self.basis.fine else {}),
            "chi2": self.chi2,
            "n_dof": self.n_dof,
            "n_generated": self.n_generated,
            "n_accepted": self.n_accepted,
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], nuisances: NuisanceSpace, coefficients: Tensor, covariance: Tensor
    ) -> AcceptanceModel:
        """Build the model from the output of :meth:`to_dict` and its tensors."""
        fine = tuple((name, int(n)) for name, n in data.get("fine", {}).items())
        basis = ThetaBasis(nuisances, data["degree"], tuple(data["kinks"]), fine)
        if coefficients.shape != (basis.size,) or covariance.shape != (basis.size, basis.size):
            raise ConfigError(
                f"acceptance: {tuple(coefficients.shape)} coefficients for a basis of {basis.size} functions"
            )
        totals = {key: data[key] for key in ("chi2", "n_dof", "n_generated", "n_accepted")}
        return cls(basis, coefficients.double(), covariance.double(), **totals)


def fit_acceptance(
    nuisances: NuisanceSpace,
    theta: Tensor,
    n_generated: Tensor,
    n_accepted: Tensor,
    degree: int | None = None,
    kinks: tuple[str, ...] = (),
    max_degree: int = 6,
    fine: Mapping[str, int] | None = None,
) -> AcceptanceModel:
    """Fit eps(theta) to blocks of generated events.

    Parameters
    ----------
    nuisances
        The parameters and the ranges of the model.
    theta
        (n, K), the parameters of each block.
    n_generated, n_accepted
        (n,) counts.
    degree
        Total degree of the polynomial; None takes the one with the smallest leave-one-out deviance.
    kinks
        Parameters with a smoothed kink at their nominal value.
    max_degree
        Largest degree tried.
    fine
        Parameters whose powers count 1/n in the degree, with n: those over which the acceptance spans decades.

    Returns
    -------
    AcceptanceModel
        Where no event was accepted at all, eps is about 0.5/n_generated with an error of the same size.

    Raises
    ------
    DataError
        If the shapes disagree, no event was generated, or a count is negative or larger than the number generated.
    RangeError
        If theta is outside the ranges.
    """
    blocks = merged_blocks(nuisances, theta, n_generated, n_accepted)
    degrees = range(max_degree + 1) if degree is None else (degree,)
    fits: list[tuple[float, ThetaBasis, Tensor, Tensor]] = []
    for d in degrees:
        basis = ThetaBasis(nuisances, d, kinks, tuple((fine or {}).items()))
        design = binomial_design(basis, blocks)
        fit = shrunken_fit(design, torch.tensor(basis.groups))
        deviance = leave_one_out_deviance(design, fit.coefficients, fit.covariance)
        fits.append((deviance, basis, fit.coefficients, fit.covariance))
        if min(each[0] for each in fits) < min(each[0] for each in fits[-2:]):
            break
    _, basis, coefficients, covariance = min(fits, key=lambda each: each[0])
    chi2, n_dof = goodness_of_fit(basis, coefficients, blocks)
    totals = int(n_generated.sum()), int(n_accepted.sum())
    return AcceptanceModel(basis, coefficients, covariance, chi2, n_dof, *totals)


class Blocks(NamedTuple):
    """Distinct theta (n, K) with the counts (n,) generated and accepted there."""

    theta: Tensor
    generated: Tensor
    accepted: Tensor


def merged_blocks(nuisances: NuisanceSpace, theta: Tensor, n_generated: Tensor, n_accepted: Tensor) -> Blocks:
    """Check the blocks and add up the ones that share theta.

    Half an accepted and half a rejected event, spread over all blocks, keep the estimate finite where there is none
    (the prior of Jeffreys for a binomial fraction).
    """
    theta, generated, accepted = theta.double(), n_generated.double(), n_accepted.double()
    if theta.ndim != 2 or generated.shape != theta.shape[:1] or accepted.shape != theta.shape[:1] or not len(theta):
        raise DataError(
            f"acceptance: theta {tuple(theta.shape)}, n_generated {tuple(generated.shape)} and n_accepted "
            f"{tuple(accepted.shape)} must have shapes (n, {nuisances.dim}), (n,) and (n,) with n >= 1"
        )
    nuisances.check(theta)
    wrong = ~((accepted >= 0) & (accepted <= generated))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"acceptance: block {row} has n_accepted = {accepted[row]:g} of n_generated = {generated[row]:g}; "
            "it must lie between 0 and n_generated"
        )
    if not float(generated.sum()) > 0:
        raise DataError("acceptance: no event was generated; simulate some")
    if not nuisances.dim:
        distinct, where = theta[:1], torch.zeros(len(theta), dtype=torch.long)
    else:
        distinct, where = theta.unique(dim=0, return_inverse=True)
    zeros = theta.new_zeros(len(distinct))
    generated, accepted = zeros.index_add(0, where, generated), zeros.index_add(0, where, accepted)
    return Blocks(distinct, generated + 1.0 / len(distinct), accepted + 0.5 / len(distinct))


def binomial_design(basis: ThetaBasis, blocks: Blocks) -> BinomialDesign:
    """Return the counts of blocks with the basis functions at their theta."""
    values = torch.cat([basis.values(theta) for theta in blocks.theta.split(CHUNK)])
    return BinomialDesign(values, blocks.generated, blocks.accepted)


def goodness_of_fit(basis: ThetaBasis, coefficients: Tensor, blocks: Blocks) -> tuple[float, int]:
    """Return Pearson's chi2 and its degrees of freedom over cells of theta with enough expected counts."""
    eps = torch.sigmoid(binomial_design(basis, blocks).values @ coefficients)
    expected = blocks.generated * eps
    variance = expected * (1.0 - eps)
    enough = torch.minimum(expected, blocks.generated - expected)
    cells = _cells(basis.nuisances.standardise(blocks.theta), enough, torch.arange(len(eps)))
    terms = [float((blocks.accepted[c] - expected[c]).sum() ** 2 / variance[c].sum()) for c in cells]
    n_dof = len(cells) - basis.size
    return (math.fsum(terms), n_dof) if n_dof > 0 else (0.0, 0)


def _cells(t: Tensor, enough: Tensor, rows: Tensor) -> list[Tensor]:
    """Split the rows at the median of their widest coordinate as long as both halves keep enough counts."""
    if len(rows) > 1 and t.shape[-1]:
        spread = t[rows].max(dim=0).values - t[rows].min(dim=0).values
        order = rows[t[rows, int(spread.argmax())].argsort(stable=True)]
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        if all(float(enough[half].sum()) >= CELL_COUNT for half in halves):
            return [cell for half in halves for cell in _cells(t, enough, half)]
    return [rows]
