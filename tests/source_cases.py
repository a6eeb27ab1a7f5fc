"""The registry of sources to which every law of a density applies, one case for each kind and each flow family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surrogate.acceptance import AcceptanceModel, fit_acceptance
from surrogate.beta_spectra import exponential_spectrum
from surrogate.binned import BinnedSource
from surrogate.binning import Binning
from surrogate.ensemble import EnsembleSource
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import Family, FlowConfig
from surrogate.flow_response import FlowResponse
from surrogate.flow_source import FlowSource
from surrogate.guides import ElectronLifetimeGuide, PhotonGainGuide
from surrogate.jet import Jet
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.source import Source
from surrogate.template import TemplateSource

OBSERVABLES = ObservableSpace(
    (
        Observable("cs1", "PE", 2.0, 70.0, "log", offset=1.5),
        Observable("cs2", "PE", 100.0, 6000.0, "log"),
        Observable("drift_time", "us", 0.0, 700.0),
    )
)
NUISANCES = NuisanceSpace(
    (
        Nuisance("t_ly", "sigma", -3.0, 3.0, 0.0),
        Nuisance("elife", "us", 250.0, 900.0, 450.0, "log"),
        Nuisance("g1", "phd/photon", 0.08, 0.14, 0.1),
    )
)
GUIDES = (ElectronLifetimeGuide("cs2"), PhotonGainGuide("cs1"))
KINKS = ("elife", "t_ly")
HITS = ObservableSpace((Observable("hits", "", 1.5, 9.5, "counts"), Observable("cs2", "PE", 100.0, 6000.0, "log")))
PLANE = ObservableSpace((Observable("x", "cm", -10.0, 10.0), Observable("z", "cm", -97.0, 0.0)))
DISC = ObservableSpace((Observable("r", "cm", 0.0, 48.0, "square"), Observable("z", "cm", -97.0, 0.0)))
BINNED = ObservableSpace(
    (
        Observable("hits", "", 1.5, 5.5, "bins", edges=(1.5, 2.5, 3.5, 5.5)),
        Observable("cs2", "PE", 100.0, 6000.0, "bins", edges=(100.0, 400.0, 900.0, 2000.0, 6000.0)),
    )
)


@dataclass(frozen=True)
class Case:
    """A source and the grid over which a composite Gauss-Legendre rule integrates it.

    Attributes
    ----------
    build
        Makes the source.
    panels
        Edges of the panels (in unit coordinates) per observable; the density is smooth within each.
    nodes
        Nodes per panel and observable.
    tolerance
        To which the integral must be 1.
    """

    build: Callable[[], Source]
    panels: tuple[Tensor, ...]
    nodes: int = 4
    tolerance: float = 1e-6


def theta_points(space: NuisanceSpace, n: int, seed: int = 0) -> Tensor:
    """Random points (n, K) well inside the ranges."""
    low, high = space.bounds(torch.zeros((), dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * (0.05 + 0.9 * torch.rand(n, space.dim, generator=generator, dtype=torch.float64))


def shaken_flow(config: FlowConfig, seed: int = 0, spread: float = 0.1) -> ConditionalFlow:
    """A flow with random weights, strong enough to depend on everything, mild enough to be integrated."""
    flow = ConditionalFlow(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in flow.parameters():
            weight.add_(spread * torch.randn(weight.shape, generator=generator))
    return flow


def some_acceptance(space: NuisanceSpace, seed: int = 0) -> AcceptanceModel:
    """Acceptance of about 0.3 that rises along every parameter."""
    theta = theta_points(space, 60, seed)
    generated = torch.full((60,), 1000.0, dtype=torch.float64)
    eps = torch.sigmoid(0.5 * space.standardise(theta).sum(dim=-1) - 0.8)
    accepted = torch.binomial(generated, eps, generator=torch.Generator().manual_seed(seed))
    return fit_acceptance(space, theta, generated, accepted, degree=2)


def flow_source(
    family: Family = "logistic_mixture",
    layers: int = 1,
    observables: ObservableSpace = OBSERVABLES,
    nuisances: NuisanceSpace = NUISANCES,
    guided: bool = False,
    kinks: tuple[str, ...] = (),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> FlowSource:
    """A small flow source with random weights."""
    guides = GUIDES if guided else ()
    config = FlowConfig(observables, nuisances, family, 5, 12, blocks=1, layers=layers, guides=guides, kinks=kinks)
    return FlowSource(shaken_flow(config, seed), some_acceptance(nuisances), 1234.5, dtype)


def template_source() -> TemplateSource:
    """Random contents on uneven bins and anchors."""
    generator = torch.Generator().manual_seed(5)
    grid = Binning(
        ("cs1", "cs2"),
        (torch.tensor([0.0, 1.0, 3.0, 10.0]).double(), torch.tensor([90.0, 170.5, 200.0, 250.0]).double()),
    )
    counts = torch.rand((4, 3, 3, 3), generator=generator, dtype=torch.float64) + 0.1
    return TemplateSource(grid, {"t_ly": (-3.0, -1.0, 0.0, 2.0), "t_qy": (-1.0, 0.5, 3.0)}, counts)


def binned_source() -> BinnedSource:
    """A flow integrated over bins."""
    source = flow_source(observables=PLANE)
    u = torch.linspace(0, 1, 4, dtype=torch.float64)
    edges = tuple(o.from_unit(u) for o in PLANE.observables)
    return BinnedSource(source, Binning(PLANE.names, edges))


def folded_source() -> Source:
    """A flow with the recoil energy among its parameters, folded with a spectrum."""
    energy = Nuisance("energy", "keV", 1.0, 60.0, 10.0, "log")
    response = FlowResponse(flow_source(observables=DISC, nuisances=NuisanceSpace((energy, *NUISANCES.nuisances[:2]))))
    return response.fold(exponential_spectrum(8.0, 2.0, 50.0, 3.0))


def unit_edges(source: Source, edges: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Physical edges of each observable on the unit interval."""
    return tuple(o.to_unit(e)[0] for o, e in zip(source.observables.observables, edges, strict=True))


def scaled(jet: Jet) -> tuple[Tensor, Tensor, Tensor]:
    """The plain value, gradient and Hessian of a jet."""
    scale = jet.log_scale.exp()
    return scale * jet.value, scale.unsqueeze(-1) * jet.gradient, scale[..., None, None] * jet.hessian


def even(dim: int, panels: int) -> tuple[Tensor, ...]:
    return (torch.linspace(0, 1, panels + 1, dtype=torch.float64),) * dim


CASES: dict[str, Case] = {
    "mixture": Case(flow_source, even(3, 5), nodes=6),
    "mixture with guides": Case(lambda: flow_source(guided=True), even(3, 5), nodes=6),
    "normal mixture": Case(lambda: flow_source("normal_mixture", guided=True), even(3, 5), nodes=8),
    "mixture with kinks": Case(lambda: flow_source(guided=True, kinks=KINKS), even(3, 5), nodes=6),
    "mixture, two layers with kinks": Case(lambda: flow_source(layers=2, kinks=KINKS), even(3, 5), nodes=6),
    "mixture, two layers": Case(lambda: flow_source(layers=2), even(3, 5), nodes=6),
    "mixture, one observable": Case(lambda: flow_source(observables=ObservableSpace(DISC.observables[:1])), even(1, 9)),
    "mixture, no nuisance": Case(lambda: flow_source(nuisances=NuisanceSpace(), observables=DISC), even(2, 9)),
    "histogram": Case(
        lambda: flow_source("histogram", observables=BINNED, kinks=KINKS), even(2, 12), nodes=1, tolerance=1e-12
    ),
    "mixture with counts": Case(lambda: flow_source(observables=HITS, kinks=KINKS), even(2, 8), nodes=6),
    "histogram of counts": Case(
        lambda: flow_source("histogram", observables=ObservableSpace(HITS.observables[:1])), even(1, 8), nodes=2
    ),
    "coupling spline with counts": Case(
        lambda: flow_source("spline_coupling", layers=2, observables=HITS), even(2, 40), nodes=2, tolerance=1e-3
    ),
    # a spline is only piecewise smooth: quadrature converges slowly
    "autoregressive spline": Case(
        lambda: flow_source("spline_autoregressive", observables=DISC), even(2, 100), nodes=2, tolerance=1e-3
    ),
    "coupling spline": Case(
        lambda: flow_source("spline_coupling", layers=2, observables=DISC), even(2, 100), nodes=2, tolerance=1e-3
    ),
    "ensemble": Case(
        lambda: EnsembleSource(tuple(flow_source(observables=DISC, seed=seed) for seed in range(3))), even(2, 9)
    ),
    "folded spectrum": Case(folded_source, even(2, 9)),
    "templates": Case(
        template_source, unit_edges(template_source(), template_source().binning.edges), nodes=1, tolerance=1e-12
    ),
    "binned flow": Case(binned_source, even(2, 3), nodes=1, tolerance=1e-5),
}
SMOOTH = tuple(name for name in CASES if "spline" not in name)
STORED = tuple(name for name in CASES if name not in ("folded spectrum", "templates", "binned flow"))
