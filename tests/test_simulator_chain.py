"""From recoils to selected events: corrections, thresholds, theta, fixed truth, determinism."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surrogate.beta_spectra import flat_spectrum
from surrogate.errors import ConfigError, RangeError
from training.simulator.accidentals import AccidentalSource, MeasuredSignals, ParametricSignals
from training.simulator.catalogue import standard_source
from training.simulator.detector import Detector, EfficiencyCurve
from training.simulator.seeds import stream
from training.simulator.simulate import (
    acceptance,
    resimulate,
    simulate,
    simulate_exposure,
    with_accepted_rate,
)
from training.simulator.sources import RecoilSource
from training.simulator.theta import THETA_NAMES, check_theta, nominal_theta, split_theta, training_nuisances
from training.simulator.tpc import interpolate
from training.simulator.wall import WallSource, _beta_2_5
from training.simulator_config import read_detector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return read_detector("xenon1t_like")


@pytest.fixture(scope="module")
def ideal(detector: Detector) -> Detector:
    """No cuts, no thresholds, perfect position: what remains is the signal model."""
    selection = replace(
        detector.selection, s2_min=0.0, cs1=(0.0, 1e9), cs2=(1e-9, 1e9), r_max=47.9, z=(-96.9, 0.0), padding_r=0.0
    )
    return replace(
        detector, selection=selection, s1_efficiency=(0.0, *([1.0] * 3)), xy_resolution=(0.0, 0.0), z_resolution=0.0
    )


def er(detector: Detector, low: float = 1.0, high: float = 10.0) -> RecoilSource:
    return RecoilSource("er", detector, "er", flat_spectrum(low, high, 1.0))


def at(detector: Detector, **values: float) -> Tensor:
    theta = nominal_theta(detector)
    for name, value in values.items():
        theta[THETA_NAMES.index(name)] = value
    return theta


def test_kept_events_pass_the_selection(detector: Detector) -> None:
    events = simulate(er(detector, 0.05, 25.0), 200_000, nominal_theta(detector), 1)
    s = detector.selection
    for name, (low, high) in {"cs1": s.cs1, "cs2": s.cs2, "r": (0.0, s.r_max), "z": s.z, "s2": (s.s2_min, 1e9)}.items():
        assert float(events[name].min()) >= low * (1 - 1e-6) - (1e-5 if name == "z" else 0)
        assert float(events[name].max()) <= high * (1 + 1e-6) + (1e-5 if name == "z" else 0)
    assert torch.allclose(events["drift_time"], -events["z"] / detector.drift_velocity, rtol=1e-5)


def test_positions_are_uniform(detector: Detector) -> None:
    """Bulk events far from thresholds: r^2/r_max^2 and z are uniform over the fiducial volume."""
    source = er(detector, 6.0, 9.0)
    events = simulate(source, 400_000, nominal_theta(detector), 1)
    s = detector.selection
    for u in ((events["r"] / s.r_max).square(), (events["z"] - s.z[0]) / (s.z[1] - s.z[0])):
        counts = torch.histc(u, 20, 0.0, 1.0)
        chi2 = float(((counts - counts.mean()).square() / counts.mean()).sum())
        assert chi2 < 45  # 19 degrees of freedom: P = 0.0007


def test_corrections_remove_the_position_dependence(ideal: Detector) -> None:
    """Means of cs1 and cs2 of equal quanta are the same everywhere, at nominal theta."""
    truth = {"photons": 4000.0, "electrons": 4000.0}
    means = []
    for r, z in ((0.0, -5.0), (40.0, -50.0), (47.0, -95.0)):
        events = simulate(er(ideal), 20_000, nominal_theta(ideal), 1, {**truth, "r": r, "z": z})
        means.append((float(events["cs1"].mean()), float(events["cs2"].mean())))
    expected_s1 = 4000 * ideal.g1 * (1 + ideal.double_pe)
    expected_s2 = 4000 * ideal.extraction * ideal.electron_gain * ideal.bottom_fraction
    for s1, s2 in means:
        assert s1 == pytest.approx(expected_s1, rel=2e-3)
        assert s2 == pytest.approx(expected_s2, rel=2e-3)


@pytest.mark.parametrize("elife", [320.0, 452.0, 630.0])
def test_lifetime_deforms_cs2(ideal: Detector, elife: float) -> None:
    """Corrected with the nominal lifetime, <cs2> is off by exp(-t_d (1/elife - 1/elife_nominal))."""
    z = -72.0
    truth = {"photons": 4000.0, "electrons": 4000.0, "r": 0.0, "z": z}
    events = simulate(er(ideal), 40_000, at(ideal, elife=elife), 1, truth)
    flat = 4000 * ideal.extraction * ideal.electron_gain * ideal.bottom_fraction
    drift = -z / ideal.drift_velocity
    assert float(events["cs2"].mean()) == pytest.approx(
        flat * math.exp(-drift * (1 / elife - 1 / ideal.elife)), rel=2e-3
    )
    assert float(events["cs1"].mean()) == pytest.approx(4000 * ideal.g1 * (1 + ideal.double_pe), rel=2e-3)


def test_g1_scales_cs1_alone(ideal: Detector) -> None:
    truth = {"photons": 4000.0, "electrons": 4000.0, "r": 0.0, "z": -50.0}
    events = simulate(er(ideal), 40_000, at(ideal, g1=1.1 * ideal.g1), 1, truth)
    assert float(events["cs1"].mean()) == pytest.approx(1.1 * 4000 * ideal.g1 * (1 + ideal.double_pe), rel=2e-3)
    flat = 4000 * ideal.extraction * ideal.electron_gain * ideal.bottom_fraction
    assert float(events["cs2"].mean()) == pytest.approx(flat, rel=2e-3)


def test_per_event_theta_is_the_shared_theta(detector: Detector) -> None:
    """The same numbers as one row or as n equal rows give the same events, bit for bit."""
    n, theta = 70_000, at(detector, t_ly=0.7, t_qy=-1.2, elife=500.0, g1=0.13)
    for name in ("er", "nr"):
        source = standard_source(name, detector)
        one, many = simulate(source, n, theta, 3), simulate(source, n, theta.expand(n, 4).clone(), 3)
        assert all(torch.equal(one[key], many[key]) for key in one)


def test_same_seed_same_events(detector: Detector) -> None:
    source = er(detector)
    first, again, other = (simulate(source, 70_000, nominal_theta(detector), seed) for seed in (5, 5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert len(first["cs1"]) != len(other["cs1"]) or not torch.equal(first["cs1"], other["cs1"])


def test_a_longer_run_begins_with_the_shorter_one(detector: Detector) -> None:
    source = er(detector)
    short, long = (simulate(source, n, nominal_theta(detector), 5) for n in (65_536, 150_000))
    n = len(short["cs1"])
    assert torch.equal(short["cs1"], long["cs1"][:n])
    assert int(long["index"].max()) > 131_072


def test_streams_differ() -> None:
    draws = [
        torch.rand(1, generator=stream(*key)).item() for key in ((1, "er", 0), (1, "er", 1), (2, "er", 0), (1, "nr", 0))
    ]
    assert len(set(draws)) == 4
    with pytest.raises(ConfigError, match="seed"):
        stream(-1, "er", 0)


def test_fixed_truth(detector: Detector) -> None:
    events = simulate(er(detector), 50_000, nominal_theta(detector), 1, {"energy": 5.0, "z": -50.0})
    assert bool((events["energy"] == 5.0).all() and (events["true_z"] == -50.0).all())
    assert float(events["true_r"].std()) > 5
    radii = torch.linspace(0.0, 30.0, 50_000)
    events = simulate(er(detector), 50_000, nominal_theta(detector), 1, {"r": radii, "photons": 200.0})
    assert torch.equal(events["true_r"], radii[events["index"]])
    assert bool((events["photons"] == 200).all())


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"energy": -1.0}, "energy = -1 must be in"),
        ({"z": 5.0}, "z = 5 must be in"),
        ({"r": 60.0}, "r = 60 must be in"),
        ({"enrgy": 5.0}, "did you mean 'energy'"),
        ({"energy": torch.ones(3)}, "shape"),
        ({"electrons": math.nan}, "electrons"),
    ],
)
def test_bad_truth(detector: Detector, truth: dict, message: str) -> None:
    with pytest.raises(RangeError, match=message):
        simulate(er(detector), 100, nominal_theta(detector), 1, truth)


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (torch.zeros(3), r"shape is \(3,\), must be \(4,\)"),
        (torch.zeros(7, 4), r"must be \(4,\) or \(100, 4\)"),
        (torch.tensor([0.0, 0.0, -5.0, 0.12]), "elife = -5"),
        (torch.tensor([0.0, 0.0, 450.0, 1.2]), "g1 = 1.2"),
        (torch.tensor([0.0, 0.0, 450.0, 0.0]), "g1 = 0"),
        (torch.tensor([9.0, 0.0, 450.0, 0.12]), "t_ly = 9"),
        (torch.tensor([0.0, math.nan, 450.0, 0.12]), "t_qy = nan"),
        (torch.tensor([0.0, 0.0, math.inf, 0.12]), "elife = inf"),
    ],
)
def test_bad_theta(detector: Detector, theta: Tensor, message: str) -> None:
    with pytest.raises(RangeError, match=message):
        simulate(er(detector), 100, theta, 1)


def test_training_ranges_are_physical(detector: Detector) -> None:
    space = training_nuisances(detector)
    for bound in space.bounds(torch.zeros(1, dtype=torch.float64)):
        check_theta(bound, 1, detector)
    assert training_nuisances(detector, ("g1",)).names == ("g1",)
    with pytest.raises(ConfigError, match="did you mean 'elife'"):
        training_nuisances(detector, ("elif",))


def test_resimulation_at_given_positions(detector: Detector) -> None:
    """The positions of the new events are those of the given ones, and so is the drift loss."""
    given_events = simulate(er(detector), 5000, nominal_theta(detector), 1)
    again = resimulate(er(detector), given_events["r"], given_events["z"], nominal_theta(detector), 2, repeat=20)
    index = again["index"]
    assert torch.equal(again["true_z"], given_events["z"][index])
    assert float((again["r"] - given_events["r"][index]).abs().mean()) < 1.0
    counts = torch.bincount(index, minlength=len(given_events["r"]))
    assert int(counts.max()) <= 20
    with pytest.raises(RangeError, match="must be"):
        resimulate(er(detector), torch.zeros(3), torch.zeros(4), nominal_theta(detector), 1)


def test_exposure_gives_poisson_numbers(detector: Detector) -> None:
    source = er(detector, 2.0, 4.0).scaled(20.0)
    expected, _ = acceptance(source, nominal_theta(detector), 200_000, 1)
    mean = expected * source.generated_rate * 2.0
    counts = torch.tensor([len(simulate_exposure(source, nominal_theta(detector), 2.0, s)["cs1"]) for s in range(300)])
    assert float(counts.double().mean()) == pytest.approx(mean, abs=5 * (mean / 300) ** 0.5)
    assert float(counts.double().var()) == pytest.approx(mean, rel=0.35)
    assert len(simulate_exposure(source, nominal_theta(detector), 0.0, 1)["cs1"]) == 0
    with pytest.raises(RangeError, match="exposure"):
        simulate_exposure(source, nominal_theta(detector), -1.0, 1)


def test_rate_from_the_accepted_one(detector: Detector) -> None:
    source = with_accepted_rate(er(detector), 12.0)
    fraction, error = acceptance(source, nominal_theta(detector), 200_000, 9)
    assert fraction * source.generated_rate == pytest.approx(12.0, rel=0.02)
    assert 0 < error < 0.01
    impossible = replace(detector, selection=replace(detector.selection, s2_min=1e8))
    with pytest.raises(RangeError, match="none of"):
        with_accepted_rate(er(impossible), 1.0, limit=100_000)


def test_nothing_survives_and_nothing_breaks(detector: Detector) -> None:
    """A 2 GeV WIMP leaves no S1 in this detector: empty columns, no error."""
    events = simulate(standard_source("wimp2", detector), 100_000, nominal_theta(detector), 1)
    assert len(events["cs1"]) == 0


def test_area_unit_is_a_scale() -> None:
    """phd are PE over 1 + p_dpe: with scaled cuts the same events are kept."""
    phd = read_detector("lz_like")
    scale, s = phd.area_scale, phd.selection
    cuts = replace(
        s, s2_min=s.s2_min * scale, cs1=(s.cs1[0] * scale, s.cs1[1] * scale), cs2=(s.cs2[0] * scale, s.cs2[1] * scale)
    )
    pe = replace(phd, area_unit="PE", selection=cuts)
    a, b = (simulate(er(d), 50_000, nominal_theta(d), 1) for d in (phd, pe))
    assert torch.equal(a["index"], b["index"])
    assert torch.allclose(a["cs1"] * scale, b["cs1"], rtol=1e-5)
    assert torch.allclose(a["cs2"] * scale, b["cs2"], rtol=1e-5)


def test_efficiencies_thin_the_events(detector: Detector) -> None:
    curve = EfficiencyCurve("cs1", (0.0, 40.0, 40.001), (0.0, 1.0, 0.5))
    thinned = replace(detector, selection=replace(detector.selection, efficiency=0.5, curves=(curve,)))
    whole, part = (simulate(er(d, 2.0, 6.0), 300_000, nominal_theta(d), 1) for d in (detector, thinned))
    expected = 0.5 * interpolate(whole["cs1"], curve.x, curve.value)
    assert len(part["cs1"]) == pytest.approx(float(expected.sum()), rel=0.02)


def test_interpolation() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0])
    assert interpolate(x, (0.0, 1.0, 2.0), (1.0, 3.0, 0.0)).tolist() == pytest.approx([1.0, 1.0, 2.0, 3.0, 0.0])


# Derivatives of ln mu, central differences of +-1 sigma and +-3 % in g1, in the XENONnT-like detector. The chain that
# gives them agrees with NEST's (see the slow tests); a change of any of its parts shows here.
SENSITIVITIES = [
    ("er", "t_ly", -0.014, 0.004),
    ("er", "g1", -0.91, 0.05),
    ("wimp30", "t_ly", 0.026, 0.004),
    ("wimp30", "t_qy", 0.017, 0.008),
    ("wimp30", "g1", 0.32, 0.05),
    ("nr", "g1", 0.14, 0.05),
]


@pytest.mark.parametrize(("name", "parameter", "expected", "tolerance"), SENSITIVITIES)
def test_rate_sensitivities(name: str, parameter: str, expected: float, tolerance: float) -> None:
    d = read_detector("xenonnt_like")
    source, step = standard_source(name, d), 0.03 if parameter == "g1" else 1.0
    centre = d.g1 if parameter == "g1" else 0.0
    width = step * d.g1 if parameter == "g1" else step
    up, down = (acceptance(source, at(d, **{parameter: centre + s * width}), 1 << 19, 1)[0] for s in (1, -1))
    assert math.log(up / down) / (2 * step) == pytest.approx(expected, abs=tolerance)


def test_accidentals_do_not_depend_on_theta(detector: Detector) -> None:
    source = AccidentalSource("ac", detector, 10.0, ParametricSignals())
    assert source.parameters == ()
    assert source.scaled(3.0).generated_rate == pytest.approx(30.0)
    a, b = (simulate(source, 50_000, at(detector, elife=e), 1) for e in (350.0, 600.0))
    assert torch.equal(a["cs2"], b["cs2"])
    with pytest.raises(RangeError, match="no energy"):
        simulate(source, 10, nominal_theta(detector), 1, {"energy": 1.0})


def test_accidental_areas(detector: Detector) -> None:
    """S1: n_hit - fold is geometric. S2: flat to the plateau, then exponential."""
    signals = ParametricSignals(stop=0.25, large=0.0, plateau=400.0, slope=200.0)
    narrow = replace(detector, double_pe=0.0, spe_resolution=0.0)
    s1, s2 = signals.draw(400_000, narrow, torch.Generator().manual_seed(1))
    extra = s1 - detector.coincidence
    assert float(extra.mean()) == pytest.approx(0.75 / 0.25, rel=0.01)
    assert float((extra == 0).double().mean()) == pytest.approx(0.25, rel=0.01)
    low = detector.selection.s2_min
    flat = 400.0 - low
    assert float(s2.min()) >= low
    assert float((s2 < 400.0).double().mean()) == pytest.approx(flat / (flat + 200.0), rel=0.01)
    assert float((s2[s2 > 400.0] - 400.0).mean()) == pytest.approx(200.0, rel=0.01)


def test_measured_lone_signals(detector: Detector) -> None:
    signals = MeasuredSignals(torch.tensor([5.0, 10.0]), torch.tensor([300.0, 500.0, 900.0]))
    s1, s2 = signals.draw(60_000, detector, torch.Generator().manual_seed(1))
    assert set(s1.tolist()) == {5.0, 10.0}
    assert torch.bincount(s2.long())[[300, 500, 900]].double().div(20_000).sub(1).abs().max() < 0.05
    for bad in (torch.zeros(0), torch.tensor([-1.0]), torch.tensor([math.nan])):
        with pytest.raises(ConfigError, match="lone s1"):
            MeasuredSignals(bad, torch.ones(1))


def test_wall_events_lie_at_the_wall(detector: Detector) -> None:
    wide = replace(detector, selection=replace(detector.selection, r_max=47.9))
    source = WallSource("wall", wide, flat_spectrum(0.05, 25.0, 1.0))
    walls, bulk = (simulate(s, 200_000, nominal_theta(wide), 1) for s in (source, er(wide, 0.05, 25.0)))
    assert bool((walls["true_r"] == wide.radius).all())
    assert float(walls["r"].median()) > 46.0
    assert float(walls["cs2"].median()) < 0.5 * float(bulk["cs2"].median())


def test_what_is_left_out_of_the_wall_could_not_be_reconstructed_inside(detector: Detector) -> None:
    """Decays are dropped early by their apparent radius; without a threshold on S2 none is. Both accept as many."""
    light = flat_spectrum(0.05, 25.0, 1.0)
    every = replace(detector, selection=replace(detector.selection, s2_min=0.0))
    kept = []
    for d in (detector, every):
        events = simulate(WallSource("wall", d, light), 1_000_000, nominal_theta(d), 1)
        kept.append(events["r"][events["s2"] > detector.selection.s2_min].double())
    few, many = kept
    assert abs(len(few) - len(many)) < 4.0 * (len(few) + len(many)) ** 0.5
    assert float(few.mean()) == pytest.approx(float(many.mean()), abs=4.0 * float(few.std()) * (2 / len(few)) ** 0.5)


def test_charge_survival_next_to_the_wall() -> None:
    """Beta(2, 5): mean 2/7, variance 10/(49 * 8)."""
    drawn = _beta_2_5(400_000, torch.Generator().manual_seed(1)).double()
    assert float(drawn.mean()) == pytest.approx(2 / 7, rel=3e-3)
    assert float(drawn.var()) == pytest.approx(10 / (49 * 8), rel=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: ParametricSignals(stop=0.0),
        lambda d: ParametricSignals(large=2.0),
        lambda d: ParametricSignals(large_range=(5.0, 2.0)),
        lambda d: ParametricSignals(slope=0.0),
        lambda d: AccidentalSource("ac", d, 0.0, ParametricSignals()),
        lambda d: WallSource("wall", d, flat_spectrum(1.0, 2.0, 1.0), tail_fraction=2.0),
        lambda d: WallSource("wall", d, flat_spectrum(1.0, 2.0, 1.0), tail_length=0.0),
        lambda d: RecoilSource("x", d, "gamma", flat_spectrum(1.0, 2.0, 1.0)),
        lambda d: RecoilSource("x", d, "er", flat_spectrum(1.0, 2.0, 1.0), fluctuations="poisson"),
        lambda d: standard_source("wmp50", d),
        lambda d: standard_source("ac", replace(d, rates={})),
    ],
)
def test_bad_sources(detector: Detector, make) -> None:
    with pytest.raises(ConfigError):
        make(detector)


@settings(max_examples=25, deadline=None)
@given(
    t_ly=st.floats(-5, 5),
    t_qy=st.floats(-5, 5),
    elife=st.floats(10.0, 1e5),
    g1=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
def test_any_physical_theta_gives_finite_events(t_ly: float, t_qy: float, elife: float, g1: float, seed: int) -> None:
    for name in ("xenon1t_like", "xenonnt_light_like"):
        d = read_detector(name)
        theta = torch.tensor([t_ly, t_qy, elife, g1], dtype=torch.float64)
        for source in ("er", "cevns_b8", "wimp1000"):
            events = simulate(standard_source(source, d), 2000, theta, seed)
            assert all(bool(torch.isfinite(column.double()).all()) for column in events.values())


def test_theta_columns_are_split_in_order(detector: Detector) -> None:
    theta = split_theta(torch.arange(8.0).reshape(2, 4), torch.zeros(0))
    assert [getattr(theta, name).tolist() for name in THETA_NAMES] == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu(detector: Detector) -> None:
    source, n = standard_source("er", detector), 1 << 20
    on_cpu, on_gpu = (simulate(source, n, nominal_theta(detector), 1, device=d) for d in ("cpu", "cuda"))
    a, b = len(on_cpu["cs1"]), len(on_gpu["cs1"])
    assert abs(a - b) < 5 * (a + b) ** 0.5
    assert float(on_gpu["cs2"].mean().cpu()) == pytest.approx(float(on_cpu["cs2"].mean()), rel=3e-3)
