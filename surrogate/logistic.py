"""Logistic regression of binomial counts with learned shrinkage.

Counts y_i ~ Bin(n_i, s(sum_j c_j B_ij)) with s(x) = 1/(1 + exp(-x)), or others whose likelihood is given with its
derivatives in c, are fitted by maximum likelihood (McCullagh and Nelder, "Generalized Linear Models", chapter 4) under
Gaussian priors on the coefficients c: zero mean, or one that is given, and one variance per group of functions, all but
the constant. The variances maximise the marginal likelihood (MacKay, Neural Computation 4 (1992) 415), so that a group
the response hardly depends on is found out and adds hardly any noise.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

logger = logging.getLogger(__name__)

PRECISIONS = (1e-4, 1e8)
"""Range of the inverse prior variances of the coefficients."""

CHUNK = 16_384
"""Rows handled at a time, which bounds the memory of an evaluation."""


class CountLikelihood(Protocol):
    """The likelihood of counts, as a function of coefficients c (P,) of which the first one is that of a constant."""

    @property
    def start(self) -> float:
        """The first coefficient where all others vanish."""
        ...

    def evaluate(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L, its gradient (P,) and the Fisher information (P, P)."""
        ...


class BinomialDesign(NamedTuple):
    """Functions B (n, P), the first one constant, with the counts (n,) generated and accepted."""

    values: Tensor
    generated: Tensor
    accepted: Tensor

    @property
    def start(self) -> float:
        """The logit of the share of all events that is accepted."""
        return float(torch.logit(self.accepted.sum() / self.generated.sum()))

    def evaluate(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L, its gradient (P,) and the Fisher information (P, P), which here is minus the Hessian."""
        size = len(coefficients)
        value, gradient = coefficients.new_zeros(()), coefficients.new_zeros(size)
        information = coefficients.new_zeros(size, size)
        for values, generated, accepted in zip(*(part.split(CHUNK) for part in self), strict=True):
            eta = values @ coefficients
            eps = torch.sigmoid(eta)
            value = value + (accepted * logsigmoid(eta) + (generated - accepted) * logsigmoid(-eta)).sum()
            gradient = gradient + (accepted - generated * eps) @ values
            information = information + values.T @ (values * (generated * eps * (1.0 - eps)).unsqueeze(-1))
        return value, gradient, information


class ShrunkenFit(NamedTuple):
    """Coefficients (P,), their posterior covariance (P, P), how many of them the data determine, and the priors.

    ``ridge`` (P,) holds the inverse variances of the priors, 0 for the constant.
    """

    coefficients: Tensor
    covariance: Tensor
    determined: float
    ridge: Tensor


def shrunken_fit(likelihood: CountLikelihood, group: Tensor, centre: Tensor | None = None) -> ShrunkenFit:
    """Return the coefficients and their posterior covariance, given the group (P,) of each, 0 that of the constant.

    MacKay's update for a group g: its inverse variance becomes (sum of 1 - r_j C_jj)/(sum of (c_j - m_j)^2) over j in
    g, with the prior means m, the present inverse variances r and the covariance C that they imply. It ends when the
    number of coefficients that the data determine, the sum of all 1 - r_j C_jj, is settled. The means are ``centre``
    (P,), or zero.
    """
    precision = torch.ones(int(group.max()) + 1, dtype=torch.float64)
    if centre is None:
        centre = precision.new_zeros(len(group))
        centre[0] = likelihood.start
    coefficients, settled = centre, 0.0
    for _ in range(60):
        ridge = torch.where(group > 0, precision[group], 0.0)
        coefficients, covariance = _maximise(likelihood, coefficients, ridge, centre)
        determined = torch.zeros_like(precision).index_add(0, group, 1.0 - ridge * covariance.diagonal())
        power = torch.zeros_like(precision).index_add(0, group, (coefficients - centre).square())
        precision = (determined / power).nan_to_num(1.0).clamp(*PRECISIONS)
        previous, settled = settled, float(determined.sum())
        if abs(settled - previous) < 0.01:
            break
    return ShrunkenFit(coefficients, covariance, settled, ridge)


def _maximise(likelihood: CountLikelihood, start: Tensor, ridge: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients (P,) of the largest penalised likelihood and their covariance (P, P), by Newton steps.

    A step is halved until the likelihood does not fall; where it falls however short the step, the maximum is reached
    to within rounding.
    """
    coefficients = start
    value, gradient, information = _penalised(likelihood, coefficients, ridge, centre)
    for _ in range(100):
        step = torch.linalg.solve(information, gradient)
        if float(gradient @ step) < 1e-6:
            break
        for halvings in range(20):
            trial = coefficients + 0.5**halvings * step
            state = _penalised(likelihood, trial, ridge, centre)
            if float(state[0]) >= float(value):
                break
        else:
            break
        coefficients, (value, gradient, information) = trial, state
    else:
        logger.warning("acceptance: the fit of %d coefficients has not converged in 100 steps", len(coefficients))
    return coefficients, torch.linalg.inv(information).contiguous()


def _penalised(
    likelihood: CountLikelihood, coefficients: Tensor, ridge: Tensor, centre: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the penalised ln L, its gradient (P,) and information (P, P)."""
    value, gradient, information = likelihood.evaluate(coefficients)
    off = coefficients - centre
    return value - 0.5 * (ridge * off.square()).sum(), gradient - ridge * off, information + torch.diag(ridge)


def leave_one_out_deviance(design: BinomialDesign, coefficients: Tensor, covariance: Tensor) -> float:
    """Return -ln L of each block under the fit to all others, summed, by the one-step leverage formula.

    Without block i, eta_i becomes eta_i - q_i (y_i - n_i eps_i)/(1 - w_i q_i), with q_i = B_i C B_i and
    w_i = n_i eps_i (1 - eps_i).
    """
    values, generated, accepted = design
    eta = values @ coefficients
    eps = torch.sigmoid(eta)
    q = ((values @ covariance) * values).sum(dim=-1)
    rest = (1.0 - generated * eps * (1.0 - eps) * q).clamp(min=1e-3)
    eta = eta - q * (accepted - generated * eps) / rest
    return -float((accepted * logsigmoid(eta) + (generated - accepted) * logsigmoid(-eta)).sum())
