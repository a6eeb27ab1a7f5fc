"""Maps of [0, 1]: exact normalisation, derivatives, inverses and samples, against closed forms and high precision."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nflows.transforms.splines.rational_quadratic import rational_quadratic_spline
from scipy import stats
from torch import Tensor

from surrogate.cells import cell_centres
from surrogate.errors import ConfigError
from surrogate.histogram import HistogramMap
from surrogate.spline import RationalQuadraticMap
from surrogate.univariate import LOCATION_HIGH, LOCATION_LOW, NORMAL_BEND, LogisticMixtureMap, UnivariateMap

MAPS: tuple[UnivariateMap, ...] = (
    LogisticMixtureMap(1),
    LogisticMixtureMap(12),
    LogisticMixtureMap(1, bend=NORMAL_BEND),
    LogisticMixtureMap(12, bend=NORMAL_BEND),
    RationalQuadraticMap(1),
    RationalQuadraticMap(9),
    HistogramMap((1,)),
    HistogramMap((7,)),
    HistogramMap((5,), 8),
)
DTYPES = (torch.float32, torch.float64)


def draw_raw(mapping: UnivariateMap, rows: int, seed: int, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, mapping.n_parameters, generator=generator, dtype=torch.float64)
    return mapping.initial() + spread * noise


def draw_u(rows: int, seed: int) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mapping", MAPS, ids=str)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.0, 6.0))
@settings(max_examples=20, deadline=None)
def test_a_map_takes_the_interval_onto_itself(mapping: UnivariateMap, seed: int, spread: float) -> None:
    raw = draw_raw(mapping, 1, seed, spread)
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    z, log_slope = mapping.forward(u, raw.expand(len(u), -1))
    assert z[0] == 0.0
    assert z[-1] == pytest.approx(1.0, abs=1e-14)
    assert bool((z.diff() >= 0).all())
    assert bool(torch.isfinite(log_slope).all())


@pytest.mark.parametrize("mapping", MAPS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_derivative_is_the_derivative(mapping: UnivariateMap, dtype: torch.dtype) -> None:
    raw, u = draw_raw(mapping, 500, 1, 1.0).to(dtype), draw_u(500, 2).to(dtype).requires_grad_(True)
    z, log_slope = mapping.forward(u, raw)
    (slope,) = torch.autograd.grad(z.sum(), u)
    assert torch.allclose(log_slope.exp(), slope, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=1e-6)
    assert torch.equal(mapping.log_derivative(u, raw), log_slope)


@pytest.mark.parametrize("mapping", MAPS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inverse_undoes_the_map(mapping: UnivariateMap, dtype: torch.dtype) -> None:
    raw, u = draw_raw(mapping, 2000, 3).to(dtype), draw_u(2000, 4).to(dtype)
    z, log_slope = mapping.forward(u, raw)
    # where the map is flat, rounding of z moves u by that over the slope
    error = (mapping.inverse(z, raw) - u).abs() * log_slope.exp().clamp(max=1.0)
    assert float(error.max()) < (5e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("mapping", MAPS, ids=str)
def test_inverse_reaches_the_edges(mapping: UnivariateMap) -> None:
    raw = draw_raw(mapping, 50, 5)
    assert float(mapping.inverse(torch.zeros(50, dtype=torch.float64), raw).max()) <= 1e-15
    z, _ = mapping.forward(mapping.inverse(torch.ones(50, dtype=torch.float64), raw), raw)
    assert torch.allclose(z, torch.ones_like(z), atol=1e-14)


@pytest.mark.parametrize("mapping", MAPS, ids=str)
def test_samples_follow_the_map(mapping: UnivariateMap) -> None:
    raw = draw_raw(mapping, 1, 6).expand(20_000, -1)
    noise = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    u = mapping.sample(noise, raw)
    assert bool(((u >= 0) & (u <= 1)).all())
    z, _ = mapping.forward(u, raw)
    assert stats.kstest(z.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("mapping", MAPS, ids=str)
def test_initial_parameters_are_close_to_the_identity(mapping: UnivariateMap) -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    z, log_slope = mapping.forward(u, mapping.initial().expand(101, -1))
    if mapping.n_parameters != 3:  # a single logistic cannot be uniform
        assert float((z - u).abs().max()) < 0.02
        assert float(log_slope.abs().max()) < 0.7


def mixture_reference(u: float, raw: Tensor, mapping: LogisticMixtureMap) -> tuple[mpmath.mpf, mpmath.mpf]:
    """F(u) and ln F'(u) from the definition; 600 digits, as tails down to exp(-600) cancel in it."""
    with mpmath.workdps(600):
        logits, locations, widths = ([mpmath.mpf(v) for v in part] for part in raw.view(3, mapping.components).tolist())
        bend = mpmath.mpf(mapping.bend)

        def bent(x: mpmath.mpf) -> mpmath.mpf:
            return x * mpmath.sqrt(1 + bend * x * x)

        def logistic(x: mpmath.mpf) -> mpmath.mpf:
            return 1 / (1 + mpmath.exp(-x))

        def between(x: mpmath.mpf, y: mpmath.mpf) -> mpmath.mpf:
            return logistic(-x) - logistic(-y) if x > 0 else logistic(y) - logistic(x)

        weights = [mpmath.exp(v) for v in logits]
        cdf, density = mpmath.mpf(0), mpmath.mpf(0)
        for weight, location, width in zip(weights, locations, widths, strict=True):
            m = LOCATION_LOW + (LOCATION_HIGH - LOCATION_LOW) * logistic(location)
            s = mpmath.mpf(mapping.floor) + mpmath.log(1 + mpmath.exp(width))
            z = (u - m) / s
            low, value, high = bent(-m / s), bent(z), bent((1 - m) / s)
            slope = (1 + 2 * bend * z * z) / mpmath.sqrt(1 + bend * z * z)
            total = between(low, high)
            cdf += weight / sum(weights) * between(low, value) / total
            density += weight / sum(weights) * logistic(value) * logistic(-value) * slope / s / total
        return cdf, mpmath.log(density)


@pytest.mark.parametrize("bend", [0.0, NORMAL_BEND])
@pytest.mark.parametrize("width", [-30.0, -4.0, 0.0, 8.0])
@pytest.mark.parametrize("location", [-30.0, -2.0, 0.3, 30.0])
def test_mixture_equals_its_definition_at_high_precision(width: float, location: float, bend: float) -> None:
    """Widths from the floor (0.002) to 8 windows; locations from the edge of their range to the other."""
    mapping = LogisticMixtureMap(3, bend=bend)
    raw = torch.tensor([0.3, -1.0, 0.5, location, 0.1, -0.4, width, width, width + 0.5], dtype=torch.float64)
    points = [0.0, 1e-9, 0.013, 0.5, 0.87, 1.0]
    z, log_slope = mapping.forward(torch.tensor(points, dtype=torch.float64), raw.expand(len(points), -1))
    for u, value, slope in zip(points, z.tolist(), log_slope.tolist(), strict=True):
        reference, log_reference = mixture_reference(u, raw, mapping)
        assert value == pytest.approx(float(reference), rel=1e-10, abs=1e-300)
        assert slope == pytest.approx(float(log_reference), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("bend", [0.0, NORMAL_BEND])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_second_derivatives_are_finite_at_the_edges_and_for_the_narrowest_widths(
    dtype: torch.dtype, bend: float
) -> None:
    mapping = LogisticMixtureMap(4, bend=bend)
    for width in (-40.0, -6.0, 0.0, 30.0):
        for u in (0.0, 1e-7, 0.5, 1.0):
            raw = mapping.initial().to(dtype)
            raw[8:] = width
            raw.requires_grad_(True)
            log_slope = mapping.log_derivative(torch.tensor([u], dtype=dtype), raw[None])
            (gradient,) = torch.autograd.grad(log_slope.sum(), raw, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), raw)
            assert bool(torch.isfinite(gradient).all() and torch.isfinite(second).all()), (width, u)


def test_bent_components_are_close_to_normal_ones() -> None:
    mapping = LogisticMixtureMap(1, bend=NORMAL_BEND)
    raw = torch.tensor([0.0, 0.0, math.log(math.expm1(0.028))], dtype=torch.float64)
    u = torch.linspace(0, 1, 501, dtype=torch.float64)
    z, log_slope = mapping.forward(u, raw.expand(len(u), -1))
    normal = stats.norm(0.5, math.sqrt(8 / math.pi) * 0.03)
    assert torch.allclose(z, torch.from_numpy(normal.cdf(u)), rtol=0, atol=6e-4)
    within = (u - 0.5).abs() < 4 * normal.std()
    assert torch.allclose(log_slope[within], torch.from_numpy(normal.logpdf(u))[within], rtol=0, atol=0.11)


@pytest.mark.parametrize("bend", [0.0, NORMAL_BEND])
def test_mixture_is_smooth_in_its_parameters(bend: float) -> None:
    mapping = LogisticMixtureMap(3, bend=bend)
    raw = draw_raw(mapping, 4, 8, 0.7).requires_grad_(True)
    u = draw_u(4, 9)
    assert torch.autograd.gradcheck(lambda r: mapping.log_derivative(u, r), raw)
    assert torch.autograd.gradgradcheck(lambda r: mapping.log_derivative(u, r), raw)
    assert torch.autograd.gradcheck(lambda r: mapping.forward(u, r)[0], raw)


def test_a_move_shifts_the_locations() -> None:
    """One narrow component: moving its location moves the density by as much."""
    mapping = LogisticMixtureMap(1)
    raw = torch.tensor([[0.0, 0.0, -4.0]], dtype=torch.float64)
    u = torch.linspace(0.2, 0.6, 41, dtype=torch.float64)
    moved = mapping.log_derivative(u + 0.1, raw.expand(41, -1), lambda location: location + 0.1)
    assert torch.allclose(moved, mapping.log_derivative(u, raw.expand(41, -1)), atol=1e-6)


def test_spline_agrees_with_nflows() -> None:
    mapping = RationalQuadraticMap(9)
    raw, u = draw_raw(mapping, 400, 10), draw_u(400, 11)
    widths, heights, slopes = raw.split([9, 9, 10], dim=-1)
    z, log_slope = mapping.forward(u, raw)
    expected, expected_log_slope = rational_quadratic_spline(u, widths, heights, slopes)
    assert torch.allclose(z, expected, atol=1e-12)
    assert torch.allclose(log_slope, expected_log_slope, atol=1e-10)


@pytest.mark.parametrize("bins", [1, 4])
def test_first_and_second_derivatives_of_a_spline_are_those_of_finite_differences(bins: int) -> None:
    """Also beyond [0, 1], and for any batch shape."""
    mapping = RationalQuadraticMap(bins)
    raw = draw_raw(mapping, 6, 20).view(2, 3, -1).requires_grad_(True)
    u = torch.tensor([[-0.1, 0.03, 0.31], [0.57, 0.93, 1.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mapping.forward, (u, raw))
    assert torch.autograd.gradgradcheck(mapping.forward, (u, raw))
    single, batch = mapping.forward(u[1, 1], raw[1, 1]), mapping.forward(u, raw)
    assert all(torch.equal(one, many[1, 1]) for one, many in zip(single, batch, strict=True))


@pytest.mark.parametrize("bend", [0.0, NORMAL_BEND])
def test_quantiles_of_one_component_are_exact(bend: float) -> None:
    mapping = LogisticMixtureMap(1, bend=bend)
    v = torch.tensor([0.0, 1e-12, 1e-3, 0.5, 0.999, 1.0], dtype=torch.float64)
    noise = torch.stack([torch.full_like(v, 0.5), v], dim=-1)
    for location in (-20.0, 0.0, 20.0):
        for width in (-20.0, -2.0, 5.0):
            raw = torch.tensor([0.0, location, width], dtype=torch.float64).expand(len(v), -1)
            z, _ = mapping.forward(mapping.sample(noise, raw), raw)
            assert torch.allclose(z, v, rtol=1e-9, atol=1e-13), (location, width)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LogisticMixtureMap(0), "components = 0"),
        (lambda: LogisticMixtureMap(3, floor=0.0), "floor = 0.0"),
        (lambda: LogisticMixtureMap(3, floor=math.nan), "floor = nan"),
        (lambda: RationalQuadraticMap(0), "bins = 0"),
        (lambda: RationalQuadraticMap(10, floor=0.2), "floor = 0.2"),
    ],
)
def test_bad_sizes_are_refused(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()  # type: ignore[operator]


def test_a_histogram_map_has_the_probabilities_of_its_columns() -> None:
    mapping = HistogramMap((2, 3))
    p = torch.tensor([[0.25, 0.75, 0.5], [0.2, 0.3, 0.5]], dtype=torch.float64)  # the third of column 0 is ignored
    u = torch.tensor([[0.25, 0.5], [0.75, 1.0], [0.0, 0.0]], dtype=torch.float64)
    z, log_slope = mapping.forward(u, p.log().expand(3, 2, 3))
    assert torch.allclose(z, torch.tensor([[0.125, 0.35], [0.625, 1.0], [0.0, 0.0]], dtype=torch.float64))
    slopes = torch.tensor([[0.5, 0.9], [1.5, 1.5], [0.5, 0.6]], dtype=torch.float64)
    assert torch.allclose(log_slope.exp(), slopes)
    assert torch.allclose(mapping.at(1).log_derivative(u[:, 1:], p[1:].log().expand(3, 1, 3)).exp(), slopes[:, 1:])


@given(n=st.integers(1, 200))
def test_edges_of_bins_count_to_the_bin_above(n: int) -> None:
    for dtype in DTYPES:
        edges = torch.arange(n, dtype=dtype) / n
        centres = cell_centres(edges.unsqueeze(-1), (n,)).squeeze(-1)
        assert torch.allclose(centres, (torch.arange(n, dtype=dtype) + 0.5) / n)


def test_a_histogram_map_needs_bins() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        HistogramMap((3, 0))
    with pytest.raises(ConfigError, match="largest number of bins, 4"):
        HistogramMap((3, 4), 3)
