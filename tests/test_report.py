"""Projections, figures and reports of results."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import counting_models
import model_files
import numpy as np
import pytest
import torch

from inference.fits.fit import fit
from inference.likelihood.extended import Likelihood
from inference.model import StatisticalModel
from inference.profiles.profile import profile_curve
from inference.reports.plots import (
    contour_regions,
    curve_points,
    plot_profile,
    plot_projections,
    plot_summary,
    save_figure,
)
from inference.reports.projections import Plane, Projection, project
from inference.reports.pull_plots import plot_pulls
from inference.reports.report import curve_grid, default_poi, write_report
from inference.reports.summary import end_text, event_rows, fit_rows, interval_lines, summary_text
from inference.results import Interval, IntervalEnd
from inference.science_run import RunSource, ScienceRun
from surrogate.errors import ConfigError, DataError

POI = "wimp_rate_multiplier"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StatisticalModel:
    built = StatisticalModel.from_config(model_files.write_model(tmp_path_factory.mktemp("report")))
    built.data = model_files.data()
    return built


def test_projections_hold_all_events_and_all_expectations(model: StatisticalModel) -> None:
    values = {POI: 2.0, "er_shift": 0.7}
    found = model.projections(values)
    assert [(p.run, p.observable) for p in found] == [(r, o) for r in ("sr0", "sr1") for o in ("cs1", "cs2")]
    expected = model.expected_events(values)
    for projection in found:
        assert sum(projection.counts) == {"sr0": 12, "sr1": 45}[projection.run]
        for name, column in projection.expected.items():
            assert sum(column) == pytest.approx(expected[projection.run][name], rel=1e-12)


def test_projection_of_a_binned_run_is_the_marginal_of_its_templates(model: StatisticalModel) -> None:
    cs2 = model.projections({"er_shift": -1.0})[1]
    marginal = model_files.template(35.0, -0.3, -0.2).sum(dim=0) * 0.2
    np.testing.assert_allclose(cs2.expected["er"], marginal, rtol=1e-12)
    np.testing.assert_allclose(cs2.edges, model_files.GRID.edges[1], rtol=1e-12)


def test_finer_bins_share_the_content_of_a_template_evenly(model: StatisticalModel) -> None:
    """The unbinned run is drawn in 30 bins; the density of a template is constant in its own three."""
    cs1 = next(p for p in model.projections({}) if (p.run, p.observable) == ("sr1", "cs1"))
    assert len(cs1.counts) == 30
    density = np.array(cs1.expected["ac"]) / np.diff(cs1.edges)
    expected = model_files.template(2.0, -0.5, 1.0).sum(dim=1).numpy() * 2.5 / np.diff([2, 10, 30, 70])
    inside = [
        np.diff(np.searchsorted([2, 10, 30, 70], pair)).item() == 0
        for pair in zip(cs1.edges, cs1.edges[1:], strict=False)
    ]
    centres = 0.5 * (np.array(cs1.edges[1:]) + np.array(cs1.edges[:-1]))
    own = np.searchsorted([10, 30], centres)
    np.testing.assert_allclose(density[inside], expected[own][inside], rtol=1e-9)


class Sampled:
    """A source known only by its samples: the first template in disguise."""

    def __init__(self, source: RunSource) -> None:
        self._source = source.source
        for name in ("observables", "nuisances", "breakpoints", "identity"):
            setattr(self, name, getattr(source.source, name))

    def expected_events(self, theta: torch.Tensor) -> torch.Tensor:
        return self._source.expected_events(theta)

    def sample(self, n: int, theta: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return self._source.sample(n, theta, generator)


def test_sources_that_are_no_histograms_are_projected_by_samples(model: StatisticalModel) -> None:
    run = model.runs[1]
    source = run.sources[0]
    disguised = replace(source, source=Sampled(source))  # type: ignore[arg-type]
    runs = (ScienceRun(run.name, run.observables, (disguised,), run.exposure_parameters),)
    found = project(model.parameters, runs, model.data, {})
    cs1 = found.projections[0]
    exact = next(p for p in model.projections({}) if (p.run, p.observable) == ("sr1", "cs1"))
    np.testing.assert_allclose(cs1.expected["er"], exact.expected["er"], atol=0.15)
    # Smoothing keeps the events of the plane.
    assert np.sum(found.planes[0].probability["er"]) == pytest.approx(1, abs=1e-12)


def test_planes_hold_the_events_and_the_templates(model: StatisticalModel) -> None:
    binned, unbinned = model.views({"er_shift": -1.0}).planes
    template = model_files.template(35.0, -0.3, -0.2).numpy()
    np.testing.assert_allclose(binned.probability["er"], template / template.sum(), rtol=1e-12)
    assert (len(binned.events[0]), len(unbinned.events[1])) == (12, 45)
    fine = np.array(unbinned.probability["er"])
    assert fine.shape == (50, 50)
    assert fine.sum() == pytest.approx(1, rel=1e-12)
    assert binned.expected == pytest.approx(model.expected_events({"er_shift": -1.0})["sr0"])
    assert Plane.from_json(binned.to_json()) == binned


def test_raised_rates_change_their_sources_only(model: StatisticalModel) -> None:
    views = model.views({POI: 0.0}, {POI: 3.0})
    high = model.expected_events({POI: 3.0})
    for plane in views.planes:
        assert plane.raised == pytest.approx({"wimp": high[plane.run]["wimp"]})
        assert plane.expected["wimp"] == 0
    for projection in views.projections:
        assert sum(projection.raised["wimp"]) == pytest.approx(high[projection.run]["wimp"])
        assert set(projection.raised) == {"wimp"}
    assert not any(view.raised for view in (*model.views({POI: 3.0}).planes, *model.views({POI: 3.0}).projections))


def test_raised_sources_count_as_in_the_table(model: StatisticalModel) -> None:
    interval = model.interval(POI)
    end = interval.upper
    assert end.fit is not None
    best, raised = interval.best_fit.values, {POI: end.value or 1.0}
    views = project(model.parameters, model.runs, model.data, best, raised, at=end.fit.values)
    for plane in views.planes:
        assert plane.raised == pytest.approx({"wimp": end.fit.expected[plane.run]["wimp"]})


def test_profile_names_the_best_fit_of_the_record_and_the_unit(model: StatisticalModel) -> None:
    interval = model.interval(POI)
    curve = model.profile(POI, [0.0, 2.0, 4.0])
    curve = replace(curve, best_fit=replace(curve.best_fit, values={**curve.best_fit.values, POI: 1.2345}))
    axes = plot_profile(curve, interval, {POI: "cm2"}).axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"best fit {interval.best_fit.values[POI]:.4g}" in texts
    assert axes.get_xlabel() == "wimp rate multiplier [cm2]"


def test_figures_are_drawn(model: StatisticalModel, tmp_path: Path) -> None:
    interval = model.interval(POI)
    curve = model.profile(POI, [0.0, 2.0, 4.0, 8.0])
    views = model.views({**interval.best_fit.values, POI: 0.0}, {POI: interval.upper.value or 1.0})
    figures = {
        "profile.png": plot_profile(curve, interval),
        "projections.pdf": plot_projections(views.projections, views.planes),
        "summary.png": plot_summary(views.planes, curve, interval),
        "pulls.svg": plot_pulls(interval.best_fit),
    }
    for name, figure in figures.items():
        assert save_figure(figure, tmp_path / name).stat().st_size > 1000
    assert len(figures["projections.pdf"].axes) == 6
    four = [replace(p, observable=o) for p in views.projections for o in (p.observable, f"other {p.observable}")]
    shown = [axes for axes in plot_projections(four, views.planes).axes if axes.get_visible()]
    assert [len({axes.get_position().y0 for axes in shown}), len(shown)] == [4, 10]  # three panels abreast
    assert figures["profile.png"].axes[0].get_xlim()[0] < 0
    pulls = [label.get_text() for label in figures["pulls.svg"].axes[0].get_yticklabels()]
    assert pulls == list(interval.best_fit.pulls)
    best, axes = interval.best_fit, figures["pulls.svg"].axes[0]
    entries = [text.get_text() for text in figures["pulls.svg"].legends[0].get_texts()]
    assert entries[2:] == ["best fit", "held, or at a bound"]
    bars = [np.diff(s[:, 0]).item() / 2 for s in axes.collections[0].get_segments()]
    assert bars == pytest.approx([error for error in best.pull_errors.values() if error is not None])
    assert [name for name, error in best.pull_errors.items() if error is None] == ["er_shift"] == list(best.at_bound)
    words = [text.get_text() for axes in figures["summary.png"].axes for text in axes.get_legend().get_texts()]
    assert any(word.startswith("wimp: 0 expected") and "at the upper limit" in word for word in words)
    assert "data: 45 events" in words
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(figures)


def test_nothing_to_draw_is_an_error(model: StatisticalModel) -> None:
    curve = model.profile(POI, [2.0])
    with pytest.raises(DataError, match="no conditional fit succeeded"):
        plot_profile(replace(curve, t=(None,), slope=(None,)))
    with pytest.raises(DataError, match="none were given"):
        plot_projections(())
    with pytest.raises(DataError, match="no run has two observables"):
        plot_summary((), curve)
    with pytest.raises(DataError, match="no constrained parameter"):
        plot_pulls(replace(curve.best_fit, pulls={}))


def test_a_report_comes_back(model: StatisticalModel, tmp_path: Path) -> None:
    interval = model.interval(POI)
    found = model.views(interval.best_fit.values)
    files = write_report(tmp_path / "new" / "report", interval.best_fit, found, interval)
    assert Interval.load(files.record) == interval
    assert set(files.figures) == {"projections", "pulls"}
    text = files.summary.read_text()
    assert "90 % upper limit on wimp_rate_multiplier: 6.59" in text
    assert "signal_efficiency" in text
    assert Projection.from_json(found.projections[0].to_json()) == found.projections[0]


def test_rows_say_what_was_held(model: StatisticalModel) -> None:
    fit = model.fit_result({"er_shift": 0.5})
    rows = {row[0]: row for row in fit_rows(fit)}
    assert rows["er_shift"][1:] == ("0.5", "", "", "fixed")
    assert "at its bound" not in summary_text(fit)
    free = {row[0]: row for row in fit_rows(model.fit_result())}
    assert free["er_shift"][4] == "at its bound"


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (IntervalEnd(2.5, "found", 9.0, 2.7, 2.7, 3, None), "2.5"),
        (IntervalEnd(None, "no_crossing", 9.0, 1.0, 2.7, 3, None), "stays below its critical value (searched to 9)"),
        (IntervalEnd(None, "at_bound", 0.0, 0.0, 2.7, 0, None), "the best fit is on the bound"),
        (IntervalEnd(None, "outside_range", 9.0, 0.0, 2.7, 0, None), "outside the range of the search (searched to 9)"),
        (IntervalEnd(3.0, "found", 9.0, 4.0, 2.7, 9, None), "3, where the statistic jumps (t = 4)"),
        (IntervalEnd(None, "failed", 9.0, None, None, 3, None), "failed"),
    ],
)
def test_ends_in_words(end: IntervalEnd, text: str) -> None:
    assert text in end_text(end)


def test_each_end_names_its_critical_value(model: StatisticalModel) -> None:
    """Critical values from toys differ between the ends."""
    interval = model.interval(POI)
    toys = replace(interval, lower=replace(interval.lower, critical=1.25), critical_values="toys")
    ends = f"1.2500 at the lower limit, {interval.upper.critical:.4f} at the upper limit"
    assert any(line.endswith(f"toys critical values, {ends}") for line in interval_lines(toys))


def test_expected_events_stand_beside_the_observed(model: StatisticalModel) -> None:
    interval = model.interval(POI)
    expected = model.expected_events(interval.upper.fit.values)
    header, *rows = event_rows(interval.best_fit, interval)
    assert [row[0] for row in rows] == ["sr0", "", "", "sr1", "", ""]
    for run, row in zip(("sr0", "sr1"), (rows[2], rows[5]), strict=True):
        for source, mu in expected[run].items():
            assert float(row[header.index(source)]) == pytest.approx(mu, rel=1e-3)
    for run, row in zip(("sr0", "sr1"), (rows[0], rows[3]), strict=True):
        assert float(row[-1]) == len(model.data.events[run])
    assert "upper limit" in summary_text(interval.best_fit, interval)


def test_the_curve_covers_the_interval(model: StatisticalModel) -> None:
    interval = model.interval(POI)
    grid = curve_grid(interval)
    assert interval.lower.value is not None
    assert interval.upper.value is not None
    assert 0 <= grid[0] < interval.lower.value < interval.upper.value < grid[-1] <= 50
    one_sided = curve_grid(model.interval(POI, kind="upper"))
    assert one_sided[0] < interval.best_fit.values[POI] < interval.upper.value < one_sided[-1]
    nothing = model.interval(POI, bounds=(2.0, 5.0))
    assert (nothing.lower.value, nothing.upper.value) == (None, None)
    assert 2.0 <= curve_grid(nothing)[0] < curve_grid(nothing)[-1] <= 5.0
    assert len(interval_lines(nothing)) == 3


def test_the_parameter_of_interest_goes_without_saying(model: StatisticalModel) -> None:
    assert default_poi(model.parameters) == POI
    without = replace(model.parameters, constraints=model.parameters.constraints[1:])
    with pytest.raises(ConfigError, match="say which one, --poi NAME; free rates: wimp_rate_multiplier, er_rate"):
        default_poi(without)


def test_contours_contain_what_they_say() -> None:
    """A Gaussian in the logarithms: the region of 90 % is the disc of radius sqrt(2 ln 10) sigma."""
    edges = np.geomspace(1.0, np.exp(10.0), 101)
    middle = 0.5 * np.log(edges[1:] * edges[:-1]) - 5.0
    normal = np.exp(-0.5 * middle**2)
    probability = np.outer(normal, normal) / normal.sum() ** 2
    column = tuple(edges.tolist())
    shape = tuple(map(tuple, probability.tolist()))
    plane = Plane("r", ("a", "b"), ("", ""), (True, True), (column, column), ((), ()), {"s": 1.0}, {}, {"s": shape})
    (x, y, density), levels = contour_regions(plane, "s")
    for level, fraction in zip(levels, (0.9, 0.5), strict=True):
        across = np.log(x[density[len(y) // 2] >= level])
        assert 0.5 * np.ptp(across) == pytest.approx(np.sqrt(-2 * np.log(1 - fraction)), abs=0.11)


def test_flat_and_absent_sources_are_drawn_without_complaint(model: StatisticalModel) -> None:
    plane = model.views({}).planes[0]
    n, m = np.array(plane.probability["er"]).shape
    flat, empty = (tuple(map(tuple, np.full((n, m), v).tolist())) for v in (1 / (n * m), 0.0))
    curve = model.profile(POI, [0.0, 2.0])
    axes = plot_summary([replace(plane, probability={**plane.probability, "er": flat, "wimp": empty})], curve).axes[0]
    names = [text.get_text().split(":")[0] for text in axes.get_legend().get_texts()]
    assert "er" in names
    assert "wimp" not in names


def test_few_points_with_slopes_draw_the_profile() -> None:
    likelihood = Likelihood(*counting_models.on_off(3.0, 2.0), counting_models.counts([9], [4.0]))
    near = (fit(likelihood), fit(likelihood, {"mu": 12.0}))
    curve = profile_curve(likelihood, "mu", [0.0, 2.0, 5.0, 8.0, 12.0, 16.0], near=near)
    x, t = curve_points(curve)
    exact = profile_curve(likelihood, "mu", x.tolist())
    np.testing.assert_allclose(t, np.array(exact.t, dtype=float), atol=0.03)
    # At mu the slope is -2 d ln L/dmu = 2 (1 - n/(mu + b)), b profiled.
    slopes = [2 * (1 - 9 / (mu + b)) for mu, b in zip(curve.grid, curve.values["b"], strict=True)]
    np.testing.assert_allclose(np.array(curve.slope, dtype=float), slopes, rtol=1e-6, atol=1e-6)
    jagged = replace(curve, slope=(None,) * 6)
    assert curve_points(jagged)[0].tolist() == list(curve.grid)


def test_limits_are_stated_in_what_the_parameter_stands_for(model: StatisticalModel, tmp_path: Path) -> None:
    plain = model.interval(POI)
    named = [replace(p, unit="1e-47 cm2" if p.name == POI else p.unit) for p in model.parameters.parameters]
    sized = StatisticalModel(replace(model.parameters, parameters=tuple(named)), model.runs)
    sized.data = model_files.data()
    interval = sized.interval(POI)
    assert plain.physical is None
    assert interval.physical is not None
    assert interval.physical.unit == "cm2"
    sizes = [1e-47 * (end.value or math.nan) for end in (plain.lower, plain.upper)]
    assert [interval.physical.lower, interval.physical.upper] == pytest.approx(sizes, rel=1e-6)
    assert Interval.from_json(interval.to_json()) == interval
    stated = f"{interval.upper.value:.6g} ({interval.physical.upper:.4g} cm2)"
    assert any(line.endswith(stated) for line in interval_lines(interval))
    assert not any("cm2" in line for line in interval_lines(plain))
    figure = plot_profile(sized.profile(POI, [0.0, 2.0]), interval)
    assert any(f"{interval.physical.upper:.3g} cm2" in t.get_text() for t in figure.axes[0].get_legend().get_texts())
