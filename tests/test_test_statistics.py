"""Test statistics: their definitions on a Gaussian, asymptotic laws against draws, repair, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from analytic_sources import LIVETIME, UNIT, counting_model, flat_source, rate_parameter
from scipy import stats

from inference.constraints.gaussian import GaussianConstraint
from inference.data.dataset import Dataset, data_batch, event_data
from inference.fits.batch_fit import fit_batch
from inference.intervals import statistics as ts
from inference.intervals.confidence import confidence_interval, statistic_of
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from inference.studies.cls_limits import cls_points
from inference.toys.toy_fits import fit_likelihood_pairs
from surrogate.errors import ConfigError, RangeError

EMPTY = {"run": event_data(UNIT, torch.zeros(0, 1))}
MEASURED = (-1.5, -0.2, 0.4, 2.5)


def gaussians(low: float = -100.0) -> Likelihood:
    """Data sets in which mu is measured as ``MEASURED`` with sigma = 0.5."""
    parameters = ParameterSet(
        (Parameter("mu", "shape", 0.0, low, 100.0), rate_parameter("rate"), LIVETIME),
        (GaussianConstraint("mu", 0.5, 0.0),),
    )
    run = ScienceRun("run", UNIT, (RunSource("none", flat_source(0.0), "rate", {}),), ("livetime",))
    sets = [Dataset(EMPTY, {"mu": a}) for a in MEASURED]
    return Likelihood(parameters, (run,), data_batch(parameters, (run,), sets))


def test_definitions() -> None:
    """Each statistic of each measurement a at mu = 1, from (mu - a)^2 / sigma^2."""
    a, mu = np.array(MEASURED), 1.0
    t = (mu - a) ** 2 / 0.25
    tilde = np.where(a < 0, (mu**2 - 2 * mu * a) / 0.25, t)
    expected = {
        "t_mu": t,
        "t_mu_tilde": tilde,
        "q_mu": np.where(a > mu, 0, t),
        "q_mu_tilde": np.where(a > mu, 0, tilde),
    }
    likelihood = gaussians()
    for name, values in expected.items():
        found = ts.evaluate(likelihood, "mu", mu, name)
        assert bool(found.valid.all())
        assert found.value.tolist() == pytest.approx(values.tolist(), abs=1e-9)
    above = ts.evaluate(likelihood, "mu", 0.0, "l_mu")
    assert above.value.tolist() == pytest.approx(np.where(a < 0, 0, a**2 / 0.25).tolist(), abs=1e-9)
    q0 = ts.evaluate(likelihood, "mu", 0.0, "q0")
    assert q0.value.tolist() == pytest.approx(np.where(a < 0, 0, a**2 / 0.25).tolist(), abs=1e-9)
    bounded = ts.evaluate(gaussians(low=0.0), "mu", mu, "t_mu")
    assert bounded.value.tolist() == pytest.approx(tilde.tolist(), abs=1e-9)


def test_one_value_per_row_and_chosen_rows() -> None:
    likelihood = gaussians()
    mu, rows = torch.tensor([0.5, 3.0, -1.0], dtype=torch.float64), torch.tensor([3, 0, 0])
    found = ts.evaluate(likelihood, "mu", mu, "t_mu", rows)
    expected = [(m - MEASURED[r]) ** 2 / 0.25 for m, r in zip(mu.tolist(), rows.tolist(), strict=True)]
    assert found.value.tolist() == pytest.approx(expected, abs=1e-9)


def test_a_free_fit_below_the_conditional_one_is_repeated_and_counted() -> None:
    parameters, runs = counting_model(2.0, 3.0)
    x = torch.linspace(0.1, 0.9, 11, dtype=torch.float64).unsqueeze(-1)
    likelihood = Likelihood(parameters, runs, Dataset({"run": event_data(UNIT, x)}, {}))
    short = fit_batch(likelihood, {"mu": 0.5})
    found = ts.evaluate(likelihood, "mu", 3.0, "t_mu", free=short)
    assert found.refits.tolist() == [1]
    assert float(found.free.values[0, 0]) == pytest.approx(4.0, abs=1e-8)
    mean = 9.0
    assert float(found.value) == pytest.approx(2 * (mean - 11 + 11 * math.log(11 / mean)), abs=1e-9)


@pytest.mark.parametrize("name", ts.STATISTICS)
@pytest.mark.parametrize("edge", [0.3, 1.0, 3.0])
def test_asymptotic_laws_against_draws(name: str, edge: float) -> None:
    """Mu_hat ~ N(mu, sigma) with mu = edge sigma; the probability to exceed a value, at four values."""
    a = stats.norm.rvs(size=200_000, random_state=7) + (0.0 if name == "q0" else edge)
    mu = 0.0 if name == "q0" else edge
    t = (a - mu) ** 2
    if name.endswith("tilde"):
        t = np.where(a < 0, mu**2 - 2 * mu * a, t)
    t = ts.one_sided(name, torch.from_numpy(t), torch.from_numpy(a), torch.tensor(mu)).numpy()
    for value in (0.05, 0.8, 2.7, 6.0):
        p = ts.asymptotic_p_value(name, value, mu, 1.0)
        assert (t >= value).mean() == pytest.approx(p, abs=4 * math.sqrt(p / len(t)) + 1e-6)


def test_asymptotic_laws_at_the_bound() -> None:
    assert ts.asymptotic_p_value("t_mu_tilde", 1.0, 0.0, 1.0) == pytest.approx(stats.norm.sf(1.0))
    assert ts.asymptotic_p_value("q_mu_tilde", 1.0, 0.0, 1.0) == 0.0
    assert ts.asymptotic_p_value("t_mu", 0.0) == 1.0
    assert ts.asymptotic_p_value("q0", 25.0) == pytest.approx(stats.norm.sf(5.0))


def test_bad_input_is_refused() -> None:
    likelihood = gaussians()
    with pytest.raises(ConfigError, match="did you mean 'q_mu'"):
        ts.evaluate(likelihood, "mu", 1.0, "q_nu")
    with pytest.raises(RangeError, match="q0 tests the value 0"):
        ts.evaluate(likelihood, "mu", 1.0, "q0")
    with pytest.raises(RangeError, match="cannot be fixed at 200"):
        ts.evaluate(likelihood, "mu", 200.0, "t_mu")
    with pytest.raises(RangeError, match="must be >= 0"):
        ts.asymptotic_p_value("t_mu", -1.0)
    with pytest.raises(RangeError, match="sigma > 0"):
        ts.asymptotic_p_value("q_mu_tilde", 1.0, 1.0)


def test_intervals_and_toys_name_the_statistic_that_they_use() -> None:
    """Of a parameter that may be negative it is t_mu or q_mu: (mu - a)^2 / sigma^2 whatever the sign of a."""
    for low, tilde in ((-100.0, ""), (0.0, "_tilde")):
        likelihood = gaussians(low)
        one = Likelihood(likelihood.parameters, likelihood.runs, likelihood.data.take(torch.tensor([0])))
        fits = fit_likelihood_pairs(likelihood, "mu", torch.tensor(1.0), likelihood.parameters.nominal()).record()
        for kind, name in (("central", "t_mu"), ("upper", "q_mu")):
            found = confidence_interval(one, "mu", 0.9, kind)
            assert found.statistic == name + tilde
            assert statistic_of(likelihood.parameters, likelihood.runs, "mu", kind) == name + tilde
            at_end = ts.evaluate(one, "mu", found.upper.value, found.statistic)
            assert float(at_end.value) == pytest.approx(found.upper.t, abs=1e-6)
            expected = ts.evaluate(likelihood, "mu", 1.0, found.statistic).value.tolist()
            assert fits.statistic(found.statistic).tolist() == pytest.approx(expected, abs=1e-7)
        assert confidence_interval(one, "mu", 0.9, "lower").statistic == "l_mu"
    fits = fit_likelihood_pairs(gaussians(), "mu", torch.tensor(1.0), gaussians().parameters.nominal()).record()
    with pytest.raises(ConfigError, match=r"t_mu_tilde: toys have estimates down to -1\.5.*ask for t_mu, or bound"):
        fits.statistic("t_mu_tilde")
    with pytest.raises(RangeError, match=r"q_mu_tilde tests values >= 0.*use q_mu"):
        ts.evaluate(gaussians(), "mu", -1.0, "q_mu_tilde")
    with pytest.raises(ConfigError, match="CLs: the lower bound of mu is -100 and must be 0"):
        cls_points(gaussians(), "mu", [1.0])
