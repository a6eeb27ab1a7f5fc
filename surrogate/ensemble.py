"""An ensemble of flows for one source: the mean density, and the spread that finite training leaves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.errors import ConfigError
from surrogate.flow_source import FlowSource
from surrogate.jet import Jet
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace


@dataclass(frozen=True, eq=False)
class EnsembleSource:
    """K independently trained flows of the same source.

    f = (1/K) sum_k f_k and mu = (1/K) sum_k mu_k; both contracts of a source carry over, as a mean of normalised
    densities is normalised and a mean of smooth functions is smooth.

    Parameters
    ----------
    members
        At least one, over the same observables and nuisance parameters.

    Raises
    ------
    ConfigError
        If there is no member or two disagree about observables or nuisance parameters.
    """

    members: tuple[FlowSource, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("ensemble: at least one member is needed")
        for k, member in enumerate(self.members):
            if (member.observables, member.nuisances) != (self.observables, self.nuisances):
                raise ConfigError(f"ensemble: member {k} must have the observables and nuisances of member 0")

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest."""
        return self.members[0].observables

    @property
    def nuisances(self) -> NuisanceSpace:
        """The parameters theta and their trained ranges."""
        return self.members[0].nuisances

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """None: flows are smooth."""
        return {}

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the identities of the members."""
        return hashlib.sha256(" ".join(member.identity for member in self.members).encode()).hexdigest()

    def member_log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f_k(x | theta) (K, *) of every member."""
        return torch.stack([member.log_prob(x, theta) for member in self.members])

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,), exactly -inf outside the region of interest."""
        log_f = self.member_log_prob(x, theta)
        inside = torch.isfinite(log_f).any(dim=0)
        # rows that are -inf throughout would put NaN into the gradient of logsumexp
        total = torch.logsumexp(torch.where(inside, log_f, 0.0), dim=0) - math.log(len(self.members))
        return torch.where(inside, total, -torch.inf)

    def log_prob_spread(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return the standard deviation (*,) of ln f_k over the members; 0 outside and for a single member."""
        log_f = self.member_log_prob(x, theta)
        if len(self.members) == 1:
            return torch.zeros_like(log_f[0])
        return torch.where(torch.isfinite(log_f), log_f, 0.0).std(dim=0)

    def expected_events(self, theta: Tensor) -> Tensor:
        """Return mu(theta) (*,) in events per tonne-year."""
        return torch.stack([member.expected_events(theta) for member in self.members]).mean(dim=0)

    def expected_events_std(self, theta: Tensor) -> Tensor:
        """Return the root mean square (*,) of the members' errors, which are not independent: they share events."""
        return torch.stack([member.expected_events_std(theta) for member in self.members]).square().mean(dim=0).sqrt()

    def expected_events_spread(self, theta: Tensor) -> Tensor:
        """Return the standard deviation (*,) of mu_k over the members; 0 for a single member."""
        mu = torch.stack([member.expected_events(theta) for member in self.members])
        return mu.std(dim=0) if len(self.members) > 1 else torch.zeros_like(mu[0])

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, D) at theta (K,), or one per row of theta (n, K), each from a member picked at random."""
        shape, dtype = (n, *self.noise_shape), self.members[0].flow.dtype
        return self.sample_from_noise(torch.rand(shape, generator=generator, dtype=dtype, device=theta.device), theta)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape (D + 1, 2) of the uniforms that make one event; the last row picks the member."""
        return (self.observables.dim + 1, 2)

    def sample_from_noise(self, noise: Tensor, theta: Tensor) -> Tensor:
        """Return the events (n, D) made of uniforms (n, D + 1, 2), at theta (K,) or (n, K); row by row."""
        theta = theta.expand(len(noise), self.nuisances.dim)
        picked = (noise[:, -1, 0] * len(self.members)).long().clamp(max=len(self.members) - 1)
        events = noise.new_empty(len(noise), self.observables.dim)
        for k, member in enumerate(self.members):
            rows = (picked == k).nonzero().squeeze(-1)
            events[rows] = member.sample_from_noise(noise[rows, :-1], theta[rows]).to(events.dtype)
        return events

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of f(x | theta), for x (*, D) and theta (*, K), broadcasting over *."""
        return _mean([member.density_jet(x, theta, centre) for member in self.members])

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of mu(theta), for theta (*, K)."""
        return _mean([member.rate_jet(theta, centre) for member in self.members])


def _mean(jets: list[Jet]) -> Jet:
    """Return the jet of the mean of the functions."""
    log_scales = torch.stack([jet.log_scale for jet in jets])
    top = log_scales.max(dim=0).values
    scale = torch.where(torch.isfinite(top), torch.exp(log_scales - top), 1.0) / len(jets)
    return Jet(
        top,
        (scale * torch.stack([jet.value for jet in jets])).sum(dim=0),
        (scale.unsqueeze(-1) * torch.stack([jet.gradient for jet in jets])).sum(dim=0),
        (scale[..., None, None] * torch.stack([jet.hessian for jet in jets])).sum(dim=0),
    )
