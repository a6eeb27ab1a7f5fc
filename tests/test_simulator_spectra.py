"""Recoil spectra: integrals, draws, closed forms, reference values."""

from __future__ import annotations

import importlib
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from surrogate.beta_spectra import (
    BETA_DECAYS,
    beta_spectrum,
    exponential_spectrum,
    flat_spectrum,
    gaussian_spectrum,
    line_spectrum,
    table_spectrum,
)
from surrogate.errors import ConfigError, DataError
from surrogate.nuclear_spectra import (
    STANDARD_HALO,
    HaloModel,
    cevns_b8_spectrum,
    helm_form_factor,
    neutron_spectrum,
    wimp_si_rate,
    wimp_si_spectrum,
)
from surrogate.spectrum import Spectrum, draw_energy

N = 200_000


def draw(spectrum: Spectrum, n: int = N, seed: int = 1) -> np.ndarray:
    return draw_energy(spectrum.quantile_table(), n, torch.Generator().manual_seed(seed)).double().numpy()


def cdf(spectrum: Spectrum, energy: np.ndarray) -> np.ndarray:
    """The exact CDF of a piecewise linear density."""
    e, d = np.array(spectrum.energy), np.array(spectrum.density)
    k = np.clip(np.searchsorted(e, energy, side="right") - 1, 0, len(e) - 2)
    below = np.concatenate([[0.0], np.cumsum(0.5 * (d[1:] + d[:-1]) * np.diff(e))])
    x = energy - e[k]
    return (below[k] + d[k] * x + (d[k + 1] - d[k]) / np.diff(e)[k] * x**2 / 2) / spectrum.total


SPECTRA = {
    "flat": flat_spectrum(0.05, 25.0, 82.0),
    "tritium": beta_spectrum("tritium", *BETA_DECAYS["tritium"], rate=100.0),
    "pb214": beta_spectrum("pb214", *BETA_DECAYS["pb214"], rate=1e4, high=30.0),
    "exponential": exponential_spectrum(3.0, 0.5, 60.0, 1.0),
    "gaussian": gaussian_spectrum(9.4, 0.7, 10.0),
    "wimp50": wimp_si_spectrum(50.0, 1e-47),
    "wimp6": wimp_si_spectrum(6.0, 1e-45),
    "cevns_b8": cevns_b8_spectrum(),
    "neutron": neutron_spectrum(1.0),
    "rising": Spectrum("rising", (0.0, 10.0), (0.0, 1.0)),
    "gap": Spectrum("gap", (1.0, 2.0, 2.001, 8.0, 8.001, 9.0), (1.0, 1.0, 0.0, 0.0, 1.0, 1.0)),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_draws_follow_the_density(name: str) -> None:
    spectrum = SPECTRA[name]
    energy = np.sort(draw(spectrum))
    distance = np.abs(cdf(spectrum, energy) - (np.arange(N) + 0.5) / N).max()
    # Kolmogorov: P(sqrt(n) D > 1.95) = 0.001. A draw lies in a gap of the spectrum with probability 1/480 per knot.
    assert distance < 1.95 / math.sqrt(N) + (0.002 if name == "gap" else 0.0)
    assert energy[0] >= spectrum.energy[0] * (1 - 1e-6)
    assert energy[-1] <= spectrum.energy[-1] * (1 + 1e-6)


def test_tail_is_resolved() -> None:
    """The last 1e-5 of an exponential: the fraction beyond E is exp(-E/scale)."""
    spectrum = exponential_spectrum(1.0, 0.0, 40.0, 1.0)
    energy = draw(spectrum, 4_000_000)
    expected = 4_000_000 * math.exp(-10.0)
    assert abs((energy > 10.0).sum() - expected) < 5 * math.sqrt(expected)


def test_integrals_in_closed_form() -> None:
    assert flat_spectrum(1.0, 11.0, 7.0).total == pytest.approx(70.0, rel=1e-12)
    assert SPECTRA["rising"].total == pytest.approx(5.0, rel=1e-12)
    assert line_spectrum(2.82, 33.0).total == 33.0
    assert SPECTRA["gaussian"].total == pytest.approx(10.0, rel=1e-12)
    total = 0.55 * (1 - math.exp(-200 / 4.5)) + 0.45 * (1 - math.exp(-10.0))
    assert neutron_spectrum(1.0, low=0.0).total == pytest.approx(total, rel=1e-4)


def test_line_draws_its_energy() -> None:
    assert np.all(draw(line_spectrum(2.82, 1.0), 1000) == np.float32(2.82))


def test_whole_beta_spectrum_integrates_to_its_rate() -> None:
    assert SPECTRA["tritium"].total == pytest.approx(100.0, rel=1e-5)


def test_tritium_mean_energy() -> None:
    """Mean beta energy of tritium: 5.7 keV (ENSDF)."""
    e, d = np.array(SPECTRA["tritium"].energy), np.array(SPECTRA["tritium"].density)
    assert np.trapezoid(e * d, e) / np.trapezoid(d, e) == pytest.approx(5.68, abs=0.05)


def test_beta_window_keeps_the_absolute_rate() -> None:
    """A window of a beta spectrum is a piece of the whole: halves add up."""
    parts = [beta_spectrum("kr85", *BETA_DECAYS["kr85"], 5.0, low, high).total for low, high in ((0, 300), (300, 687))]
    assert sum(parts) == pytest.approx(5.0, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(low=st.floats(0.1, 20.0), width=st.floats(0.5, 20.0), factor=st.floats(0.1, 50.0))
def test_truncation_and_scaling(low: float, width: float, factor: float) -> None:
    spectrum = SPECTRA["exponential"]
    cut = spectrum.truncated(low, low + width)
    a, b = max(low, 0.5), low + width
    norm = math.exp(-0.5 / 3) - math.exp(-60 / 3)
    assert cut.total == pytest.approx((math.exp(-a / 3) - math.exp(-b / 3)) / norm, rel=1e-4)
    assert cut.scaled(factor).total == pytest.approx(factor * cut.total, rel=1e-12)
    assert cut.normalised(factor).total == pytest.approx(factor, rel=1e-12)


def test_mean_inverse_speed_against_quadrature() -> None:
    """eta(v_min) by direct integration of the truncated Maxwellian, shifted by the speed of the laboratory."""
    halo = STANDARD_HALO
    v0, ve, vl = halo.v0, halo.v_escape, halo.v_lab

    def speed_density(v: float) -> float:
        """Unnormalised f(v) in the laboratory: v^2 times the angular integral over |v + v_lab| < v_esc."""
        top = min(1.0, (ve**2 - v**2 - vl**2) / (2 * v * vl))
        if top <= -1.0:
            return 0.0
        return (
            v**2
            * v0**2
            / (2 * v * vl)
            * (math.exp(-((v - vl) ** 2) / v0**2) - math.exp(-(v**2 + vl**2 + 2 * v * vl * top) / v0**2))
        )

    edges = [ve - vl, ve + vl]
    norm = quad(speed_density, 1e-6, ve + vl, points=edges[:1], limit=200)[0]
    for v_min in (10.0, 150.0, 250.0, 400.0, 600.0, 780.0):
        inside = [p for p in edges[:1] if p > v_min]
        integral = quad(lambda v: speed_density(v) / v, v_min, ve + vl, points=inside or None, limit=200)[0]
        assert float(halo.mean_inverse_speed(np.array([v_min]))[0]) == pytest.approx(integral / norm, rel=1e-6)
    assert halo.mean_inverse_speed(np.array([ve + vl + 0.1]))[0] == 0.0


def test_form_factor_is_one_at_rest_and_falls() -> None:
    energy = np.linspace(0.0, 40.0, 50)
    form = helm_form_factor(energy, 132)
    assert form[0] == pytest.approx(1.0, abs=1e-9)
    assert np.all(np.diff(form) < 0)


@pytest.mark.parametrize(("mass", "energy"), [(10.0, 2.0), (30.0, 10.0), (50.0, 10.0), (1000.0, 30.0)])
def test_wimp_rate_against_wimprates(mass: float, energy: float) -> None:
    """wimprates 0.5 normalises the speed distribution by N instead of 1/N: 0.970; amu and v_lab make up the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its halo model at import
        wimprates = importlib.import_module("wimprates")
    theirs = wimprates.rate_wimp_std(np.array([energy]), mass, 1e-45)[0]
    ours = wimp_si_rate(np.array([energy]), mass, 1e-45)[0]
    assert ours / theirs == pytest.approx(1.015, abs=0.02)


def test_wimp_rate_of_10_gev() -> None:
    """Closed form between 0.3 and 5 keV at 1e-45 cm2, within the accuracy of the halo's published parameters."""
    spectrum = wimp_si_spectrum(10.0, 1e-45, low=0.3).truncated(0.3, 5.0)
    assert spectrum.total == pytest.approx(231.6, rel=1e-3)
    scaled = wimp_si_spectrum(10.0, 1e-45, low=0.3, norm="wimprates").truncated(0.3, 5.0)
    assert scaled.total == pytest.approx(0.970 * spectrum.total, rel=1e-9)


@pytest.mark.shared
@pytest.mark.parametrize(("mass", "tolerance"), [("5", 0.055), ("6", 0.045), ("8", 0.035), ("10", 0.035)])
def test_wimp_rate_against_published_spectra(shared: Path, mass: str, tolerance: float) -> None:
    """Recoil spectra of the XENONnT release (arXiv:2409.17868), made with wimprates: a few per cent lower."""
    path = shared / "data" / "xenonnt_light_wimp" / "signal" / f"wimp_si_spectrum_{mass}.json"
    published = json.loads(path.read_text())
    ours = wimp_si_spectrum(float(mass), published["sigma"], low=published["map"][0])
    assert 0 < ours.truncated(published["map"][0], published["map"][-1]).total / published["rate"] - 1 < tolerance


@pytest.mark.shared
def test_b8_rate_against_published_spectrum(shared: Path) -> None:
    """The 8B spectrum of the XENONnT release: 335.6 per tonne-year above 0.45 keV (arXiv:2409.17868)."""
    path = shared / "data" / "xenonnt_light_wimp" / "signal" / "cevns_spectrum.json"
    published = json.loads(path.read_text())
    ours = cevns_b8_spectrum(low=0.45)
    assert ours.total == pytest.approx(published["rate"], rel=2e-3)
    # Its CDF at four energies.
    energy = np.array([0.6, 1.0, 1.5, 2.0])
    theirs = np.interp(energy, published["map"], published["coordinate_system"])
    assert np.allclose(cdf(ours, energy), theirs, atol=0.01)


@pytest.mark.parametrize("mass", [1.0, 2.0, 3.0, 10.0, 100.0, 1e3, 1e4])
def test_wimps_of_any_mass(mass: float) -> None:
    spectrum = wimp_si_spectrum(mass, 1e-45)
    assert spectrum.total > 0
    assert np.isfinite(draw(spectrum, 1000)).all()


def test_halo_must_be_possible() -> None:
    with pytest.raises(ConfigError, match="v_escape > v_lab"):
        HaloModel(v_escape=100.0)


@pytest.mark.parametrize(
    ("energy", "density", "message"),
    [
        ((1.0, 2.0), (1.0, -1.0), "rate -1 at 2 keV"),
        ((2.0, 1.0), (1.0, 1.0), "must increase, but 2 keV is followed by 1 keV"),
        ((1.0, 1.0), (1.0, 1.0), "must increase"),
        ((1.0, 2.0), (0.0, 0.0), "integral"),
        ((1.0, 2.0), (1.0,), "equal length"),
        ((-1.0, 2.0), (1.0, 1.0), "finite and positive"),
        ((1.0, math.nan), (1.0, 1.0), "finite"),
        ((1.0, 2.0), (1.0, math.inf), "rate inf"),
        ((), (), "equal length"),
    ],
)
def test_bad_spectra(energy: tuple[float, ...], density: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Spectrum("bad", energy, density)


def test_bad_shapes() -> None:
    for bad in (
        lambda: gaussian_spectrum(5.0, 0.0, 1.0),
        lambda: exponential_spectrum(-1.0, 0.0, 1.0, 1.0),
        lambda: beta_spectrum("tritium", 18.59, 2, 1.0, low=5.0, high=30.0),
        lambda: wimp_si_spectrum(0.5, 1e-45),
        lambda: wimp_si_spectrum(50.0, 0.0),
        lambda: wimp_si_spectrum(2.0, 1e-45, low=5.0),
        lambda: wimp_si_spectrum(50.0, 1e-45, norm="wimprate"),
        lambda: cevns_b8_spectrum(low=4.9),
        lambda: neutron_spectrum(1.0, low=10.0, high=1.0),
        lambda: flat_spectrum(1.0, 2.0, 1.0).truncated(5.0),
    ):
        with pytest.raises(ConfigError):
            bad()


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "argon.csv"
    path.write_text("# 37Ar, made up\nenergy_keV,rate\n1.0,2.0\n3.0,2.0\n")
    spectrum = table_spectrum(path)
    assert spectrum.name == "argon"
    assert spectrum.total == pytest.approx(4.0)
    path.write_text("1.0,2.0\n3.0,two\n")
    with pytest.raises(DataError, match="row 2"):
        table_spectrum(path)
    path.write_text("energy,rate\n")
    with pytest.raises(DataError, match="no rows"):
        table_spectrum(path)
    with pytest.raises(DataError, match="No such file"):
        table_spectrum(tmp_path / "none.csv")
