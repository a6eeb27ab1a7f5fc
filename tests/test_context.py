"""What the networks of a flow see of theta."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from source_cases import KINKS, NUISANCES, OBSERVABLES, theta_points

from surrogate.context import KINK_WIDTH, ContextFeatures
from surrogate.errors import ConfigError
from surrogate.flow_config import FlowConfig

FEATURES = ContextFeatures(NUISANCES, KINKS)


def test_features_are_the_parameters_and_their_distance_from_nominal() -> None:
    theta = theta_points(NUISANCES, 50)
    values = FEATURES.values(theta)
    t, nominal = NUISANCES.standardise(theta), NUISANCES.standardise(NUISANCES.nominal())
    assert values.shape == (50, FEATURES.dim) == (50, 5)
    assert torch.equal(values[:, :3], t)
    for column, name in zip(values[:, 3:].T, KINKS, strict=True):
        k = NUISANCES.names.index(name)
        distance = (t[:, k] - nominal[k]).abs()
        assert bool((column > distance).all())
        assert torch.allclose(column, distance, atol=KINK_WIDTH)
    assert float(FEATURES.values(NUISANCES.nominal())[3]) == pytest.approx(KINK_WIDTH)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_derivatives_equal_autograd_and_gather_by_parameter(scale: float) -> None:
    features = ContextFeatures(NUISANCES, KINKS, scale)
    theta = torch.cat([theta_points(NUISANCES, 20), NUISANCES.nominal()[None]]).requires_grad_(True)
    values = features.values(theta)
    assert torch.equal(values, scale * FEATURES.values(theta))
    slope, curvature = (part.detach() for part in features.derivatives(theta))
    weights = torch.linspace(-1.0, 1.0, features.dim, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((values @ weights).sum(), theta, create_graph=True)
    assert torch.allclose(features.gather(slope * weights, -1), gradient.detach(), rtol=1e-12)
    (second,) = torch.autograd.grad(gradient.sum(), theta)
    assert torch.allclose(features.gather((curvature * weights).T, 0).T, second, rtol=1e-10, atol=1e-12)


def test_an_architecture_without_kinks_and_scale_is_written_as_before_there_were_any() -> None:
    config = FlowConfig(OBSERVABLES, NUISANCES)
    assert not {"kinks", "theta_scale"} & config.to_dict().keys()
    for changed in (replace(config, kinks=KINKS), replace(config, theta_scale=0.3)):
        assert FlowConfig.from_dict(changed.to_dict()) == changed


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"theta_scale = .* must be positive and finite"):
        FlowConfig(OBSERVABLES, NUISANCES, theta_scale=scale)


def test_unknown_and_repeated_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown nuisance 't_lyy'; did you mean 't_ly'"):
        ContextFeatures(NUISANCES, ("t_lyy",))
    with pytest.raises(ConfigError, match="names must be unique"):
        ContextFeatures(NUISANCES, ("t_ly", "t_ly"))
