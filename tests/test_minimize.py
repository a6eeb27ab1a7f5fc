"""The minimiser: closed-form optima, bounds, kinks, scales, hard functions, failures confined to their rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from inference.minimize import FitStatus, Minimum, NewtonOptions, minimise
from inference.minimize.cells import Cells
from inference.minimize.coordinates import curved_hessian, distance, moved, powers, reach
from inference.minimize.quadratic import convexify, minimise_in_box

INF = math.inf


def quadratic(a: Tensor, b: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """f_b(x) = x.A.x / 2 - b.x per row."""

    def f(x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        ax = (a[rows] @ x.unsqueeze(-1)).squeeze(-1)
        return (x * (0.5 * ax - b[rows])).sum(-1), ax - b[rows], a[rows]

    return f


def by_autograd(function: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """An objective from a function (A, n) -> (A,)."""

    def f(x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x.clone().requires_grad_(True)
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        hessian = [torch.autograd.grad(gradient[:, j].sum(), leaf, retain_graph=True)[0] for j in range(x.shape[1])]
        return value.detach(), gradient.detach(), torch.stack(hessian, dim=1)

    return f


def run(
    objective: Callable[..., tuple[Tensor, Tensor, Tensor]],
    start: list[list[float]],
    low: float | list[float] = -INF,
    high: float | list[float] = INF,
    **options: object,
) -> Minimum:
    x = torch.tensor(start, dtype=torch.float64)
    lower = torch.tensor(low, dtype=torch.float64).expand_as(x)
    upper = torch.tensor(high, dtype=torch.float64).expand_as(x)
    return minimise(objective, x, lower, upper, torch.ones(x.shape[1], dtype=torch.float64), **options)


def poisson(n: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """x - n ln x, infinite at 0 when n > 0."""

    def f(x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        y, k = x[:, 0], n[rows]
        safe = torch.where(y > 0, y, 1.0)
        value = y - torch.where(k > 0, k * torch.where(y > 0, safe.log(), -INF), 0.0)
        return value, (1 - k / safe).unsqueeze(-1), (k / safe.square())[:, None, None]

    return f


def random_quadratics(n_rows: int, dim: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n_rows, dim, dim, generator=generator, dtype=torch.float64)
    scale = 10 ** (6 * torch.rand(dim, generator=generator, dtype=torch.float64) - 3)
    a = (root @ root.mT + 0.1 * torch.eye(dim)) / (scale[:, None] * scale[None, :])
    return a, torch.randn(n_rows, dim, generator=generator, dtype=torch.float64) / scale, scale


def test_bounded_quadratics_of_any_scale_take_one_step() -> None:
    """The Karush-Kuhn-Tucker conditions hold, over six decades of parameter scale."""
    a, b, scale = random_quadratics(40, 6, 1)
    low, high = -0.5 * scale, 0.7 * scale
    m = run(quadratic(a, b), [[0.0] * 6] * 40, low.tolist(), high.tolist())
    assert int(m.evaluations.max()) == 2
    slope = m.gradient * scale
    at_low, at_high = m.x <= low, m.x >= high
    assert bool((slope[at_low] > -1e-9).all())
    assert bool((slope[at_high] < 1e-9).all())
    assert float(slope[~(at_low | at_high)].abs().max()) < 1e-9
    assert bool(m.at_bound.any())
    expected = torch.where(m.at_bound.any(-1), int(FitStatus.AT_BOUND), int(FitStatus.CONVERGED))
    assert m.status.tolist() == expected.tolist()


def test_rows_do_not_depend_on_their_neighbours() -> None:
    a, b, _ = random_quadratics(5, 4, 2)
    together = run(quadratic(a, b), [[0.1] * 4] * 5, -1.0, 1.0)
    for k in range(5):
        alone = run(quadratic(a[k : k + 1], b[k : k + 1]), [[0.1] * 4], -1.0, 1.0)
        torch.testing.assert_close(alone.x[0], together.x[k], rtol=1e-12, atol=1e-12)
        assert int(alone.evaluations) == int(together.evaluations[k])


def test_poisson_optima_from_bad_starts() -> None:
    """Overshoot into the singularity, crawl out of it, an optimum on the bound, n from 0 to 1e5."""
    n = [0, 1e-3, 1, 10, 1e5, 3, 3, 3, 2]
    start = [[1.0], [1.0], [1.0], [1.0], [1.0], [100.0], [1e-6], [1e4], [1e-100]]
    m = run(poisson(torch.tensor(n, dtype=torch.float64)), start, 0.0, 1e7)
    assert m.status.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    x = m.x[:, 0]
    best = torch.tensor([0.0, *(k - k * math.log(k) for k in n[1:])], dtype=torch.float64)
    assert bool((m.value - best < 1e-10).all())
    torch.testing.assert_close(x, torch.tensor(n, dtype=torch.float64), rtol=1e-3, atol=0)
    assert int(m.evaluations.max()) < 40


def test_an_optimum_near_zero_under_a_distant_bound() -> None:
    m = run(by_autograd(lambda x: 1e6 * (x[:, 0] - 1e-3) ** 2), [[5e4]], 0.0, 1e5)
    assert float(m.x) == pytest.approx(1e-3, abs=1e-9)


def test_rosenbrock() -> None:
    start = torch.randn(50, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
    m = run(by_autograd(lambda x: (1 - x[:, 0]) ** 2 + 100 * (x[:, 1] - x[:, 0] ** 2) ** 2), start.tolist())
    assert m.status.tolist() == [0] * 50
    assert float(m.value.max()) < 1e-10


def test_a_product_of_two_factors_is_followed_along_its_valley() -> None:
    """Only x y is measured; a weak term makes the optimum unique far along the hyperbola."""

    def f(x: Tensor) -> Tensor:
        product = 60 * x[:, 0] * x[:, 1]
        return product - 60 * product.log() + 0.5 * ((x[:, 1] - 0.01) / 30) ** 2

    m = run(by_autograd(f), [[1.0, 2.0]], [1e-9, 1e-9], [1e5, 1e5])
    assert int(m.status) == int(FitStatus.CONVERGED)
    assert int(m.evaluations) < 60
    assert float(m.x[0, 0] * m.x[0, 1]) == pytest.approx(1.0, abs=1e-5)


def test_an_efficiency_common_to_two_rates_is_followed_along_its_valley() -> None:
    """Only (x + c) y and c are measured; ln L rises by 1e-5 along the valley, at the far end of which y is small."""

    def f(x: Tensor) -> Tensor:
        total, known = 19 * (x[:, 0] + x[:, 1]) * x[:, 2], 20 * x[:, 1]
        return total - 19 * total.log() + known - 20 * known.log() + 0.5 * ((x[:, 2] - 1e-3) / 200) ** 2

    m = run(by_autograd(f), [[0.0, 1.0, 1.0]], 0.0, 1e5)
    assert m.status.item() in (FitStatus.CONVERGED, FitStatus.AT_BOUND)
    assert int(m.evaluations) < 80
    assert float((m.x[0, 0] + m.x[0, 1]) * m.x[0, 2]) == pytest.approx(1.0, abs=1e-5)
    assert float(m.x[0, 2]) < 0.05


@pytest.mark.parametrize("row", [0, -1])
def test_curved_coordinates_have_the_derivatives_they_are_given(row: int) -> None:
    """The Hessian in d is that of f(x(d)); distances invert moves, and steps stay within a factor of three."""
    generator = torch.Generator().manual_seed(8)
    x = 0.2 + torch.rand(20, 3, generator=generator, dtype=torch.float64)
    low = torch.tensor([0.0, 0.0, -5.0], dtype=torch.float64).expand(20, 3)
    fell = torch.rand(20, 3, generator=generator) < 0.5
    scale = torch.full((3,), 10.0, dtype=torch.float64)
    assert powers(torch.ones(20), x, low, scale, fell) is None
    assert bool((powers(torch.full((20,), row), 1e-9 * x, low, scale, fell) == 1).all())  # too small to matter
    power = powers(torch.full((20,), row), x, low, scale, fell)
    assert power is not None
    assert bool((power[:, 2] == 1).all())
    assert bool((power[:, :2] == (row if row == 0 else torch.where(fell[:, :2], row, 1))).all())

    def f(v: Tensor) -> Tensor:
        return (v[:, 0] * v[:, 1]).exp() + v[:, 2].square() * v[:, 0]

    zero = torch.zeros_like(x)
    _, gradient, hessian = by_autograd(f)(x, torch.arange(20), None)
    _, there, curved = by_autograd(lambda d: f(moved(x, d, power)))(zero, torch.arange(20), None)
    torch.testing.assert_close(there, gradient)
    torch.testing.assert_close(curved, curved_hessian(hessian, gradient, x, power))
    end = x * (0.5 + torch.rand(20, 3, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(moved(x, distance(x, end, power), power), end)
    one, far = torch.ones_like(x), torch.full((20, 1), 1e3, dtype=torch.float64)
    down, up = reach(x, one, far, power)
    curve = power < 1
    torch.testing.assert_close(moved(x, down, power)[curve], x[curve] / 3)
    torch.testing.assert_close(moved(x, up, power)[curve], 3 * x[curve])
    assert bool((up[~curve] == 1e3).all())


def test_a_valley_that_is_flat_for_all_purposes_is_an_optimum() -> None:
    """Only x^2 + y^2 is measured; along the circle the function falls by 2e-6 in all, in ever so many steps."""

    def f(x: Tensor) -> Tensor:
        return 0.5 * ((x.square().sum(dim=-1) - 1) / 1e-3).square() + 1e-6 * x[:, 0]

    m = run(by_autograd(f), [[0.6, 0.8]])
    assert int(m.status) == int(FitStatus.CONVERGED)
    assert int(m.evaluations) <= 75
    assert float(m.value) == pytest.approx(0.0, abs=2e-6)


def test_pressed_coordinates_do_not_stiffen_the_others() -> None:
    """With y held at its bound y (5 + x) is indefinite in both, yet the rest is convex in x alone."""
    m = run(
        by_autograd(lambda x: 5 * x[:, 1] * (5 + x[:, 0]) + 1e-3 * (x[:, 0] - 2) ** 2), [[0.0, 0.5]], [-4, 0], [4, 1]
    )
    assert float(m.x[0, 1]) == 0.0
    assert float(m.x[0, 0]) == pytest.approx(2.0, abs=1e-4)
    assert int(m.evaluations) < 12


def kinked(weights: Tensor, target: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """w_1 |x - 1| + w_2 |y| + a correlated quadratic, per row."""
    matrix = torch.tensor([[1.0, 0.3], [0.3, 1.0]], dtype=torch.float64)

    def f(x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert centre is not None
        kink = torch.tensor([1.0, 0.0], dtype=torch.float64)
        side, w, d = torch.where(centre > kink, 1.0, -1.0), weights[rows], x - target[rows]
        value = (w * (x - kink).abs()).sum(-1) + 0.5 * (d * (d @ matrix)).sum(-1)
        return value, w * side + d @ matrix, matrix.expand(len(x), 2, 2)

    return f


def test_kinks_hold_release_and_are_crossed() -> None:
    """Rows: both kinks hold; one does; none does; starts on a kink, on its wrong side, and far away."""
    generator = torch.Generator().manual_seed(5)
    weights = 3 * torch.rand(60, 2, generator=generator, dtype=torch.float64)
    target = 3 * torch.randn(60, 2, generator=generator, dtype=torch.float64).clamp(-1.2, 1.2)
    start = torch.where(
        torch.rand(60, 2, generator=generator) < 0.4, torch.tensor([1.0, 0.0]), torch.tensor([-2.5, 2.0])
    )
    breakpoints = {0: (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0), 1: (-2.0, 0.0, 2.0)}
    objective = kinked(weights, target)
    m = run(objective, start.tolist(), -5.0, 5.0, breakpoints=breakpoints)
    assert bool((m.status <= 1).all())
    assert bool(m.at_kink.any())
    assert not bool(m.at_kink.all())
    for k in range(60):

        def f(x: object, k: int = k) -> float:
            point = torch.tensor(x, dtype=torch.float64).unsqueeze(0)
            return float(objective(point, torch.tensor([k]), point)[0])

        found = optimize.minimize(
            f, m.x[k].numpy() + 0.3, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
        )
        assert float(m.value[k]) <= found.fun + 1e-9
    on_kink = m.x == torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert bool((on_kink == m.at_kink).all())


def test_held_coordinates_and_starts_outside_stay_put() -> None:
    a, b, _ = random_quadratics(1, 3, 6)
    seen: list[Tensor] = []

    def spy(x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(x.clone())
        return quadratic(a, b)(x, rows, centre)

    m = run(spy, [[9.0, 9.0, 9.0]], [0.25, -1.0, 0.0], [0.25, 1.0, 1e-3])
    visited = torch.cat(seen)
    assert bool((visited[:, 0] == 0.25).all())
    assert bool(((visited[:, 1] >= -1) & (visited[:, 1] <= 1)).all())
    assert bool(((visited[:, 2] >= 0) & (visited[:, 2] <= 1e-3)).all())
    assert not bool(m.at_bound[0, 0])


def test_failures_stay_in_their_rows() -> None:
    def f(x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, hessian = by_autograd(lambda v: (v - 2).square().sum(-1))(x, rows, centre)
        value = torch.where(rows == 1, math.nan, value)
        unbounded = rows == 2
        value = torch.where(unbounded, -x.sum(-1), value)
        gradient = torch.where(unbounded.unsqueeze(-1), -torch.ones_like(x), gradient)
        return value, gradient, torch.where(unbounded[:, None, None], 0.0, hessian)

    m = run(f, [[0.0, 1.0]] * 4, options=NewtonOptions(max_evaluations=20))
    assert [FitStatus(s).label for s in m.status.tolist()] == ["converged", "non_finite", "not_converged", "converged"]
    torch.testing.assert_close(m.x[[0, 3]], torch.full((2, 2), 2.0, dtype=torch.float64))
    assert int(m.evaluations[2]) == 20
    assert all(FitStatus(s).message for s in range(4))


def test_a_coordinate_without_influence_stays_where_it_is() -> None:
    m = run(by_autograd(lambda x: (x[:, 0] - 1) ** 2 + 0 * x[:, 1]), [[4.0, 0.7]], -5.0, 5.0)
    assert m.x[0].tolist() == pytest.approx([1.0, 0.7])
    assert int(m.evaluations) == 2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), dim=st.integers(1, 7))
def test_box_models_are_solved_exactly(seed: int, dim: int) -> None:
    a, b, scale = random_quadratics(3, dim, seed)
    a, b = a * scale[:, None] * scale[None, :], b * scale
    generator = torch.Generator().manual_seed(seed)
    low = -torch.rand(3, dim, generator=generator, dtype=torch.float64)
    high = torch.rand(3, dim, generator=generator, dtype=torch.float64)
    low, high = torch.where(low < -0.8, 0.0, low), torch.where(high > 0.9, 0.0, high)
    step = minimise_in_box(-b, a, low, high).step
    assert bool(((step >= low) & (step <= high)).all())
    slope = (a @ step.unsqueeze(-1)).squeeze(-1) - b
    free = (step > low) & (step < high)
    assert bool((slope[free].abs() < 1e-6).all())
    assert bool((slope[(step <= low) & (low < high)] > -1e-6).all())
    assert bool((slope[(step >= high) & (low < high)] < 1e-6).all())


def test_indefinite_models_are_made_convex_only_where_they_must() -> None:
    matrix = torch.tensor([[[1.0, 3.0], [3.0, 1.0]], [[1.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    yes = torch.ones(2, 2, dtype=torch.bool)
    pressed = torch.tensor([[True, False], [True, False]])
    changed, movable, convex = convexify(matrix, yes, yes)
    assert convex.tolist() == [False, True]
    torch.testing.assert_close(torch.linalg.eigvalsh(changed[0]), torch.tensor([2.0, 4.0], dtype=torch.float64))
    torch.testing.assert_close(changed[1], matrix[1])
    changed, movable, convex = convexify(matrix, yes, pressed)
    assert convex.tolist() == [True, True]
    assert movable.tolist() == [[True, False], [True, True]]


def test_cells_locate_points_on_edges() -> None:
    cells = Cells(2, {1: (-1.0, 0.0, 2.0)}, torch.device("cpu"))
    x = torch.tensor([[0.0, -1.0], [5.0, 0.5], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    cell = cells.locate(x, torch.tensor([9.0, 2.0], dtype=torch.float64).expand(4, 2))
    assert cell[:, 1].tolist() == [1, 2, 2, 2]
    low, high = cells.edges(cell)
    assert low[:, 1].tolist() == [-1, 0, 0, 0]
    assert high[:, 0].tolist() == [INF] * 4
    centre = cells.centre(cell)
    assert centre is not None
    assert bool(((centre > low) & (centre < high)).all())
    assert Cells(2, {}, torch.device("cpu")).centre(cell) is None
