"""Spectra folded with responses: closed forms, laws of a mixture, quadrature, and spectra that reach too far."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian_response import GaussianResponse
from scipy.stats import kstest
from source_cases import DISC, flow_source, scaled
from torch import Tensor

from surrogate.beta_spectra import exponential_spectrum, flat_spectrum, gaussian_spectrum, line_spectrum
from surrogate.ensemble import EnsembleSource
from surrogate.errors import ConfigError, RangeError
from surrogate.flow_response import FlowResponse
from surrogate.flow_source import FlowSource
from surrogate.jet import Jet, jet_of_log
from surrogate.jet_algebra import grouped_sum, product, reciprocal, weighted_sum
from surrogate.nuclear_spectra import wimp_si_spectrum
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.quadrature import energy_nodes
from surrogate.response import lost_share
from surrogate.source import Source
from surrogate.spectrum import Spectrum
from surrogate.spectrum_source import SpectrumSource

RESPONSE = GaussianResponse()
NOMINAL = torch.tensor([1.0], dtype=torch.float64)
X = torch.linspace(-5.0, 45.0, 26, dtype=torch.float64).unsqueeze(-1)


def normal_cdf(z: Tensor) -> Tensor:
    return torch.special.ndtr(z)


def folded_exponential(x: Tensor, s: float, scale: float, low: float, high: float, sigma: float) -> Tensor:
    """The exponential exp(-E/scale) on [low, high], normalised, with x = s E + N(0, sigma): Gaussian integrals."""
    slope = s * scale
    shift = x - sigma**2 / slope
    inside = normal_cdf((s * high - shift) / sigma) - normal_cdf((s * low - shift) / sigma)
    norm = slope * (math.exp(-low / scale) - math.exp(-high / scale))
    return torch.exp(sigma**2 / (2 * slope**2) - x / slope) * inside / norm


def test_a_gaussian_folded_with_an_exponential_is_the_closed_form() -> None:
    """To the accuracy of the tabulated exponential; the resolution is 8 % at the upper end, the finest allowed for."""
    source = RESPONSE.fold(exponential_spectrum(6.0, 2.0, 25.0, 40.0))
    assert isinstance(source, Source)
    for s in (0.9, 1.0, 1.15):
        theta = torch.tensor([s], dtype=torch.float64)
        expected = folded_exponential(X[:, 0], s, 6.0, 2.0, 25.0, RESPONSE.sigma)
        torch.testing.assert_close(source.log_prob(X, theta).exp(), expected, rtol=1e-4, atol=1e-9)
        assert float(source.expected_events(theta)) == pytest.approx(40.0 * 0.3 * s**2, rel=1e-12)
        assert float(source.expected_events_std(theta)) == pytest.approx(40.0 * 0.003 * s**2, rel=1e-12)


def test_a_line_is_the_mono_energetic_response() -> None:
    source = RESPONSE.fold(line_spectrum(7.3, 5.0))
    energy = torch.tensor(7.3, dtype=torch.float64)
    torch.testing.assert_close(source.log_prob(X, NOMINAL), RESPONSE.log_prob(X, energy, NOMINAL), rtol=1e-12, atol=0)
    assert float(source.expected_events(NOMINAL)) == pytest.approx(5.0 * 0.3)


def test_folding_is_linear_in_the_spectrum() -> None:
    grid = tuple(np.linspace(3.0, 30.0, 500).tolist())
    falling = tuple((20.0 * np.exp(-np.array(grid) / 4)).tolist())
    rising = tuple((0.01 * np.array(grid) ** 2).tolist())
    both = tuple(a + b for a, b in zip(falling, rising, strict=True))
    parts = [GaussianResponse(power=1.5).fold(Spectrum("part", grid, density)) for density in (falling, rising, both)]
    intensity = [p.expected_events(NOMINAL) * p.log_prob(X, NOMINAL).exp() for p in parts]
    torch.testing.assert_close(intensity[0] + intensity[1], intensity[2], rtol=2e-5, atol=1e-12)


def test_jets_are_the_derivatives_of_a_mixture_whose_efficiency_moves() -> None:
    source = GaussianResponse(power=1.0).fold(flat_spectrum(2.0, 30.0, 1.0))
    theta = torch.tensor([[1.05]], dtype=torch.float64)
    value, gradient, hessian = scaled(source.density_jet(X, theta))
    step = torch.tensor([1e-4], dtype=torch.float64)
    up, down = (scaled(source.density_jet(X, theta + s * step)) for s in (1, -1))
    torch.testing.assert_close(value, source.log_prob(X, theta).exp(), rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(gradient[:, 0], (up[0] - down[0]) / 2e-4, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(hessian[:, 0, 0], (up[1] - down[1])[:, 0] / 2e-4, rtol=1e-5, atol=1e-7)
    rate = scaled(source.rate_jet(theta))
    assert [float(part) for part in rate] == pytest.approx(
        [float(rate[0]), 2 * float(rate[0]) / 1.05, 2 * float(rate[0]) / 1.05**2]
    )


def test_the_score_is_the_gradient_of_the_jet() -> None:
    source = energy_flow().fold(flat_spectrum(2.0, 30.0, 1.0))
    theta = torch.tensor([0.4, 0.12], dtype=torch.float64)
    x = torch.cat([source.sample(9, theta, torch.Generator().manual_seed(4)), torch.full((1, 2), 99.0)]).double()
    log_f, gradient = source.score(x, theta.expand(10, -1))
    jet = source.density_jet(x, theta)
    torch.testing.assert_close(log_f, source.log_prob(x, theta))
    torch.testing.assert_close(gradient[:9], (jet.gradient / jet.value.unsqueeze(-1))[:9], rtol=1e-3, atol=1e-3)
    assert not gradient[9].any()


def test_samples_follow_the_density() -> None:
    """Kolmogorov-Smirnov against the closed form, integrated."""
    source = RESPONSE.fold(exponential_spectrum(6.0, 2.0, 25.0, 40.0))
    events = source.sample(4000, NOMINAL, torch.Generator().manual_seed(1))[:, 0].numpy()
    grid = torch.linspace(-10, 50, 6001, dtype=torch.float64)
    density = folded_exponential(grid, 1.0, 6.0, 2.0, 25.0, RESPONSE.sigma)
    cdf = torch.cumulative_trapezoid(density, grid)
    assert kstest(events, lambda x: np.interp(x, grid[1:].numpy(), cdf.numpy())).pvalue > 0.01


def test_an_event_depends_on_its_own_noise_alone() -> None:
    source = RESPONSE.fold(flat_spectrum(2.0, 30.0, 1.0))
    noise = torch.rand(20, *source.noise_shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    theta = torch.linspace(0.8, 1.2, 20, dtype=torch.float64).unsqueeze(-1)
    events = source.sample_from_noise(noise, theta)
    assert torch.equal(source.sample_from_noise(noise[[7]], theta[[7]]), events[[7]])
    assert torch.equal(source.sample(20, theta, torch.Generator().manual_seed(2)), events)


@pytest.mark.parametrize(
    "spectrum",
    [
        wimp_si_spectrum(50.0, 1e-47),
        flat_spectrum(0.5, 60.0, 2.0),
        gaussian_spectrum(20.0, 0.05, 3.0),
        Spectrum("step", (1.0, 5.0, 5.001, 40.0), (1.0, 1.0, 9.0, 9.0)),
    ],
    ids=lambda s: s.name,
)
def test_the_quadrature_resolves_the_spectrum(spectrum: Spectrum) -> None:
    """Rate and mean energy between two energies, against the trapezoids of a fine grid."""
    nodes = energy_nodes(spectrum, 1.5, 50.0)
    grid = np.unique(np.concatenate([np.linspace(1.5, 50.0, 400_001), spectrum.energy]))
    grid = grid[(grid >= 1.5) & (grid <= 50.0)]
    density = spectrum.density_at(grid)
    assert float(nodes.weight.sum()) == pytest.approx(spectrum.integral(1.5, 50.0), rel=1e-12)
    assert float(nodes.weight.sum()) == pytest.approx(np.trapezoid(density, grid), rel=1e-6)
    assert float(nodes.weight @ nodes.energy) == pytest.approx(np.trapezoid(density * grid, grid), rel=1e-4)
    assert bool((nodes.weight > 0).all() and (nodes.energy.diff() > 0).all())
    assert nodes.below + nodes.above + float(nodes.weight.sum()) == pytest.approx(spectrum.total, rel=1e-9)


def test_a_spectrum_outside_the_response_is_refused() -> None:
    response = GaussianResponse(power=3.0, energy_range=(5.0, 100.0))
    spectrum = exponential_spectrum(2.0, 1.0, 40.0, 10.0)
    nodes = energy_nodes(spectrum, 5.0, 100.0)
    share = lost_share(response, spectrum, nodes)
    grid = np.linspace(1.0, 40.0, 100_001)
    recorded = spectrum.density_at(grid) * grid**3
    below = grid < 5.0
    assert share == pytest.approx(np.trapezoid(recorded[below], grid[below]) / np.trapezoid(recorded, grid), rel=1e-3)
    with pytest.raises(ConfigError, match=r"about \d+ % of its recorded events .* outside \[5, 100\] keV"):
        response.fold(spectrum)
    assert float(response.fold(spectrum, outside=0.9).expected_events(NOMINAL)) > 0
    with pytest.raises(ConfigError, match="no rate between 5 and 100 keV"):
        response.fold(line_spectrum(2.0, 1.0))
    with pytest.raises(ConfigError, match="panel"):
        SpectrumSource(response, spectrum, 0.9, panel=0.0)


def test_identities_tell_spectra_and_responses_apart() -> None:
    spectra = (flat_spectrum(2.0, 30.0, 1.0), flat_spectrum(2.0, 30.0, 2.0), flat_spectrum(2.0, 31.0, 1.0))
    sources = [RESPONSE.fold(s) for s in spectra] + [GaussianResponse(sigma=3.0).fold(spectra[0])]
    assert len({s.identity for s in sources}) == len(sources)
    assert RESPONSE.fold(spectra[0]).identity == sources[0].identity


def energy_flow(names: tuple[str, ...] = ("t", "energy", "g1")) -> FlowResponse:
    known = {
        "t": Nuisance("t", "sigma", -3.0, 3.0, 0.0),
        "energy": Nuisance("energy", "keV", 1.0, 60.0, 10.0, "log"),
        "g1": Nuisance("g1", "phd/photon", 0.08, 0.14, 0.1),
    }
    return FlowResponse(flow_source(observables=DISC, nuisances=NuisanceSpace(tuple(known[n] for n in names))))


def test_a_flow_with_the_energy_among_its_parameters_is_a_response() -> None:
    response = energy_flow()
    assert response.nuisances.names == ("t", "g1")
    assert response.energy_range == (1.0, 60.0)
    theta, energy = torch.tensor([0.7, 0.11], dtype=torch.float64), torch.tensor([3.0, 30.0], dtype=torch.float64)
    full = torch.tensor([[0.7, 3.0, 0.11], [0.7, 30.0, 0.11]], dtype=torch.float64)
    x = response.source.sample(6, full[0], torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        response.log_prob(x.unsqueeze(1), energy, theta), response.source.log_prob(x.unsqueeze(1), full)
    )
    torch.testing.assert_close(response.efficiency(energy, theta), response.source.expected_events(full))
    jet, whole = response.density_jet(x, energy[0], theta), response.source.density_jet(x, full[0])
    torch.testing.assert_close(jet.gradient, whole.gradient[:, [0, 2]])
    torch.testing.assert_close(jet.hessian, whole.hessian[:, [0, 2]][..., [0, 2]])
    line = response.fold(line_spectrum(30.0, 2.0))
    torch.testing.assert_close(line.log_prob(x, theta), response.source.log_prob(x, full[1]))
    with pytest.raises(RangeError, match="energy = 70"):
        response.efficiency(torch.tensor(70.0, dtype=torch.float64), theta)
    with pytest.raises(ConfigError, match="kind 'mono'"):
        energy_flow(("t", "g1"))


def test_a_folded_ensemble_of_flows_is_moved_to_a_device_as_a_whole() -> None:
    flow = energy_flow().source
    assert isinstance(flow, FlowSource)
    source = FlowResponse(EnsembleSource((flow, flow))).fold(line_spectrum(30.0, 2.0))
    moved = source.on("meta")
    assert isinstance(moved.response, FlowResponse)
    assert isinstance(moved.response.source, EnsembleSource)
    for member in moved.response.source.members:
        assert member.acceptance.coefficients.device.type == "meta"
        assert all(weight.device.type == "meta" for weight in member.flow.parameters())
    assert moved.nodes is source.nodes
    assert flow.acceptance.coefficients.device.type == "cpu"


def random_jets(n: int, seed: int) -> Jet:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    hessian = draw(n, 2, 2)
    return jet_of_log(draw(n), draw(n, 2), hessian + hessian.mT)


def test_jets_add_multiply_and_divide() -> None:
    """(f g)/g = f; sums of rows agree with plain arithmetic; vanishing rows leave no NaN."""
    f, g = random_jets(6, 1), random_jets(6, 2)
    for part, expected in zip(scaled(product(product(f, g), reciprocal(g))), scaled(f), strict=True):
        torch.testing.assert_close(part, expected)
    group = torch.tensor([0, 2, 0, 2, 2, 0])
    plain, sums = scaled(f), scaled(grouped_sum(f, group, 4))
    for part, total in zip(plain, sums, strict=True):
        torch.testing.assert_close(total[2], part[group == 2].sum(dim=0))
        assert not total[1].any()
    weights = torch.rand(6, dtype=torch.float64)
    for part, total in zip(plain, scaled(weighted_sum(f, weights)), strict=True):
        torch.testing.assert_close(total, torch.einsum("m,m...->...", weights, part))
    nothing = Jet(torch.full((6,), -torch.inf, dtype=torch.float64), *(torch.zeros_like(p) for p in plain))
    assert all(bool((part == 0).all()) for part in scaled(grouped_sum(nothing, group, 4)))
