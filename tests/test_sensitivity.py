"""Sensitivity bands, discovery and power of counting experiments against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from counting_models import counting, counts, gaussian_background
from scipy import optimize, stats

from inference.intervals.asymptotics import critical_value
from inference.likelihood.extended import Likelihood
from inference.profiles.crossing_records import CrossingStatus
from inference.studies.critical_values import CriticalCurve
from inference.studies.discovery import Discovery, discovery, scan_statistics
from inference.studies.look_elsewhere import global_significance
from inference.studies.power_constraint import rejection_constraint
from inference.studies.sensitivity import SensitivityBand, read_limits, sensitivity_band, toy_limits
from inference.studies.study import StudyPlan
from inference.studies.toy_pairs import run_pairs
from surrogate.errors import ConfigError, DataError

BACKGROUND = 6.0


def exact_limit(n, b, c):
    """Upper limit: the larger root of t(mu) = c for n ~ Poisson(mu + b)."""
    best = max(n - b, 0.0)

    def t(mu):
        def log_l(s):
            return (n * math.log(s + b) if n else 0.0) - s - b

        return 2 * (log_l(best) - log_l(mu)) - c

    return optimize.brentq(t, best, 100.0)


@pytest.fixture(scope="module")
def limits():
    parameters, runs = counting(BACKGROUND)
    points = torch.tensor([[1.0, 0.0, BACKGROUND]], dtype=torch.float64)
    return toy_limits(parameters, runs, "mu", points, 2000, 4, critical_value(0.9), 0.9)


def test_limits_of_toys_are_the_closed_form_of_their_counts(limits):
    c = critical_value(0.9)
    exact = np.array([exact_limit(n, BACKGROUND, c) for n in range(30)])
    nearest = np.abs(limits.ends()[:, None] - exact).min(axis=1)
    assert (nearest < 1e-4 * limits.ends()).all()
    assert limits.count("upper", CrossingStatus.FAILED) == 0


def test_bands_are_those_of_the_poisson_law(limits):
    band = sensitivity_band(limits)
    c = critical_value(0.9)
    for sigma, value, low, high in zip(band.sigmas, band.values, band.low, band.high, strict=True):
        n = [stats.poisson.ppf(np.clip(stats.norm.cdf(sigma) + d, 1e-9, 1 - 1e-9), BACKGROUND) for d in (-0.03, 0.03)]
        assert exact_limit(n[0], BACKGROUND, c) * 0.999 <= value <= exact_limit(n[1], BACKGROUND, c) * 1.001
        assert low <= value <= high
    assert band.median == band.values[2]
    assert (band.n_toys, band.n_without, band.n_failed) == (2000, 0, 0)
    assert SensitivityBand.from_json(band.to_json()) == band
    constraint = rejection_constraint(limits.ends(), 0.5)
    assert constraint.minimum == band.median
    with pytest.raises(ConfigError, match="'upper' or 'lower'"):
        limits.ends("middle")


def test_limits_beyond_the_search_bound_count_as_infinite():
    parameters, runs = counting(BACKGROUND, high=3.0)
    points = torch.tensor([[1.0, 0.0, BACKGROUND]], dtype=torch.float64)
    found = toy_limits(parameters, runs, "mu", points, 200, 4, critical_value(0.9), 0.9)
    band = sensitivity_band(found)
    assert band.n_without > 100
    assert band.values[-1] is None
    assert band.values[0] is not None


def test_a_lower_limit_that_does_not_exist_sorts_below_all_others():
    parameters, runs = counting(BACKGROUND)
    points = torch.tensor([[1.0, 0.0, BACKGROUND]], dtype=torch.float64)
    found = toy_limits(parameters, runs, "mu", points, 200, 4, critical_value(0.9, "lower"), 0.9, "lower")
    band = sensitivity_band(found, "lower")
    assert 150 < band.n_without < 200
    assert band.values[:3] == (None, None, None)
    assert band.values[-1] > 0
    lines = repr(band).splitlines()
    assert lines[3] == "+0 sigma  none  [none, none]"
    assert lines[-1] == f"{band.n_without} of 200 toys have no lower limit and count below all others"


def test_limits_are_stored_and_resumed(tmp_path):
    parameters, runs = gaussian_background(3.0, 0.5)
    points = torch.tensor([[1.0, 0.0, 3.0], [1.0, 5.0, 3.0]], dtype=torch.float64)
    path = tmp_path / "limits.h5"
    curve = CriticalCurve("mu", 0.9, "t_mu_tilde", (0.0, 9.0), (2.0, 2.7), (1.9, 2.6), (2.1, 2.8), (9, 9), (0, 0), 0.0)
    first = toy_limits(parameters, runs, "mu", points, 40, 1, curve, 0.9, plan=StudyPlan(15, path))
    again = read_limits(path)
    np.testing.assert_array_equal(first.ends("upper", 1), again.ends("upper", 1))
    assert np.median(again.ends("upper", 1)) > np.median(again.ends("upper", 0))
    with pytest.raises(DataError, match=r"settings\.critical"):
        toy_limits(parameters, runs, "mu", points, 40, 1, 2.7, 0.9, plan=StudyPlan(15, path))


def test_discovery_of_a_counting_experiment():
    """q0 = 2 [n ln(n/b) - (n - b)] and p0 = P(N >= n | b), exactly."""
    parameters, runs = counting(BACKGROUND)
    points = torch.tensor([[1.0, 0.0, BACKGROUND]], dtype=torch.float64)
    toys = run_pairs(parameters, runs, "mu", points, 4000, seed=2)
    n = 11
    found = discovery(Likelihood(parameters, runs, counts([n])), "mu", toys)
    q0 = 2 * (n * math.log(n / BACKGROUND) - (n - BACKGROUND))
    assert found.q0 == pytest.approx(q0, abs=1e-8)
    assert found.z0 == pytest.approx(math.sqrt(q0), abs=1e-8)
    exact = stats.poisson.sf(n - 1, BACKGROUND)
    assert abs(found.p0_toys - exact) < 4 * math.sqrt(exact / 4000)
    assert found.p0_low < found.p0_toys < found.p0_high
    assert Discovery.from_json(found.to_json()) == found


@pytest.mark.parametrize(("background", "n"), [(0.7, 3), (0.7, 4), (3.2, 7)])
def test_toys_as_far_as_the_data_count(background, n):
    """Of few counts many toys have the q0 of the data; p0 is the fraction with at least n counts, mu_hat + b."""
    parameters, runs = counting(background)
    points = torch.tensor([[1.0, 0.0, background]], dtype=torch.float64)
    toys = run_pairs(parameters, runs, "mu", points, 4000, seed=0)
    found = discovery(Likelihood(parameters, runs, counts([n])), "mu", toys)
    assert found.p0_toys == (toys.fits.mu_hat + background > n - 0.5).mean()
    assert abs(found.p0_toys - stats.poisson.sf(n - 1, background)) < 4 * found.p0_toys**0.5 / 4000**0.5
    scan = global_significance(np.array([found.q0]), scan_statistics([toys]))
    assert scan.p_toys.value == found.p0_toys


def test_an_excess_of_nothing_is_no_discovery():
    parameters, runs = counting(BACKGROUND)
    found = discovery(Likelihood(parameters, runs, counts([2])), "mu")
    assert found.q0 == pytest.approx(0.0, abs=1e-9)
    assert found.p0 == pytest.approx(0.5, abs=1e-4)
    assert found.p0_toys is None


def test_a_significance_neither_saturates_nor_is_minus_zero():
    parameters, runs = counting(BACKGROUND)
    found = discovery(Likelihood(parameters, runs, counts([400])), "mu")
    assert found.q0 > 1969
    assert found.z0 == math.sqrt(found.q0)
    assert f"p0 < 1e-300, Z = {found.z0:.5g} (asymptotic)" in repr(found)
    nothing = replace(found, q0=0.0, p0=0.5, z0=math.sqrt(0.0))
    assert "q0 = 0, p0 = 0.5, Z = 0 (asymptotic)" in repr(nothing)
    none = discovery(Likelihood(parameters, runs, counts([0])), "mu")
    assert none.q0 == 0.0
    assert math.copysign(1.0, none.z0) == 1.0


def test_wrong_toys_are_refused():
    parameters, runs = counting(BACKGROUND)
    points = torch.tensor([[1.0, 1.0, BACKGROUND]], dtype=torch.float64)
    toys = run_pairs(parameters, runs, "mu", points, 10, seed=2)
    with pytest.raises(DataError, match="background-only toys"):
        discovery(Likelihood(parameters, runs, counts([2])), "mu", toys)
    other, other_runs = counting(7.0)
    with pytest.raises(DataError, match="another model"):
        discovery(Likelihood(other, other_runs, counts([2])), "mu", toys)


def test_a_scan_looks_at_the_same_toys():
    """Two signals of one place and different size are one test: equal q0 toy by toy, and no trial factor."""
    studies = []
    for scale in (1.0, 3.0):
        parameters, runs = counting(BACKGROUND, scale=scale)
        points = torch.tensor([[1.0, 0.0, BACKGROUND]], dtype=torch.float64)
        studies.append(run_pairs(parameters, runs, "mu", points, 300, seed=5))
    scan = scan_statistics(studies)
    assert scan.shape == (300, 2)
    np.testing.assert_allclose(scan[:, 0], scan[:, 1], atol=1e-6)
    found = global_significance(np.array([2.0, 1.9]), scan)
    assert found.p_toys.value == pytest.approx(float((scan[:, 0] >= 2.0).mean()))
    other = run_pairs(*counting(BACKGROUND), "mu", points, 300, seed=6)
    with pytest.raises(DataError, match="one seed"):
        scan_statistics([studies[0], other])
