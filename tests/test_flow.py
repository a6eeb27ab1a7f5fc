"""The conditional flow: what the law sheet of sources does not see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats
from source_cases import BINNED, DISC, GUIDES, HITS, KINKS, NUISANCES, OBSERVABLES, shaken_flow, theta_points
from torch import Tensor

from surrogate.errors import ConfigError, DataError
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.guides import ElectronLifetimeGuide, PhotonGainGuide
from surrogate.jet import autograd_log_jet
from surrogate.nuisance import NuisanceSpace

BASE = FlowConfig(OBSERVABLES, NUISANCES, components=5, hidden=12, blocks=1)
CONFIGS = {
    "mixture": BASE,
    "guides": replace(BASE, guides=GUIDES),
    "two layers": replace(BASE, layers=2, guides=GUIDES),
    "tanh": replace(BASE, activation="tanh", ordering=("drift_time", "cs2", "cs1")),
    "spline": replace(BASE, family="spline_autoregressive", layers=2),
    "coupling": replace(BASE, family="spline_coupling", layers=3),
    "kinks": replace(BASE, guides=GUIDES, kinks=KINKS, theta_scale=0.5),
    "three layers with counts": replace(BASE, observables=HITS, layers=3, kinks=KINKS),
    "one coordinate": replace(BASE, observables=type(OBSERVABLES)(DISC.observables[:1])),
    "coupling with kinks": replace(BASE, family="spline_coupling", layers=2, kinks=KINKS),
    "no nuisance": replace(BASE, nuisances=NuisanceSpace()),
    "histogram": replace(BASE, observables=BINNED, family="histogram", kinks=KINKS),
}
every_config = pytest.mark.parametrize("name", CONFIGS)


def flow_of(name: str) -> ConditionalFlow:
    return shaken_flow(CONFIGS[name]).double()


def points(name: str, n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    config = CONFIGS[name]
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, config.observables.dim, generator=generator, dtype=torch.float64)
    return u, theta_points(config.nuisances, n, seed)


@every_config
def test_round_trip(name: str) -> None:
    flow, (u, theta) = flow_of(name), points(name, 200)
    z, _ = flow.to_base(u, theta)
    assert bool(((z >= 0) & (z <= 1)).all())
    assert torch.allclose(flow.from_base(z, theta), u, atol=1e-9)


@every_config
def test_log_determinant_equals_autograd(name: str) -> None:
    flow, (u, theta) = flow_of(name), points(name, 8)
    _, log_det = flow.to_base(u, theta)
    for i in range(len(u)):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, i=i: flow.to_base(v[None], theta[i : i + 1])[0][0], u[i]
        )
        assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(log_det[i].detach()), abs=1e-10)
    assert torch.allclose(flow.log_prob_unit(u, theta), log_det, atol=1e-13)


@every_config
def test_every_coordinate_depends_on_theta(name: str) -> None:
    """Also the first in the ordering, whose parameters nflows' own MADE leaves without context."""
    flow, (u, theta) = flow_of(name), points(name, 1)
    for k in range(theta.shape[-1]):
        other = theta.clone()
        low, high = CONFIGS[name].nuisances.bounds(theta)
        other[0, k] = low[k] if theta[0, k] > 0.5 * (low + high)[k] else high[k]
        moved = (flow.to_base(u, other)[0] - flow.to_base(u, theta)[0]).abs()
        assert bool((moved > 1e-6).all())


@every_config
def test_second_derivatives_in_theta_equal_differences(name: str) -> None:
    """Of each family; a spline has none where a knot crosses an event, which few of the events meet."""
    flow, (u, theta) = flow_of(name), points(name, 60)
    low, high = CONFIGS[name].nuisances.bounds(theta)

    def slopes(t: Tensor) -> Tensor:
        leaf = t.detach().requires_grad_(True)
        return torch.autograd.grad(flow.log_prob_unit(u, leaf).sum(), leaf)[0] * (high - low)

    if not theta.shape[-1]:
        return
    hessian = autograd_log_jet(lambda t: flow.log_prob_unit(u, t), theta)
    exact = (hessian.hessian - hessian.gradient.unsqueeze(-1) * hessian.gradient.unsqueeze(-2)) * (high - low)
    for k in range(theta.shape[-1]):
        step = torch.zeros_like(low)
        step[k] = 1e-5 * (high - low)[k]
        difference = (slopes(theta + step) - slopes(theta - step)) / 2e-5
        close = ((difference - exact[:, k] * (high - low)[k]).abs() < 1e-4 * (1 + difference.abs())).all(dim=-1)
        assert float(close.double().mean()) > (0.9 if "spline" in name or "coupling" in name else 0.999)


def test_the_autoregressive_order_is_kept() -> None:
    flow = flow_of("tanh")
    u, theta = points("tanh", 1)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_base(v[None], theta)[0][0], u[0])
    ordered = jacobian[:, list(CONFIGS["tanh"].permutation)]
    assert torch.equal(ordered, ordered.tril())
    assert bool((ordered.tril() != 0)[torch.ones(3, 3).tril().bool()].all())


def test_position_like_observables_come_first_by_default() -> None:
    names = [OBSERVABLES.names[d] for d in BASE.permutation]
    assert names == ["drift_time", "cs1", "cs2"]


def test_samples_are_uniform_in_the_base() -> None:
    flow = flow_of("two layers")
    theta = theta_points(NUISANCES, 1)[0]
    x = flow.sample(4000, theta, torch.Generator().manual_seed(2))
    z, _ = flow.to_base(OBSERVABLES.to_unit(x)[0], theta.expand(4000, -1))
    for column in z.detach().T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3


def test_an_untrained_flow_is_nearly_uniform() -> None:
    flow = ConditionalFlow(FlowConfig(OBSERVABLES, NUISANCES), seed=3)
    u, theta = points("mixture", 500)
    assert float(flow.log_prob_unit(u.float(), theta.float()).abs().max().detach()) < 3.0


def test_weights_depend_on_the_seed_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (ConditionalFlow(BASE, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in flow.parameters()]) for flow in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_event_a_hair_outside_has_no_density_and_raises_nothing() -> None:
    flow = flow_of("mixture")
    corners = torch.tensor([[2.0, 100.0, 0.0], [70.0, 6000.0, 700.0]], dtype=torch.float64)
    assert bool(torch.isfinite(flow.log_prob(corners, NUISANCES.nominal())).all())
    outside = corners * torch.tensor([[1 - 1e-12], [1 + 1e-12]], dtype=torch.float64)
    assert bool((flow.log_prob(outside, NUISANCES.nominal()) == -torch.inf).all())


def test_x_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(DataError, match="last dimension must be 3 \\(cs1, cs2, drift_time\\)"):
        flow_of("mixture").log_prob(torch.zeros(5, 2), NUISANCES.nominal())


def test_training_a_step_reduces_the_loss() -> None:
    """Gradients reach every weight: events of one flow, fitted by another."""
    theta = theta_points(NUISANCES, 2000, 3).float()
    x = shaken_flow(BASE, seed=7).sample(2000, theta, torch.Generator().manual_seed(1))
    u, _ = OBSERVABLES.to_unit(x)
    flow = ConditionalFlow(BASE)
    optimiser = torch.optim.Adam(flow.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = -flow.log_prob_unit(u, theta).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in flow.parameters())
    assert losses[-1] < losses[0] - 0.02


@every_config
def test_configuration_survives_plain_data(name: str) -> None:
    assert FlowConfig.from_dict(CONFIGS[name].to_dict()) == CONFIGS[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "logistic_mixtures"}, "unknown family 'logistic_mixtures'; did you mean 'logistic_mixture'"),
        ({"activation": "relu"}, "unknown activation 'relu'"),
        ({"hidden": 0}, "hidden = 0 must be >= 1"),
        ({"ordering": ("cs1", "cs2", "drift")}, "unknown observable 'drift'; did you mean 'drift_time'"),
        ({"ordering": ("cs1", "cs2")}, "ordering must name each of"),
        ({"family": "spline_coupling"}, "at least 2 observables and 2 layers"),
        ({"family": "spline_autoregressive", "guides": GUIDES}, "guides need family 'logistic_mixture'"),
        ({"kinks": ("elif",)}, "unknown nuisance 'elif'; did you mean 'elife'"),
        ({"kinks": ("elife", "elife")}, "kinks: names must be unique"),
        ({"guides": (PhotonGainGuide("cs3"),)}, "unknown observable 'cs3'"),
        ({"guides": (PhotonGainGuide("cs1", "g2"),)}, "unknown nuisance 'g2'; did you mean 'g1'"),
        ({"guides": (PhotonGainGuide("drift_time"),)}, "must have scale 'log'"),
        ({"guides": (PhotonGainGuide("cs1"), PhotonGainGuide("cs1"))}, "one per observable"),
        (
            {"guides": (ElectronLifetimeGuide("cs2"),), "ordering": ("cs1", "cs2", "drift_time")},
            "'drift_time' must come before it",
        ),
        ({"guides": (ElectronLifetimeGuide("cs2", drift="cs1"),)}, "use one unit, or give the drift velocity"),
        ({"guides": (PhotonGainGuide("cs1", "t_ly"),)}, "starts at -3.0, must be > 0"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BASE, **change)


def test_unknown_and_missing_keys_are_refused() -> None:
    data = BASE.to_dict()
    with pytest.raises(ConfigError, match="unknown key 'component'; did you mean 'components'"):
        FlowConfig.from_dict({**data, "component": 3})
    del data["observables"]
    with pytest.raises(ConfigError, match="'observables' is missing"):
        FlowConfig.from_dict(data)
