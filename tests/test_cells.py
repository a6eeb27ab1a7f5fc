"""Counts and bins: densities that are constant within cells, against closed forms."""

from __future__ import annotations

import pytest
import torch
from source_cases import HITS, NUISANCES, OBSERVABLES, PLANE, flow_source, theta_points

from surrogate.cells import CellRule
from surrogate.errors import ConfigError
from surrogate.observables import Observable, ObservableSpace

COUNT = ObservableSpace((Observable("hits", "", -0.5, 11.5, "counts"),))
BINNED = ObservableSpace((Observable("cs2", "PE", 100.0, 900.0, "bins", edges=(100.0, 150.0, 300.0, 400.0, 900.0)),))


@pytest.mark.parametrize("space", [COUNT, BINNED], ids=["counts", "bins"])
def test_the_probability_of_a_cell_is_the_step_of_the_distribution_function(space: ObservableSpace) -> None:
    source = flow_source(observables=space)
    edges = torch.tensor(space.observables[0].cells, dtype=torch.float64)
    width = edges.diff()
    for theta in theta_points(NUISANCES, 4, seed=1):
        u, _ = space.to_unit(edges.unsqueeze(-1))
        cdf, _ = source.flow.to_base(u, theta.expand(len(u), -1))
        expected = (cdf[1:] - cdf[:-1]).squeeze(-1)
        for share in (0.1, 0.5, 0.9):
            x = (edges[:-1] + share * width).unsqueeze(-1)
            probability = source.log_prob(x, theta).exp() * width
            assert torch.allclose(probability, expected, rtol=1e-5)
            assert float(probability.sum()) == pytest.approx(1.0, abs=1e-5)


def test_nothing_in_a_cell_is_told_apart() -> None:
    source = flow_source(observables=HITS)
    theta = theta_points(NUISANCES, 6, seed=2)
    x = torch.tensor([[4.0, 700.0]], dtype=torch.float64).expand(6, 2)
    moved = x + torch.tensor([0.43, 0.0], dtype=torch.float64)
    assert torch.equal(source.log_prob(x, theta), source.log_prob(moved, theta))
    assert torch.equal(source.density_jet(x, theta).hessian, source.density_jet(moved, theta).hessian)
    assert not torch.allclose(source.log_prob(x, theta), source.log_prob(x + 1.0, theta))


def test_scores_and_jets_agree() -> None:
    """The gradient of ln f, in single precision, and that of f."""
    for source in (flow_source(observables=HITS), flow_source("spline_coupling", layers=2, observables=HITS)):
        theta = theta_points(NUISANCES, 30, seed=3)
        x = source.sample(30, theta, torch.Generator().manual_seed(1))
        x[3, 0], x[4, 1] = 40.0, 1.0
        log_f, gradient = source.score(x, theta)
        jet = source.density_jet(x, theta)
        inside = torch.isfinite(jet.log_scale)
        assert inside.sum() == 28
        assert torch.equal(torch.isfinite(log_f), inside)
        assert torch.allclose(log_f[inside].double(), source.log_prob(x, theta)[inside], atol=1e-4)
        slope = jet.gradient / jet.value.clamp(min=1e-300).unsqueeze(-1)
        unit = NUISANCES.bounds(theta)[1] - NUISANCES.bounds(theta)[0]
        assert torch.allclose((gradient.double() * unit)[inside], (slope * unit)[inside], atol=1e-3)
        assert not gradient[~inside].any()


def test_where_in_its_cell_an_event_lies_says_nothing_about_the_rest() -> None:
    for family in ("logistic_mixture", "spline_autoregressive"):
        flow = flow_source(family, observables=HITS).flow
        theta = theta_points(NUISANCES, 1).expand(3, 3)
        u = torch.tensor([[0.26, 0.4], [0.37, 0.4], [0.38, 0.4]], dtype=torch.float64)
        columns = [flow.config.permutation.index(d) for d in range(2)]
        base = flow.to_base(u, theta)[0][:, columns]
        assert base[0, 1] == base[1, 1]
        assert base[1, 1] != base[2, 1]
        assert base[0, 0] < base[1, 0] < base[2, 0]


def test_samples_are_whole_numbers() -> None:
    source = flow_source(observables=HITS)
    x = source.sample(500, NUISANCES.nominal(), torch.Generator().manual_seed(1))
    assert torch.equal(x[:, 0], x[:, 0].round())
    assert bool(((x[:, 0] >= 2) & (x[:, 0] <= 9)).all())
    assert len(x[:, 0].unique()) == 8


def test_a_histogram_is_constant_as_it_is() -> None:
    histogram = flow_source("histogram", observables=BINNED)
    x = torch.tensor([[160.0], [290.0]], dtype=torch.float64)
    low, high = histogram.log_prob(x, NUISANCES.nominal())
    assert float(low) == pytest.approx(float(high), abs=1e-12)


def test_points_in_cells() -> None:
    x = torch.tensor([[2.0, 150.0], [9.4, 6000.0], [float("nan"), 1.0], [12.0, 200.0]], dtype=torch.float64)
    moved = HITS.in_cells(x, torch.tensor([0.25], dtype=torch.float64))
    assert moved[0].tolist() == [1.75, 150.0]
    assert moved[1].tolist() == [8.75, 6000.0]
    assert bool(moved[2, 0].isnan())
    assert moved[3, 0] == 12.0
    assert HITS.to_values(x)[1, 0] == 9.0
    assert PLANE.in_cells(x, x.new_zeros(0)) is x
    assert OBSERVABLES.celled == ()


def test_the_rule_is_a_mean() -> None:
    for n in (0, 1, 2):
        rule = CellRule.of(n)
        assert rule.shares.shape == (4**n, n)
        assert float(rule.weights.sum()) == pytest.approx(1.0)
        powers = (rule.shares**7).prod(dim=-1)
        assert float(powers @ rule.weights) == pytest.approx(8.0**-n)


@pytest.mark.parametrize("window", [(2.0, 9.5), (1.5, 9.0), (0.0, 4.0)])
def test_windows_of_counts_end_between_whole_numbers(window: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="must run between half-integers"):
        Observable("hits", "", *window, scale="counts")
