"""Profile likelihoods of pairs of parameters: closed forms, the record, the figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_sources import LIVETIME, UNIT, flat_source, rate_parameter

from inference.constraints.gaussian import CorrelatedGaussianConstraint, PoissonConstraint
from inference.data.dataset import Dataset, event_data
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.profiles.corner import Corner, corner
from inference.record_store import read_record, write_records
from inference.reports.corner_plots import plot_corner
from inference.science_run import RunSource, ScienceRun
from surrogate.errors import ConfigError, RangeError

COVARIANCE = np.array([[1.0, 0.6, 0.1], [0.6, 4.0, -0.4], [0.1, -0.4, 0.25]])


def gaussian() -> Likelihood:
    """Three parameters measured together by an ancillary term, and nothing else."""
    names = ("a", "b", "c")
    parameters = ParameterSet(
        (*(Parameter(n, "shape", 0.0, -50.0, 50.0) for n in names), rate_parameter("rate"), LIVETIME),
        (CorrelatedGaussianConstraint(names, tuple(map(tuple, COVARIANCE.tolist())), (0.0, 0.0, 0.0)),),
    )
    run = ScienceRun("run", UNIT, (RunSource("none", flat_source(0.0), "rate", {}),), ("livetime",))
    data = Dataset({"run": event_data(UNIT, torch.zeros(0, 1))}, {"a": 1.0, "b": -2.0, "c": 0.5})
    return Likelihood(parameters, (run,), data)


def on_off(n: int, m: int, tau: float) -> Likelihood:
    parameters = ParameterSet(
        (rate_parameter("mu"), rate_parameter("b"), LIVETIME), (PoissonConstraint("b", tau, m / tau),)
    )
    sources = (RunSource("s", flat_source(1.0, "s"), "mu", {}), RunSource("b", flat_source(1.0), "b", {}))
    x = torch.linspace(0.05, 0.95, n, dtype=torch.float64).unsqueeze(-1)
    run = ScienceRun("run", UNIT, sources, ("livetime",))
    return Likelihood(parameters, (run,), Dataset({"run": event_data(UNIT, x)}, {}))


def test_planes_of_a_gaussian_are_its_marginal_ellipses() -> None:
    """The profile over the third parameter is d.V^-1.d with the 2 x 2 block V of the covariance."""
    found = corner(gaussian(), ("a", "b", "c"), points=7)
    centre = {"a": 1.0, "b": -2.0, "c": 0.5}
    assert [(p.x, p.y) for p in found.planes] == [("a", "b"), ("a", "c"), ("b", "c")]
    for plane in found.planes:
        i, j = "abc".index(plane.x), "abc".index(plane.y)
        inverse = np.linalg.inv(COVARIANCE[np.ix_([i, j], [i, j])])
        d = np.stack(np.meshgrid(plane.x_grid, plane.y_grid, indexing="ij"), -1) - [centre[plane.x], centre[plane.y]]
        np.testing.assert_allclose(np.array(plane.t), np.einsum("xyi,ij,xyj->xy", d, inverse, d), atol=1e-8)
    for curve, variance in zip(found.curves, np.diag(COVARIANCE), strict=True):
        assert curve.grid[0] == pytest.approx(centre[curve.parameter] - 3 * np.sqrt(variance), rel=1e-6)
        assert curve.t[0] == pytest.approx(9.0, rel=1e-6)


def test_a_plane_of_two_counts_at_a_bound() -> None:
    """n ~ Pois(mu + b), m ~ Pois(tau b), fewer events than background: the best fit is mu = 0."""
    n, m, tau = 3, 30, 5.0
    found = corner(on_off(n, m, tau), ("mu", "b"), points=9)
    (plane,) = found.planes
    assert plane.x_grid[0] == 0.0
    x, y = np.meshgrid(plane.x_grid, plane.y_grid, indexing="ij")
    b = (n + m) / (1 + tau)
    best = n * np.log(b) - b + m * np.log(tau * b) - tau * b
    log_l = n * np.log(x + y) - x - y + m * np.log(tau * y) - tau * y
    np.testing.assert_allclose(np.array(plane.t), 2 * (best - log_l), atol=1e-8)


def test_the_figure_needs_the_record_alone(tmp_path: Path) -> None:
    found = corner(on_off(12, 10, 2.0), ("mu", "b"), points=9)
    write_records(tmp_path / "corner.h5", {"corner": found})
    assert read_record(tmp_path / "corner.h5", Corner) == found
    assert Corner.from_json(found.to_json()) == found
    figure = plot_corner(Corner.from_json(found.to_json()))
    assert [axes.get_visible() for axes in figure.axes] == [True, False, True, True]
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"best fit", "68 %", "90 %"}
    figure.savefig(tmp_path / "corner.png")


def test_bad_input_is_refused() -> None:
    likelihood = on_off(3, 3, 1.0)
    with pytest.raises(ConfigError, match="two or more different parameters"):
        corner(likelihood, ("mu",))
    with pytest.raises(ConfigError, match="not held"):
        corner(likelihood, ("mu", "b"), fixed={"b": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'mu'"):
        corner(likelihood, ("mv", "b"))
    with pytest.raises(RangeError, match="3 points or more"):
        corner(likelihood, ("mu", "b"), points=2)
