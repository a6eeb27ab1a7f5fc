"""Expansion of densities in theta: polynomials, regions, likelihoods, and fits that end on the exact density."""

from __future__ import annotations

import math

import pytest
import torch
from analytic_sources import LIVETIME, UNIT, exponential_source, flat_source, gaussian_source, rate_parameter
from hypothesis import given, settings
from hypothesis import strategies as st
from source_cases import NUISANCES, OBSERVABLES, flow_source
from torch import Tensor

from inference.constraints.gaussian import GaussianConstraint
from inference.data.dataset import DataBatch, Dataset, data_batch, event_data
from inference.expansion.build import Expansion, ExpansionOptions, expand, expandable, shape_parameters
from inference.expansion.density import score
from inference.expansion.polynomial import PolynomialBasis, chebyshev_design, least_squares
from inference.expansion.region import Region, ball_points
from inference.fits.batch_fit import fit_batch
from inference.fits.fit import fit
from inference.intervals.confidence import confidence_interval
from inference.intervals.expanded_fit import expand_at_maximum, expanded_interval, locate, located_fit, region_at
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.profiles.profile import profile_curve
from inference.science_run import RunSource, ScienceRun
from inference.toys.draws import draw_toys
from surrogate.errors import ConfigError, RangeError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_model() -> tuple[ParameterSet, tuple[ScienceRun, ...]]:
    """Two runs; a nuisance that drives two, one that is held, one source that does not move."""
    parameters = ParameterSet(
        (
            rate_parameter("mu"),
            rate_parameter("b"),
            Parameter("slope", "shape", 0.0, -5, 5),
            Parameter("size", "shape", 0.0, -5, 5),
            Parameter("shift", "shape", 0.0, -3, 3),
            LIVETIME,
        ),
        tuple(GaussianConstraint(n, 1.0, 0.0) for n in ("slope", "size", "shift")),
    )
    first = ScienceRun(
        "first",
        UNIT,
        (
            RunSource("wimp", gaussian_source(0.3, 0.1, 15.0, "shift"), "mu", {"shift": "shift"}),
            RunSource("er", exponential_source(60.0), "b", {"slope": "slope", "size": "size"}),
            RunSource("flat", flat_source(10.0), "b", {}),
        ),
        ("livetime",),
    )
    second = ScienceRun(
        "second",
        UNIT,
        (
            RunSource("wimp", exponential_source(5.0), "mu", {"slope": "shift", "size": "shift"}),
            RunSource("er", exponential_source(40.0), "b", {"slope": "slope", "size": 0.5}),
        ),
        ("livetime",),
    )
    return parameters, (first, second)


def flow_model() -> tuple[ParameterSet, tuple[ScienceRun, ...]]:
    """One run of two small flows that share their nuisances."""
    parameters = ParameterSet(
        (
            rate_parameter("mu", 0.2),
            rate_parameter("b"),
            Parameter("t_ly", "shape", 0.0, -3, 3),
            Parameter("elife", "shape", 450.0, 250, 900),
            Parameter("g1", "shape", 0.1, 0.08, 0.14),
            LIVETIME,
        ),
        (
            GaussianConstraint("t_ly", 1.0, 0.0),
            GaussianConstraint("elife", 40.0, 450.0),
            GaussianConstraint("g1", 0.004, 0.1),
        ),
    )
    names = {n: n for n in NUISANCES.names}
    sources = (
        RunSource("wimp", flow_source(seed=1, guided=True), "mu", names, scale=0.3),
        RunSource("er", flow_source(seed=2), "b", names, scale=0.3),
    )
    return parameters, (ScienceRun("run", OBSERVABLES, sources, ("livetime",)),)


def data_of(model: tuple[ParameterSet, tuple[ScienceRun, ...]], n: int = 1, seed: int = 3) -> DataBatch:
    parameters, runs = model
    return draw_toys(parameters, runs, parameters.nominal(), torch.arange(n), seed).data


def some_region(model: tuple[ParameterSet, tuple[ScienceRun, ...]], radius: float = 1.5) -> Region:
    """An ellipsoid with correlations, a fraction of the constraints in size."""
    parameters, runs = model
    names = shape_parameters(parameters, runs)
    index = [parameters.index(n) for n in names]
    width = 0.6 * parameters.constraint_widths()[index]
    mixed = torch.eye(len(names), dtype=torch.float64) + 0.4
    covariance = torch.outer(width, width) * mixed / 1.4
    return Region(
        names, parameters.nominal()[index], covariance, radius, parameters.lower[index], parameters.upper[index]
    )


def inside(parameters: ParameterSet, region: Region, n: int, seed: int = 8) -> Tensor:
    """Parameter points (n, P) within the region, rates near nominal."""
    values = parameters.nominal() * torch.ones(n, 1, dtype=torch.float64)
    index = [parameters.index(name) for name in region.names]
    values[:, index] = region.from_ball(0.97 * ball_points(n, len(index), seed))
    for name in ("mu", "b"):
        values[:, parameters.index(name)] *= 1.0 + 0.1 * random(n, seed=seed)
    return values


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_derivatives_of_monomials_are_those_of_autograd(degrees: list[int], seed: int) -> None:
    basis, t = PolynomialBasis(tuple(degrees)), random(3, len(degrees), seed=seed)
    coefficients = random(len(basis), seed=seed + 1)
    found = basis.derivatives(t) @ coefficients
    for row, point in zip(found, t, strict=True):
        value = lambda p: (basis.values(p.unsqueeze(0)) @ coefficients)[0]  # noqa: E731
        hessian = torch.autograd.functional.hessian(value, point)
        expected = [
            value(point),
            *torch.autograd.functional.jacobian(value, point),
            *(hessian[j, k] for j, k in basis.pairs),
        ]
        assert torch.allclose(row, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_equal_degrees_are_a_total_degree_and_zero_leaves_a_variable_out() -> None:
    assert len(PolynomialBasis((4, 4, 4, 4))) == math.comb(8, 4)
    assert len(PolynomialBasis((6, 0, 3))) == len(PolynomialBasis((6, 3)))
    assert bool((PolynomialBasis((3, 0)).derivatives(random(5, 2))[:, 2] == 0).all())


def test_the_last_variables_may_appear_to_the_first_power_alone() -> None:
    basis = PolynomialBasis((4, 4, 4), linear=1)
    assert len(basis) == len(PolynomialBasis((4, 4))) + len(PolynomialBasis((3, 3)))
    second = basis.derivatives(random(5, 3))[:, 1 + 3 + basis.pairs.index((2, 2))]
    assert not bool(second.any())


def test_a_polynomial_is_recovered_from_values_and_slopes() -> None:
    basis = PolynomialBasis((3, 5))
    truth, nodes = random(len(basis)), ball_points(16, 2, 1)
    rows = basis.derivatives(nodes)[:, :3]
    data = rows @ truth
    assert torch.allclose(least_squares(rows[:, 0], rows[:, 1:]) @ data.flatten(), truth, atol=1e-9)


def test_chebyshev_coefficients_from_values_and_slopes() -> None:
    t = torch.cos(math.pi * (torch.arange(4, dtype=torch.float64) + 0.5) / 4)
    data = torch.cat([4 * t**3 - 3 * t, 12 * t**2 - 3])
    expected = torch.tensor([0.0, 0, 0, 1, 0, 0], dtype=torch.float64)
    assert torch.allclose(torch.linalg.pinv(chebyshev_design(t, 5)) @ data, expected, atol=1e-12)


def test_ball_points_are_nested_and_fill_the_ball() -> None:
    assert torch.equal(ball_points(8, 3, 1), ball_points(40, 3, 1)[:8])
    points = ball_points(2048, 3, 1)
    assert float(points.norm(dim=-1).max()) <= 1.0
    assert torch.allclose(points.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=0.02)
    assert torch.allclose(points.T @ points / 2048, torch.eye(3, dtype=torch.float64) / 5, atol=0.01)


def test_a_region_is_the_unit_ball_in_its_own_coordinates() -> None:
    region = some_region(smooth_model())
    t = ball_points(50, len(region.names), 4)
    assert torch.allclose(region.to_ball(region.from_ball(t)), t, atol=1e-12)
    assert bool(region.contains(region.from_ball(t)).all())
    assert not bool(region.contains(region.from_ball(1.01 * t / t.norm(dim=-1, keepdim=True))).any())
    residual = region.from_ball(t) - region.centre
    mahalanobis = (residual @ torch.linalg.inv(region.covariance) * residual).sum(-1).sqrt()
    assert torch.allclose(region.distance(region.from_ball(t)), mahalanobis)


def test_the_region_of_some_parameters_is_the_shadow_of_the_whole() -> None:
    region = some_region(smooth_model())
    t = ball_points(4000, len(region.names), 5)
    edge = t / t.norm(dim=-1, keepdim=True)
    names = region.names[1:]
    distance = region.of(names).to_ball(region.from_ball(edge)[:, 1:]).norm(dim=-1)
    assert float(distance.max()) == pytest.approx(1.0, abs=0.01)
    assert float(distance.max()) <= 1.0 + 1e-12


def test_points_of_a_region_keep_to_the_bounds() -> None:
    region = some_region(smooth_model(), radius=50.0)
    values = region.from_ball(ball_points(200, len(region.names), 1))
    assert bool(((values >= region.lower) & (values <= region.upper)).all())


def test_impossible_regions_are_refused() -> None:
    one, bound = torch.ones(1, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    with pytest.raises(RangeError, match="a = 3 is outside its bounds"):
        Region(("a",), 3 * one, one[None], 1.0, -bound, bound)
    with pytest.raises(RangeError, match="radius = 0"):
        Region(("a",), one, one[None], 0, -bound, bound)
    with pytest.raises(ConfigError, match="not positive definite"):
        Region(("a",), one, -one[None], 1.0, -bound, bound)
    with pytest.raises(ConfigError, match="shapes"):
        Region(("a", "b"), one, one[None], 1.0, -bound, bound)
    parameters, runs = smooth_model()
    with pytest.raises(ConfigError, match="has no 'size', which drives source 'er'"):
        expand(
            Likelihood(parameters, runs, data_of((parameters, runs))),
            some_region((parameters, runs)).of(["slope", "shift"]),
            parameters.nominal(),
        )
    with pytest.raises(RangeError, match="tolerance = 0"):
        ExpansionOptions(tolerance=0)


def test_the_score_is_the_gradient_of_the_jet_in_single_precision() -> None:
    source = flow_source(guided=True)
    x = source.sample(50, NUISANCES.nominal(), torch.Generator().manual_seed(1))
    theta = NUISANCES.nominal().expand(50, -1)
    log_f, gradient = score(source, x, theta)
    jet = source.density_jet(x, theta)
    assert torch.allclose(log_f, jet.log_scale, atol=1e-4)
    assert torch.allclose(gradient, jet.gradient, rtol=1e-3, atol=1e-4 * float(jet.gradient.abs().max()))


MODELS = {"analytic": smooth_model, "flows": flow_model}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_likelihoods_agree_within_the_measured_error(name: str) -> None:
    parameters, runs = model = MODELS[name]()
    exact = Likelihood(parameters, runs, data_of(model))
    expansion = expand(exact, some_region(model), parameters.nominal(), ExpansionOptions(tolerance=0.002))
    assert expansion.report.error <= 0.002
    values = inside(parameters, expansion.region, 20)
    wanted, found = (like.derivatives(values) for like in (exact, expansion.likelihood))
    difference = 2 * (found[0] - wanted[0])
    assert float((difference - difference.mean()).abs().max()) <= 0.005
    scale = wanted[2].diagonal(dim1=-2, dim2=-1).abs().amax(dim=0).clamp_min(1e-9).sqrt()
    assert float(((found[1] - wanted[1]) / scale).abs().max()) < 0.02
    assert float(((found[2] - wanted[2]) / torch.outer(scale, scale)).abs().max()) < 0.05


@every_model
def test_derivatives_are_those_of_the_expanded_likelihood_itself(name: str) -> None:
    parameters, runs = model = MODELS[name]()
    expansion = expand(Likelihood(parameters, runs, data_of(model)), some_region(model), parameters.nominal())
    like, values = expansion.likelihood, inside(parameters, expansion.region, 3)
    found = like.derivatives(values)
    for row in range(len(values)):
        function = lambda v: like.log_likelihood(v.unsqueeze(0))[0]  # noqa: E731
        assert float(function(values[row])) == pytest.approx(float(found[0][row]), rel=1e-12)
        gradient = torch.autograd.functional.jacobian(function, values[row])
        hessian = torch.autograd.functional.hessian(function, values[row])
        assert torch.allclose(found[1][row], gradient, rtol=1e-8, atol=1e-8)
        assert torch.allclose(found[2][row], hessian, rtol=1e-7, atol=1e-7)


def test_an_expansion_says_where_it_holds_and_goes_on_beyond() -> None:
    parameters, runs = model = smooth_model()
    exact = Likelihood(parameters, runs, data_of(model))
    expansion = expand(exact, some_region(model, 1.0), parameters.nominal())
    values = inside(parameters, expansion.region, 6)
    index = [parameters.index(n) for n in expansion.region.names]
    values[4:, index] = expansion.region.from_ball(1.2 * ball_points(2, len(index), 1).sign() / len(index) ** 0.5)
    assert expansion.covers(values).tolist() == [True] * 4 + [False] * 2
    assert torch.allclose(exact.log_likelihood(values), expansion.likelihood.log_likelihood(values), atol=0.05)


def test_a_rate_on_its_bound_is_raised_where_errors_are_measured() -> None:
    parameters, runs = smooth_model()
    data = draw_toys(parameters, runs, parameters.vector({"mu": 0.0}), torch.arange(20), 5).data
    every = fit_batch(Likelihood(parameters, runs, data))
    row = int(every.at_bound[:, parameters.index("mu")].nonzero()[0])
    exact = Likelihood(parameters, runs, data.take(torch.tensor([row])))
    expansion, best = expand_at_maximum(exact)
    assert bool(best.at_bound[0, parameters.index("mu")])
    assert all(max(s.degrees) > 1 for s in expansion.report.sources if s.source == "wimp")


def test_data_sets_of_a_batch_are_expanded_each_for_itself() -> None:
    parameters, runs = model = smooth_model()
    batch = data_of(model, 4)
    together = expand(Likelihood(parameters, runs, batch), some_region(model), parameters.nominal())
    values = inside(parameters, together.region, 6)
    rows = torch.tensor([3, 0, 1, 1, 2, 0])
    found = together.likelihood.derivatives(values, rows)
    exact = Likelihood(parameters, runs, batch).derivatives(values, rows)
    assert torch.allclose(found[0], exact[0], atol=0.01)
    again = together.likelihood.derivatives(values[[4, 2]], rows[[4, 2]])
    for a, b in zip(found, again, strict=True):
        assert torch.allclose(a[[4, 2]], b, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_expanded_well_stays_exact() -> None:
    parameters, runs = model = smooth_model()
    exact = Likelihood(parameters, runs, data_of(model))
    expansion = expand(exact, some_region(model), parameters.nominal(), ExpansionOptions(most_terms=2))
    assert not any(s.expanded for s in expansion.report.sources)
    assert expansion.report.error == 0.0
    values = inside(parameters, expansion.region, 4)
    for a, b in zip(exact.derivatives(values), expansion.likelihood.derivatives(values), strict=True):
        assert torch.equal(a, b)


def test_a_run_without_events_needs_no_expansion() -> None:
    parameters, runs = smooth_model()
    empty = event_data(UNIT, torch.zeros(0, 1))
    data = data_batch(parameters, runs, [Dataset({"first": empty, "second": empty}, {})])
    exact = Likelihood(parameters, runs, data)
    expansion = expand(exact, some_region((parameters, runs)), parameters.nominal())
    values = inside(parameters, expansion.region, 3)
    assert torch.equal(exact.derivatives(values)[0], expansion.likelihood.derivatives(values)[0])
    assert expansion.report.sources == ()


def test_which_sources_can_be_expanded() -> None:
    parameters, runs = smooth_model()
    assert [expandable(c) for c in runs[0].sources] == [True, True, False]
    assert shape_parameters(parameters, runs) == ("slope", "size", "shift")


def at_maximum(name: str) -> tuple[Likelihood, Expansion]:
    parameters, runs = model = MODELS[name]()
    exact = Likelihood(parameters, runs, data_of(model))
    return exact, expand_at_maximum(exact)[0]


@every_model
def test_the_rough_fit_is_within_a_fraction_of_the_errors(name: str) -> None:
    parameters, runs = model = MODELS[name]()
    exact = Likelihood(parameters, runs, data_of(model))
    rough, best = locate(exact), fit_batch(exact)
    short = float(best.log_likelihood - exact.log_likelihood(rough.values))
    assert -1e-9 <= short < 0.1


@every_model
def test_fits_end_where_the_exact_likelihood_has_its_maximum(name: str) -> None:
    parameters, runs = model = MODELS[name]()
    exact = Likelihood(parameters, runs, data_of(model))
    slow, quick = fit(exact), located_fit(exact)
    assert quick.success
    assert quick.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-9)
    for parameter, value in slow.values.items():
        assert quick.values[parameter] == pytest.approx(value, rel=1e-5, abs=1e-5)


@every_model
@pytest.mark.parametrize("poi", ["mu", "shape"])
def test_intervals_are_those_of_the_exact_likelihood(name: str, poi: str) -> None:
    parameters, runs = model = MODELS[name]()
    poi = shape_parameters(parameters, runs)[0] if poi == "shape" else poi
    exact = Likelihood(parameters, runs, data_of(model))
    slow, quick = (f(exact, poi, 0.9) for f in (confidence_interval, expanded_interval))
    assert quick.best_fit.log_likelihood == pytest.approx(slow.best_fit.log_likelihood, abs=1e-8)
    for a, b in ((slow.lower, quick.lower), (slow.upper, quick.upper)):
        assert a.status == b.status
        if a.value is not None:
            assert b.value == pytest.approx(a.value, rel=2e-5, abs=1e-7)


@every_model
@pytest.mark.parametrize("factor", [1 - 1e-3, 1 - 1e-6, 1 + 1e-6, 1 + 1e-3])
def test_an_end_close_to_the_bound_stays_inside(name: str, factor: float) -> None:
    """Where t(0) is nearly the critical value, an expansion may find an end that the exact densities move below 0."""
    parameters, runs = model = MODELS[name]()
    exact = Likelihood(parameters, runs, data_of(model))
    at_zero = profile_curve(exact, "mu", [0.0]).t[0]
    assert at_zero is not None
    found = expanded_interval(exact, "mu", 0.9, critical=factor * at_zero)
    assert found.success
    if factor > 1:
        assert found.lower.value is None
    else:
        assert found.lower.value is not None
        assert 0 < found.lower.value < found.best_fit.values["mu"]


def test_a_held_shape_parameter_and_one_at_its_bound_still_make_a_region() -> None:
    parameters, runs = model = smooth_model()
    exact = Likelihood(parameters, runs, data_of(model))
    fits = fit_batch(exact, {"slope": 0.7})
    region = region_at(exact, fits)
    assert region.names == ("slope", "size", "shift")
    assert float(region.covariance[0, 0]) < 1e-3
    assert float(region.centre[0]) == 0.7
    expansion, best = expand_at_maximum(exact, {"slope": 0.7})
    assert float(best.values[0, parameters.index("slope")]) == 0.7
    assert expansion.report.error <= 0.01


def test_several_data_sets_have_no_common_maximum() -> None:
    parameters, runs = model = smooth_model()
    with pytest.raises(RangeError, match="needs one data set, got 2"):
        expand_at_maximum(Likelihood(parameters, runs, data_of(model, 2)))
