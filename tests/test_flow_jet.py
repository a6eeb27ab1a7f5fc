"""Closed-form jets of flows against automatic differentiation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from source_cases import BINNED, GUIDES, HITS, KINKS, NUISANCES, OBSERVABLES, shaken_flow, theta_points

from surrogate.flow_config import FlowConfig
from surrogate.flow_jet import flow_log_jet, has_closed_jet
from surrogate.jet import autograd_log_jet, jet_of_log
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace

BASE = FlowConfig(OBSERVABLES, NUISANCES, components=5, hidden=12, blocks=2)
CONFIGS = {
    "silu": BASE,
    "gelu": replace(BASE, activation="gelu"),
    "tanh": replace(BASE, activation="tanh", blocks=3),
    "guides, one with offset": replace(BASE, guides=GUIDES),
    "normal": replace(BASE, family="normal_mixture", guides=GUIDES),
    "ordering": replace(BASE, guides=GUIDES, ordering=("drift_time", "cs2", "cs1")),
    "kinks": replace(BASE, guides=GUIDES, kinks=KINKS, theta_scale=0.5),
    "counts": replace(BASE, observables=HITS, kinks=KINKS),
    "histogram": replace(BASE, observables=BINNED, family="histogram", kinks=KINKS),
    "one component": replace(BASE, components=1),
    "one observable, one nuisance": replace(
        BASE,
        observables=ObservableSpace(OBSERVABLES.observables[:1]),
        nuisances=NuisanceSpace(NUISANCES.nuisances[1:2]),
    ),
}


@pytest.mark.parametrize("spread", [0.05, 0.3])
@pytest.mark.parametrize("name", CONFIGS)
def test_closed_jets_equal_autograd(name: str, spread: float) -> None:
    config = CONFIGS[name]
    assert has_closed_jet(config)
    flow = shaken_flow(config, seed=4, spread=spread).double().requires_grad_(False)
    u = torch.rand(60, config.observables.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u[0], u[1] = 0.0, 1.0
    theta = theta_points(config.nuisances, 60, seed=2)
    expected = autograd_log_jet(lambda t: flow.log_prob_unit(u, t), theta)
    jet = jet_of_log(*flow_log_jet(flow, u, theta))
    low, high = config.nuisances.bounds(theta)
    assert torch.allclose(jet.log_scale, expected.log_scale, rtol=1e-12, atol=1e-12)
    for part, reference, unit in (
        (jet.gradient, expected.gradient, high - low),
        (jet.hessian, expected.hessian, (high - low).unsqueeze(-1) * (high - low)),
    ):
        size = float((reference * unit).abs().max())
        assert torch.allclose(part * unit, reference * unit, rtol=1e-9, atol=1e-12 * size)


def test_single_precision_is_close() -> None:
    flow = shaken_flow(replace(BASE, guides=GUIDES)).requires_grad_(False)
    u = torch.rand(100, 3, generator=torch.Generator().manual_seed(1))
    theta = theta_points(NUISANCES, 100).float()
    single = flow_log_jet(flow, u, theta)
    double = flow_log_jet(flow.double(), u.double(), theta.double())
    for a, b in zip(single, double, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_other_flows_have_no_closed_jet() -> None:
    for change in ({"layers": 2}, {"family": "spline_autoregressive"}, {"nuisances": NuisanceSpace()}):
        assert not has_closed_jet(replace(BASE, **change))
