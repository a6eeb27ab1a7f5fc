"""Fits: closed forms, covariance, conditional fits, multi-start, iminuit, records, failures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
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
from iminuit import Minuit
from random_models import random_model
from scipy import optimize

from inference.constraints.gaussian import GaussianConstraint, PoissonConstraint
from inference.data.dataset import Dataset, EventData, data_batch, event_data
from inference.fits.batch_fit import FitOptions, fit_batch
from inference.fits.fit import covariances, fit, fit_result
from inference.likelihood.extended import Likelihood
from inference.minimize import FitStatus, NewtonOptions
from inference.parameters import Parameter, ParameterSet
from inference.profiles.profile import profile_batch, profile_curve, profile_errors
from inference.results import FitResult, ProfileCurve
from inference.science_run import RunSource, ScienceRun
from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError, RangeError
from surrogate.template import TemplateSource


def events(n: int, seed: int = 0) -> EventData:
    return event_data(UNIT, torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def counting(n: int, signal: float = 2.0, background: float = 3.0) -> Likelihood:
    parameters, runs = counting_model(signal, background)
    return Likelihood(parameters, runs, Dataset({"run": events(n)}, {}))


def two_boxes(n: int, m: int, tau: float) -> Likelihood:
    """On/off: n ~ Pois(mu + b) in the search region, m ~ Pois(tau b) beside it."""
    parameters = ParameterSet(
        (rate_parameter("mu"), rate_parameter("b"), LIVETIME), (PoissonConstraint("b", tau, m / tau),)
    )
    sources = (RunSource("signal", flat_source(1.0, "s"), "mu", {}), RunSource("background", flat_source(1.0), "b", {}))
    run = ScienceRun("run", UNIT, sources, ("livetime",))
    return Likelihood(parameters, (run,), Dataset({"run": events(n)}, {}))


def shaped() -> tuple[ParameterSet, tuple[ScienceRun, ...]]:
    parameters = shape_parameters(9.0)
    sources = (
        RunSource("signal", flat_source(10.0), "mu", {}),
        RunSource("background", exponential_source(40.0), "b", {"slope": "slope", "size": "size"}),
    )
    return parameters, (ScienceRun("run", UNIT, sources, ("livetime",)),)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 20, 3000])
def test_counting_experiment(n: int) -> None:
    """mu_hat = max(0, (n - b) / s) with variance n / s^2."""
    result = fit(counting(n))
    expected = max(0.0, (n - 3) / 2)
    assert result.values["mu"] == pytest.approx(expected, abs=1e-9)
    if expected > 0:
        assert result.status == "converged"
        assert result.errors["mu"] == pytest.approx(math.sqrt(n) / 2, rel=1e-6)
    elif n < 3:
        assert result.status == "at_bound"
        assert result.at_bound == ("mu",)
        assert result.errors["mu"] is None
    mean = 2 * expected + 3
    assert result.log_likelihood == pytest.approx(n * math.log(mean) - mean, abs=1e-10)
    assert result.fixed == ("b", "livetime")


@pytest.mark.parametrize(("n", "m", "tau"), [(10, 5, 1.0), (25, 12, 3.0), (3, 30, 5.0), (4, 0, 2.0), (0, 0, 2.0)])
def test_on_off_experiment(n: int, m: int, tau: float) -> None:
    """mu_hat = n - m / tau and b_hat = m / tau, or b_hat = (n + m) / (1 + tau) on the bound mu = 0."""
    result = fit(two_boxes(n, m, tau))
    inside = n >= m / tau
    assert result.values["mu"] == pytest.approx(n - m / tau if inside else 0.0, abs=1e-5)
    assert result.values["b"] == pytest.approx(m / tau if inside else (n + m) / (1 + tau), abs=1e-5)
    if inside and m > 0:
        assert result.errors["mu"] == pytest.approx(math.sqrt(n + m / tau**2), rel=1e-4)
        correlation = result.correlation()
        i, j = result.covariance_names.index("mu"), result.covariance_names.index("b")
        assert correlation[i][j] == pytest.approx(-math.sqrt(m / tau**2 / (n + m / tau**2)), rel=1e-4)


def test_gradient_vanishes_and_the_covariance_is_the_inverse_hessian() -> None:
    parameters, runs = shaped()
    likelihood = Likelihood(parameters, runs, Dataset({"run": events(60, 4)}, {"slope": 0.4}))
    batch = fit_batch(likelihood)
    free = torch.tensor([0, 1, 2, 3])
    assert bool(batch.success.all())
    assert int(batch.evaluations) <= 8
    scaled = batch.gradient[0, free] / batch.hessian[0, free, free].abs().sqrt()
    assert float(scaled.abs().max()) < 1e-5
    covariance, exists = covariances(batch)
    assert bool(exists)
    product = covariance[0][free][:, free] @ -batch.hessian[0][free][:, free]
    torch.testing.assert_close(product, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)
    result = fit_result(likelihood, batch)
    assert result.pulls["slope"] == pytest.approx(result.values["slope"] - 0.4)
    assert result.pulls["b"] == pytest.approx((result.values["b"] - 1) / 0.3)
    assert result.pull_errors["slope"] == result.errors["slope"]
    assert result.pull_errors["b"] == pytest.approx((result.errors["b"] or 0) / 0.3)
    assert all(0 < (error or 0) < 1 for error in result.pull_errors.values())  # the data add to what was known
    held = fit_result(likelihood, fit_batch(likelihood, {"b": 1.0}))
    assert held.pull_errors["b"] is None


def test_rows_are_fitted_as_if_alone() -> None:
    parameters, runs = shaped()
    sets = [Dataset({"run": events(n, n)}, {}) for n in (0, 12, 70)]
    batch = fit_batch(Likelihood(parameters, runs, data_batch(parameters, runs, sets)))
    for k, data in enumerate(sets):
        alone = fit_batch(Likelihood(parameters, runs, data))
        assert float(alone.log_likelihood) == pytest.approx(float(batch.log_likelihood[k]), abs=1e-11)
        torch.testing.assert_close(alone.values[0], batch.values[k], rtol=1e-5, atol=1e-5)


def test_parameters_are_held_per_row() -> None:
    parameters, runs = shaped()
    likelihood = Likelihood(parameters, runs, Dataset({"run": events(50, 1)}, {}))
    grid = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    batch = fit_batch(likelihood, {"mu": grid, "slope": 0.25})
    torch.testing.assert_close(batch.values[:, 0], grid)
    assert batch.values[:, 2].tolist() == [0.25] * 3
    assert batch.held[0].tolist() == [True, False, True, False, True]
    for k in range(3):
        one = fit(likelihood, {"mu": float(grid[k]), "slope": 0.25})
        assert one.log_likelihood == pytest.approx(float(batch.log_likelihood[k]), abs=1e-11)
        assert set(one.fixed) == {"mu", "slope", "livetime"}


def test_bounds_are_cut_to_the_range_of_the_sources() -> None:
    """The slope is bounded by [-9, 9], its source is defined on [-5, 5]; data pull it further out."""
    parameters, runs = shaped()
    parameters = ParameterSet(parameters.parameters, parameters.constraints[2:])
    data = Dataset({"run": event_data(UNIT, 0.02 * torch.rand(60, 1, dtype=torch.float64))}, {})
    result = fit(Likelihood(parameters, runs, data))
    assert result.values["slope"] == 5.0
    assert "slope" in result.at_bound
    assert result.status == "at_bound"
    assert result.remarks == ("slope = 5 is the end of the range on which its sources are defined",)
    with pytest.raises(RangeError, match="slope cannot be fixed at 7"):
        fit(Likelihood(parameters, runs, data), {"slope": 7.0})


def kinked_likelihood() -> Likelihood:
    """An optimum on the anchor t = 1: more events of the second bin than either side of it explains."""
    binning = Binning(("x",), (torch.tensor([0.0, 0.5, 1.0]),))
    counts = torch.tensor([[10.0, 1.0], [10.0, 10.0], [10.0, 1.0]], dtype=torch.float64)
    source = TemplateSource(binning, {"t": (0.0, 1.0, 2.0)}, counts, {"t": 0.3})
    parameters = ParameterSet((rate_parameter("mu"), Parameter("t", "shape", 0.3), LIVETIME))
    run = ScienceRun("run", binning.space(), (RunSource("s", source, "mu", {"t": "t"}),), ("livetime",), binning.edges)
    x = torch.cat([torch.full((10, 1), 0.2), torch.full((12, 1), 0.7)])
    return Likelihood(parameters, (run,), Dataset({"run": event_data(run.observables, x)}, {}))


def test_an_optimum_on_a_kink_is_recognised() -> None:
    result = fit(kinked_likelihood())
    assert result.values["t"] == 1.0
    assert result.at_kink == ("t",)
    assert result.status == "converged"
    assert result.values["mu"] == pytest.approx(1.1, abs=1e-6)


def test_several_starts_find_the_higher_of_two_maxima() -> None:
    """A peak of free position over a flat background: more events are at 0.7, the start is nearer to those at 0.3."""
    peak, flat = gaussian_source(0.5, 0.03, shift="shift"), flat_source()
    parameters = ParameterSet(
        (rate_parameter("mu"), rate_parameter("b"), Parameter("shift", "shape", -4.0, -5.0, 5.0), LIVETIME)
    )
    sources = (RunSource("peak", peak, "mu", {"shift": "shift"}), RunSource("flat", flat, "b", {}))
    run = ScienceRun("run", UNIT, sources, ("livetime",))
    spread = torch.linspace(-0.03, 0.03, 8).unsqueeze(-1)
    x = torch.cat([0.3 + spread[::2], 0.7 + spread, torch.tensor([[0.05], [0.5], [0.9]])])
    likelihood = Likelihood(parameters, (run,), Dataset({"run": event_data(UNIT, x)}, {}))
    assert fit(likelihood).values["shift"] == pytest.approx(-4.0, abs=0.3)
    several = fit(likelihood, options=FitOptions(starts=8, spread=3.0))
    assert several.values["shift"] == pytest.approx(4.0, abs=0.3)
    assert several.starts == 8
    assert several.disagreeing_starts > 0


@pytest.mark.parametrize("width", [None, 30.0, 0.5])
def test_the_highest_of_the_maxima_between_anchors_is_found_from_one_start(width: float | None) -> None:
    """All events are in the first bin, whose share has a maximum at either end of the range and one at an anchor."""
    binning = Binning(("x",), (torch.linspace(0, 1, 3),))
    share = torch.tensor([0.9, 0.1, 0.4, 0.6, 0.5], dtype=torch.float64)
    source = TemplateSource(binning, {"t": (-2.0, -1.0, 0.0, 1.0, 2.0)}, torch.stack([share, 1 - share], dim=-1))
    parameters = ParameterSet(
        (rate_parameter("mu", 1.0, 0.0, 100.0), Parameter("t", "shape", 0.0, -2.0, 2.0), LIVETIME),
        () if width is None else (GaussianConstraint("t", width, 0.0),),
    )
    runs = (ScienceRun("r", UNIT, (RunSource("s", source, "mu", {"t": "t"}),), ("livetime",)),)
    likelihood = Likelihood(parameters, runs, Dataset({"r": EventData(torch.full((12, 1), 0.2))}, {}))
    # An ancillary term that holds the parameter together makes one maximum of them.
    assert fit(likelihood).values["t"] == (pytest.approx(1.0, abs=1e-9) if width == 0.5 else -2.0)


def test_records_are_json_and_come_back() -> None:
    result = fit(counting(0))
    assert FitResult.from_json(result.to_json()) == result
    assert "NaN" not in result.to_json()
    curve = profile_curve(counting(4), "mu", [0.0, 1.0, 2.0])
    assert ProfileCurve.from_json(curve.to_json()) == curve
    with pytest.raises(DataError, match="expected a ProfileCurve"):
        ProfileCurve.from_json(result.to_json())
    with pytest.raises(DataError, match="unknown field 'statu'"):
        FitResult.from_dict({**result.to_dict(), "statu": 1})
    with pytest.raises(DataError, match="field status is missing"):
        FitResult.from_dict({k: v for k, v in result.to_dict().items() if k != "status"})
    with pytest.raises(DataError, match="not JSON"):
        FitResult.from_json("{")


def test_profile_curve_is_the_likelihood_ratio() -> None:
    n, s, b = 6, 2.0, 3.0
    curve = profile_curve(counting(n, s, b), "mu", [0.0, 1.0, 1.5, 4.0])
    best = n * math.log(n) - n
    expected = [2 * (best - n * math.log(s * m + b) + s * m + b) for m in curve.grid]
    assert curve.t == pytest.approx(expected, abs=1e-9)
    assert curve.values["mu"] == curve.grid


def test_profile_repairs_a_free_fit_that_missed_the_maximum() -> None:
    likelihood = counting(10)
    stopped = fit_batch(likelihood, {"mu": 1.0})
    held = stopped.held.clone()
    held[:, 0] = False
    best, _ = profile_batch(likelihood, "mu", torch.tensor([0.0, 3.5, 5.0]), best=stopped)
    assert float(best.values[0, 0]) == pytest.approx(3.5, abs=1e-6)


def test_profile_errors_of_a_counting_experiment() -> None:
    n, s, b = 9, 2.0, 3.0
    (error,) = profile_errors(counting(n, s, b), ["mu"], sigmas=1.0)

    def excess(mean: float) -> float:
        return 2 * (mean - n - n * math.log(mean / n)) - 1

    low, high = optimize.brentq(excess, 1.0, n, xtol=1e-12), optimize.brentq(excess, n, 40, xtol=1e-12)
    assert error.up == pytest.approx((high - n) / s, rel=1e-8)
    assert error.down == pytest.approx((low - n) / s, rel=1e-8)
    (blocked,) = profile_errors(counting(3, s, b), ["mu"], sigmas=1.0)
    assert blocked.down is None
    assert blocked.status_down in ("at_bound", "no_crossing")
    with pytest.raises(ConfigError, match="not fittable"):
        profile_errors(counting(3), ["b"])
    with pytest.raises(RangeError, match="sigmas"):
        profile_errors(counting(3), sigmas=0.0)


def test_impossible_data_are_flagged_not_raised() -> None:
    """An event where no source has density: ln L = -inf, in its own row only."""
    binning = Binning(("x",), (torch.tensor([0.0, 0.5, 1.0]),))
    source = TemplateSource(binning, {}, torch.tensor([4.0, 0.0], dtype=torch.float64))
    parameters = ParameterSet((rate_parameter("mu"), LIVETIME))
    run = ScienceRun("run", binning.space(), (RunSource("s", source, "mu", {}),), ("livetime",), binning.edges)
    sets = [Dataset({"run": event_data(run.observables, torch.tensor([[x]]))}, {}) for x in (0.7, 0.2)]
    likelihood = Likelihood(parameters, (run,), data_batch(parameters, (run,), sets))
    batch = fit_batch(likelihood)
    assert [FitStatus(s).label for s in batch.status.tolist()] == ["non_finite", "converged"]
    assert float(batch.values[1, 0]) == pytest.approx(0.25)
    result = fit_result(likelihood, batch, 0)
    assert result.log_likelihood is None
    assert not result.success
    assert FitResult.from_json(result.to_json()) == result
    assert result.remarks == ("run 'run': no source has a density at (x = 0.7) at row 0",)


def test_a_source_that_gives_no_number_is_named() -> None:
    broken = replace(flat_source(3.0), log_density=lambda x, theta: torch.where(x > 0.6, math.nan, 0.0) + theta.sum(-1))
    parameters = ParameterSet((rate_parameter("mu"), LIVETIME))
    run = ScienceRun("run", UNIT, (RunSource("s", broken, "mu", {}),), ("livetime",))
    data = Dataset({"run": event_data(UNIT, torch.tensor([[0.2], [0.7]]))}, {})
    result = fit(Likelihood(parameters, (run,), data))
    assert result.status == "non_finite"
    assert "run 'run': the density of source 's' is no number at (x = 0.7) at row 1" in result.remarks


def test_a_fit_that_is_cut_short_says_so() -> None:
    parameters, runs = shaped()
    likelihood = Likelihood(parameters, runs, Dataset({"run": events(60, 4)}, {}))
    result = fit(likelihood, options=FitOptions(newton=NewtonOptions(max_evaluations=1)))
    assert result.status == "not_converged"


def test_bad_input_is_refused() -> None:
    likelihood = counting(3)
    with pytest.raises(ConfigError, match="did you mean 'mu'"):
        fit(likelihood, {"mv": 1.0})
    with pytest.raises(RangeError, match="mu cannot be fixed at -1"):
        fit(likelihood, {"mu": -1.0})
    with pytest.raises(RangeError, match="nan"):
        fit(likelihood, {"mu": math.nan})
    with pytest.raises(ConfigError, match="must be a number or 3 numbers"):
        fit_batch(likelihood, {"mu": torch.zeros(2)}, rows=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ConfigError, match="at least one value"):
        profile_curve(likelihood, "mu", [])


def minuit_minimum(likelihood: Likelihood, start: torch.Tensor) -> float:
    """-2 ln L at the minimum that Minuit finds from a start, within the same bounds."""

    def cost(values: np.ndarray) -> float:
        value = -2 * float(likelihood.log_likelihood(torch.tensor(values, dtype=torch.float64).unsqueeze(0)))
        return value if math.isfinite(value) else 1e10

    minuit = Minuit(cost, start.numpy(), name=likelihood.parameters.names)
    minuit.limits = list(zip(likelihood.lower.tolist(), likelihood.upper.tolist(), strict=True))
    for p in likelihood.parameters.parameters:
        minuit.fixed[p.name] = not p.fittable
    minuit.strategy = 0
    minuit.migrad(ncall=300)
    return float(minuit.fval)


@pytest.mark.parametrize("seed", range(50))
def test_minuit_finds_no_higher_maximum(seed: int) -> None:
    """50 random models. Where it does there are several maxima; a fit from several starts finds that one as well."""
    parameters, runs, data = random_model(seed)
    likelihood = Likelihood(parameters, runs, data)
    batch = fit_batch(likelihood)
    if not bool(torch.isfinite(batch.log_likelihood)):
        pytest.skip("impossible data: an event where no source has density")
    assert bool(batch.success)
    theirs = min(minuit_minimum(likelihood, start) for start in (batch.values[0], parameters.nominal()))
    if theirs < -2 * float(batch.log_likelihood) - 1e-6:
        batch = fit_batch(likelihood, options=FitOptions(starts=10, spread=2.0))
    assert theirs > -2 * float(batch.log_likelihood) - 1e-6


def test_the_events_expected_of_a_run_are_never_negative() -> None:
    """A negative signal below a background is legal; without events ln L = -(2 mu + 3) grows down to mu = -1.5."""
    parameters = ParameterSet((Parameter("mu", "rate", 1.0, -10.0, 100.0), rate_parameter("b"), LIVETIME))
    sources = (RunSource("s", flat_source(2.0), "mu", {}), RunSource("b", flat_source(3.0), "b", {}))
    run = ScienceRun("run", UNIT, sources, ("livetime",))
    likelihood = Likelihood(parameters, (run,), Dataset({"run": event_data(UNIT, torch.zeros(0, 1))}, {}))
    points = torch.stack([parameters.vector({"mu": mu}) for mu in (-1.0, -2.0)])
    assert likelihood.log_likelihood(points).tolist() == pytest.approx([-1.0, -math.inf])
    found = fit(likelihood, {"b": 1.0})
    assert sum(found.expected["run"].values()) == pytest.approx(0.0, abs=1e-9)
    assert sum(found.expected["run"].values()) >= 0
