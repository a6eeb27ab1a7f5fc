"""Coverage of intervals with critical values from toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from counting_models import counting, counts, gaussian_background
from scipy import stats

from inference.data.dataset import DataBatch
from inference.fits.batch_fit import fit_batch
from inference.intervals.asymptotics import critical_value
from inference.intervals.confidence import interval_batch
from inference.likelihood.extended import Likelihood
from inference.studies.counting import clopper_pearson
from inference.studies.coverage import CoveragePoint, coverage, coverage_of_data
from inference.studies.neyman import critical_values
from inference.studies.toy_pairs import run_pairs
from inference.toys.draws import draw_toys, toy_index
from surrogate.errors import ConfigError, DataError


def exact_coverage(mu, b, c):
    """P(t <= c | mu) for n ~ Poisson(mu + b), mu_hat >= 0."""
    n = np.arange(0, 200)
    best = np.maximum(n - b, 0.0)
    log_l = [np.where(n > 0, n * np.log(s + b), 0.0) - s - b for s in (best, mu)]
    t = 2 * (log_l[0] - log_l[1])
    return stats.poisson.pmf(n, mu + b)[t <= c + 1e-9].sum()


def test_asymptotic_coverage_of_counting_is_the_exact_sum():
    parameters, runs = counting(2.0)
    points = torch.tensor([[1.0, mu, 2.0] for mu in (0.0, 2.0, 6.0)], dtype=torch.float64)
    found = coverage(run_pairs(parameters, runs, "mu", points, 2500, seed=4), critical_value(0.9))
    for point in found:
        exact = exact_coverage(point.truth["mu"], 2.0, critical_value(0.9))
        assert abs(point.coverage - exact) < 4 * np.sqrt(exact * (1 - exact) / 2500)
        assert point.low <= point.coverage <= point.high
        assert CoveragePoint.from_json(point.to_json()) == point


def test_coverage_by_the_statistic_is_coverage_by_the_interval():
    """The interval holds the truth exactly when the statistic at the truth is below its critical value."""
    parameters, runs = gaussian_background(6.0, 1.0)
    truth = parameters.vector({"mu": 3.0})
    pairs = run_pairs(parameters, runs, "mu", truth[None], 400, seed=4)
    toys = draw_toys(parameters, runs, truth, toy_index(0, torch.arange(400)), 4)
    found = interval_batch(Likelihood(parameters, runs, toys.data), "mu", critical_value(0.9))
    upper = torch.where(found.upper.status == 0, found.upper.value, torch.inf)
    lower = torch.where(found.lower.status == 0, found.lower.value, -torch.inf)
    inside = ((lower <= 3.0) & (upper >= 3.0)).double().mean()
    assert coverage(pairs, critical_value(0.9))[0].coverage == float(inside)


def test_data_from_elsewhere_show_what_the_model_gets_wrong():
    parameters, runs = counting(20.0)
    rng = np.random.default_rng(3)
    truth, c = {"mu": 5.0}, critical_value(0.9)
    right = counts(torch.tensor(rng.poisson(25.0, 1200)))
    wrong = counts(torch.tensor(rng.poisson(32.0, 600)))
    good = coverage_of_data(parameters, runs, [right], "mu", truth, c, origin="right model")
    bad = coverage_of_data(parameters, runs, [wrong], "mu", truth, c)
    assert abs(good.coverage - exact_coverage(5.0, 20.0, c)) < 0.04
    assert bad.coverage < 0.8
    assert good.origin == "right model"
    assert good.truth["b"] == 20.0
    with pytest.raises(DataError, match="value of 'mu'"):
        coverage_of_data(parameters, runs, [right], "mu", {}, c)
    with pytest.raises(DataError, match="at least one"):
        coverage_of_data(parameters, runs, [], "mu", truth, c)


def test_toys_tested_elsewhere_are_refused():
    parameters, runs = counting(2.0)
    points = torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64)
    pairs = run_pairs(parameters, runs, "mu", points, 10, seed=4, tested=[0.0])
    with pytest.raises(ConfigError, match="at which they were made"):
        coverage(pairs, 2.7)


def profiled_critical(parameters, runs, mu, backgrounds, n_toys):
    """Return c(mu; b) from toys at several true backgrounds, interpolated in b: the construction of any data set."""
    values = []
    for k, b in enumerate(backgrounds):
        points = torch.tensor([[1.0, mu, b]], dtype=torch.float64)
        pairs = run_pairs(parameters, runs, "mu", points, n_toys, seed=1000 + k)
        values.append(np.quantile(pairs.statistics()[0], 0.9, method="inverted_cdf"))
    return np.poly1d(np.polyfit(backgrounds, values, 3))


@pytest.mark.slow
@pytest.mark.parametrize("mu", [0.0, 1.0, 3.0, 10.0])
def test_coverage_of_the_profile_construction(mu):
    """Poisson counts over a background with a Gaussian constraint, 90 +- 1 % with critical values from toys.

    Every data set has its own construction: the nuisance of its toys is its own conditional best fit.
    """
    background, sigma, n = 20.0, 4.0, 10_000
    parameters, runs = gaussian_background(background, sigma)
    c = profiled_critical(parameters, runs, mu, np.linspace(9.0, 32.0, 9), n)
    truth = parameters.vector({"mu": mu, "b": background})
    inside = 0
    for start in range(0, n, 1000):
        toys = draw_toys(parameters, runs, truth, torch.arange(start, start + 1000), seed=5)
        likelihood = Likelihood(parameters, runs, DataBatch(toys.data.x, toys.data.weights, toys.data.centres))
        free = fit_batch(likelihood, start=truth.expand(1000, -1))
        held = fit_batch(likelihood, {"mu": mu}, torch.arange(1000), truth)
        t = 2 * (free.log_likelihood - held.log_likelihood)
        inside += int((t.numpy() <= c(held.values[:, parameters.index("b")].numpy())).sum())
    assert abs(clopper_pearson(inside, n).value - 0.9) < 0.01


def test_critical_values_from_toys_cover_where_they_were_made():
    parameters, runs = gaussian_background(20.0, 4.0)
    points = torch.tensor([[1.0, mu, 20.0] for mu in (0.0, 5.0)], dtype=torch.float64)
    curve = critical_values(run_pairs(parameters, runs, "mu", points, 2500, seed=1), smoothing="linear")
    for point in coverage(run_pairs(parameters, runs, "mu", points, 2500, seed=2), curve):
        assert abs(point.coverage - 0.9) < 4 * np.sqrt(2 * 0.09 / 2500)


def test_toys_at_the_critical_value_are_covered():
    """Toys of one count share t; where that is the critical value, all of them count, whatever their last digits."""
    parameters, runs = counting(3.2)
    pairs = run_pairs(parameters, runs, "mu", torch.tensor([[1.0, 3.0, 3.2]], dtype=torch.float64), 1000, seed=1)
    t = pairs.statistics()[0]
    critical = np.sort(t)[850] - 1e-9
    found = coverage(pairs, critical)[0]
    assert found.coverage == (t < critical + 1e-6).mean()
    assert found.coverage == coverage(pairs, critical + 1e-7)[0].coverage
