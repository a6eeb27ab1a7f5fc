"""Logistic regression of binomial counts with learned shrinkage.

Counts y_i ~ Bin(n_i, s(sum_j c_j B_ij)) with s(x) = 1/(1 + exp(-x)) are fitted by maximum likelihood (McCullagh and
Nelder, "Generalized Linear Models", chapter 4) under Gaussian priors on the coefficients c: zero mean, one variance per
group of functions, all but the constant. The variances maximise the marginal likelihood (MacKay, Neural Computation 4
(1992) 415), so that a group the response hardly depends on is found out and adds hardly any noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

PRECISIONS = (1e-4, 1e8)
"""Range of the inverse prior variances of the coefficients."""

CHUNK = 16_384
"""Rows handled at a time, which bounds the memory of an evaluation."""


class BinomialDesign(NamedTuple):
    """Functions B (n, P), the first one constant, with the counts (n,) generated and accepted."""

    values: Tensor
    generated: Tensor
    accepted: Tensor


def shrunken_fit(design: BinomialDesign, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients (P,) and their posterior covariance (P, P), given the group (P,) of each, 0 the constant.

    MacKay's update for a group g: its inverse variance becomes (sum of 1 - r_j C_jj)/(sum of c_j^2) over j in g, with
    the present inverse variances r and the covariance C that they imply. It ends when the number of coefficients that
    the data determine, the sum of all 1 - r_j C_jj, is settled.
    """
    precision = torch.ones(int(group.max()) + 1, dtype=torch.float64)
    coefficients = precision.new_zeros(len(group))
    coefficients[0] = torch.logit(design.accepted.sum() / design.generated.sum())
    settled = 0.0
    for _ in range(60):
        ridge = torch.where(group > 0, precision[group], 0.0)
        coefficients, covariance = _maximise(design, coefficients, ridge)
        determined = torch.zeros_like(precision).index_add(0, group, 1.0 - ridge * covariance.diagonal())
        power = torch.zeros_like(precision).index_add(0, group, coefficients.square())
        precision = (determined / power).nan_to_num(1.0).clamp(*PRECISIONS)
        previous, settled = settled, float(determined.sum())
        if abs(settled - previous) < 0.01:
            break
    return coefficients, covariance


def _maximise(design: BinomialDesign, start: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients (P,) of the largest penalised likelihood and their covariance (P, P), by Newton steps."""
    coefficients = start
    value, gradient, information = _binomial(design, coefficients, ridge)
    for _ in range(100):
        step = torch.linalg.solve(information, gradient)
        if float(gradient @ step) < 1e-6:
            break
        length = 1.0
        while True:
            trial = coefficients + length * step
            state = _binomial(design, trial, ridge)
            if float(state[0]) >= float(value) or length < 1e-6:
                break
            length /= 2
        coefficients, (value, gradient, information) = trial, state
    return coefficients, torch.linalg.inv(information).contiguous()


def _binomial(design: BinomialDesign, coefficients: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the penalised log likelihood, its gradient (P,) and minus its Hessian (P, P)."""
    value = -0.5 * (ridge * coefficients.square()).sum()
    gradient, information = -ridge * coefficients, torch.diag(ridge)
    for values, generated, accepted in zip(*(part.split(CHUNK) for part in design), strict=True):
        eta = values @ coefficients
        eps = torch.sigmoid(eta)
        value = value + (accepted * logsigmoid(eta) + (generated - accepted) * logsigmoid(-eta)).sum()
        gradient = gradient + (accepted - generated * eps) @ values
        information = information + values.T @ (values * (generated * eps * (1.0 - eps)).unsqueeze(-1))
    return value, gradient, information


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
