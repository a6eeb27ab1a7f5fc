"""The error that finite training adds to fits and limits, against fits with each member in turn and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from source_cases import DISC, NUISANCES, OBSERVABLES, flow_source, some_acceptance, theta_points

from inference.constraints.gaussian import GaussianConstraint
from inference.data.dataset import Dataset, EventData, data_batch
from inference.fits.fit import fit
from inference.intervals.confidence import confidence_interval
from inference.intervals.surrogate_error import _folded, surrogate_error
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.reports.summary import interval_lines, summary_text
from inference.results import FitResult, Interval
from inference.science_run import RunSource, ScienceRun
from surrogate.beta_spectra import line_spectrum
from surrogate.ensemble import EnsembleSource, Sharing
from surrogate.errors import RangeError
from surrogate.flow_response import FlowResponse
from surrogate.flow_source import FlowSource
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.variations import is_complete, rate_directions, variations, with_acceptance

PARAMETERS = ParameterSet(
    (
        Parameter("livetime", "livetime", 1.0, fittable=False),
        Parameter("signal", "rate", 1.0, 0.0, 50.0),
        Parameter("background", "rate", 1.0, 0.0, 10.0),
        Parameter("t_ly", "shape", 0.0, -3.0, 3.0),
        Parameter("elife", "shape", 450.0, 250.0, 900.0),
        Parameter("g1", "shape", 0.1, 0.08, 0.14),
    ),
    (
        GaussianConstraint("background", 0.2, 1.0),
        GaussianConstraint("t_ly", 1.0, 0.0),
        GaussianConstraint("elife", 30.0, 450.0),
        GaussianConstraint("g1", 0.003, 0.1),
    ),
)
DRIVEN = {name: name for name in NUISANCES.names}


def member(base: FlowSource, seed: int, size: float) -> FlowSource:
    """A source whose flow differs a little from another."""
    moved = FlowSource(base.flow, base.acceptance, base.generated_rate)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in moved.flow.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return moved


def ensemble(seed: int, size: float, sharing: Sharing = "bootstrap", rate: float = 100.0) -> EnsembleSource:
    base = flow_source(seed=seed)
    base = FlowSource(base.flow, base.acceptance, rate)
    return EnsembleSource(tuple(member(base, 10 * seed + k, size) for k in range(4)), sharing)


def likelihood_of(signal, background, events: torch.Tensor, runs: int = 1) -> Likelihood:
    science = tuple(
        ScienceRun(
            f"sr{k}",
            OBSERVABLES,
            (RunSource("wimp", signal, "signal", DRIVEN), RunSource("er", background, "background", DRIVEN)),
            ("livetime",),
        )
        for k in range(runs)
    )
    centres = {name: PARAMETERS[name].nominal for name in ("background", "t_ly", "elife", "g1")}
    return Likelihood(PARAMETERS, science, Dataset({run.name: EventData(events) for run in science}, centres))


@pytest.fixture(scope="module")
def problem():
    signal, background = ensemble(1, 0.003, rate=20.0), ensemble(2, 0.003, "none")
    theta = NUISANCES.nominal()
    generator = torch.Generator().manual_seed(3)
    events = torch.cat([signal.sample(12, theta, generator), background.sample(40, theta, generator)])
    return signal, background, events


def test_moves_of_best_fits_and_limits_are_those_of_fits_with_each_member(problem):
    signal, background, events = problem
    nominal = likelihood_of(signal, background, events)
    interval = confidence_interval(nominal, "signal", 0.9, "upper")
    error = surrogate_error(nominal, interval.best_fit, interval)
    assert error is not None
    student = 1.1969  # the quantile of Student's distribution with 3 degrees of freedom at 0.8413
    for label, source, factor in (("wimp", signal, 5 / 4), ("er", background, 1 / 4)):
        refits = []
        for one in source.members:
            pair = (one, background) if label == "wimp" else (signal, one)
            refits.append(confidence_interval(likelihood_of(*pair, events), "signal", 0.9, "upper"))
        uppers = torch.tensor([r.upper.value for r in refits], dtype=torch.float64)
        density = student * math.sqrt(factor) * float(uppers.std())
        (variation,) = [v for v in variations(source, NUISANCES.nominal()[None]) if v.kind == "density"]
        assert variation.factor == factor
        whole = error.by_source[label]
        if label == "er":  # its members share no events, and the rate of each is its own: nothing else is added
            assert whole["upper"] == pytest.approx(density, rel=0.05)
            for name in ("signal", "background", "t_ly", "elife", "g1"):
                fits = torch.tensor([r.best_fit.values[name] for r in refits], dtype=torch.float64)
                assert whole[name] == pytest.approx(student * math.sqrt(factor) * float(fits.std()), rel=0.05)
        else:
            assert whole["upper"] > density
    total = math.hypot(*(share["upper"] for share in error.by_source.values()))
    assert error.upper == pytest.approx(total, rel=1e-12)
    assert error.incomplete == ()


def test_the_error_of_the_rate_alone_is_that_of_fits_with_moved_acceptances(problem):
    _, background, events = problem
    single = flow_source(seed=1)
    single = FlowSource(single.flow, single.acceptance, 20.0)
    events = events[::2]
    nominal = likelihood_of(single, background, events)
    interval = confidence_interval(nominal, "signal", 0.9, "upper")
    error = surrogate_error(nominal, interval.best_fit, interval)
    assert error is not None
    assert error.incomplete == ("wimp",)
    # along each eigenvector of the covariance of all coefficients
    acceptance = single.acceptance
    variance, axes = torch.linalg.eigh(acceptance.covariance)
    scale = max(1.0, acceptance.chi2 / acceptance.n_dof) if acceptance.n_dof else 1.0
    squares = 0.0
    for v, axis in zip(variance, axes.T, strict=True):
        moved = replace(acceptance, coefficients=acceptance.coefficients + 0.1 * (scale * v).sqrt() * axis)
        pair = likelihood_of(with_acceptance(single, moved), background, events)
        upper = confidence_interval(pair, "signal", 0.9, "upper").upper.value
        squares += ((upper - interval.upper.value) / 0.1) ** 2
    assert error.by_source["wimp"]["upper"] == pytest.approx(math.sqrt(squares), rel=0.02)


@pytest.mark.parametrize("n_runs", [1, 2])
def test_a_limit_from_counting_moves_as_the_acceptance_does(n_runs):
    """One source without nuisances: limits are inversely proportional to the acceptance, in all its runs together."""
    space = NuisanceSpace()
    source = flow_source(nuisances=space)
    theta = torch.zeros(0, dtype=torch.float64)
    source = FlowSource(source.flow, some_acceptance(space), 10.0 / float(source.acceptance.acceptance(theta)))
    parameters = ParameterSet(
        (Parameter("livetime", "livetime", 1.0, fittable=False), Parameter("signal", "rate", 1.0, 0.0, 50.0))
    )
    runs = tuple(
        ScienceRun(f"sr{k}", OBSERVABLES, (RunSource("wimp", source, "signal", {}),), ("livetime",))
        for k in range(n_runs)
    )
    events = source.sample(7, theta, torch.Generator().manual_seed(1))
    likelihood = Likelihood(parameters, runs, Dataset({run.name: EventData(events) for run in runs}, {}))
    interval = confidence_interval(likelihood, "signal", 0.9)
    error = surrogate_error(likelihood, interval.best_fit, interval)
    assert error is not None
    assert list(error.by_source) == ["wimp"]
    relative = float(source.expected_events_std(theta) / source.expected_events(theta))
    assert error.upper == pytest.approx(interval.upper.value * relative, rel=0.01)
    assert error.lower == pytest.approx(interval.lower.value * relative, rel=0.01)
    assert error.values["signal"] == pytest.approx(interval.best_fit.values["signal"] * relative, rel=0.01)
    alone = surrogate_error(likelihood, interval.best_fit)
    assert alone is not None
    assert alone.lower is None
    assert alone.values == error.values


def test_few_directions_hold_the_whole_covariance_of_the_rate():
    acceptance = some_acceptance(NUISANCES)
    theta = theta_points(NUISANCES, 2, seed=4)
    directions = rate_directions(acceptance, theta)
    assert len(directions) <= 8
    values = acceptance.basis.values(theta)
    slopes = torch.sigmoid(-(values @ acceptance.coefficients)).unsqueeze(-1) * values
    scale = max(1.0, acceptance.chi2 / acceptance.n_dof) if acceptance.n_dof else 1.0
    whole = scale * slopes @ acceptance.covariance @ slopes.T
    effects = slopes @ directions.T
    assert torch.allclose(effects @ effects.T, whole, rtol=1e-5)
    assert torch.allclose(whole.diagonal().sqrt(), acceptance.std(theta) / acceptance.acceptance(theta), rtol=1e-10)


def test_variations_and_what_they_leave_out():
    shared, fresh = ensemble(1, 0.01, "all"), ensemble(1, 0.01, "none")
    theta = NUISANCES.nominal()[None]
    assert [v.kind for v in variations(shared, theta)] == ["density", "rate"]
    assert [v.kind for v in variations(fresh, theta)] == ["density"]
    assert [v.kind for v in variations(shared.members[0], theta)] == ["rate"]
    assert [is_complete(s) for s in (shared, fresh, shared.members[0], ensemble(1, 0.0))] == [False, True, False, True]
    moved = with_acceptance(shared.members[0], some_acceptance(NUISANCES, seed=9))
    assert moved.identity != shared.members[0].identity
    moved_all = with_acceptance(shared, some_acceptance(NUISANCES, seed=9))
    assert isinstance(moved_all, EnsembleSource)
    assert moved_all.members[0].identity == moved.identity
    assert moved_all.sharing == "all"


def test_records_come_back_and_are_told(problem):
    signal, background, events = problem
    likelihood = likelihood_of(signal, background, events)
    interval = confidence_interval(likelihood, "signal", 0.9)
    told = replace(interval, surrogate_error=surrogate_error(likelihood, interval.best_fit, interval))
    assert Interval.from_json(told.to_json()) == told
    assert not any("finite training" in line for line in interval_lines(interval))
    assert sum("finite training" in line for line in interval_lines(told)) >= 1
    best = replace(interval.best_fit, surrogate_error=surrogate_error(likelihood, interval.best_fit))
    assert "best fits from finite training samples: at most" in summary_text(best)
    older = {k: v for k, v in fit(likelihood).to_dict().items() if k != "surrogate_error"}
    assert FitResult.from_dict(older).surrogate_error is None


def test_folded_responses_are_named_as_unknown(problem):
    signal, background, events = problem
    likelihood = likelihood_of(signal, background, events)
    error = surrogate_error(likelihood, fit(likelihood))
    assert error.unknown == ()
    energy = NuisanceSpace((Nuisance("energy", "keV", 1.0, 60.0, 10.0, "log"),))
    source = FlowResponse(flow_source(observables=DISC, nuisances=energy)).fold(line_spectrum(30.0, 2.0))
    run = SimpleNamespace(binned=False, sources=(SimpleNamespace(name="wimp", source=source),))
    assert _folded((run, run)) == ("wimp",)
    interval = confidence_interval(likelihood, "signal", 0.9)
    told = replace(interval, surrogate_error=replace(error, lower=None, upper=0.1, unknown=("wimp",)))
    assert any("of wimp, folded with a spectrum, nothing is known" in line for line in interval_lines(told))


def test_a_fit_of_nothing_has_no_error(problem):
    signal, background, events = problem
    likelihood = likelihood_of(signal, background, events)
    best = fit(likelihood, {name: PARAMETERS[name].nominal for name in PARAMETERS.names})
    error = surrogate_error(likelihood, best)
    assert error is None or error.values == {}


def test_several_data_sets_are_refused(problem):
    signal, background, events = problem
    likelihood = likelihood_of(signal, background, events)
    best = fit(likelihood)
    data = Dataset({"sr0": EventData(events)}, {n: PARAMETERS[n].nominal for n in PARAMETERS.ancillary_names})
    pair = Likelihood(PARAMETERS, likelihood.runs, data_batch(PARAMETERS, likelihood.runs, [data, data]))
    with pytest.raises(RangeError, match="needs one data set, got 2"):
        surrogate_error(pair, best)
