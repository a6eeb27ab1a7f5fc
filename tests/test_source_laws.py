"""One sheet of laws that every source obeys, whatever its kind."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from source_cases import CASES, SMOOTH, STORED, Case, scaled, theta_points
from torch import Tensor

from surrogate.checkpoint import load_checkpoint, save_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.errors import RangeError
from surrogate.flow_source import FlowSource
from surrogate.source import Source

every_source = pytest.mark.parametrize("name", CASES)


@cache
def source_of(name: str) -> Source:
    return CASES[name].build()


@cache
def events_of(name: str, n: int = 40) -> Tensor:
    source = source_of(name)
    return source.sample(n, source.nuisances.nominal(), torch.Generator().manual_seed(11))


def quadrature(case: Case, source: Source) -> tuple[Tensor, Tensor]:
    """Points x (n, D) of the composite rule and weights (n,) that include dx/du."""
    roots, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(case.nodes))
    axes, axis_weights = [], []
    for edges in case.panels:
        width = edges.diff().unsqueeze(-1)
        axes.append((edges[:-1].unsqueeze(-1) + width * 0.5 * (roots + 1)).flatten())
        axis_weights.append((width * 0.5 * weights).flatten())
    u = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    w = torch.cartesian_prod(*axis_weights).reshape(-1, len(axes)).prod(dim=-1)
    x = source.observables.from_unit(u)
    return x, w * torch.exp(-source.observables.to_unit(x)[1])


def steps(source: Source) -> Tensor:
    low, high = source.nuisances.bounds(torch.zeros((), dtype=torch.float64))
    return torch.diag(1e-4 * (high - low))


@every_source
def test_it_is_a_source(name: str) -> None:
    source = source_of(name)
    assert isinstance(source, Source)
    assert len(source.identity) == 64
    assert source.identity == CASES[name].build().identity
    assert len({source_of(other).identity for other in CASES}) == len(CASES)


@every_source
def test_the_density_integrates_to_one(name: str) -> None:
    source, case = source_of(name), CASES[name]
    x, weights = quadrature(case, source)
    for theta in theta_points(source.nuisances, 3, seed=1):
        with torch.no_grad():
            assert float(source.log_prob(x, theta).exp() @ weights) == pytest.approx(1.0, abs=case.tolerance)


@every_source
def test_nothing_lies_outside_the_region_of_interest(name: str) -> None:
    source = source_of(name)
    theta, (low, high) = source.nuisances.nominal(), source.observables.bounds(torch.zeros((), dtype=torch.float64))
    middle = 0.5 * (low + high)
    assert bool(torch.isfinite(source.log_prob(middle, theta)))
    for d in range(source.observables.dim):
        for value in (low[d] - 1e-6 * (high - low)[d], high[d] + 1.0, torch.nan, torch.inf, -torch.inf):
            x = middle.clone()
            x[d] = value
            assert float(source.log_prob(x, theta)) == -torch.inf


@every_source
def test_an_event_outside_does_not_poison_derivatives(name: str) -> None:
    source = source_of(name)
    x = events_of(name)[:3].clone()
    x[1, 0] = torch.nan
    jet = source.density_jet(x, source.nuisances.nominal())
    value, gradient, hessian = scaled(jet)
    assert float(value[1]) == 0.0
    assert bool(torch.isfinite(gradient).all() and torch.isfinite(hessian).all())
    assert not gradient[1].any()


@every_source
def test_theta_outside_the_ranges_raises(name: str) -> None:
    source = source_of(name)
    x = events_of(name)[0]
    for k, nuisance in enumerate(source.nuisances.nuisances):
        for wrong in (nuisance.low - 1e-3, nuisance.high + 1e-3, float("nan")):
            theta = source.nuisances.nominal()
            theta[k] = wrong
            for call in (
                lambda t=theta: source.log_prob(x, t),
                lambda t=theta: source.density_jet(x, t),
                lambda t=theta: source.expected_events(t),
                lambda t=theta: source.rate_jet(t),
                lambda t=theta: source.sample(1, t),
            ):
                with pytest.raises(RangeError, match=nuisance.name):
                    call()


@every_source
def test_samples_stay_inside_and_follow_the_density(name: str) -> None:
    """Means of low powers of the unit coordinates agree with quadrature within 4.5 standard errors."""
    source = source_of(name)
    theta = theta_points(source.nuisances, 1, seed=2)[0]
    sample = source.sample(5_000, theta, torch.Generator().manual_seed(3))
    assert sample.shape == (5_000, source.observables.dim)
    assert bool(source.observables.contains(sample).all())
    x, weights = quadrature(CASES[name], source)
    with torch.no_grad():
        weights = weights * source.log_prob(x, theta).exp()
    drawn, nodes = source.observables.to_unit(sample)[0].double(), source.observables.to_unit(x)[0]
    # one node at the centre of a bin is exact for the mean alone
    powers = (1,) if CASES[name].nodes == 1 else (1, 2, 3)
    for power in powers:
        values = drawn**power
        error = values.std(dim=0) / len(drawn) ** 0.5
        assert bool(((values.mean(dim=0) - weights @ nodes**power).abs() < 4.5 * error).all())


@every_source
def test_samples_depend_on_the_generator_alone(name: str) -> None:
    source = source_of(name)
    theta = source.nuisances.nominal()
    first, again, other = (source.sample(50, theta, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert source.sample(0, theta).shape == (0, source.observables.dim)
    rows = source.sample(50, theta.expand(50, -1), torch.Generator().manual_seed(1))
    assert torch.allclose(rows, first)


@pytest.mark.parametrize("name", STORED)
def test_an_event_made_of_noise_depends_on_its_own_noise_alone(name: str) -> None:
    source = source_of(name)
    assert isinstance(source, FlowSource | EnsembleSource)
    generator = torch.Generator().manual_seed(5)
    noise = torch.rand(30, *source.noise_shape, generator=generator, dtype=torch.float64)
    theta = theta_points(source.nuisances, 30, seed=10)
    events = source.sample_from_noise(noise, theta)
    assert bool(source.observables.contains(events).all())
    order = torch.arange(29, -1, -2)
    assert torch.allclose(source.sample_from_noise(noise[order], theta[order]), events[order], rtol=1e-9)
    drawn = source.sample(30, theta, torch.Generator().manual_seed(5))
    assert torch.allclose(drawn, events, rtol=1e-12)


@every_source
def test_a_row_of_a_batch_equals_the_row_alone(name: str) -> None:
    source = source_of(name)
    x, theta = events_of(name), theta_points(source.nuisances, 40, seed=4)
    batch, rate = source.log_prob(x, theta), source.expected_events(theta)
    jet = scaled(source.density_jet(x, theta))
    for i in range(0, 40, 13):
        assert torch.allclose(source.log_prob(x[i], theta[i]), batch[i], rtol=1e-12, atol=1e-12)
        assert torch.allclose(source.expected_events(theta[i]), rate[i], rtol=1e-12)
        for part, single in zip(jet, scaled(source.density_jet(x[i], theta[i])), strict=True):
            assert torch.allclose(part[i], single, rtol=1e-9, atol=1e-12 * float(jet[0].max()))


@every_source
def test_events_and_parameters_broadcast(name: str) -> None:
    source = source_of(name)
    x, theta = events_of(name)[:5], theta_points(source.nuisances, 3, seed=5)
    table = source.log_prob(x.unsqueeze(1), theta)
    assert table.shape == (5, 3)
    assert torch.allclose(table, source.log_prob(x, theta.unsqueeze(1)).T, rtol=1e-12)
    assert source.density_jet(x, theta.unsqueeze(1)).hessian.shape == (3, 5, *(source.nuisances.dim,) * 2)
    assert source.expected_events(theta.unsqueeze(1)).shape == (3, 1)
    assert source.log_prob(x[:0], theta[0]).shape == (0,)


@every_source
def test_the_density_jet_is_the_derivative_of_the_density(name: str) -> None:
    """First derivatives against differences of f, second against differences of the first, over the range squared."""
    source = source_of(name)
    x = events_of(name)[:12].unsqueeze(1)
    theta = theta_points(source.nuisances, 4, seed=6)
    value, gradient, hessian = scaled(source.density_jet(x, theta))
    assert torch.allclose(value, source.log_prob(x, theta).exp(), rtol=1e-12)
    size = value.max()
    for k, step in enumerate(steps(source)):
        high, low = (scaled(source.density_jet(x, theta + s * step)) for s in (1, -1))
        slope = (high[0] - low[0]) / 2e-4
        assert torch.allclose(gradient[..., k] * step[k] / 1e-4, slope, rtol=1e-5, atol=1e-6 * float(size))
        if name in SMOOTH:
            expected = (high[1] - low[1])[..., :] / (2 * step[k])
            spread = torch.diag(steps(source)) / 1e-4
            scale = spread * spread[k]
            assert torch.allclose(hessian[..., k, :] * scale, expected * scale, rtol=1e-4, atol=1e-5 * float(size))


@every_source
def test_the_rate_jet_is_the_derivative_of_the_rate(name: str) -> None:
    source = source_of(name)
    theta = theta_points(source.nuisances, 5, seed=7)
    value, gradient, hessian = scaled(source.rate_jet(theta))
    assert torch.allclose(value, source.expected_events(theta), rtol=1e-12)
    assert bool((value > 0).all() and (source.expected_events_std(theta) >= 0).all())
    for k, step in enumerate(steps(source)):
        high, low = (scaled(source.rate_jet(theta + s * step)) for s in (1, -1))
        assert torch.allclose(gradient[..., k], (high[0] - low[0]) / (2 * step[k]), rtol=1e-6, atol=1e-9)
        expected = (high[1] - low[1]) / (2 * step[k])
        assert torch.allclose(hessian[..., k, :], expected, rtol=1e-5, atol=1e-8 * float((1 / step[k]) ** 2))


@pytest.mark.parametrize("name", STORED)
def test_single_precision_agrees_with_double(name: str) -> None:
    double = source_of(name)
    members = double.members if isinstance(double, EnsembleSource) else (double,)
    assert all(isinstance(member, FlowSource) for member in members)
    x, theta = events_of(name), theta_points(double.nuisances, 40, seed=8)
    for member in members:
        single = FlowSource(member.flow, member.acceptance, member.generated_rate, dtype=torch.float32)
        assert single.identity == member.identity
        assert single.log_prob(x, theta).dtype == torch.float32
        assert torch.allclose(single.log_prob(x, theta).double(), member.log_prob(x, theta), atol=2e-4)


@pytest.mark.parametrize("name", STORED)
def test_saving_and_loading_changes_no_bit(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    save_checkpoint(tmp_path / "source", source, {"seed": 1})
    loaded = load_checkpoint(tmp_path / "source")
    x, theta = events_of(name), theta_points(source.nuisances, 40, seed=9)
    assert type(loaded) is type(source)
    assert loaded.identity == source.identity
    assert torch.equal(loaded.log_prob(x, theta), source.log_prob(x, theta))
    assert torch.equal(loaded.expected_events(theta), source.expected_events(theta))
    assert torch.equal(loaded.expected_events_std(theta), source.expected_events_std(theta))
    draws = [s.sample(20, theta[0], torch.Generator().manual_seed(1)) for s in (loaded, source)]
    assert torch.equal(*draws)
