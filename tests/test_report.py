"""Projections, figures and reports of results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import model_files
import numpy as np
import pytest
import torch

from inference.model import StatisticalModel
from inference.plots import plot_profile, plot_projections, plot_pulls, save_figure
from inference.projections import Projection, projections
from inference.report import curve_grid, default_poi, end_text, fit_rows, interval_lines, summary_text, write_report
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
    (cs1, _) = projections(model.parameters, runs, model.data, {})
    exact = next(p for p in model.projections({}) if (p.run, p.observable) == ("sr1", "cs1"))
    np.testing.assert_allclose(cs1.expected["er"], exact.expected["er"], atol=0.15)


def test_figures_are_drawn(model: StatisticalModel, tmp_path: Path) -> None:
    interval = model.interval(POI)
    figures = {
        "profile.png": plot_profile(model.profile(POI, [0.0, 2.0, 4.0, 8.0]), interval),
        "projections.pdf": plot_projections(model.projections(interval.best_fit.values)),
        "pulls.svg": plot_pulls(interval.best_fit),
    }
    for name, figure in figures.items():
        assert save_figure(figure, tmp_path / name).stat().st_size > 1000
    assert len(figures["projections.pdf"].axes) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(figures)


def test_nothing_to_draw_is_an_error(model: StatisticalModel) -> None:
    curve = model.profile(POI, [2.0])
    with pytest.raises(DataError, match="no conditional fit succeeded"):
        plot_profile(replace(curve, t=(None,)))
    with pytest.raises(DataError, match="none were given"):
        plot_projections(())
    with pytest.raises(DataError, match="no constrained parameter"):
        plot_pulls(replace(curve.best_fit, pulls={}))


def test_a_report_comes_back(model: StatisticalModel, tmp_path: Path) -> None:
    interval = model.interval(POI)
    found = model.projections(interval.best_fit.values)
    files = write_report(tmp_path / "new" / "report", interval.best_fit, found, interval)
    assert Interval.load(files.record) == interval
    assert set(files.figures) == {"projections", "pulls"}
    text = files.summary.read_text()
    assert "90 % upper limit on wimp_rate_multiplier: 6.59" in text
    assert "signal_efficiency" in text
    assert Projection.from_json(found[0].to_json()).counts == found[0].counts


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
        (IntervalEnd(None, "failed", 9.0, None, None, 3, None), "failed"),
    ],
)
def test_ends_in_words(end: IntervalEnd, text: str) -> None:
    assert text in end_text(end)


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
