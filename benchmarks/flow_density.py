"""Densities per second on one core, value and gradient in theta: the default flow beside spline flows of equal size.

Run: python benchmarks/flow_density.py [--output DIR] [--quick]

The gradient in theta is what a fit asks for. All candidates run in turn in one process, on the same events, in the same
precision: nflows' autoregressive rational-quadratic splines, zuko's neural spline flow (with the extra ``benchmarks``
installed), the exact path of the default flow through automatic differentiation, and its kernel. Then this package's
spline beside nflows' on the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata, util

import torch
from measure import Cost, Work, multiply_rate, side_by_side
from nflows.transforms import MaskedPiecewiseRationalQuadraticAutoregressiveTransform
from nflows.transforms.splines.rational_quadratic import (
    DEFAULT_MIN_BIN_HEIGHT,
    DEFAULT_MIN_BIN_WIDTH,
    DEFAULT_MIN_DERIVATIVE,
    rational_quadratic_spline,
)
from records import Peer, Record, finish, parser
from torch import Tensor, nn

from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_kernel import FlowKernel
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.spline import RationalQuadraticMap

EVENTS, CHUNK, BINS, HIDDEN = 16_384, 2_048, 20, 96
EXACT = "the same flow by automatic differentiation"

Density = Callable[[Tensor, Tensor], Tensor]
"""ln p (n,) of u (n, 4) on the unit cube at theta (n, 4)."""


def configuration() -> FlowConfig:
    """Return the default flow of a search in cs1, cs2, r and z with four nuisance parameters."""
    observables = ObservableSpace(
        (
            Observable("cs1", "PE", 2, 100, "log", 5.0),
            Observable("cs2", "PE", 200, 20_000, "log"),
            Observable("r", "cm", 0, 40, "square"),
            Observable("z", "cm", -95, -5),
        )
    )
    nuisances = NuisanceSpace(
        (
            Nuisance("t_ly", "sigma", -3, 3, 0),
            Nuisance("t_qy", "sigma", -3, 3, 0),
            Nuisance("elife", "us", 400, 1000, 650),
            Nuisance("g1", "phd/photon", 0.1, 0.16, 0.13),
        )
    )
    return FlowConfig(observables, nuisances)


def shaken(network: nn.Module) -> nn.Module:
    """Move the weights away from where training starts, and freeze them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
            weight.add_(0.1 * noise)
    return network.requires_grad_(False)


def nflows_density(config: FlowConfig) -> tuple[nn.Module, Density]:
    """Return nflows' autoregressive spline flow of the same size."""
    transform = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        features=4,
        hidden_features=HIDDEN,
        context_features=4,
        num_bins=BINS,
        num_blocks=2,
        tails=None,
        activation=nn.functional.silu,
    )
    return transform, lambda u, theta: transform(u, config.nuisances.standardise(theta))[1]


def zuko_density(config: FlowConfig) -> tuple[nn.Module, Density]:
    """Return zuko's neural spline flow of the same size and depth, on its own window [-5, 5]."""
    import zuko  # type: ignore[import-not-found]  # noqa: PLC0415  an optional peer

    flow = zuko.flows.NSF(4, 4, bins=BINS, hidden_features=(HIDDEN,) * 5, transforms=1, activation=nn.SiLU)
    return flow, lambda u, theta: flow(config.nuisances.standardise(theta)).log_prob(8.0 * u - 4.0)


def sample(config: FlowConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return u and theta, uniform."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(EVENTS, 4, generator=generator, dtype=torch.float64).to(dtype)
    low, high = config.nuisances.bounds(u)
    return u, low + (high - low) * torch.rand(EVENTS, 4, generator=generator, dtype=torch.float64).to(dtype)


def value(density: Density, u: Tensor, theta: Tensor) -> Tensor:
    """Return ln p, chunk by chunk."""
    with torch.no_grad():
        return torch.cat([density(*part) for part in zip(u.split(CHUNK), theta.split(CHUNK), strict=True)])


def gradient(density: Density, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln p and its gradient in theta by automatic differentiation, chunk by chunk."""
    values, slopes = [], []
    for some_u, some_theta in zip(u.split(CHUNK), theta.split(CHUNK), strict=True):
        leaf = some_theta.clone().requires_grad_(True)
        log_p = density(some_u, leaf)
        slopes.append(torch.autograd.grad(log_p.sum(), leaf)[0])
        values.append(log_p.detach())
    return torch.cat(values), torch.cat(slopes)


def flow_records(dtype: torch.dtype, repeats: int) -> list[Record]:
    """Return densities per second of all flows in one precision."""
    config = configuration()
    ours = ConditionalFlow(config)
    flows: dict[str, tuple[nn.Module, Density]] = {
        EXACT: (ours, ours.log_prob_unit),
        f"nflows {metadata.version('nflows')}": nflows_density(config),
    }
    if util.find_spec("zuko"):
        flows[f"zuko {metadata.version('zuko')}"] = zuko_density(config)
    for network, _ in flows.values():
        shaken(network.to(dtype))
    kernel = FlowKernel.of(ours, dtype)
    u, theta = sample(config, dtype)
    values: dict[str, Work] = {"kernel": lambda: kernel.log_prob(u, theta)}
    slopes: dict[str, Work] = {"kernel": lambda: kernel.log_prob_gradient(u, theta)}
    for name, (_, density) in flows.items():
        values[name] = partial(value, density, u, theta)
        slopes[name] = partial(gradient, density, u, theta)
    label = str(dtype).removeprefix("torch.")
    sizes = ", ".join(f"{n}: {sum(p.numel() for p in f.parameters()):,} weights" for n, (f, _) in flows.items())
    floor = multiply_rate(dtype) / (2.0 * sum(w.numel() for w in ours.parameters()))
    text = "multiplications with the weights alone, at the rate of a large product of matrices"
    rows = []
    for what, works, passes in (("value", values, 1), ("value and gradient", slopes, 2)):
        costs = side_by_side(works, repeats)
        rows.append(rate_record(f"densities, {what}, {label}", costs, floor / passes, f"{text}; {sizes}"))
    rows.append(deviation(f"kernel against the exact path, {label}", kernel, ours, u, theta))
    return rows


def rate_record(name: str, costs: Mapping[str, Cost], floor: float | None, text: str) -> Record:
    """Return evaluations per CPU second of the first candidate with those of other software as peers."""
    first, *others = costs
    best, rate = costs[first], {other: EVENTS / costs[other].cpu_s for other in others}
    peers = tuple(Peer(other, value, "measured") for other, value in rate.items() if other != EXACT)
    note = f"{EXACT}: {rate[EXACT]:.3g} 1/s" if EXACT in rate else ""
    target = 2.0 if "gradient" in name else None
    value = EVENTS / best.cpu_s
    return Record(name, value, "1/s", "higher", None, target, floor, text, peers, cost=best, note=note)


def deviation(name: str, kernel: FlowKernel, flow: ConditionalFlow, u: Tensor, theta: Tensor) -> Record:
    """Return how far the kernel is from the exact path in float64."""
    double = flow.double()
    exact = value(double.log_prob_unit, u.double(), theta.double())
    found = float((kernel.log_prob(u, theta).double() - exact).abs().max())
    target = 1e-6 if kernel.dtype == torch.float64 else None
    return Record(f"largest error of ln p, {name}", found, "", target=target, scales=False)


def spline_records(dtype: torch.dtype, repeats: int) -> list[Record]:
    """Return spline evaluations per second, value and gradient in the parameters, beside nflows' on the same ones."""
    mapping = RationalQuadraticMap(BINS, DEFAULT_MIN_BIN_WIDTH, DEFAULT_MIN_DERIVATIVE)
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(EVENTS, generator=generator, dtype=torch.float64).to(dtype)
    raw = torch.randn(EVENTS, mapping.n_parameters, generator=generator, dtype=torch.float64).to(dtype)

    def theirs(u: Tensor, raw: Tensor) -> Tensor:
        widths, heights, slopes = raw.split([BINS, BINS, BINS + 1], dim=-1)
        log_slope: Tensor = rational_quadratic_spline(
            u,
            widths,
            heights,
            slopes,
            min_bin_width=DEFAULT_MIN_BIN_WIDTH,
            min_bin_height=DEFAULT_MIN_BIN_HEIGHT,
            min_derivative=DEFAULT_MIN_DERIVATIVE,
        )[1]
        return log_slope

    peer, rows = f"nflows {metadata.version('nflows')}", []
    label = str(dtype).removeprefix("torch.")
    evaluations: dict[str, Callable[..., object]] = {"value": value, "value and gradient": gradient}
    for what, evaluate in evaluations.items():
        costs = side_by_side(
            {
                "ours": partial(evaluate, mapping.log_derivative, u, raw),
                peer: partial(evaluate, theirs, u, raw),
            },
            repeats,
        )
        rows.append(rate_record(f"splines, {what}, {label}", costs, None, ""))
    exact = theirs(u.double(), raw.double())
    ours, other = (float((f(u, raw) - exact).abs().max()) for f in (mapping.log_derivative, theirs))
    double = dtype == torch.float64
    peers = () if double else (Peer(peer, other, "measured"),)
    target = 1e-6 if double else None
    name = f"largest error of splines against nflows in float64, {label}"
    return [*rows, Record(name, ours, "", target=target, peers=peers, scales=False)]


def main() -> int:
    """Measure, print and write the figures."""
    options = parser(__doc__).parse_args()
    repeats = 3 if options.quick else 15
    records = []
    for dtype in (torch.float32, torch.float64):
        records += flow_records(dtype, repeats) + spline_records(dtype, repeats)
    return finish("flow_density", "python benchmarks/flow_density.py", records, options, ("nflows", "zuko"))


if __name__ == "__main__":
    raise SystemExit(main())
