"""Flow sources and ensembles: what the law sheet of sources does not see."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from source_cases import DISC, NUISANCES, OBSERVABLES, flow_source, shaken_flow, some_acceptance, theta_points

from surrogate.ensemble import EnsembleSource, Sharing
from surrogate.errors import ConfigError
from surrogate.flow_config import FlowConfig
from surrogate.flow_source import CHUNK, FlowSource
from surrogate.nuisance import NuisanceSpace

CONFIG = FlowConfig(OBSERVABLES, NUISANCES, components=3, hidden=6, blocks=1)


def test_the_flow_is_copied_and_frozen() -> None:
    flow = shaken_flow(CONFIG)
    source = FlowSource(flow, some_acceptance(NUISANCES), 10.0)
    identity, x = source.identity, source.sample(3, NUISANCES.nominal(), torch.Generator().manual_seed(1))
    before = source.log_prob(x, NUISANCES.nominal())
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(1.0)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in flow.parameters())
    assert not any(p.requires_grad for p in source.flow.parameters())
    assert torch.equal(source.log_prob(x, NUISANCES.nominal()), before)
    assert FlowSource(flow, source.acceptance, 10.0).identity != identity


def test_gradients_reach_theta_through_density_and_rate() -> None:
    source = flow_source()
    theta = NUISANCES.nominal().requires_grad_(True)
    x = source.sample(20, NUISANCES.nominal(), torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(source.log_prob(x, theta).sum() - source.expected_events(theta), theta)
    jet, rate = source.density_jet(x, NUISANCES.nominal()), source.rate_jet(NUISANCES.nominal())
    expected = jet.gradient.sum(dim=0) - rate.log_scale.exp() * rate.gradient
    assert torch.allclose(gradient, expected, rtol=1e-10)


def test_the_rate_scales_with_the_generated_rate() -> None:
    one, ten = (FlowSource(shaken_flow(CONFIG), some_acceptance(NUISANCES), rate) for rate in (1.0, 10.0))
    theta = theta_points(NUISANCES, 4)
    assert torch.allclose(ten.expected_events(theta), 10 * one.expected_events(theta))
    assert torch.allclose(ten.expected_events_std(theta), 10 * one.expected_events_std(theta))
    assert torch.allclose(ten.rate_jet(theta).log_scale, one.rate_jet(theta).log_scale + math.log(10.0))
    assert one.identity != ten.identity


def test_chunks_change_nothing() -> None:
    source = flow_source(observables=DISC)
    n = CHUNK + 7
    x = source.sample(n, NUISANCES.nominal(), torch.Generator().manual_seed(1))
    whole = source.log_prob(x, NUISANCES.nominal())
    assert whole.shape == (n,)
    assert torch.allclose(whole[-20:], source.log_prob(x[-20:], NUISANCES.nominal()), atol=1e-12)
    jet = source.density_jet(x, NUISANCES.nominal())
    assert torch.allclose(jet.gradient[-5:], source.density_jet(x[-5:], NUISANCES.nominal()).gradient, atol=1e-10)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"generated_rate = .* must be > 0 and finite"):
        FlowSource(shaken_flow(CONFIG), some_acceptance(NUISANCES), rate)


def test_flow_and_acceptance_must_share_nuisances() -> None:
    with pytest.raises(ConfigError, match=r"nuisances \(none\).*of the flow \(t_ly, elife, g1\)"):
        FlowSource(shaken_flow(CONFIG), some_acceptance(NuisanceSpace()), 1.0)


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    members = tuple(flow_source(seed=seed) for seed in range(3))
    ensemble = EnsembleSource(members)
    theta = theta_points(NUISANCES, 30)
    x = ensemble.sample(30, theta, torch.Generator().manual_seed(1))
    densities = torch.stack([member.log_prob(x, theta).exp() for member in members])
    assert torch.allclose(ensemble.log_prob(x, theta).exp(), densities.mean(dim=0), rtol=1e-12)
    assert torch.allclose(ensemble.log_prob_spread(x, theta), densities.log().std(dim=0), rtol=1e-10)
    rates = torch.stack([member.expected_events(theta) for member in members])
    assert torch.allclose(ensemble.expected_events(theta), rates.mean(dim=0))
    assert torch.allclose(ensemble.expected_events_spread(theta), rates.std(dim=0), atol=1e-9)


def test_the_score_of_an_ensemble_is_that_of_its_density() -> None:
    ensemble = EnsembleSource(tuple(flow_source(observables=DISC, seed=seed) for seed in range(3)))
    theta = NUISANCES.nominal().expand(20, -1)
    x = ensemble.sample(20, theta, torch.Generator().manual_seed(1))
    x[0] = -1e3
    log_f, gradient = ensemble.score(x, theta)
    jet = ensemble.density_jet(x[1:], theta[1:])
    assert float(log_f[0]) == -torch.inf
    assert not gradient[0].any()
    assert torch.allclose(log_f[1:].double(), ensemble.log_prob(x[1:], theta[1:]), atol=1e-4)
    slope = jet.gradient / jet.value.unsqueeze(-1)
    assert torch.allclose(gradient[1:].double(), slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()))


@pytest.mark.parametrize(("sharing", "factor"), [("none", 1 / 4), ("all", 1 / 4), ("bootstrap", 5 / 4)])
def test_what_members_share_decides_what_their_spread_says(sharing: Sharing, factor: float) -> None:
    ensemble = EnsembleSource((flow_source(),) * 4, sharing)
    assert ensemble.variance_factor == factor
    theta = NUISANCES.nominal()
    own = ensemble.members[0].expected_events_std(theta)
    assert torch.allclose(ensemble.expected_events_std(theta), own / (2 if sharing == "none" else 1))


def test_an_ensemble_of_one_is_its_member() -> None:
    member = flow_source()
    ensemble = EnsembleSource((member,))
    theta = theta_points(NUISANCES, 5)
    x = member.sample(5, theta, torch.Generator().manual_seed(1))
    assert torch.allclose(ensemble.log_prob(x, theta), member.log_prob(x, theta), atol=1e-14)
    assert not ensemble.log_prob_spread(x, theta).any()
    assert not ensemble.expected_events_spread(theta).any()


def test_an_ensemble_has_no_density_and_no_spread_outside() -> None:
    ensemble = EnsembleSource(tuple(flow_source(seed=seed) for seed in range(2)))
    theta = NUISANCES.nominal().requires_grad_(True)
    log_f = ensemble.log_prob(torch.tensor([[1.0, 200.0, 3.0], [10.0, 200.0, 3.0]]), theta)
    assert float(log_f[0].detach()) == -torch.inf
    assert float(ensemble.log_prob_spread(torch.tensor([1.0, 200.0, 3.0]), NUISANCES.nominal())) == 0.0
    (gradient,) = torch.autograd.grad(log_f[1], theta)
    assert bool(torch.isfinite(gradient).all())


def test_members_must_agree() -> None:
    with pytest.raises(ConfigError, match="at least one member"):
        EnsembleSource(())
    narrow = replace(NUISANCES, nuisances=NUISANCES.nuisances[:2])
    for other in (flow_source(observables=DISC), flow_source(nuisances=narrow)):
        with pytest.raises(ConfigError, match="member 1 must have the observables, nuisances and generated rate"):
            EnsembleSource((flow_source(), other))
    with pytest.raises(ConfigError, match="did you mean 'bootstrap'"):
        EnsembleSource((flow_source(),), "bootstraps")  # type: ignore[arg-type]


def test_arrays_that_are_no_tensors_are_refused() -> None:
    source, theta = flow_source(), NUISANCES.nominal()
    x = source.sample(2, theta, torch.Generator().manual_seed(1))
    with pytest.raises(ConfigError, match=r"x must be a torch tensor, got ndarray; use torch\.as_tensor\(x\)"):
        source.log_prob(x.numpy(), theta)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="theta must be a torch tensor, got ndarray"):
        source.log_prob(x, theta.numpy())  # type: ignore[arg-type]
