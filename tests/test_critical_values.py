"""Fractions, quantiles, critical curves, power constraint, CLs and look-elsewhere against closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inference.studies.cls import cls_limit, cls_point
from inference.studies.counting import at_least, clopper_pearson, quantile
from inference.studies.critical_values import CriticalCurve, critical_curve
from inference.studies.look_elsewhere import count_upcrossings, global_significance
from inference.studies.power_constraint import constrain, discovery_constraint, rejection_constraint
from surrogate.errors import ConfigError, DataError


@given(n=st.integers(1, 60), p=st.floats(0.01, 0.99), cl=st.sampled_from([0.6827, 0.9, 0.95]))
def test_clopper_pearson_covers_at_every_p(n, p, cl):
    k = np.arange(n + 1)
    inside = [f.low <= p <= f.high for f in (clopper_pearson(int(i), n, cl) for i in k)]
    assert stats.binom.pmf(k, n, p)[inside].sum() >= cl - 1e-12


def test_clopper_pearson_known_values():
    # n = 10, k = 0 at 95 %: upper end 1 - 0.025^(1/10)
    assert clopper_pearson(0, 10, 0.95).high == pytest.approx(1 - 0.025**0.1, rel=1e-12)
    assert clopper_pearson(10, 10, 0.95).low == pytest.approx(0.025**0.1, rel=1e-12)
    with pytest.raises(DataError, match="0 successes in 0 trials"):
        clopper_pearson(0, 0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50), st.sampled_from([0.1, 0.5, 0.9, 0.95]))
def test_quantile_of_discrete_samples_keeps_its_probability(samples, q):
    found = quantile(np.array(samples, dtype=float), q).value
    x = np.array(samples)
    assert (x <= found).mean() >= q - 1e-12
    assert (x < found).mean() < q + 1e-12


def test_order_statistics_cover_the_quantile():
    rng = np.random.default_rng(4)
    true = stats.chi2.ppf(0.9, 1)
    inside = [q.low <= true <= q.high for q in (quantile(rng.chisquare(1, 500), 0.9) for _ in range(600))]
    assert abs(np.mean(inside) - 0.68) < 0.07


def test_toys_without_a_result_make_the_critical_value_larger():
    samples = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    assert quantile(samples, 0.8).value == 4.0
    assert quantile(samples, 0.9).value == math.inf


def curve_of(truth, n=2000, points=12, smoothing="spline", seed=1):
    rng = np.random.default_rng(seed)
    mu = np.linspace(0, 3, points)
    q = [quantile(truth(m) * rng.chisquare(1, n), 0.9) for m in mu]
    return critical_curve("mu", "t_mu_tilde", 0.9, mu.tolist(), q, [0] * points, smoothing)


def test_smoothing_is_unbiased_and_its_errors_are_right():
    def truth(m):
        return 1 - 0.4 * np.exp(-m)

    pulls, smooth, raw = [], [], []
    at = torch.tensor([0.3, 1.1, 2.5], dtype=torch.float64)
    exact = truth(at.numpy()) * stats.chi2.ppf(0.9, 1)
    for seed in range(40):
        curve = curve_of(truth, seed=seed)
        smooth.append(curve(at).numpy() - exact)
        pulls.append(smooth[-1] / [curve.error(float(m)) for m in at])
        raw.append(curve_of(truth, smoothing="linear", seed=seed)(at).numpy() - exact)
    assert abs(np.mean(pulls)) < 0.3
    assert 0.7 < np.std(pulls) < 1.5
    assert np.std(smooth) < 0.8 * np.std(raw)


def test_curve_round_trip_and_ends():
    curve = curve_of(lambda m: 1.0)
    again = CriticalCurve.from_dict(json.loads(json.dumps(curve.to_dict())))
    assert again == curve
    ends = curve(torch.tensor([-1.0, 0.0, 3.0, 9.0], dtype=torch.float64))
    assert ends[0] == ends[1]
    assert ends[2] == ends[3]
    assert curve.covers(1.0)
    assert not curve.covers(3.1)


def test_bad_grids_are_refused():
    q = [quantile(np.arange(10.0), 0.9)] * 2
    with pytest.raises(ConfigError, match="increasing grid points"):
        critical_curve("mu", "t", 0.9, [1.0, 1.0], q, [0, 0])
    with pytest.raises(ConfigError, match="did you mean 'spline'"):
        critical_curve("mu", "t", 0.9, [0.0, 1.0], q, [0, 0], "splin")
    with pytest.raises(ConfigError, match="cl = 90"):
        critical_curve("mu", "t", 90, [0.0, 1.0], q, [0, 0])


def test_power_constraints_of_a_gaussian_measurement():
    """x ~ N(mu, 1), one-sided 90 % limit x + 1.2816: limits of background-only toys are N(1.2816, 1)."""
    rng = np.random.default_rng(2)
    z = stats.norm.ppf(0.9)
    limits = rng.normal(size=40_000) + z
    rejection = rejection_constraint(limits, 0.16)
    assert rejection.minimum == pytest.approx(z + stats.norm.ppf(0.16), abs=0.03)
    assert rejection.low < rejection.minimum < rejection.high
    # Discovery at significance 0.1: power P(x > 1.2816 | mu) = 0.5 at mu = 1.2816.
    mu = np.linspace(0, 4, 21)
    q0 = [np.maximum(m + rng.normal(size=20_000), 0) ** 2 for m in mu]
    discovery = discovery_constraint(mu.tolist(), q0, z**2, 0.5)
    assert discovery.minimum == pytest.approx(z, abs=0.03)
    low = constrain(0.1, rejection)
    assert (low.unconstrained, low.constrained, low.active) == (0.1, rejection.minimum, True)
    assert not constrain(5.0, rejection).active
    with pytest.raises(DataError, match=r"does not cross 0\.999"):
        discovery_constraint(mu[:5].tolist(), q0[:5], z**2, 0.999)


def test_statistics_reach_a_value_up_to_rounding():
    t = np.array([0.0, 1e-9, 2.0 - 1e-9, 2.0 + 1e-9, 2.001, np.nan, np.inf])
    assert at_least(t, 2.0).tolist() == [False, False, True, True, True, False, True]
    assert at_least(t, 0.0).tolist() == [True] * 5 + [False, True]
    assert at_least(t, np.inf).tolist() == [False] * 6 + [True]
    # What exceeds a critical value is beyond rounding: a third of these are equal to it.
    q0 = np.concatenate([np.zeros(10), np.full(10, 2.0 + 1e-9), np.full(9, 5.0), [np.nan]])
    assert discovery_constraint([0.0, 1.0], [np.zeros(30), q0], 2.0, 0.15).minimum == pytest.approx(0.15 / 0.3)


def test_cls_of_a_counting_experiment_is_the_bayesian_limit():
    """For n counts over a known background CLs equals the flat-prior limit; n = 0 gives -ln(0.1) for any background."""
    rng = np.random.default_rng(3)
    background, observed = 2.0, 0
    grid = np.linspace(0.5, 4.0, 15)
    points = []
    for mu in grid:
        # q_mu falls with n: its tail is P(n <= observed), so -n serves as the statistic.
        signal, alone = -rng.poisson(mu + background, 40_000), -rng.poisson(background, 40_000)
        points.append(cls_point(float(mu), -observed, signal, alone))
    assert cls_limit(points, 0.9)[0] == pytest.approx(-math.log(0.1), abs=0.12)
    with pytest.raises(DataError, match="widen the grid"):
        cls_limit(points[:3], 0.9)


def test_global_significance_of_independent_points():
    """M independent points: P(max q0 >= c) = 1 - (1 - p_local)^M."""
    rng = np.random.default_rng(5)
    toys = np.maximum(rng.normal(size=(20_000, 10)), 0) ** 2
    observed = np.zeros(10)
    observed[4] = 6.0
    found = global_significance(observed, toys)
    local = stats.norm.sf(math.sqrt(6.0))
    assert found.position == 4
    assert found.local_p == pytest.approx(local, rel=1e-9)
    exact = 1 - (1 - local) ** 10
    assert abs(found.p_toys.value - exact) < 4 * math.sqrt(exact / 20_000)
    assert found.z_local > found.z_global > 0
    with pytest.raises(DataError, match="is NaN"):
        global_significance(observed * np.nan, toys)


def test_upcrossings_are_counted_between_points():
    scans = np.array([[0, 1, 0, 1.0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert count_upcrossings(scans, 0.5).tolist() == [2, 0, 0]
