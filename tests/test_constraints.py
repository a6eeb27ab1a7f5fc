"""Ancillary terms: densities against scipy, derivatives against autograd, throws against their distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from inference.constraints.ancillary import AncillaryTerm
from inference.constraints.gaussian import (
    Constraint,
    CorrelatedGaussianConstraint,
    GaussianConstraint,
    LogNormalConstraint,
    PoissonConstraint,
    ancillary_names,
    draw,
)
from surrogate.errors import ConfigError

COVARIANCE = ((0.04, 0.03), (0.03, 0.09))
ALL: tuple[Constraint, ...] = (
    GaussianConstraint("a", 0.3, 1.0),
    CorrelatedGaussianConstraint(("b", "c"), COVARIANCE, (1.0, -2.0)),
    LogNormalConstraint("d", 0.2, 1.5),
    PoissonConstraint("e", 4.0, 2.5),
)


def values_of(constraint: Constraint, n: int = 5, seed: int = 0) -> Tensor:
    noise = torch.rand(n, len(constraint.names), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(constraint.nominal_centre, dtype=torch.float64) * (0.6 + noise)


def test_densities_are_those_of_scipy() -> None:
    gauss, block, log_normal, poisson = ALL
    v = torch.tensor([[1.4]], dtype=torch.float64)
    a = torch.tensor([[0.9]], dtype=torch.float64)
    assert float(gauss.log_prob(v, a)) == pytest.approx(stats.norm.logpdf(0.9, 1.4, 0.3), abs=1e-13)
    assert float(log_normal.log_prob(v, a)) == pytest.approx(stats.lognorm.logpdf(0.9, 0.2, scale=1.4), abs=1e-13)
    n = torch.tensor([[7 / 4]], dtype=torch.float64)
    assert float(poisson.log_prob(v, n)) == pytest.approx(stats.poisson.logpmf(7, 4 * 1.4), abs=1e-13)
    pair, centre = torch.tensor([[1.1, -1.7]], dtype=torch.float64), torch.tensor([[0.8, -2.1]], dtype=torch.float64)
    expected = stats.multivariate_normal.logpdf([0.8, -2.1], [1.1, -1.7], np.array(COVARIANCE))
    assert float(block.log_prob(pair, centre)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("constraint", ALL, ids=lambda c: type(c).__name__)
def test_derivatives_equal_autograd(constraint: Constraint) -> None:
    values, centre = values_of(constraint), values_of(constraint, seed=1)
    leaf = values.clone().requires_grad_(True)
    log_p = constraint.log_prob(leaf, centre)
    (first,) = torch.autograd.grad(log_p.sum(), leaf, create_graph=True)
    second = torch.stack(
        [torch.autograd.grad(first[:, j].sum(), leaf, retain_graph=True)[0] for j in range(values.shape[1])], dim=1
    )
    value, gradient, hessian = constraint.derivatives(values, centre)
    torch.testing.assert_close(value, log_p.detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient, first.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hessian, second, rtol=1e-12, atol=1e-12)


def test_joined_terms_are_the_sum() -> None:
    names = ("c", "free", "e", "a", "d", "b")
    term = AncillaryTerm(names, ALL)
    order = ancillary_names(ALL)
    values, centres = torch.empty(5, 6, dtype=torch.float64), torch.cat([values_of(c, seed=2) for c in ALL], dim=-1)
    values[:, 1] = 9.0
    blocks = {n: column for c in ALL for n, column in zip(c.names, values_of(c).T, strict=True)}
    for name, column in blocks.items():
        values[:, names.index(name)] = column
    expected, start = torch.zeros(5, dtype=torch.float64), 0
    for c in ALL:
        mine = torch.stack([blocks[n] for n in c.names], dim=-1)
        expected = expected + c.log_prob(mine, centres[:, start : start + len(c.names)])
        start += len(c.names)
    assert order == ("a", "b", "c", "d", "e")
    torch.testing.assert_close(term.log_prob(values, centres), expected, rtol=0, atol=1e-12)
    leaf = values.clone().requires_grad_(True)
    (first,) = torch.autograd.grad(term.log_prob(leaf, centres).sum(), leaf, create_graph=True)
    second = torch.stack([torch.autograd.grad(first[:, j].sum(), leaf, retain_graph=True)[0] for j in range(6)], dim=1)
    value, gradient, hessian = term.derivatives(values, centres)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, first.detach(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(hessian, second, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("constraint", ALL, ids=lambda c: type(c).__name__)
def test_throws_follow_the_density(constraint: Constraint) -> None:
    """Kolmogorov-Smirnov for the continuous ones, chi-square for counts, covariance for the block."""
    n = 4000
    theta = torch.tensor(constraint.nominal_centre, dtype=torch.float64).expand(n, -1)
    centres = draw(constraint, theta, torch.Generator().manual_seed(3))
    if isinstance(constraint, GaussianConstraint):
        assert stats.kstest(centres[:, 0].numpy(), "norm", args=(1.0, 0.3)).pvalue > 0.01
    elif isinstance(constraint, LogNormalConstraint):
        assert stats.kstest(centres[:, 0].numpy(), "lognorm", args=(0.2, 0, 1.5)).pvalue > 0.01
    elif isinstance(constraint, PoissonConstraint):
        counts = np.bincount((4 * centres[:, 0]).round().long().numpy(), minlength=30)[:25]
        expected = n * stats.poisson.pmf(np.arange(25), 10)
        assert stats.chisquare(counts[3:18], expected[3:18] * counts[3:18].sum() / expected[3:18].sum()).pvalue > 0.01
    else:
        residual = centres - theta
        torch.testing.assert_close(
            residual.T @ residual / n, torch.tensor(COVARIANCE, dtype=torch.float64), rtol=0.1, atol=0
        )


def test_outside_their_domain_terms_vanish() -> None:
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for constraint in (LogNormalConstraint("d", 0.2, 1.0), PoissonConstraint("e", 4.0, 1.0)):
        value, gradient, hessian = constraint.derivatives(zero, one)
        assert float(value) == -math.inf
        assert bool(torch.isfinite(gradient).all())
        assert bool(torch.isfinite(hessian).all())
    nothing = PoissonConstraint("e", 4.0, 0.0)
    value, gradient, _ = nothing.derivatives(zero, zero)
    assert float(value) == 0.0
    assert float(gradient) == -4.0


def test_poisson_throws_far_in_the_tail_stay_finite() -> None:
    normal = torch.tensor([[-30.0], [9.0], [30.0]], dtype=torch.float64)
    counts = PoissonConstraint("e", 1.0, 1.0).throw(torch.ones(3, 1, dtype=torch.float64), normal)
    assert bool(torch.isfinite(counts).all())
    assert counts[0, 0] == 0
    assert counts[1, 0] > 15


def test_relative_width_and_correlation_matrix() -> None:
    assert GaussianConstraint.relative("a", 0.1, -2.0) == GaussianConstraint("a", 0.2, -2.0)
    block = CorrelatedGaussianConstraint.from_correlation(("b", "c"), (0.2, 0.3), ((1.0, 0.5), (0.5, 1.0)), (1.0, -2.0))
    assert np.allclose(block.covariance, COVARIANCE)
    assert block.width == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianConstraint("a", 0.0, 1.0), "sigma = 0.0 must be finite and > 0"),
        (lambda: GaussianConstraint("a", math.nan, 1.0), "sigma = nan"),
        (lambda: GaussianConstraint("a", 1.0, math.inf), "centre = inf must be finite"),
        (lambda: LogNormalConstraint("a", 0.1, 0.0), "centre = 0.0 must be finite and > 0"),
        (lambda: PoissonConstraint("a", 1.0, -1.0), "centre = -1.0 must be finite and >= 0"),
        (lambda: CorrelatedGaussianConstraint(("a", "a"), COVARIANCE, (0.0, 0.0)), "names must be unique"),
        (lambda: CorrelatedGaussianConstraint(("a", "b"), ((1.0,),), (0.0, 0.0)), "needs 2 centres and a 2 x 2"),
        (lambda: CorrelatedGaussianConstraint(("a", "b"), ((1.0, 0.1), (0.2, 1.0)), (0.0, 0.0)), "symmetric"),
        (lambda: CorrelatedGaussianConstraint(("a", "b"), ((1.0, 2.0), (2.0, 1.0)), (0.0, 0.0)), "positive definite"),
    ],
)
def test_impossible_constants_are_refused(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
