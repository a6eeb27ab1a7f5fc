"""An ensemble of flows for one source: the mean density, and the spread that finite training leaves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from surrogate.errors import ConfigError, unknown_name
from surrogate.flow_source import FlowSource
from surrogate.jet import Jet, mean_jet
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace

Sharing = Literal["none", "bootstrap", "all"]
"""What the members' training events have in common: nothing, one sample of which each saw a bootstrap, or all."""


@dataclass(frozen=True, eq=False)
class EnsembleSource:
    """K independently trained flows of the same source.

    f = (1/K) sum_k f_k and mu = (1/K) sum_k mu_k; both contracts of a source carry over, as a mean of normalised
    densities is normalised and a mean of smooth functions is smooth.

    Parameters
    ----------
    members
        At least one, over the same observables, nuisance parameters and generated rate.
    sharing
        What the members' training events have in common. It decides what their spread says about the error of their
        mean, see :attr:`variance_factor`.

    Raises
    ------
    ConfigError
        If there is no member, two disagree about observables, nuisance parameters or generated rate, or ``sharing`` is
        unknown.
    """

    members: tuple[FlowSource, ...]
    sharing: Sharing = "all"

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("ensemble: at least one member is needed")
        for k, member in enumerate(self.members):
            same = (self.observables, self.nuisances, self.generated_rate)
            if (member.observables, member.nuisances, member.generated_rate) != same:
                raise ConfigError(
                    f"ensemble: member {k} must have the observables, nuisances and generated rate of member 0"
                )
        if self.sharing not in get_args(Sharing):
            raise ConfigError(unknown_name("sharing", self.sharing, get_args(Sharing), "ensemble"))

    def on(self, device: torch.device | str) -> EnsembleSource:
        """Return the ensemble on a device."""
        return replace(self, members=tuple(member.on(device) for member in self.members))

    @property
    def generated_rate(self) -> float:
        """Rate of the generated events per tonne-year."""
        return self.members[0].generated_rate

    @property
    def variance_factor(self) -> float:
        """Variance of the mean of K members over the variance among members.

        ``none``: members are independent, 1/K. ``bootstrap``: a member is off by what the one sample is off by, and
        varies about it by as much again, so that the mean of K has 1 + 1/K of the variance among members. ``all``: the
        spread holds the randomness of training alone, of which 1/K is left; the error that the finite sample leaves to
        all members alike does not show, and the result is a lower bound.
        """
        share = 1.0 / len(self.members)
        return 1.0 + share if self.sharing == "bootstrap" else share

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

    @property
    def _shares(self) -> Tensor:
        return torch.full((len(self.members),), 1.0 / len(self.members), dtype=torch.float64)

    @property
    def kinks(self) -> tuple[str, ...]:
        """Nuisances at whose nominal values the density of a member turns sharply."""
        return tuple(name for name in self.nuisances.names if any(name in member.kinks for member in self.members))

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
        """Return the standard error (*,) of mu from the finite number of simulated events.

        The root mean square of the members' errors, and less by sqrt(K) where the members share no events.
        """
        variance = torch.stack([member.expected_events_std(theta) for member in self.members]).square().mean(dim=0)
        return (variance / (len(self.members) if self.sharing == "none" else 1)).sqrt()

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

    def score(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln f (n,) and its gradient in theta (n, K), for x (n, D) and theta (n, K), to single precision.

        Outside the region of interest ln f = -inf and the gradient is zero.
        """
        scores = [member.score(x, theta) for member in self.members]
        log_f = torch.stack([log_k for log_k, _ in scores])
        mean = torch.logsumexp(log_f, dim=0)
        share = torch.where(torch.isfinite(mean), torch.exp(log_f - mean), 0.0)
        gradient = (share.unsqueeze(-1) * torch.stack([gradient_k for _, gradient_k in scores])).sum(dim=0)
        return mean - math.log(len(self.members)), gradient

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of f(x | theta), for x (*, D) and theta (*, K), broadcasting over *."""
        return mean_jet([member.density_jet(x, theta, centre) for member in self.members], self._shares)

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of mu(theta), for theta (*, K)."""
        return mean_jet([member.rate_jet(theta, centre) for member in self.members], self._shares)
