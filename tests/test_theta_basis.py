"""Functions of theta: derivatives, continuation, kinks; tables of events, reduction, calibrated weights."""

from __future__ import annotations

import pytest
import torch
from source_cases import NUISANCES, flow_source
from torch import Tensor

from inference.expansion.chart import Chart, chart_of
from inference.expansion.event_table import EventTable
from inference.expansion.polynomial import PolynomialBasis
from inference.expansion.region import Region, ball_points, normal_points
from inference.expansion.source_fit import SourceFit, central_nodes
from inference.expansion.theta_basis import ThetaBasis
from inference.pools.reduced_basis import NodalFit, principal_modes
from inference.pools.weights import calibrated
from inference.science_run import RunSource
from surrogate.context import smooth_kink


class KinkedSource:
    """A flow to whose ln f a term with a kink is added."""

    kinks = ("t_ly",)

    def __init__(self) -> None:
        self._flow = flow_source(seed=1, guided=True)
        self.observables, self.nuisances, self.breakpoints = self._flow.observables, self._flow.nuisances, {}

    def bend(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        d = self.nuisances.standardise(theta)[..., 0] - self.nuisances.standardise(self.nuisances.nominal())[0]
        h, slope, _ = smooth_kink(d)
        size = 0.05 * x[..., 0].log()
        return size * h, size * slope * self.nuisances.standardise_derivatives(theta)[0][..., 0]

    def score(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        log_f, gradient = self._flow.score(x, theta)
        bend, slope = self.bend(x, theta)
        return log_f.double() + bend, gradient.double() + torch.nn.functional.pad(slope.unsqueeze(-1), (0, 2))

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._flow.log_prob(x, theta) + self.bend(x, theta)[0]

    def sample(self, n: int, theta: Tensor, generator: torch.Generator) -> Tensor:
        return self._flow.sample(n, theta, generator)


def source() -> RunSource:
    return RunSource("er", KinkedSource(), "b", {n: n for n in NUISANCES.names})


def region(radius: float = 2.5) -> Region:
    width = torch.tensor([0.8, 30.0, 0.004], dtype=torch.float64)
    correlated = torch.outer(width, width) * (torch.eye(3, dtype=torch.float64) + 0.3) / 1.3
    low, high = NUISANCES.bounds(width)
    return Region(NUISANCES.names, torch.tensor([0.2, 450.0, 0.1]).double(), correlated, radius, low, high)


def chart() -> Chart:
    return chart_of(source(), region())


def basis() -> ThetaBasis:
    made = ThetaBasis(chart(), PolynomialBasis((3, 2, 2, 3), 1))
    mixing = torch.randn(len(made.polynomials), 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ThetaBasis(made.chart, made.polynomials, mixing)


def test_a_chart_has_a_coordinate_for_a_kink_within_the_region() -> None:
    made = chart()
    assert made.n_kinks == 1
    theta = made.theta(ball_points(500, 3, 1))
    u = made.coordinates(theta)[:, 3]
    assert float(u.min()) >= -1.0 - 1e-12
    assert float(u.max()) <= 1.0 + 1e-12
    far = region()
    moved = Region(far.names, far.centre + torch.tensor([2.6, 0.0, 0.0]), far.covariance, 0.5, far.lower, far.upper)
    assert chart_of(source(), moved).n_kinks == 0
    held = RunSource("er", KinkedSource(), "b", {"t_ly": 0.0, "elife": "elife", "g1": "g1"})
    assert chart_of(held, region()).n_kinks == 0


def test_derivatives_go_through_the_kinks() -> None:
    made, amount = basis(), torch.linspace(-1, 1, 7, dtype=torch.float64)
    theta = made.chart.theta(0.8 * ball_points(5, 3, 2))
    point = made.at(theta)
    hessian = point.curvature(amount.expand(5, -1))
    for row, where in enumerate(theta):
        function = lambda v: (made.values(v.unsqueeze(0)) @ amount)[0]  # noqa: E731
        assert torch.allclose(point.slope[row] @ amount, torch.autograd.functional.jacobian(function, where), rtol=1e-9)
        assert torch.allclose(hessian[row], torch.autograd.functional.hessian(function, where), rtol=1e-8, atol=1e-9)


def test_functions_go_on_smoothly_outside_the_ball() -> None:
    made, amount = basis(), torch.linspace(-1, 1, 7, dtype=torch.float64)
    direction = ball_points(4, 3, 3)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    edge, beyond = (made.at(made.chart.region.from_ball(s * direction)) for s in (1.0 - 1e-7, 1.0 + 1e-7))
    assert torch.allclose(edge.value, beyond.value, rtol=1e-5, atol=1e-5)
    assert torch.allclose(edge.slope, beyond.slope, rtol=1e-4, atol=1e-4)
    theta = made.chart.region.centre + 1.3 * direction @ made.chart.region.axes.T
    assert not bool(made.inside(theta).any())
    anchor = made.chart.region.centre + direction @ made.chart.region.axes.T
    start, move = made.at(anchor), theta - anchor
    expected = start.value @ amount + ((start.slope @ amount) * move).sum(-1)
    assert torch.allclose(made.values(theta) @ amount, expected, rtol=1e-9, atol=1e-9)
    assert not bool(made.at(theta).curvature(amount.expand(4, -1)).any())


def test_a_kink_is_followed_by_its_own_coordinate() -> None:
    run, made = source(), chart()
    x = run.source.sample(60, NUISANCES.nominal(), torch.Generator().manual_seed(2))
    bare = Chart(made.region, made.columns, made.held, made.drivers)
    theta = made.theta(0.9 * ball_points(20, 3, 9))
    exact = run.source.log_prob(x.unsqueeze(0), theta.unsqueeze(1))
    errors = []
    for some in (made, bare):
        fit = SourceFit(run, some, x)
        fit.fit((4, 4, 4))
        errors.append(float((fit.predict(theta) - exact).abs().max()))
    assert errors[0] < 0.2 * errors[1]
    assert errors[0] < 0.01


def test_few_functions_span_all_events_and_few_nodes_tell_their_amounts() -> None:
    run, made = source(), chart()
    sample = run.source.sample(300, NUISANCES.nominal(), torch.Generator().manual_seed(3))
    fit = SourceFit(run, made, sample, central_nodes)
    fit.fit((5, 5, 5))
    ones = torch.full((300,), 300**-0.5, dtype=torch.float64)
    fresh = run.source.sample(200, NUISANCES.nominal(), torch.Generator().manual_seed(4))
    theta = made.theta(normal_points(12, 3, made.region.radius, 5))
    exact = run.source.log_prob(fresh.unsqueeze(0), theta.unsqueeze(1))
    errors, sizes = [], []
    for tail in (1e-1, 1e-2, 1e-3):
        few = principal_modes(fit.basis, fit.coefficients, ones, tail)
        nodal = NodalFit.of(run, few)
        errors.append(float((few.values(theta) @ nodal.coefficients(fresh).T - exact).square().mean().sqrt()))
        sizes.append(len(few))
    assert sizes == sorted(sizes)
    assert sizes[-1] < 0.5 * len(fit.basis)
    assert errors[-1] < 0.003
    assert errors[-1] < errors[0]


def test_a_table_serves_rows_that_leave_and_come_back() -> None:
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    index = torch.randint(50, (6, 9), generator=generator)
    table = EventTable(coefficients, index)
    for rows in ([0, 1, 2, 3, 4, 5], [0, 2, 3, 5], [2, 5], [0, 1, 2, 3, 4, 5], [4, 4, 1], [3, 0, 1, 2], [1]):
        chosen = torch.tensor(rows)
        phi = torch.randn(len(rows), 3, 4, generator=generator, dtype=torch.float64)
        weight = torch.randn(len(rows), 9, generator=generator, dtype=torch.float64)
        mine = coefficients[index[chosen]]
        assert torch.allclose(table.combine(phi, chosen), phi @ mine.mT)
        assert torch.allclose(table.collect(weight, chosen), torch.einsum("bn,bnr->br", weight, mine))


def test_calibrated_weights_take_out_the_shift_of_a_finite_pool() -> None:
    generator = torch.Generator().manual_seed(2)
    counts, rates = torch.tensor([400, 300]), torch.tensor([20.0, 5.0], dtype=torch.float64)
    # ln lambda of two exponentials in x, as functions of the two rates and of the slope of the first
    x = torch.cat([-torch.rand(n, generator=generator).log() / a for n, a in ((400, 1.0), (300, 3.0))]).double()
    first, second = 20.0 * (-x).exp(), 15.0 * (-3 * x).exp()
    total = first + second
    scores = torch.stack([first / 20 / total, second / 5 / total, first * (1 - x) / total], dim=-1)
    expected = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    start = torch.ones(700, dtype=torch.float64)
    weights = calibrated(start, counts, rates, scores, expected)
    assert float(weights[:400].sum()) == pytest.approx(1.0)
    assert float(weights[400:].sum()) == pytest.approx(1.0)
    density = weights * rates.repeat_interleave(counts)
    assert torch.allclose(density @ scores, expected, atol=1e-5)
    assert float(1 / (weights[:400].square().sum() * 400)) > 0.97


def test_weights_that_no_bounded_factors_balance_stay_as_they_are() -> None:
    """Of scores between 0 and 1 no weights have the mean 2, and bounded factors do not reach 0.99."""
    scores = torch.linspace(0, 1, 500, dtype=torch.float64).unsqueeze(-1)
    counts, rates, start = torch.tensor([500]), torch.tensor([10.0], dtype=torch.float64), torch.ones(500).double()
    weights = calibrated(start, counts, rates, scores, torch.tensor([6.0], dtype=torch.float64))
    assert float(weights @ scores[:, 0]) == pytest.approx(0.6, abs=1e-6)
    for mean in (0.99, 2.0):
        weights = calibrated(start, counts, rates, scores, torch.tensor([10 * mean], dtype=torch.float64))
        assert torch.allclose(weights, start / 500)
