"""Toy Neyman constructions against closed forms: Feldman and Cousins, a Gaussian near a boundary, on/off counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from counting_models import counting, counts, gaussian_background, on_off
from scipy import optimize, stats

from inference.fits.batch_fit import fit_batch
from inference.likelihood.extended import Likelihood
from inference.reports.study_plots import plot_critical_values
from inference.studies.neyman import (
    NeymanInterval,
    critical_values,
    error_remarks,
    neyman_interval,
    profiled_points,
    suggested_grid,
)
from inference.studies.study import ProcessExecutor, StudyPlan
from inference.studies.toy_pairs import ToyPairs, read_pairs, run_pairs
from inference.toys.toy_fits import fit_pairs, join
from surrogate.errors import ConfigError, DataError

#: Feldman and Cousins, arXiv:physics/9711021, table IV: 90 % intervals for n observed over background b.
FELDMAN_COUSINS = [
    (0, 0.0, 0.00, 2.44),
    (1, 0.0, 0.11, 4.36),
    (2, 0.0, 0.53, 5.91),
    (3, 0.0, 1.10, 7.42),
    (5, 0.0, 1.84, 9.99),
    (0, 0.5, 0.00, 1.94),
    (0, 1.0, 0.00, 1.61),
    (4, 1.0, 0.74, 7.60),
    (1, 3.0, 0.00, 1.88),
    (3, 3.0, 0.00, 4.42),
    (6, 3.0, 0.15, 8.47),
    (10, 3.0, 2.63, 13.50),
]


def statistic_of_counts(background, mu, n_max=45):
    """Return t_mu_tilde from the package's fits, for every count at every mu: (len(mu), n_max)."""
    parameters, runs = counting(background)
    likelihood = Likelihood(parameters, runs, counts(torch.arange(n_max)))
    free = fit_batch(likelihood).log_likelihood
    rows = torch.arange(n_max).repeat(len(mu))
    held = torch.tensor(mu, dtype=torch.float64).repeat_interleave(n_max)
    conditional = fit_batch(likelihood, {"mu": held}, rows).log_likelihood
    return 2 * (free - conditional.reshape(len(mu), n_max)).numpy()


def exact_critical(t, probability, cl=0.9):
    """Return the smallest value with P(t <= value) >= cl, by enumeration."""
    order = np.argsort(t)
    return t[order][np.searchsorted(np.cumsum(probability[order]), cl)]


@pytest.mark.parametrize(("n", "background", "lower", "upper"), FELDMAN_COUSINS)
def test_feldman_cousins_tables_by_enumeration(n, background, lower, upper):
    """Published to 0.01: values half a hundredth inside the ends are accepted, one hundredth outside are not."""
    inside = [max(lower, 0.0) + (0.011 if lower else 0.0), upper - 0.011]
    outside = [upper + 0.011 + 0.1 * k for k in range(12)] + ([lower - 0.011] if lower else [])
    mu = [*inside, *outside]
    t = statistic_of_counts(background, mu)
    accepted = []
    for m, row in zip(mu, t, strict=True):
        probability = stats.poisson.pmf(np.arange(len(row)), m + background)
        accepted.append(row[n] <= exact_critical(row, probability) + 1e-7)
    assert accepted == [True] * len(inside) + [False] * len(outside)


def test_toy_critical_values_of_counting_are_exact():
    """t is discrete: away from the edges of cumulative probabilities toys find the exact critical value itself."""
    parameters, runs = counting(3.0)
    grid = [0.5, 2.0, 4.0, 6.5, 9.0]
    points = torch.tensor([[1.0, mu, 3.0] for mu in grid], dtype=torch.float64)
    curve = critical_values(run_pairs(parameters, runs, "mu", points, 3000, seed=3), smoothing="linear")
    t = statistic_of_counts(3.0, grid)
    for g, mu in enumerate(grid):
        probability = stats.poisson.pmf(np.arange(t.shape[1]), mu + 3.0)
        error = 4 * math.sqrt(0.09 / 3000)
        allowed = [exact_critical(t[g], probability, 0.9 + s * error) for s in (-1, 1)]
        assert allowed[0] - 1e-6 <= curve.value[g] <= allowed[1] + 1e-6
        if allowed[0] == allowed[1]:
            assert curve.value[g] == pytest.approx(allowed[0], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "background", "upper"), [(3, 0.0, 7.42), (1, 3.0, 1.88), (6, 3.0, 8.47)])
def test_feldman_cousins_ends_from_toys(n, background, upper):
    """The test from toys accepts below the published end and rejects above it.

    At the end a count leaves the acceptance region because its cumulative probability reaches 0.9. The fraction of
    10,000 toys is known to 0.003, the probability changes by about 0.03 per unit of mu: toys find the end to 0.1.
    """
    parameters, runs = counting(background)
    grid = [upper - 0.35, upper + 0.35]
    points = torch.tensor([[1.0, mu, background] for mu in grid], dtype=torch.float64)
    curve = critical_values(run_pairs(parameters, runs, "mu", points, 10_000, seed=8), smoothing="linear")
    t = statistic_of_counts(background, grid)[:, n]
    assert t[0] <= curve.value[0] + 1e-7
    assert t[1] > curve.value[1] + 1e-7


def gaussian_critical(mu, cl=0.9):
    """c(mu) for x ~ N(mu, 1), mu >= 0: P(t <= c) = cl with t = (x - mu)^2, or mu^2 - 2 mu x where x < 0."""

    def excess(c):
        root = math.sqrt(c)
        low = mu - root if mu >= root else ((mu * mu - c) / (2 * mu) if mu > 0 else -np.inf)
        return stats.norm.cdf(root) - stats.norm.cdf(low - mu) - cl

    return optimize.brentq(excess, 1e-3, 9.0)


def gaussian_pairs(grid, n_toys):
    """Fit pairs of N ~ Poisson(100 mu + 10^4), a unit Gaussian in (N - 10^4)/100; N is the weight of one event."""
    parameters, runs = counting(1e4, scale=100.0, high=50.0)
    rng = np.random.default_rng(6)
    points = torch.tensor([[1.0, mu, 1e4] for mu in grid], dtype=torch.float64)
    parts = []
    for truth in points:
        data = counts(torch.ones(n_toys, dtype=torch.int64))
        data.weights["run"][:, 0] = torch.tensor(rng.poisson(float(100 * truth[1] + 1e4), n_toys).astype(float))
        parts.append(fit_pairs(parameters, runs, data, "mu", truth[1], truth))
    where = np.arange(len(grid)).repeat(n_toys)
    return ToyPairs("mu", parameters.names, points.numpy(), np.array(grid), where, join(parts), "hash", 6)


def test_gaussian_near_a_boundary():
    grid = np.linspace(0.0, 3.0, 13).tolist()
    curve = critical_values(gaussian_pairs(grid, 3000))
    exact = np.array([gaussian_critical(mu) for mu in grid])
    errors = (np.array(curve.high) - np.array(curve.low)) / 2
    assert np.abs((np.array(curve.value) - exact) / errors).max() < 4
    smooth = curve(torch.tensor(grid, dtype=torch.float64)).numpy()
    assert np.sqrt(np.mean((smooth - exact) ** 2)) < 0.08


def on_off_statistic(n, m, tau, mu):
    """Closed-form t_mu_tilde of the on/off model."""

    def log_l(s, b):
        return stats.poisson.logpmf(n, s + b) + stats.poisson.logpmf(m, tau * b)

    total = n + m - (1 + tau) * mu
    b_mu = (total + math.sqrt(total**2 + 4 * (1 + tau) * m * mu)) / (2 * (1 + tau))
    s_hat, b_hat = n - m / tau, m / tau
    if s_hat < 0:
        s_hat, b_hat = 0.0, (n + m) / (1 + tau)
    return 2 * (log_l(s_hat, b_hat) - log_l(mu, b_mu))


def test_on_off_toys_have_the_closed_form_statistic():
    tau = 3.0
    parameters, runs = on_off(4.0, tau)
    rng = np.random.default_rng(1)
    n, m = rng.poisson(6.0, 300), rng.poisson(4.0 * tau, 300)
    fits = fit_pairs(parameters, runs, counts(n, m / tau), "mu", torch.tensor(2.0), parameters.vector({"mu": 2.0}))
    exact = [on_off_statistic(a, b, tau, 2.0) for a, b in zip(n, m, strict=True)]
    np.testing.assert_allclose(fits.statistic("t_mu_tilde"), exact, atol=1e-7)
    assert bool(fits.valid.all())
    above = fits.mu_hat > 2.0
    assert (fits.statistic("q_mu_tilde")[above] == 0).all()
    np.testing.assert_array_equal(fits.statistic("q_mu_tilde")[~above], fits.statistic("t_mu_tilde")[~above])
    with pytest.raises(ConfigError, match="did you mean 't_mu'"):
        fits.statistic("t_mus")


def test_p_value_at_the_limit_is_one_minus_the_confidence_level():
    parameters, runs = gaussian_background(20.0, 3.0)
    likelihood = Likelihood(parameters, runs, counts([22], [19.0]))
    points = profiled_points(likelihood, "mu", suggested_grid(0.0, 14.0, 8))
    found = neyman_interval(likelihood, run_pairs(parameters, runs, "mu", points, 4000, seed=5))
    limit = found.interval.upper.value
    assert limit is not None
    assert found.within_grid
    fresh = run_pairs(parameters, runs, "mu", profiled_points(likelihood, "mu", [limit]), 6000, seed=6)
    p = fresh.tail(0, found.interval.upper.t)
    assert abs(p.value - 0.1) < 0.012
    shift = found.upper_error
    assert shift is not None
    assert 0 < shift < 1.0
    assert NeymanInterval.from_json(found.to_json()) == found


def test_poorly_known_ends_are_remarked_on():
    """Few toys leave an end uncertain; what is said of it follows from its error and its distance from the best fit."""
    parameters, runs = gaussian_background(20.0, 3.0)
    likelihood = Likelihood(parameters, runs, counts([22], [19.0]))
    points = profiled_points(likelihood, "mu", suggested_grid(0.0, 14.0, 5))
    found = neyman_interval(likelihood, run_pairs(parameters, runs, "mu", points, 20, seed=5))
    value, best = found.interval.upper.value, found.interval.best_fit.values["mu"]
    assert found.upper_error > 0.1 * (value - best)
    assert any("the upper limit" in r and "only" in r for r in found.interval.remarks)
    assert error_remarks(found.interval, None, 0.09 * (value - best)) == ()
    # The curve is recorded between the grid points as well, as the interval uses it.
    assert found.fine[::8] == found.grid
    assert len(found.fine) == len(found.smooth) == len(found.smooth_error) == 33
    assert np.interp(value, found.fine, found.smooth) == pytest.approx(found.interval.upper.critical, rel=5e-3)
    band = plot_critical_values(found).axes[0].collections[-1].get_paths()[0].vertices
    assert set(found.fine) <= set(band[:, 0])


def test_reparametrisation_leaves_the_interval(tmp_path):
    """mu in units of ten events: the same toys, the same interval."""
    results = []
    for scale in (1.0, 10.0):
        parameters, runs = counting(5.0, scale=scale, high=200.0 / scale)
        likelihood = Likelihood(parameters, runs, counts([9]))
        points = profiled_points(likelihood, "mu", suggested_grid(0.0, 12.0 / scale, 6))
        pairs = run_pairs(parameters, runs, "mu", points, 1500, seed=5)
        results.append(scale * neyman_interval(likelihood, pairs).interval.upper.value)
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_a_study_is_the_same_in_processes_and_after_resumption(tmp_path):
    parameters, runs = gaussian_background(5.0, 1.0)
    points = torch.tensor([[1.0, 0.0, 5.0], [1.0, 4.0, 4.5]], dtype=torch.float64)
    whole = run_pairs(parameters, runs, "mu", points, 300, seed=9)
    path = tmp_path / "study.h5"
    run_pairs(parameters, runs, "mu", points, 100, seed=9, plan=StudyPlan(30, path))
    parts = run_pairs(parameters, runs, "mu", points, 300, seed=9, plan=StudyPlan(70, path, ProcessExecutor(2)))
    for name in ("mu", "mu_hat", "ll_free", "ll_conditional"):
        np.testing.assert_allclose(getattr(parts.fits, name), getattr(whole.fits, name), rtol=1e-9, atol=1e-9)
    again = read_pairs(path)
    assert again.names == whole.names
    assert critical_values(again).value == critical_values(parts).value
    with pytest.raises(DataError, match="another study"):
        run_pairs(parameters, runs, "mu", points, 300, seed=10, plan=StudyPlan(70, path))


def test_bad_input_is_refused():
    parameters, runs = counting(3.0)
    likelihood = Likelihood(parameters, runs, counts([3]))
    with pytest.raises(ConfigError, match="increasing values"):
        profiled_points(likelihood, "mu", [1.0, 0.5])
    with pytest.raises(ConfigError, match="parameter of interest"):
        profiled_points(likelihood, "mu", [1.0], {"mu": 1.0})
    points = profiled_points(likelihood, "mu", [0.0, 1.0])
    with pytest.raises(ConfigError, match="one each is needed"):
        run_pairs(parameters, runs, "mu", points, 10, 1, tested=[0.0])
    pairs = run_pairs(parameters, runs, "mu", points, 10, 1, tested=[0.0, 0.0])
    with pytest.raises(ConfigError, match="at which they were made"):
        critical_values(pairs)
    other, other_runs = counting(4.0)
    with pytest.raises(DataError, match="another model"):
        neyman_interval(Likelihood(other, other_runs, counts([3])), pairs)
