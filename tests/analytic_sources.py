"""Sources in closed form, for tests: everything about them is known exactly."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.constraints.gaussian import GaussianConstraint
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.jet import Jet, autograd_log_jet
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace

NO_NUISANCES = NuisanceSpace()
UNIT = ObservableSpace((Observable("x", "", 0.0, 1.0),))


@dataclass(frozen=True, eq=False)
class AnalyticSource:
    """A density on [0, 1] and a rate, given as functions ln f(x (*,), theta (*, K)) and ln mu(theta (*, K))."""

    log_density: Callable[[Tensor, Tensor], Tensor]
    log_rate: Callable[[Tensor], Tensor]
    nuisances: NuisanceSpace = NO_NUISANCES
    label: str = "analytic"
    observables: ObservableSpace = UNIT
    breakpoints: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.label.encode()).hexdigest()

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        self.nuisances.check(theta)
        log_f = self.log_density(x[..., 0], theta)
        return torch.where(self.observables.contains(x), log_f, torch.full_like(log_f, -math.inf))

    def expected_events(self, theta: Tensor) -> Tensor:
        self.nuisances.check(theta)
        return self.log_rate(theta).exp()

    def expected_events_std(self, theta: Tensor) -> Tensor:
        return torch.zeros(theta.shape[:-1], dtype=theta.dtype)

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        shape = torch.broadcast_shapes(x.shape[:-1], theta.shape[:-1])
        flat_x = x.expand(*shape, x.shape[-1]).reshape(-1, x.shape[-1])
        flat_theta = theta.expand(*shape, theta.shape[-1]).reshape(-1, theta.shape[-1])
        jet = autograd_log_jet(lambda t: self.log_prob(flat_x, t), flat_theta)
        k = theta.shape[-1]
        return Jet(
            jet.log_scale.reshape(shape),
            jet.value.reshape(shape),
            jet.gradient.reshape(*shape, k),
            jet.hessian.reshape(*shape, k, k),
        )

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        return autograd_log_jet(self.log_rate, theta)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        grid = torch.linspace(0, 1, 20001, dtype=torch.float64)
        density = self.log_density(grid, theta.expand(len(grid), -1)).exp()
        cumulative = torch.cumulative_trapezoid(density, grid)
        u = torch.rand(n, generator=generator, dtype=torch.float64) * cumulative[-1]
        return grid[torch.searchsorted(cumulative, u).clamp(max=len(grid) - 2)].unsqueeze(-1)


def constant_rate(rate: float) -> Callable[[Tensor], Tensor]:
    """ln mu that does not depend on theta."""
    log_rate = math.log(rate) if rate > 0 else -math.inf
    return lambda theta: log_rate + 0.0 * theta.sum(-1)


def flat_source(rate: float = 1.0, label: str = "flat") -> AnalyticSource:
    """Uniform on [0, 1]."""
    return AnalyticSource(lambda x, t: torch.zeros_like(x + t.sum(-1)), constant_rate(rate), label=f"{label}{rate}")


def gaussian_source(
    mean: float = 0.5, sigma: float = 0.1, rate: float = 1.0, shift: str | None = None
) -> AnalyticSource:
    """Normal, cut to [0, 1] and normalised there; the nuisance ``shift`` moves its mean by 0.05 per unit."""

    def log_density(x: Tensor, theta: Tensor) -> Tensor:
        m = mean + (0.05 * theta[..., 0] if shift else 0.0)
        mass = torch.special.ndtr(torch.as_tensor((1 - m) / sigma)) - torch.special.ndtr(torch.as_tensor(-m / sigma))
        return -0.5 * ((x - m) / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi)) - mass.log()

    space = NuisanceSpace((Nuisance(shift, "sigma", -5, 5, 0),)) if shift else NuisanceSpace()
    return AnalyticSource(log_density, constant_rate(rate), space, f"gauss{mean},{sigma},{rate},{shift}")


def exponential_source(rate: float = 1.0, names: tuple[str, str] = ("slope", "size")) -> AnalyticSource:
    """f = s e^(-s x)/(1 - e^-s) on [0, 1] with s = 2 e^(0.3 slope); mu = rate e^(0.1 slope + 0.2 size)."""

    def log_density(x: Tensor, theta: Tensor) -> Tensor:
        s = 2 * (0.3 * theta[..., 0]).exp()
        return s.log() - s * x - (-torch.expm1(-s)).log()

    def log_rate(theta: Tensor) -> Tensor:
        return math.log(rate) + 0.1 * theta[..., 0] + 0.2 * theta[..., 1] + 0.02 * theta[..., 0] * theta[..., 1]

    space = NuisanceSpace(tuple(Nuisance(n, "sigma", -5, 5, 0) for n in names))
    return AnalyticSource(log_density, log_rate, space, f"exponential{rate}{names}")


def rate_parameter(name: str, nominal: float = 1.0, low: float = 0.0, high: float = 1e5) -> Parameter:
    """A rate multiplier."""
    return Parameter(name, "rate", nominal, low, high)


LIVETIME = Parameter("livetime", "livetime", 1.0, 0.0, fittable=False)


def shape_parameters(bound: float) -> ParameterSet:
    """Rates mu and b, shapes slope and size within +-bound; ancillary measurements of all but mu."""
    return ParameterSet(
        (
            rate_parameter("mu"),
            rate_parameter("b"),
            Parameter("slope", "shape", 0.0, -bound, bound),
            Parameter("size", "shape", 0.0, -bound, bound),
            LIVETIME,
        ),
        (
            GaussianConstraint("slope", 1.0, 0.0),
            GaussianConstraint("size", 1.0, 0.0),
            GaussianConstraint("b", 0.3, 1.0),
        ),
    )


def counting_model(signal: float, background: float) -> tuple[ParameterSet, tuple[ScienceRun, ...]]:
    """A counting experiment: n ~ Pois(mu x signal + background); both sources uniform, the background fixed."""
    parameters = ParameterSet(
        (rate_parameter("mu"), Parameter("b", "rate", 1.0, 0.0, 1e5, fittable=False), LIVETIME),
    )
    sources = (
        RunSource("signal", flat_source(signal), "mu", {}),
        RunSource("background", flat_source(background), "b", {}),
    )
    return parameters, (ScienceRun("run", UNIT, sources, ("livetime",)),)
