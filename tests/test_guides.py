"""Guides: the shifts they stand for, and that a guided flow follows an exactly scaling source without any training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from source_cases import NUISANCES, OBSERVABLES, shaken_flow

from surrogate.errors import ConfigError
from surrogate.flow_config import FlowConfig
from surrogate.guides import (
    ElectronLifetimeGuide,
    GuideSet,
    PhotonGainGuide,
    guide_from_dict,
    guide_to_dict,
)
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace

DEPTH = ObservableSpace((Observable("z", "cm", -97.0, 0.0), Observable("cs2", "PE", 100.0, 6000.0, "log")))


def shift_of(
    guide: ElectronLifetimeGuide | PhotonGainGuide, space: ObservableSpace, u: list[float], **theta: float
) -> float:
    """The move, in ln x, of a component in the middle of the guided window."""
    guides = GuideSet((guide,), space, NUISANCES)
    values = NUISANCES.nominal()
    for name, value in theta.items():
        values[NUISANCES.names.index(name)] = value
    d = space.names.index(guide.observable)
    move = guides.move(torch.tensor([u]).double(), values[None], (d,))
    assert move is not None
    observable = space.observables[d]
    location = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    before, after = (observable.from_unit(at) for at in (location, move(location)))
    return float((after / before).log())


def test_the_lifetime_guide_moves_by_attachment() -> None:
    """Electrons that drift 350 us: ln s2 changes by -350 (1/300 - 1/450)."""
    space = ObservableSpace((OBSERVABLES.observables[2], OBSERVABLES.observables[1]))
    shift = shift_of(ElectronLifetimeGuide("cs2"), space, [0.5, 0.9], elife=300.0)
    assert shift == pytest.approx(-350.0 * (1 / 300 - 1 / 450), rel=1e-12)


def test_the_lifetime_guide_converts_a_depth() -> None:
    guide = ElectronLifetimeGuide("cs2", drift="z", velocity=0.1335, gate=-0.5)
    shift = shift_of(guide, DEPTH, [0.25, 0.9], elife=300.0)
    assert shift == pytest.approx(-(0.75 * 97.0 - 0.5) / 0.1335 * (1 / 300 - 1 / 450), rel=1e-12)


def test_the_gain_guide_moves_by_the_ratio_of_gains() -> None:
    space = ObservableSpace((Observable("cs1", "PE", 2.0, 70.0, "log"),))
    assert shift_of(PhotonGainGuide("cs1"), space, [0.1], g1=0.13) == pytest.approx(0.2623642644674911, rel=1e-12)


def test_an_offset_is_met_to_leading_order() -> None:
    """ln(x + c) with x scaled by exp(delta): the error of the shift is of second order in delta."""
    space = ObservableSpace((Observable("cs1", "PE", 2.0, 70.0, "log", offset=5.0),))
    for g1 in (0.101, 0.11):
        exact = torch.log(torch.tensor(g1 / 0.1)).item()
        assert shift_of(PhotonGainGuide("cs1"), space, [0.1], g1=g1) == pytest.approx(exact, abs=0.5 * exact**2)


def test_nothing_moves_at_the_nominal_point() -> None:
    config = FlowConfig(OBSERVABLES, NUISANCES, components=5, hidden=12, blocks=1)
    guided = replace(config, guides=(ElectronLifetimeGuide("cs2"), PhotonGainGuide("cs1")))
    plain, moved = shaken_flow(config).double(), shaken_flow(guided).double()
    u = torch.rand(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = NUISANCES.nominal().expand(50, -1)
    assert torch.allclose(plain.log_prob_unit(u, theta), moved.log_prob_unit(u, theta), atol=1e-13)
    theta = theta * torch.tensor([1.0, 0.7, 1.2], dtype=torch.float64)
    assert not torch.allclose(plain.log_prob_unit(u, theta), moved.log_prob_unit(u, theta), atol=1e-2)


def test_a_guided_flow_follows_a_scaling_source_untrained() -> None:
    """A narrow line in s2 at fixed depth: its position follows exp(-t/elife) though the network never saw elife."""
    nuisances = NuisanceSpace((Nuisance("elife", "us", 250.0, 900.0, 450.0),))
    space = ObservableSpace((Observable("drift_time", "us", 0.0, 700.0), Observable("s2", "PE", 100.0, 6000.0, "log")))
    config = FlowConfig(space, nuisances, components=1, hidden=4, blocks=1, guides=(ElectronLifetimeGuide("s2"),))
    flow = shaken_flow(config, spread=0.0).double()
    with torch.no_grad():
        final = next(m for name, m in flow.named_modules() if name.endswith("final_layer"))
        final.weight.zero_()
        final.bias.copy_(torch.tensor([0.0, 0.3, -5.0]).repeat(3))
    for elife in (300.0, 800.0):
        theta = torch.tensor([elife], dtype=torch.float64)
        sample = flow.sample(4000, theta, torch.Generator().manual_seed(1))
        nominal = flow.sample(4000, nuisances.nominal(), torch.Generator().manual_seed(1))
        shift = (sample[:, 1] / nominal[:, 1]).log()
        assert torch.allclose(shift, -sample[:, 0] * (1 / elife - 1 / 450.0), atol=1e-3)


def test_plain_data_round_trip_and_unknown_keys() -> None:
    guide = ElectronLifetimeGuide("cs2", drift="z", velocity=0.13)
    assert guide_from_dict(guide_to_dict(guide)) == guide
    with pytest.raises(ConfigError, match="unknown guide kind 'photon_gan'; did you mean 'photon_gain'"):
        guide_from_dict({"kind": "photon_gan", "observable": "cs1"})
    with pytest.raises(ConfigError, match="unknown key 'nuisanse'; did you mean 'nuisance'"):
        guide_from_dict({"kind": "photon_gain", "observable": "cs1", "nuisanse": "g1"})
    with pytest.raises(ConfigError, match="'observable' is missing"):
        guide_from_dict({"kind": "photon_gain"})
    with pytest.raises(ConfigError, match="velocity = -1"):
        ElectronLifetimeGuide("cs2", drift="z", velocity=-1.0)
