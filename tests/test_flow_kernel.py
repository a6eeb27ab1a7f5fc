"""The fast evaluation of a flow gives what autograd gives."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from source_cases import GUIDES, HITS, KINKS, NUISANCES, OBSERVABLES, shaken_flow, theta_points
from torch import Tensor

from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_kernel import CPU_BYTES, FlowKernel, has_kernel
from surrogate.mixture_kernel import MixtureKernel
from surrogate.nuisance import NuisanceSpace
from surrogate.univariate import NORMAL_BEND, LogisticMixtureMap

BASE = FlowConfig(OBSERVABLES, NUISANCES, components=5, hidden=14, blocks=2)
CONFIGS = {
    "mixture": BASE,
    "guides": replace(BASE, guides=GUIDES),
    "normal": replace(BASE, family="normal_mixture", guides=GUIDES),
    "tanh": replace(BASE, activation="tanh", ordering=("drift_time", "cs2", "cs1")),
    "gelu": replace(BASE, activation="gelu", blocks=1),
    "kinks": replace(BASE, guides=GUIDES, kinks=KINKS, theta_scale=0.5),
    "counts": replace(BASE, observables=HITS),
    "one coordinate": replace(BASE, observables=type(OBSERVABLES)(OBSERVABLES.observables[:1])),
    "no nuisance": replace(BASE, nuisances=NuisanceSpace()),
}
every_config = pytest.mark.parametrize("name", CONFIGS)


def case(name: str, n: int = 600) -> tuple[ConditionalFlow, Tensor, Tensor]:
    """A flow, points of which the first two are corners of the cube, and thetas over the whole range."""
    config = CONFIGS[name]
    u = torch.rand(n, config.observables.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u[0], u[1] = 0.0, 1.0
    return shaken_flow(config).double().requires_grad_(False), u, theta_points(config.nuisances, n, 1)


def reference(flow: ConditionalFlow, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    leaf = theta.clone().requires_grad_(True)
    value = flow.log_prob_unit(u, leaf)
    if theta.shape[-1] == 0:
        return value, torch.zeros_like(theta)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@every_config
def test_value_and_gradient_are_those_of_autograd(name: str) -> None:
    flow, u, theta = case(name)
    kernel = FlowKernel.of(flow, torch.float64)
    value, gradient = reference(flow, u, theta)
    fast, slope = kernel.log_prob_gradient(u, theta)
    assert torch.allclose(fast, value, rtol=0, atol=1e-12)
    assert torch.allclose(kernel.log_prob(u, theta), value, rtol=0, atol=1e-12)
    scale = gradient.std(dim=0) if theta.shape[-1] else gradient[0]
    assert bool(((slope - gradient).abs() <= 1e-11 * scale).all())


@every_config
def test_single_precision_is_good_to_1e_5(name: str) -> None:
    flow, u, theta = case(name)
    kernel = FlowKernel.of(flow, torch.float32)
    value, gradient = reference(flow, u, theta)
    fast, slope = kernel.log_prob_gradient(u, theta)
    assert fast.dtype == slope.dtype == torch.float32
    assert torch.allclose(fast.double(), value, rtol=0, atol=2e-5)
    scale = gradient.std(dim=0) if theta.shape[-1] else gradient[0]
    assert bool(((slope.double() - gradient).abs() <= 2e-4 * scale).all())


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, u, theta = case("guides", 1500)
    kernel = FlowKernel.of(flow, torch.float64)
    whole = kernel.log_prob_gradient(u, theta)
    monkeypatch.setattr("surrogate.flow_kernel.CPU_BYTES", CPU_BYTES // 1000)
    pieces = kernel.log_prob_gradient(u, theta)
    assert torch.allclose(whole[0], pieces[0], rtol=0, atol=1e-13)
    assert torch.allclose(whole[1], pieces[1], rtol=1e-10, atol=1e-13)
    none = kernel.log_prob_gradient(u[:0], theta[:0])
    assert none[0].shape == (0,)
    assert none[1].shape == (0, theta.shape[-1])


def test_the_workspace_of_one_call_serves_the_next_and_stays_behind_in_copies() -> None:
    flow, u, theta = case("guides", 700)
    kernel = FlowKernel.of(flow, torch.float64)
    first = kernel.log_prob_gradient(u, theta)
    few = kernel.log_prob_gradient(u[:300], theta[:300])
    again = kernel.log_prob_gradient(u, theta)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.allclose(a[:300], b, rtol=1e-10, atol=1e-12) for a, b in zip(first, few, strict=True))
    other = copy.deepcopy(kernel)
    assert not other._spare
    assert torch.equal(other.log_prob(u, theta), first[0])


@pytest.mark.parametrize("bend", [0.0, NORMAL_BEND])
@pytest.mark.parametrize("spread", [1.0, 5.0, 30.0])
def test_mixtures_of_any_width_and_place(spread: float, bend: float) -> None:
    """Raw parameters far from where training starts: widths from the floor to many windows, components outside."""
    family = LogisticMixtureMap(components=6, bend=bend)
    generator = torch.Generator().manual_seed(4)
    n = 400
    raw = spread * torch.randn(n, family.n_parameters, generator=generator, dtype=torch.float64)
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    u[:2] = torch.tensor([0.0, 1.0])
    leaf = raw.clone().requires_grad_(True)
    value = family.log_derivative(u, leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    slopes, total = raw.T.contiguous(), torch.zeros(n, dtype=torch.float64)
    kernel = MixtureKernel(family, 1, n, raw)
    kernel.log_density(u[None], slopes, {}, total)
    kernel.slopes(slopes, {})
    assert torch.allclose(total, value.detach(), rtol=1e-12, atol=1e-11)
    assert torch.allclose(slopes.T, gradient, rtol=1e-8, atol=1e-10)


def test_other_families_have_no_kernel() -> None:
    assert has_kernel(BASE)
    assert not has_kernel(replace(BASE, layers=2))
    assert not has_kernel(replace(BASE, family="spline_autoregressive"))
