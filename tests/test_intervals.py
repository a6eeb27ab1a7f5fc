"""Intervals: closed forms, the cost of a search, batches, thresholds, missing crossings, repair, fuzz."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from analytic_sources import (
    LIVETIME,
    UNIT,
    counting_model,
    exponential_source,
    flat_source,
    gaussian_source,
    rate_parameter,
    shape_parameters,
)
from scipy import optimize, stats
from torch import Tensor

from inference.constraints.gaussian import GaussianConstraint, PoissonConstraint
from inference.data.dataset import Dataset, EventData, data_batch, event_data
from inference.fits.batch_fit import FitOptions, fit_batch
from inference.intervals.asymptotics import critical_value, one_sided_p_value, significance, two_sided_p_value
from inference.intervals.confidence import confidence_interval, interval_batch
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.profiles.crossing_records import CrossingStatus
from inference.results import Interval
from inference.science_run import RunSource, ScienceRun
from surrogate.binning import Binning
from surrogate.errors import ConfigError, RangeError
from surrogate.template import TemplateSource

NO_EVENTS = torch.zeros(0, 1, dtype=torch.float64)


def events(n: int, seed: int = 0) -> EventData:
    return event_data(UNIT, torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def counting(n: int, signal: float = 2.0, background: float = 3.0) -> Likelihood:
    parameters, runs = counting_model(signal, background)
    return Likelihood(parameters, runs, Dataset({"run": events(n)}, {}))


def poisson_t(mu: float, n: int, s: float, b: float) -> float:
    """-2 ln Lambda of n ~ Pois(mu s + b) with mu >= 0."""
    best, mean = max(float(n), b), mu * s + b
    log_ratio = 0.0 if n == 0 else n * math.log(best / mean)
    return 2 * (mean - best + log_ratio)


@pytest.mark.parametrize("kind", ["central", "upper", "lower"])
@pytest.mark.parametrize("level", [0.6827, 0.9, 0.997])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 17, 400])
def test_counting_with_known_background(n: int, level: float, kind: str) -> None:
    """Both ends against a root finder on the closed form."""
    s, b = 2.0, 3.0
    interval = confidence_interval(counting(n, s, b), "mu", level, kind)
    c = stats.chi2.isf(1 - level if kind == "central" else 2 * (1 - level), 1)
    mu_hat = max(0.0, (n - b) / s)
    if kind != "lower":
        upper = optimize.brentq(lambda m: poisson_t(m, n, s, b) - c, mu_hat, mu_hat + 1e4, xtol=1e-13, rtol=1e-14)
        assert interval.upper.value == pytest.approx(upper, rel=1e-8)
        assert interval.upper.t == pytest.approx(c, abs=1e-10)
    else:
        assert interval.upper.status == "not_requested"
    if kind == "upper":
        assert interval.lower.status == "not_requested"
    elif mu_hat > 0 and poisson_t(0.0, n, s, b) > c:
        lower = optimize.brentq(lambda m: poisson_t(m, n, s, b) - c, 0.0, mu_hat, xtol=1e-13, rtol=1e-14)
        assert interval.lower.value == pytest.approx(lower, rel=1e-8)
    else:
        assert interval.lower.value is None
        assert interval.lower.status in ("no_crossing", "at_bound")
        assert interval.lower.t == pytest.approx(poisson_t(0.0, n, s, b) if mu_hat > 0 else 0.0, abs=1e-9)
    assert interval.lower.fits + interval.upper.fits <= 12


@pytest.mark.parametrize(("signal", "background"), [(1e-6, 3.0), (2e-3, 0.0), (1e5, 0.5), (1.0, 1e4)])
@pytest.mark.parametrize("n", [0, 2])
def test_any_scale_of_the_signal_rate(signal: float, background: float, n: int) -> None:
    """Limits between 1e-5 and 1e6 in the multiplier, whose nominal value is 1."""
    parameters, runs = counting_model(signal, background)
    parameters = ParameterSet((rate_parameter("mu", 1.0, 0.0, math.inf), *parameters.parameters[1:]))
    interval = confidence_interval(Likelihood(parameters, runs, Dataset({"run": events(n)}, {})), "mu", 0.9)
    mu_hat = max(0.0, (n - background) / signal)
    reach = mu_hat + 50 / signal
    upper = optimize.brentq(
        lambda m: poisson_t(m, n, signal, background) - critical_value(0.9), mu_hat, reach, xtol=1e-300, rtol=1e-14
    )
    assert interval.upper.value == pytest.approx(upper, rel=1e-8)
    assert interval.upper.fits <= 8


def gaussian(a: float, sigma: float, low: float = -1e3) -> Likelihood:
    """Mu measured by a ~ N(mu, sigma); the run has a source of zero rate and no events."""
    parameters = ParameterSet(
        (Parameter("mu", "shape", max(low, 0.0), low, 1e3), rate_parameter("rate"), LIVETIME),
        (GaussianConstraint("mu", sigma, 0.0),),
    )
    run = ScienceRun("run", UNIT, (RunSource("none", flat_source(0.0), "rate", {}),), ("livetime",))
    return Likelihood(parameters, (run,), Dataset({"run": event_data(UNIT, NO_EVENTS)}, {"mu": a}))


def test_unified_is_central_by_another_name() -> None:
    central, unified = (confidence_interval(counting(9), "mu", 0.9, kind) for kind in ("central", "unified"))
    assert (unified.lower, unified.upper) == (central.lower, central.upper)
    assert (unified.kind, unified.statistic) == ("unified", "t_mu_tilde")


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 40.0])
def test_gaussian_of_known_sigma(sigma: float) -> None:
    """a +- z sigma, exactly."""
    a = 1.3 * sigma
    interval = confidence_interval(gaussian(a, sigma), "mu", 0.9)
    z = stats.norm.isf(0.05)
    assert interval.lower.value == pytest.approx(a - z * sigma, rel=1e-9)
    assert interval.upper.value == pytest.approx(a + z * sigma, rel=1e-9)
    one_sided = confidence_interval(gaussian(a, sigma), "mu", 0.9, "upper")
    assert one_sided.upper.value == pytest.approx(a + stats.norm.isf(0.1) * sigma, rel=1e-9)


def test_gaussian_beyond_the_boundary() -> None:
    """With mu >= 0 and a < 0 the best fit is 0 and t = (mu^2 - 2 a mu) / sigma^2."""
    a, c = -1.5, critical_value(0.9)
    interval = confidence_interval(gaussian(a, 1.0, low=0.0), "mu", 0.9)
    assert interval.upper.value == pytest.approx(a + math.sqrt(a * a + c), rel=1e-9)
    assert interval.lower.status == "at_bound"


@pytest.mark.parametrize(("n", "m", "tau"), [(10, 5, 1.0), (4, 12, 3.0), (0, 2, 2.0), (3, 0, 1.0)])
def test_on_off_profile(n: int, m: int, tau: float) -> None:
    """n ~ Pois(mu + b), m ~ Pois(tau b): the profiled background solves a quadratic equation."""
    parameters = ParameterSet(
        (rate_parameter("mu"), rate_parameter("b"), LIVETIME), (PoissonConstraint("b", tau, m / tau),)
    )
    sources = (RunSource("s", flat_source(1.0, "s"), "mu", {}), RunSource("b", flat_source(1.0), "b", {}))
    run = ScienceRun("run", UNIT, sources, ("livetime",))
    likelihood = Likelihood(parameters, (run,), Dataset({"run": events(n)}, {}))

    def log_l(mu: float) -> float:
        half = (n + m - (1 + tau) * mu) / (2 * (1 + tau))
        b = half + math.sqrt(half * half + m * mu / (1 + tau))
        return stats.poisson.logpmf(n, mu + b) + stats.poisson.logpmf(m, tau * b)

    mu_hat = max(0.0, n - m / tau)
    interval = confidence_interval(likelihood, "mu", 0.9)
    c = critical_value(0.9)
    best = log_l(max(mu_hat, 1e-300))
    expected = optimize.brentq(lambda v: 2 * (best - log_l(v)) - c, mu_hat + 1e-12, 100.0, xtol=1e-13)
    assert interval.upper.value == pytest.approx(expected, rel=1e-8)


def shaped(n: int = 40, seed: int = 1) -> Likelihood:
    parameters = shape_parameters(5.0)
    sources = (
        RunSource("signal", gaussian_source(0.3, 0.05, 10.0), "mu", {}),
        RunSource("background", exponential_source(40.0), "b", {"slope": "slope", "size": "size"}),
    )
    run = ScienceRun("run", UNIT, sources, ("livetime",))
    return Likelihood(parameters, (run,), Dataset({"run": events(n, seed)}, {}))


def spied(likelihood: Likelihood) -> tuple[list[float], Callable[..., tuple[Tensor, Tensor, Tensor]]]:
    """Note all values of mu at which a likelihood is evaluated."""
    visited: list[float] = []
    inner = likelihood.derivatives

    def derivatives(values: Tensor, rows: Tensor | None = None, centre: Tensor | None = None) -> tuple[Tensor, ...]:
        visited.extend(values[:, 0].tolist())
        return inner(values, rows, centre)

    return visited, derivatives


def test_a_search_is_short_and_stays_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on mu is 1e5; nothing is evaluated beyond three times the limit."""
    likelihood = shaped()
    visited, spy = spied(likelihood)
    monkeypatch.setattr(likelihood, "derivatives", spy)
    interval = confidence_interval(likelihood, "mu", 0.9)
    assert interval.upper.found
    assert interval.upper.fits + interval.lower.fits <= 6
    assert max(visited) < 3 * max(1.0, interval.upper.value)
    assert len(visited) < 60


def test_the_limit_is_where_the_profile_crosses() -> None:
    likelihood = shaped()
    interval = confidence_interval(likelihood, "mu", 0.9)
    for end in (interval.lower, interval.upper):
        if end.found:
            again = fit_batch(likelihood, {"mu": end.value})
            t = 2 * (interval.best_fit.log_likelihood - float(again.log_likelihood))
            assert t == pytest.approx(critical_value(0.9), abs=1e-8)
            assert end.fit.log_likelihood == pytest.approx(float(again.log_likelihood), abs=1e-9)
            for j, name in enumerate(likelihood.parameters.names):
                assert end.fit.values[name] == pytest.approx(float(again.values[0, j]), abs=1e-5)
            assert two_sided_p_value(t) == pytest.approx(0.1, abs=1e-8)


def test_rows_are_searched_as_if_alone() -> None:
    likelihood = shaped()
    sets = [Dataset({"run": events(n, n)}, {"slope": 0.01 * n}) for n in (0, 5, 40, 90)]
    batch = interval_batch(
        Likelihood(likelihood.parameters, likelihood.runs, data_batch(likelihood.parameters, likelihood.runs, sets)),
        "mu",
        critical_value(0.9),
    )
    assert batch.upper is not None
    assert batch.lower is not None
    for k, data in enumerate(sets):
        alone = confidence_interval(Likelihood(likelihood.parameters, likelihood.runs, data), "mu", 0.9)
        assert float(batch.upper.value[k]) == pytest.approx(alone.upper.value, rel=1e-8)
        assert CrossingStatus(int(batch.lower.status[k])).label == alone.lower.status


def test_the_critical_value_may_depend_on_mu() -> None:
    n, s, b = 9, 2.0, 3.0

    def critical(mu: Tensor) -> Tensor:
        return 2.7 - 1.2 * (-mu / 2).exp()

    interval = confidence_interval(counting(n, s, b), "mu", 0.9, critical=critical, critical_values="curve")
    wanted = optimize.brentq(
        lambda m: poisson_t(m, n, s, b) - float(critical(torch.tensor(m, dtype=torch.float64))),
        (n - b) / s,
        50.0,
        xtol=1e-13,
    )
    assert interval.upper.value == pytest.approx(wanted, rel=1e-8)
    assert interval.critical_values == "curve"
    assert interval.upper.critical == pytest.approx(
        float(critical(torch.tensor(wanted, dtype=torch.float64))), abs=1e-8
    )


@pytest.mark.parametrize(("n", "largest"), [(1, 2.7), (9, 2.7), (9, 1e9)])
def test_critical_values_are_asked_for_within_the_bounds_alone(n: int, largest: float) -> None:
    """From a best fit at zero, from one inside, and up to the bound without a crossing."""
    likelihood, asked = counting(n, 2.0, 3.0), []
    low, high = (float(bound[likelihood.parameters.index("mu")]) for bound in (likelihood.lower, likelihood.upper))

    def critical(mu: Tensor) -> Tensor:
        asked.extend(mu.tolist())
        return largest - 1.2 * (-mu / 2).exp()

    found = confidence_interval(likelihood, "mu", 0.9, critical=critical)
    assert found.upper.status == ("found" if largest < 10 else "no_crossing")
    assert low <= min(asked) <= max(asked) <= high


def test_a_statistic_that_jumps_is_recorded_as_it_is() -> None:
    """Where the critical value falls below t the interval ends, and t there is what was measured."""
    likelihood = counting(9, 2.0, 3.0)

    def falling(mu: Tensor) -> Tensor:
        return torch.where(mu < 4.0, 2.7, 0.1).to(mu)

    end = confidence_interval(likelihood, "mu", critical=falling).upper
    assert end.value == pytest.approx(4.0, rel=1e-9)
    assert end.t == pytest.approx(poisson_t(4.0, 9, 2.0, 3.0), rel=1e-6)
    assert end.jump
    smooth = confidence_interval(likelihood, "mu").upper
    assert smooth.t == pytest.approx(critical_value(0.9), abs=1e-9)
    assert not smooth.jump


def test_no_crossing_below_the_bound_is_a_status() -> None:
    """With interval bounds [0, 1] and 20 events over a background of 3 the limit lies beyond."""
    parameters, runs = counting_model(2.0, 3.0)
    narrow = Parameter("mu", "rate", 1.0, 0.0, 1e5, interval_bounds=(0.0, 9.0))
    parameters = ParameterSet((narrow, *parameters.parameters[1:]))
    interval = confidence_interval(Likelihood(parameters, runs, Dataset({"run": events(20)}, {})), "mu", 0.9)
    assert interval.upper.value is None
    assert interval.upper.status == "no_crossing"
    assert interval.upper.bound == 9.0
    assert interval.upper.t == pytest.approx(poisson_t(9.0, 20, 2.0, 3.0), abs=1e-9)
    assert interval.success


def test_a_signal_without_rate_has_no_limit() -> None:
    interval = confidence_interval(counting(3, 0.0, 3.0), "mu", 0.9)
    assert interval.upper.status == "no_crossing"
    assert interval.upper.t == pytest.approx(0.0, abs=1e-12)
    assert Interval.from_json(interval.to_json()) == interval


def test_events_that_only_the_signal_explains_bound_it_from_below() -> None:
    """Ln L = -inf at mu = 0."""
    binning = Binning(("x",), (torch.tensor([0.0, 0.5, 1.0]),))
    signal = TemplateSource(binning, {}, torch.tensor([0.0, 2.0], dtype=torch.float64))
    other = TemplateSource(binning, {}, torch.tensor([5.0, 0.0], dtype=torch.float64))
    parameters = ParameterSet((rate_parameter("mu"), rate_parameter("b"), LIVETIME))
    sources = (RunSource("s", signal, "mu", {}), RunSource("b", other, "b", {}))
    run = ScienceRun("run", binning.space(), sources, ("livetime",), binning.edges)
    data = Dataset({"run": event_data(run.observables, torch.tensor([[0.7], [0.8], [0.2]]))}, {})
    interval = confidence_interval(Likelihood(parameters, (run,), data), "mu", 0.9)
    for end, bracket in ((interval.lower, (1e-9, 1.0)), (interval.upper, (1.0, 50.0))):
        expected = optimize.brentq(lambda m: poisson_t(m, 2, 2.0, 1e-300) - critical_value(0.9), *bracket, xtol=1e-14)
        assert end.value == pytest.approx(expected, rel=1e-8)
    assert interval.lower.fits + interval.upper.fits <= 16


def test_a_free_fit_that_missed_the_maximum_is_repeated_and_counted() -> None:
    likelihood = counting(20)
    short = fit_batch(likelihood, {"mu": 5.0})
    short = type(short)(**{**vars(short), "held": fit_batch(likelihood).held})
    batch = interval_batch(likelihood, "mu", critical_value(0.9), best=short)
    assert int(batch.refits) >= 1
    assert batch.upper is not None
    expected = confidence_interval(likelihood, "mu", 0.9)
    assert float(batch.upper.value) == pytest.approx(expected.upper.value, rel=1e-8)


def test_limits_on_kinks_and_with_other_parameters_fixed() -> None:
    likelihood = shaped()
    free = confidence_interval(likelihood, "mu", 0.9)
    fixed = confidence_interval(likelihood, "mu", 0.9, fixed={"slope": 0.0, "size": 0.0})
    assert fixed.upper.fit.values["slope"] == 0.0
    assert fixed.upper.value != pytest.approx(free.upper.value, rel=1e-3)
    shape = confidence_interval(likelihood, "slope", 0.6827)
    assert shape.lower.value < shape.best_fit.values["slope"] < shape.upper.value


def test_a_limit_does_not_depend_on_the_parametrisation() -> None:
    """The same model with the rate in other units: limits scale."""
    a = confidence_interval(counting(6, 2.0, 3.0), "mu", 0.9)
    b = confidence_interval(counting(6, 2e-3, 3.0), "mu", 0.9)
    assert b.upper.value == pytest.approx(1e3 * a.upper.value, rel=1e-9)


def test_critical_values_and_p_values() -> None:
    assert critical_value(0.9) == pytest.approx(2.705543454095404, abs=1e-12)
    assert critical_value(0.9, "upper") == pytest.approx(1.642374415149818, abs=1e-12)
    assert critical_value(0.9, "lower") == critical_value(0.9, "upper")
    assert two_sided_p_value(critical_value(0.95)) == pytest.approx(0.05)
    assert one_sided_p_value(critical_value(0.95, "upper")) == pytest.approx(0.05)
    assert significance(one_sided_p_value(25.0)) == pytest.approx(5.0)
    assert one_sided_p_value(-1e-9) == 0.5


def test_bad_input_is_refused() -> None:
    likelihood = counting(3)
    with pytest.raises(RangeError, match=r"confidence_level = 1\.2 must lie between"):
        confidence_interval(likelihood, "mu", 1.2)
    with pytest.raises(RangeError, match=r"needs more than 0\.5"):
        confidence_interval(likelihood, "mu", 0.4, "upper")
    with pytest.raises(ConfigError, match="did you mean 'upper'"):
        confidence_interval(likelihood, "mu", 0.9, "uper")
    with pytest.raises(ConfigError, match="did you mean 'mu'"):
        confidence_interval(likelihood, "mv", 0.9)
    with pytest.raises(ConfigError, match="fittable"):
        confidence_interval(likelihood, "b", 0.9)
    with pytest.raises(ConfigError, match="fittable and not fixed"):
        confidence_interval(likelihood, "mu", 0.9, fixed={"mu": 1.0})
    parameters, runs = counting_model(1.0, 1.0)
    two = data_batch(parameters, runs, [Dataset({"run": events(n)}, {}) for n in (1, 2)])
    with pytest.raises(RangeError, match="takes one data set, got 2"):
        confidence_interval(Likelihood(parameters, runs, two), "mu", 0.9)


def test_a_limit_orders_of_magnitude_from_the_best_fit() -> None:
    """Rate and efficiency act through their product; the best fit given lies at a rate of 8e4, the limit near 1."""
    parameters = ParameterSet(
        (rate_parameter("mu"), Parameter("e", "efficiency", 1.0, 0.0, 1.5), rate_parameter("b"), LIVETIME),
        (GaussianConstraint("b", 1e-3, 1.0),),
    )
    sources = (RunSource("s", flat_source(10.0), "mu", {}, ("e",)), RunSource("b", flat_source(3.0), "b", {}))
    likelihood = Likelihood(
        parameters, (ScienceRun("run", UNIT, sources, ("livetime",)),), Dataset({"run": events(20)}, {})
    )
    far = fit_batch(likelihood, start=torch.tensor([[8e4, 1.7 / 8e4, 1.0, 1.0]], dtype=torch.float64))
    assert float(far.values[0, 0]) > 1e4
    found = interval_batch(likelihood, "mu", critical_value(0.9), best=far).lower
    assert found is not None
    expected = optimize.brentq(lambda m: poisson_t(m, 20, 15.0, 3.0) - critical_value(0.9), 0.1, 17 / 15)
    assert float(found.value) == pytest.approx(expected, rel=1e-4)
    assert int(found.fits) <= 12


def test_several_starts_may_be_asked_for() -> None:
    interval = confidence_interval(shaped(), "mu", 0.9, options=FitOptions(starts=3))
    assert interval.best_fit.starts == 3
    assert interval.upper.value == pytest.approx(confidence_interval(shaped(), "mu", 0.9).upper.value, rel=1e-8)
