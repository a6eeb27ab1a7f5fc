"""Simulations described in YAML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from surrogate.errors import ConfigError, DataError, RangeError
from surrogate.shipped import SHIPPED_CONFIGS
from training.simulation_plan import simulate_batch
from training.simulator.accidentals import AccidentalSource
from training.simulator.sources import RecoilSource
from training.simulator.wall import WallSource
from training.simulator_config import read_simulation, standard_plan

SIMULATIONS = sorted((SHIPPED_CONFIGS / "simulate").glob("*.yaml"))
FLAT = {"kind": "flat", "low": 1, "high": 10, "rate_per_kev": 3}


def write(tmp_path: Path, **changes: object) -> Path:
    text = {"detector": "xenonnt_like", "source": "er", "n_generated": 1000, "seed": 1, **changes}
    path = tmp_path / "simulation.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


@pytest.mark.parametrize("path", SIMULATIONS, ids=lambda p: p.stem)
def test_shipped_simulations_can_be_read(path: Path) -> None:
    plan = read_simulation(path)
    assert plan.space.names == ("cs1", "cs2", "r", "z")
    assert plan.nuisances.names == plan.source.parameters
    assert plan.schema().generated_rate == plan.source.generated_rate > 0


def test_shipped_simulations_have_their_own_seeds() -> None:
    assert len({yaml.safe_load(path.read_text())["seed"] for path in SIMULATIONS}) == len(SIMULATIONS)


@pytest.mark.parametrize(
    ("spectrum", "total"),
    [
        (FLAT, 27.0),
        ({"kind": "beta", "isotope": "tritium", "rate": 5}, 5.0),
        ({"kind": "line", "energy": 2.82, "rate": 4}, 4.0),
        ({"kind": "gaussian", "mean": 9.4, "sigma": 0.5, "rate": 2}, 2.0),
        ({"kind": "exponential", "scale": 3, "low": 0.5, "high": 20, "rate": 6}, 6.0),
        ({"kind": "cevns_b8", "low": 0.45}, 335.4),
        ({"kind": "neutron", "rate": 1, "low": 0.0}, 1.0),
        ({"kind": "wimp_si", "mass": 50, "cross_section": 1e-47}, 3.57),
        ({"kind": "table", "path": "made_up.csv"}, 4.0),
        ({"kind": "table", "path": "made_up.csv", "rate": 9}, 9.0),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_every_spectrum(tmp_path: Path, spectrum: dict, total: float) -> None:
    (tmp_path / "made_up.csv").write_text("energy,rate\n1,2\n3,2\n")
    source = {"kind": "recoil", "name": "mine", "recoil": "nr", "spectrum": spectrum}
    plan = read_simulation(write(tmp_path, source=source))
    assert isinstance(plan.source, RecoilSource)
    assert plan.source.spectrum.total == pytest.approx(total, rel=0.01)
    assert plan.source.generated_rate == pytest.approx(plan.source.spectrum.total * plan.source.detector.volume_ratio())


@pytest.mark.slow
def test_spectra_of_wimprates(tmp_path: Path) -> None:
    spectrum = {"kind": "wimprates", "mass": 50, "cross_section": 1e-47, "low": 0.5, "high": 60}
    source = {"kind": "recoil", "name": "mine", "recoil": "nr", "spectrum": spectrum}
    total = read_simulation(write(tmp_path, source=source)).source.spectrum.total
    own = read_simulation(write(tmp_path, source="wimp50")).source.spectrum.truncated(0.5, 60).total
    assert own / total == pytest.approx(1.016, abs=0.005)
    for change in ({"interaction": "XX"}, {"mechanism": "zz"}, {"low": 90}):
        with pytest.raises(ConfigError, match="wimprates spectrum"):
            read_simulation(write(tmp_path, source={**source, "spectrum": {**spectrum, **change}}))


def test_own_sources(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "lone.npz", s1=rng.uniform(2, 40, 500), s2=rng.uniform(200, 2000, 500))
    ac = {"kind": "accidental", "name": "ac", "accepted_rate": 4.0}
    plan = read_simulation(write(tmp_path, source=ac))
    assert isinstance(plan.source, AccidentalSource)
    assert plan.nuisances.dim == 0
    measured = {**ac, "signals": {"s1_file": "lone.npz", "s2_file": "lone.npz"}}
    assert read_simulation(write(tmp_path, source=measured)).source.describe()["signals"]["n_s1"] == 500
    wall = {"kind": "wall", "name": "wall", "accepted_rate": 12.0, "spectrum": FLAT, "tail_length": 5.0}
    assert isinstance(read_simulation(write(tmp_path, source=wall)).source, WallSource)
    recoil = {"kind": "recoil", "name": "mine", "recoil": "er", "spectrum": FLAT, "accepted_rate": 7.0}
    plan = read_simulation(write(tmp_path, source=recoil, n_generated=200_000, nuisances=[]))
    kept = sum(len(simulate_batch(plan, k).x) for k in range(plan.n_batches))
    assert kept / 200_192 * plan.source.generated_rate == pytest.approx(7.0, rel=0.01)


def test_a_mono_energetic_source_has_the_energy_as_a_parameter(tmp_path: Path) -> None:
    source = {"kind": "mono", "name": "response", "recoil": "nr"}
    plan = read_simulation(write(tmp_path, source=source, n_generated=65_536, truth=["energy"]))
    assert plan.nuisances.names == ("energy", "t_ly", "t_qy", "elife", "g1")
    assert plan.schema().generated_rate == pytest.approx(plan.source.detector.volume_ratio())
    segment = simulate_batch(plan, 0)
    drawn = segment.blocks.theta[segment.block, 0]
    np.testing.assert_allclose(segment.truth["energy"], drawn, rtol=1e-6)
    assert drawn.min() < 5 < 60 < drawn.max()
    assert "spectrum" not in plan.source.describe()
    assert plan.source.scaled(3.0).generated_rate == pytest.approx(3 * plan.source.generated_rate)

    held = read_simulation(write(tmp_path, source=source, nuisances={"energy": {"fixed": 20.0}}, truth=["energy"]))
    assert set(simulate_batch(held, 0).truth["energy"].tolist()) == {20.0}
    reference = read_simulation(write(tmp_path, source=source, nuisances=["t_ly"], truth=["energy"]))
    assert set(simulate_batch(reference, 0).truth["energy"].tolist()) == {10.0}
    with pytest.raises(RangeError, match="energy = 20000"):
        read_simulation(write(tmp_path, source=source, nuisances={"energy": {"low": 1.0, "high": 20000.0}}))
    with pytest.raises(ConfigError, match="poisson"):
        read_simulation(write(tmp_path, source={**source, "recoil": "er", "fluctuations": "poisson"}))


def test_ranges_and_fixed_values(tmp_path: Path) -> None:
    nuisances = {"elife": {"low": 9000, "high": 15000}, "t_ly": {"fixed": 1.0}}
    plan = read_simulation(write(tmp_path, nuisances=nuisances))
    assert plan.nuisances.names == ("elife",)
    assert plan.nuisances.bounds(torch.zeros(0, dtype=torch.float64))[0].tolist() == [9000]
    assert plan.base_theta()[0] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detectr": "x"}, "unknown key 'detectr'; did you mean 'detector'"),
        ({"detector": "xenont"}, "did you mean 'xenon"),
        ({"source": "er0"}, "unknown source 'er0'; did you mean 'er'"),
        ({"source": {"kind": "recoil", "name": "x", "recoil": "er", "spectrum": {"kind": "flatt"}}}, "flatt"),
        (
            {"source": {"kind": "recoil", "name": "x", "recoil": "er", "spectrum": {**FLAT, "lo": 1}}},
            "did you mean 'low'",
        ),
        ({"source": {"kind": "recoil", "name": "x", "recoil": "gamma", "spectrum": FLAT}}, "recoil"),
        ({"source": {"kind": "accidental", "name": "ac", "accepted_rate": -1}}, "greater than 0"),
        (
            {"source": {"kind": "accidental", "name": "ac", "accepted_rate": 1, "signals": {"slop": 1}}},
            "did you mean 'slope'",
        ),
        (
            {"source": {"kind": "recoil", "name": "x", "recoil": "er", "spectrum": {**FLAT, "rate_per_kev": -1}}},
            "rate -1 at",
        ),
        ({"space": "E"}, "unknown space 'E'"),
        ({"nuisances": ["t_lyy"]}, "did you mean 't_ly'"),
        ({"nuisances": {"elife": {"low": 1}}}, "either low and high, or fixed"),
        ({"nuisances": {"elife": {"low": 1, "high": 2}}}, "nominal"),
        ({"nuisances": {"elif": {"fixed": 2}}}, "did you mean 'elife'"),
        ({"n_generated": 0}, "greater than or equal to 1"),
        ({"seed": -1}, "seed"),
        ({"device": "gpu"}, "device"),
        ({"truth": ["enrgy"]}, "did you mean 'energy'"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_mistakes(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_simulation(write(tmp_path, **changes))


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_simulation(tmp_path / "none.yaml")
    spectrum = {"kind": "table", "path": "none.csv"}
    source = {"kind": "recoil", "name": "x", "recoil": "er", "spectrum": spectrum}
    with pytest.raises(DataError, match=r"none\.csv"):
        read_simulation(write(tmp_path, source=source))


def test_standard_plan_has_the_parameters_of_its_source() -> None:
    assert standard_plan("xenonnt_like", "wimp30", 1000, 1).nuisances.names == ("t_ly", "t_qy", "elife", "g1")
    assert standard_plan("xenonnt_light_like", "ac", 1000, 1, space="light_wimp").space.names == ("cs2", "cs1", "z")
