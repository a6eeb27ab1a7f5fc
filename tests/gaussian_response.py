"""A response in closed form: x is the recoil energy, scaled by a parameter and smeared by a Gaussian."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from surrogate.jet import Jet, autograd_log_jet
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.response import OUTSIDE
from surrogate.spectrum import Spectrum
from surrogate.spectrum_source import SpectrumSource

WINDOW = ObservableSpace((Observable("x", "PE", -200.0, 400.0),))
SCALE = NuisanceSpace((Nuisance("s", "", 0.8, 1.2, 1.0),))


@dataclass(frozen=True)
class GaussianResponse:
    """p(x | E, s) = N(x; s E, sigma) and eps = efficiency (E/10 keV)^power s^2, in a window that cuts nothing off."""

    sigma: float = 2.0
    efficiency_at_10: float = 0.3
    power: float = 0.0
    energy_range: tuple[float, float] = (1.0, 100.0)
    observables: ObservableSpace = WINDOW
    nuisances: NuisanceSpace = SCALE

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        return {}

    @property
    def identity(self) -> str:
        return hashlib.sha256(repr((self.sigma, self.efficiency_at_10, self.power)).encode()).hexdigest()

    def log_prob(self, x: Tensor, energy: Tensor, theta: Tensor) -> Tensor:
        pull = (x[..., 0] - theta[..., 0] * energy) / self.sigma
        log_p = -0.5 * pull.square() - math.log(self.sigma * math.sqrt(2 * math.pi))
        return torch.where(self.observables.contains(x), log_p, -torch.inf)

    def efficiency(self, energy: Tensor, theta: Tensor) -> Tensor:
        self.nuisances.check(theta)
        return self.efficiency_at_10 * (energy / 10) ** self.power * theta[..., 0].square()

    def efficiency_std(self, energy: Tensor, theta: Tensor) -> Tensor:
        return 0.01 * self.efficiency(energy, theta)

    def density_jet(self, x: Tensor, energy: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        return autograd_log_jet(lambda t: self.log_prob(x, energy, t), theta)

    def efficiency_jet(self, energy: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        shape = torch.broadcast_shapes(energy.shape, theta.shape[:-1])
        rows = theta.expand(*shape, 1).reshape(-1, 1)
        jet = autograd_log_jet(lambda t: self.efficiency(energy.expand(shape).reshape(-1), t).log(), rows)
        parts = (jet.log_scale.reshape(shape), jet.value.reshape(shape))
        return Jet(*parts, jet.gradient.reshape(*shape, 1), jet.hessian.reshape(*shape, 1, 1))

    def score(self, x: Tensor, energy: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        jet = self.density_jet(x, energy, theta)
        return jet.log_scale, jet.gradient

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (1, 1)

    def sample_from_noise(self, noise: Tensor, energy: Tensor, theta: Tensor) -> Tensor:
        return (theta[..., 0] * energy + self.sigma * torch.special.ndtri(noise[:, 0, 0])).unsqueeze(-1)

    def fold(self, spectrum: Spectrum, outside: float = OUTSIDE) -> SpectrumSource:
        return SpectrumSource(self, spectrum, outside)
