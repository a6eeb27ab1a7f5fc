"""Mean yields and their fluctuations: numbers of NEST, laws of the deformation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.simulator.nr_yields import (
    YBE_CHARGE,
    YBE_CLIP,
    YBE_ENERGY,
    YBE_LIGHT,
    log_table,
    nest_recoil,
    nuclear_yields,
    ybe_recoil,
)
from training.simulator.quanta import electronic_quanta, nuclear_quanta, poisson_quanta
from training.simulator.theta import Theta
from training.simulator.yields import Medium, Quanta, electronic_charge_yield, electronic_recoil

DENSITY = 2.862

# Printed by nestpy 2.1.3 (NEST, arXiv:2211.10726) at 2.862 g/cm3, beta and NR models: recoil, field [V/cm], energy
# [keV], mean photons, mean electrons (GetYields), their standard deviations and correlation (100,000 GetQuanta).
NEST = [
    ("er", 23, 1, 16.8515, 56.9397, 3.731, 4.126, -0.824),
    ("er", 23, 5, 226.6511, 142.3051, 19.090, 18.809, -0.935),
    ("er", 23, 20, 1148.5948, 327.2297, 42.609, 40.529, -0.908),
    ("er", 117, 1, 12.6131, 61.1781, 3.319, 4.138, -0.683),
    ("er", 117, 5, 205.8262, 163.1299, 19.573, 19.303, -0.882),
    ("er", 117, 20, 1029.0570, 446.7675, 56.555, 54.257, -0.893),
    ("er", 310, 1, 9.9867, 63.8045, 2.996, 4.343, -0.544),
    ("er", 310, 5, 195.1285, 173.8276, 20.010, 19.837, -0.828),
    ("er", 310, 20, 936.3501, 539.4744, 65.811, 63.677, -0.875),
    ("nr", 23, 1, 4.4547, 6.1567, 1.409, 1.615, -0.036),
    ("nr", 23, 5, 35.1599, 29.3897, 4.268, 3.989, -0.238),
    ("nr", 23, 30, 350.4308, 113.7406, 13.553, 9.462, -0.340),
    ("nr", 117, 1, 3.9431, 6.7143, 1.339, 1.673, -0.039),
    ("nr", 117, 5, 32.5076, 32.0516, 4.177, 4.169, -0.253),
    ("nr", 117, 30, 340.1302, 124.0423, 13.774, 10.142, -0.388),
    ("nr", 310, 1, 3.6147, 7.0722, 1.281, 1.722, -0.039),
    ("nr", 310, 5, 30.8052, 33.7602, 4.143, 4.283, -0.271),
    ("nr", 310, 30, 333.5184, 130.6547, 13.961, 10.661, -0.416),
]


def theta(t_ly: float = 0.0, t_qy: float = 0.0) -> Theta:
    numbers = torch.tensor([t_ly, t_qy, 452.0, 0.125], dtype=torch.float64)
    return Theta(*numbers)


def mean(recoil: str, energy: Tensor, medium: Medium, at: Theta) -> Quanta:
    return (electronic_recoil if recoil == "er" else nest_recoil)(energy, at, medium)


@pytest.mark.parametrize("row", NEST, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_means_are_those_of_nest(row: tuple) -> None:
    """Electronic recoils to 1e-5. Nuclear ones to 0.12 %: NEST scales E with the mass number, by sqrt(131.293/131)."""
    recoil, field, energy, photons, electrons, *_ = row
    found = mean(recoil, torch.tensor([float(energy)], dtype=torch.float64), Medium(field, DENSITY), theta())
    tolerance = 1e-5 if recoil == "er" else 1.2e-3
    assert float(found.photons) == pytest.approx(photons, rel=tolerance)
    assert float(found.electrons) == pytest.approx(electrons, rel=tolerance)


@pytest.mark.parametrize("row", NEST, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_fluctuations_are_those_of_nest(row: tuple) -> None:
    """Means within 0.5 %, standard deviations within 2 %, correlation within 0.03."""
    recoil, field, energy, _, _, photon_std, electron_std, correlation = row
    medium, e = Medium(field, DENSITY), torch.full((200_000,), float(energy))
    expected = mean(recoil, e, medium, theta())
    draw = electronic_quanta if recoil == "er" else nuclear_quanta
    drawn = torch.stack(draw(e, expected, medium, torch.Generator().manual_seed(2))).double()
    assert torch.equal(drawn, drawn.round())
    assert bool((drawn >= 0).all())
    std = drawn.std(dim=1)
    error = std / 200_000**0.5
    for k, target in enumerate((expected.photons, expected.electrons)):
        # Rounding skewed numbers to whole ones moves small means: NEST's own differ from its yields by as much.
        shift = 0.1 if recoil == "nr" and energy == 1 else 0.0
        assert abs(float(drawn[k].mean()) - float(target[0])) < 0.005 * float(target[0]) + 4 * float(error[k]) + shift
    assert float(std[0]) == pytest.approx(photon_std, rel=0.02)
    assert float(std[1]) == pytest.approx(electron_std, rel=0.02)
    assert float(torch.corrcoef(drawn)[0, 1]) == pytest.approx(correlation, abs=0.03)


@settings(max_examples=50, deadline=None)
@given(energy=st.floats(0.5, 30.0), field=st.floats(10.0, 1000.0), t_ly=st.floats(-3.3, 3.3), t_qy=st.floats(-3.3, 3.3))
def test_electronic_deformation(energy: float, field: float, t_ly: float, t_qy: float) -> None:
    """t_qy scales the charge by 1 + 0.04 t and keeps the number of quanta; t_ly adds 1.5 % of the light per sigma."""
    medium, e = Medium(field, DENSITY), torch.tensor([energy], dtype=torch.float64)
    median, shifted = electronic_recoil(e, theta(), medium), electronic_recoil(e, theta(0.0, t_qy), medium)
    if float(median.photons) > 0 and float(shifted.photons) > 0:
        assert float(shifted.electrons) == pytest.approx(float(median.electrons) * (1 + 0.04 * t_qy), rel=1e-12)
        assert float(shifted.electrons + shifted.photons) == pytest.approx(energy / medium.work_function, rel=1e-12)
        lit = electronic_recoil(e, theta(t_ly, 0.0), medium)
        assert float(lit.photons) == pytest.approx(float(median.photons) * (1 + 0.015 * t_ly), rel=1e-9)
        assert float(lit.electrons) == pytest.approx(float(median.electrons), rel=1e-12)


def test_nuclear_bands_are_linear_on_each_side() -> None:
    """NEST band at 1 keV, from its table: light +-10 %, charge -21 % and +13 % per sigma."""
    medium, e = Medium(23.0, DENSITY), torch.tensor([1.0], dtype=torch.float64)
    median = nest_recoil(e, theta(), medium)
    for t in (-2.0, -0.5, 0.5, 3.0):
        light, charge = nest_recoil(e, theta(t, 0.0), medium), nest_recoil(e, theta(0.0, t), medium)
        assert float(light.photons / median.photons) == pytest.approx(1 + 0.10 * t, rel=2e-3)
        assert float(charge.electrons / median.electrons) == pytest.approx(1 + (0.13 if t > 0 else 0.21) * t, rel=2e-3)
        assert float(light.electrons) == float(median.electrons)
        assert float(charge.photons) == float(median.photons)


@pytest.mark.parametrize("t", [-1, 0, 1])
def test_ybe_band_at_its_points(t: int) -> None:
    """At -1, 0 and +1 sigma the band passes through the three published curves, to the resolution of the table."""
    e = torch.tensor(YBE_ENERGY, dtype=torch.float64)
    found = ybe_recoil(e, theta(t, t), Medium(23.0, DENSITY))
    low, high = YBE_CLIP
    for quanta, curves in ((found.photons, YBE_LIGHT), (found.electrons, YBE_CHARGE)):
        expected = torch.tensor(curves[t + 1], dtype=torch.float64).clamp(low, high)
        assert torch.allclose(quanta / e, expected, rtol=6e-3)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["ly", "qy"])
def test_ybe_band_against_the_release(shared: Path, name: str) -> None:
    """The 501-point curves of the XENONnT release (arXiv:2409.17868): medians within 1 %, edges within 4 %."""
    folder = shared / "data" / "xenonnt_light_wimp" / "signal"
    for t, edge in ((-1, "lower"), (0, "median"), (1, "upper")):
        curve = json.loads((folder / f"{name}_ybe_model_{edge}.json").read_text())
        e = torch.tensor(curve["coordinate_system"], dtype=torch.float64)
        expected = torch.tensor(curve["map"], dtype=torch.float64).clamp(*YBE_CLIP)
        found = ybe_recoil(e, theta(t, t), Medium(23.0, DENSITY))
        quanta = found.photons if name == "ly" else found.electrons
        assert float((quanta / e / expected - 1).abs().max()) < (0.01 if t == 0 else 0.04)


def test_ybe_continues_as_nest_above_its_table() -> None:
    e = torch.tensor([10.0, 20.0, 50.0], dtype=torch.float64)
    medium = Medium(23.0, DENSITY)
    found, (light, charge) = ybe_recoil(e, theta(), medium), nuclear_yields(e, medium)
    for quanta, nest in ((found.photons / e, light), (found.electrons / e, charge)):
        ratio = quanta / nest
        assert torch.allclose(ratio, ratio[0].expand(3), rtol=1e-3) or float(quanta.max()) == YBE_CLIP[1]


def test_deformed_yields_stay_in_their_range() -> None:
    e = torch.linspace(0.3, 30.0, 200, dtype=torch.float64)
    for t in (-5.0, 5.0):
        found = ybe_recoil(e, theta(t, t), Medium(23.0, DENSITY))
        for quanta in (found.photons / e, found.electrons / e):
            assert float(quanta.min()) >= YBE_CLIP[0] - 1e-9
            assert float(quanta.max()) <= YBE_CLIP[1] + 1e-9
        nest = nest_recoil(e, theta(t, t), Medium(23.0, DENSITY))
        assert bool((nest.photons >= 0).all() and (nest.electrons >= 0).all())


def test_no_quanta_below_threshold() -> None:
    """NEST: no yields where less than one quantum is expected."""
    light, charge = nuclear_yields(torch.tensor([0.05, 0.1], dtype=torch.float64), Medium(23.0, DENSITY))
    assert float(light.abs().sum() + charge.abs().sum()) == 0.0


def test_work_function() -> None:
    """13.55 eV at 2.862 g/cm3 (arXiv:2211.10726)."""
    assert 1e3 * Medium(23.0, DENSITY).work_function == pytest.approx(13.55, abs=0.01)


def test_density_changes_the_charge_yield() -> None:
    """The correction is 1 at 2.9 g/cm3 by definition and decreases with density."""
    assert Medium(100.0, 2.9).density_correction == pytest.approx(1.0, rel=1e-12)
    e = torch.tensor([5.0], dtype=torch.float64)
    medium = Medium(100.0, 2.8)
    lighter, denser = (electronic_charge_yield(e, replace(medium, density=rho)) for rho in (2.8, 3.0))
    assert float(lighter) > float(denser)


def test_extreme_deformation_keeps_the_mean_charge() -> None:
    """Where more electrons are asked for than ions exist, recombination is zero and the mean is still right."""
    medium, e = Medium(23.0, DENSITY), torch.full((100_000,), 2.0)
    asked = Quanta(torch.full_like(e, 5.0), torch.full_like(e, 40.0))
    for draw in (electronic_quanta, nuclear_quanta):
        _, electrons = draw(e, asked, medium, torch.Generator().manual_seed(1))
        assert float(electrons.mean()) == pytest.approx(40.0, rel=0.01)


def test_zero_quanta_are_drawn_as_zero() -> None:
    medium, e, none = Medium(23.0, DENSITY), torch.full((10,), 0.1), torch.zeros(10)
    for draw in (electronic_quanta, nuclear_quanta):
        photons, electrons = draw(e, Quanta(none, none), medium, torch.Generator().manual_seed(1))
        assert float(photons.sum() + electrons.sum()) == 0.0


def test_poisson_mode() -> None:
    mean = Quanta(torch.full((400_000,), 4.0), torch.full((400_000,), 7.0))
    drawn = poisson_quanta(mean, torch.Generator().manual_seed(1))
    for numbers, rate in zip(drawn, (4.0, 7.0), strict=True):
        assert float(numbers.mean()) == pytest.approx(rate, rel=0.01)
        assert float(numbers.var()) == pytest.approx(rate, rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack(drawn))[0, 1])) < 5 / math.sqrt(400_000)


def test_log_table_is_exact_on_logarithms() -> None:
    """A column linear in ln E is interpolated without error; outside it is held."""
    table = log_table((1.0, 10.0, 100.0), ((0.0, 1.0, 2.0),))
    (found,) = table.at(torch.tensor([0.5, 1.0, 3.0, 10.0, 50.0, 100.0, 500.0]))
    expected = torch.tensor([1.0, 1.0, 3.0, 10.0, 50.0, 100.0, 100.0]).log10()
    assert torch.allclose(found, expected, atol=2e-5)
