"""Templates: bin edges, morphing, jets, sampling, empty contents and integration of smooth sources over bins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor

from surrogate.binned import BinnedSource, tabulate
from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError, RangeError
from surrogate.jet import Jet, autograd_log_jet
from surrogate.morph import AnchorGrid
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.source import Source
from surrogate.template import Template, TemplateSource

ANCHORS = {"t_ly": (-3, -2, -0.5, 0, 1, 3), "t_qy": (-1, 0, 2)}


def edges(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


GRID = Binning(("cs1", "cs2"), (edges(0, 1, 3, 10), edges(90, 170.5, 250)))


def random_source(seed: int = 0, anchors: Mapping[str, tuple[float, ...]] = ANCHORS) -> TemplateSource:
    generator = torch.Generator().manual_seed(seed)
    shape = (*[len(a) for a in anchors.values()], *GRID.shape)
    return TemplateSource(GRID, anchors, torch.rand(shape, generator=generator, dtype=torch.float64) * 5)


def random_theta(n: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, 2), generator=generator, dtype=torch.float64) * edges(6, 3) + edges(-3, -1)


@dataclass(frozen=True)
class Tilted:
    """A smooth one-dimensional source: f(x | a) = a e^(a x) / (e^a - 1) on [0, 1], mu = 3 e^(a/2)."""

    identity: str = "tilted"
    breakpoints: Mapping[str, tuple[float, ...]] = ()  # type: ignore[assignment]

    @property
    def observables(self) -> ObservableSpace:
        return ObservableSpace((Observable("x", "PE", 0.0, 1.0),))

    @property
    def nuisances(self) -> NuisanceSpace:
        return NuisanceSpace((Nuisance("a", "", 0.5, 3.0, 1.0),))

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        a = theta[..., 0]
        inside = self.observables.contains(x)
        return torch.where(inside, a.log() + a * x[..., 0] - torch.expm1(a).log(), -math.inf)

    def expected_events(self, theta: Tensor) -> Tensor:
        return 3 * (0.5 * theta[..., 0]).exp()

    def expected_events_std(self, theta: Tensor) -> Tensor:
        return torch.zeros(theta.shape[:-1])

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand((n, 1), generator=generator, dtype=torch.float64)
        return torch.log1p(u * torch.expm1(theta[..., :1])) / theta[..., :1]

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        shape = torch.broadcast_shapes(x.shape[:-1], theta.shape[:-1])
        flat = x.expand(*shape, 1).reshape(-1, 1)
        jet = autograd_log_jet(lambda t: self.log_prob(flat, t), theta.expand(*shape, 1).reshape(-1, 1))
        parts = (jet.log_scale, jet.value, jet.gradient, jet.hessian)
        return Jet(*[p.reshape(*shape, *p.shape[1:]) for p in parts])

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        return autograd_log_jet(lambda t: self.expected_events(t).log(), theta)


def test_sources_fulfil_the_protocol() -> None:
    assert isinstance(random_source(), Source)
    assert isinstance(BinnedSource(random_source(), GRID), Source)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.9, 3.0, 9.99, 10.0, 10.1, math.nan]), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_bins_are_those_of_numpy(values: list[float]) -> None:
    index = GRID.index(torch.tensor([[v, 170.5] for v in values], dtype=torch.float64))
    for value, found in zip(values, index.tolist(), strict=True):
        counts = np.histogram([value], GRID.edges[0].numpy())[0]
        assert found == (int(counts.argmax()) * 2 + 1 if counts.any() else -1)


def test_last_right_edge_belongs_to_the_last_bin() -> None:
    assert GRID.index(edges(10, 250).unsqueeze(0)).tolist() == [GRID.n_bins - 1]
    assert GRID.index(edges(0, 90).unsqueeze(0)).tolist() == [0]


def test_rate_and_normalised_shape_are_interpolated_separately() -> None:
    source, theta = random_source(), random_theta(50)
    counts = source.counts.numpy()
    rates = counts.sum(axis=(-1, -2))
    points = [np.array(a, dtype=float) for a in ANCHORS.values()]
    expected_rate = RegularGridInterpolator(points, rates)(theta.numpy())
    expected_pmf = RegularGridInterpolator(points, counts / rates[..., None, None])(theta.numpy()).reshape(50, -1)
    np.testing.assert_allclose(source.expected_events(theta), expected_rate, rtol=1e-13)
    np.testing.assert_allclose(source.pmf(theta), expected_pmf, rtol=1e-12)


@given(st.floats(-3, 3), st.floats(-1, 2))
@settings(max_examples=50, deadline=None)
def test_density_is_normalised_everywhere(t_ly: float, t_qy: float) -> None:
    pmf = random_source().pmf(edges(t_ly, t_qy))
    assert float(pmf.sum()) == pytest.approx(1.0, abs=1e-13)
    assert bool((pmf >= 0).all())


def test_jets_equal_autograd() -> None:
    source, theta = random_source(), random_theta(40)
    x = GRID.draw(torch.arange(40) % GRID.n_bins, torch.Generator().manual_seed(2))
    index = source.bin_index(x)

    def density(point: Tensor) -> Tensor:
        return torch.stack([source.density_at(index, point), source.expected_events(point)]).sum(dim=-1)

    jet, rate = source.density_jet(x, theta), source.rate_jet(theta)
    leaf = theta.clone().requires_grad_(True)
    for which, found in enumerate((jet, rate)):
        gradient = torch.autograd.grad(density(leaf)[which], leaf, create_graph=True)[0]
        rows = [torch.autograd.grad(gradient[:, k].sum(), leaf, retain_graph=True)[0] for k in range(2)]
        torch.testing.assert_close(found.gradient, gradient.detach())
        torch.testing.assert_close(found.hessian, torch.stack(rows, dim=-2))
    torch.testing.assert_close(jet.value, source.log_prob(x, theta).exp())


def test_centre_picks_the_side_of_an_anchor() -> None:
    source = random_source()
    at = edges(-0.5, 0.0).expand(2, 2)
    centre = torch.stack([edges(-0.6, 0.3), edges(-0.4, 0.3)])
    jet = source.rate_jet(at, centre)
    h = 1e-6
    for side, slope in zip((-h, h), jet.gradient[:, 0].tolist(), strict=True):
        moved = source.expected_events(edges(-0.5 + side, 0.0)) - source.expected_events(at[0])
        assert slope == pytest.approx(float(moved) / side, rel=1e-7)
    torch.testing.assert_close(jet.value, source.expected_events(at))
    default = source.rate_jet(at)
    torch.testing.assert_close(default.gradient[1], jet.gradient[1])


def test_batch_equals_rows_in_every_layout() -> None:
    source, theta = random_source(), random_theta(7)
    x = GRID.draw(torch.arange(5), torch.Generator().manual_seed(3))
    together = source.density_jet(x, theta[:, None, :])
    for b, e in itertools.product(range(7), range(5)):
        alone = source.density_jet(x[e], theta[b])
        torch.testing.assert_close(together.value[b, e], alone.value, rtol=1e-14, atol=0)
        torch.testing.assert_close(together.gradient[b, e], alone.gradient, rtol=1e-12, atol=1e-16)
        torch.testing.assert_close(together.hessian[b, e], alone.hessian, rtol=1e-12, atol=1e-16)


def test_outside_the_region_the_density_vanishes() -> None:
    source = random_source()
    outside = torch.tensor([[-0.1, 100.0], [1.0, 251.0], [math.nan, 100.0]], dtype=torch.float64)
    assert torch.equal(source.log_prob(outside, edges(0, 0)), torch.full((3,), -math.inf, dtype=torch.float64))
    assert torch.equal(source.density_jet(outside, edges(0, 0)).value, torch.zeros(3, dtype=torch.float64))


def test_theta_outside_the_anchors_is_refused() -> None:
    with pytest.raises(RangeError, match=r"t_ly = 3\.5"):
        random_source().expected_events(edges(3.5, 0))
    with pytest.raises(RangeError, match="last dimension is 3, must be 2"):
        random_source().expected_events(edges(0, 0, 0))
    with pytest.raises(RangeError, match="t_qy = nan"):
        random_source().log_prob(GRID.centres, edges(0, math.nan))


def test_second_derivatives_with_three_nuisances() -> None:
    anchors = {"a": (0.0, 1.0), "b": (-1.0, 0.5, 2.0), "c": (3.0, 4.0, 6.0)}
    source, theta = random_source(anchors=anchors), edges(0.3, 1.1, 3.2)
    leaf = theta.clone().requires_grad_(True)
    expected = torch.autograd.functional.hessian(source.expected_events, leaf)
    torch.testing.assert_close(source.rate_jet(theta).hessian, expected)


def test_a_source_without_nuisances() -> None:
    source = random_source(anchors={})
    none = torch.zeros(0, dtype=torch.float64)
    assert float(source.expected_events(none)) == pytest.approx(float(source.counts.sum()))
    jet = source.density_jet(GRID.centres, none.expand(4, 1, 0))
    assert jet.value.shape == (4, GRID.n_bins)
    assert jet.gradient.shape == (4, GRID.n_bins, 0)
    torch.testing.assert_close(jet.value[0] * GRID.volumes, source.counts.reshape(-1) / source.counts.sum())


def test_empty_templates_are_legal() -> None:
    empty = TemplateSource(GRID, ANCHORS, torch.zeros((6, 3, 3, 2)))
    theta = edges(0.3, 0.1)
    assert float(empty.expected_events(theta)) == 0.0
    assert float(empty.pmf(theta).sum()) == pytest.approx(1.0)
    counts = random_source().counts.clone()
    counts[0] = 0
    source = TemplateSource(GRID, ANCHORS, counts)
    near, at = source.pmf(edges(-3, 0.5)), source.pmf(edges(-2, 0.5))
    assert float(source.expected_events(edges(-3, 0.5))) == 0.0
    torch.testing.assert_close(near, at)


def test_sampling_follows_the_pmf() -> None:
    source, theta, n = random_source(), edges(0.4, -0.3), 40_000
    x = source.sample(n, theta, torch.Generator().manual_seed(5))
    index = source.bin_index(x)
    assert int(index.min()) >= 0
    counts = torch.bincount(index, minlength=GRID.n_bins).numpy()
    assert stats.chisquare(counts, n * source.pmf(theta).numpy()).pvalue > 1e-3
    low, high = (c[index] for c in GRID.corners)
    assert stats.kstest(((x - low) / (high - low))[:, 1].numpy(), "uniform").pvalue > 1e-3
    rows = source.sample(3, torch.stack([theta, theta, edges(1, 1)]), torch.Generator().manual_seed(5))
    assert rows.shape == (3, 2)


def test_identity_depends_on_the_content() -> None:
    assert random_source(0).identity == random_source(0).identity
    assert random_source(0).identity != random_source(1).identity


def test_rate_errors_are_interpolated() -> None:
    source = random_source()
    assert float(source.expected_events_std(edges(0, 0))) == 0.0
    known = TemplateSource(GRID, ANCHORS, source.counts, rate_std=torch.full((6, 3), 0.25))
    assert float(known.expected_events_std(edges(0.2, 0.7))) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.ones(3, 3), r"\(3, 3\) bins"),
        (-torch.ones(3, 2), "negative"),
        (torch.full((3, 2), math.nan), "not finite"),
        (torch.full((3, 2), math.inf), "not finite"),
    ],
)
def test_bad_contents_are_refused(counts: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Template(GRID, counts)


@pytest.mark.parametrize("bad", [edges(1, 1, 2), edges(2, 1), edges(1), edges(0, math.nan), edges(0, math.inf)])
def test_bad_edges_are_refused(bad: Tensor) -> None:
    with pytest.raises(ConfigError, match="'cs1'"):
        Binning(("cs1",), (bad,))


@pytest.mark.parametrize("bad", [(0.0,), (0.0, 0.0), (1.0, 0.0)])
def test_bad_anchors_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="anchors of 't_ly'"):
        AnchorGrid({"t_ly": bad})


def test_templates_must_share_a_grid() -> None:
    other = Binning(GRID.names, (edges(0, 1, 3.1, 10), GRID.edges[1]))
    pair = [Template(GRID, torch.ones(3, 2), "first"), Template(other, torch.ones(3, 2), "second")]
    with pytest.raises(DataError, match=r"second: edge 2 of axis 'cs1' is 3\.1"):
        TemplateSource.from_templates(pair, {"a": (0.0, 1.0)})


def test_binned_source_integrates_a_smooth_density() -> None:
    grid = Binning(("x",), (edges(0, 0.1, 0.5, 1),))
    source, a = BinnedSource(Tilted(), grid, nodes=6), 1.7
    cdf = torch.expm1(a * grid.edges[0]) / math.expm1(a)
    torch.testing.assert_close(source.pmf(edges(a)), cdf.diff(), rtol=1e-12, atol=0)
    x = torch.tensor([[0.05], [0.7], [1.0], [1.2]], dtype=torch.float64)
    f = source.log_prob(x, edges(a)).exp()
    torch.testing.assert_close(f[:3], (cdf.diff() / grid.volumes)[[0, 2, 2]], rtol=1e-12, atol=0)
    assert float(f[3]) == 0.0


def test_binned_jets_equal_finite_differences() -> None:
    source = BinnedSource(Tilted(), Binning(("x",), (edges(0, 0.1, 0.5, 1),)), nodes=5, chunk=7)
    x, theta, h = torch.tensor([[0.05], [0.3], [2.0]], dtype=torch.float64), edges(1.7), 1e-4
    jet = source.density_jet(x, theta)
    low, mid, high = (source.log_prob(x, theta + d).exp() for d in (-h, 0, h))
    torch.testing.assert_close(jet.value, mid)
    torch.testing.assert_close(jet.gradient[:, 0], (high - low) / (2 * h), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(jet.hessian[:, 0, 0], (high - 2 * mid + low) / h**2, rtol=1e-5, atol=1e-6)


def test_binning_a_template_on_its_own_grid_changes_nothing() -> None:
    source, theta = random_source(), random_theta(4)
    torch.testing.assert_close(BinnedSource(source, GRID, nodes=2).pmf(theta), source.pmf(theta), rtol=1e-12, atol=0)


def test_tabulated_source_is_exact_at_its_anchors() -> None:
    binned = BinnedSource(Tilted(), Binning(("x",), (edges(0, 0.1, 0.5, 1),)))
    table = tabulate(binned, {"a": (0.5, 1.0, 3.0)})
    torch.testing.assert_close(table.pmf(edges(1.0)), binned.pmf(edges(1.0)))
    torch.testing.assert_close(table.expected_events(edges(3.0)), binned.expected_events(edges(3.0)))
    assert table.nuisances.names == ("a",)


def test_binning_must_cover_the_region() -> None:
    with pytest.raises(ConfigError, match=r"covers \[0, 0\.9\]"):
        BinnedSource(Tilted(), Binning(("x",), (edges(0, 0.5, 0.9),)))
    with pytest.raises(ConfigError, match="axes are y"):
        BinnedSource(Tilted(), Binning(("y",), (edges(0, 0.5, 1),)))
