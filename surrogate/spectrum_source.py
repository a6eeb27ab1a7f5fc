"""A source that folds a smooth response with a recoil spectrum: a mixture of mono-energetic densities."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.jet import Jet
from surrogate.jet_algebra import grouped_sum, picked, product, reciprocal, reshaped, weighted_sum
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from surrogate.quadrature import PANEL, EnergyNodes
from surrogate.response import OUTSIDE, SmoothResponse, checked_nodes
from surrogate.shapes import broadcast_shape
from surrogate.spectrum import Spectrum

NEGLIGIBLE = 1e-7
"""Share of an event's density below which an energy is left out of its derivatives."""

CHUNK = 262_144
"""Pairs of event and energy whose densities are held at a time."""


@dataclass(frozen=True, eq=False)
class SpectrumSource:
    """A response folded with a spectrum; implements :class:`surrogate.source.Source`.

    Parameters
    ----------
    response
        p(x | E, theta) and eps(E, theta).
    spectrum
        dR/dE in events per (tonne year keV).
    outside
        Share of the recorded events that the energies beyond the response may have; they are left out.
    panel
        Widest panel of the quadrature in ln E.

    Raises
    ------
    ConfigError
        If the spectrum reaches too far outside the response, or has no rate inside.
    """

    response: SmoothResponse
    spectrum: Spectrum
    outside: float = OUTSIDE
    panel: float = PANEL

    def __post_init__(self) -> None:
        self.nodes  # noqa: B018 (checks the spectrum)

    def on(self, device: torch.device | str) -> SpectrumSource:
        """Return the source on a device; the energies, which are checked, stay those of this one."""
        moved = copy.copy(self)
        object.__setattr__(moved, "response", self.response.on(device))
        return moved

    @cached_property
    def nodes(self) -> EnergyNodes:
        """The energies and their rates."""
        return checked_nodes(self.response, self.spectrum, self.outside, self.panel)

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest."""
        return self.response.observables

    @property
    def nuisances(self) -> NuisanceSpace:
        """The parameters theta of the response."""
        return self.response.nuisances

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """Those of the response."""
        return self.response.breakpoints

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the response and the quadrature."""
        digest = hashlib.sha256(self.response.identity.encode())
        for tensor in (self.nodes.energy, self.nodes.weight):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def _rates(self, theta: Tensor) -> Tensor:
        """Return w_m eps(E_m, theta) (*, M)."""
        return self._weight(theta) * self.response.efficiency(self._energy(theta), theta.unsqueeze(-2))

    def _energy(self, like: Tensor) -> Tensor:
        return self.nodes.energy.to(like.device)

    def _weight(self, like: Tensor) -> Tensor:
        return self.nodes.weight.to(like.device)

    def expected_events(self, theta: Tensor) -> Tensor:
        """Return mu(theta) (*,) in events per tonne-year."""
        return self._rates(theta).sum(dim=-1)

    def expected_events_std(self, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of mu from that of the efficiency, as if it were the same at all energies.

        It is an upper bound: errors at distant energies are nearly independent.
        """
        return self.response.efficiency_std(self._energy(theta), theta.unsqueeze(-2)) @ self._weight(theta)

    def rate_jet(self, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of mu(theta), for theta (*, K)."""
        return weighted_sum(self._efficiency_jet(theta, centre), self._weight(theta))

    def _efficiency_jet(self, theta: Tensor, centre: Tensor | None) -> Jet:
        """Return the jet of eps over (*, M)."""
        where = None if centre is None else centre.unsqueeze(-2)
        return self.response.efficiency_jet(self._energy(theta), theta.unsqueeze(-2), where)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,) for x (*, D) and theta (*, K), broadcasting over *."""
        log_rates = self._rates(theta).log()
        x, log_rates, theta = _common(x, log_rates, theta)
        parts = []
        for some_x, some_rates, some_theta in self._chunks(x, log_rates, theta):
            log_joint = self._log_joint(some_x, some_rates, some_theta)
            inside = torch.isfinite(log_joint).any(dim=-1)
            # rows that are -inf throughout would put NaN into the gradient of logsumexp
            total = torch.where(inside.unsqueeze(-1), log_joint, 0.0).logsumexp(dim=-1)
            parts.append(torch.where(inside, total - some_rates.logsumexp(dim=-1), -torch.inf))
        return torch.cat(parts).reshape(x.shape[:-1])

    def _chunks(self, x: Tensor, log_rates: Tensor, theta: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return rows of events, log rates and theta, so many at a time that their densities at all nodes fit."""
        step = max(1, CHUNK // len(self.nodes.energy))
        rows = (t.reshape(-1, t.shape[-1]).split(step) for t in (x, log_rates, theta))
        return list(zip(*rows, strict=True))

    def _log_joint(self, x: Tensor, log_rates: Tensor, theta: Tensor) -> Tensor:
        """Return ln [w_m eps(E_m, theta) p(x | E_m, theta)] (n, M)."""
        return log_rates + self.response.log_prob(x.unsqueeze(-2), self._energy(theta), theta.unsqueeze(-2))

    def density_jet(self, x: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta of f(x | theta), for x (*, D) and theta (*, K), broadcasting over *.

        Derivatives are taken at the energies that matter to an event; each of the others has less than 1e-7 of its
        density.
        """
        shape = broadcast_shape(x.shape[:-1], theta.shape[:-1], *(() if centre is None else (centre.shape[:-1],)))
        x, theta = (t.expand(*shape, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (x, theta))
        where = None if centre is None else centre.expand(*shape, centre.shape[-1]).reshape(theta.shape)
        points, sides, place = _distinct(theta, where)
        efficiency = self._efficiency_jet(points, sides)
        norm = reciprocal(weighted_sum(efficiency, self._weight(theta)))
        log_rates = self._log_rates(efficiency)[place]
        row, node, total = self._relevant(x, log_rates, theta)
        side = None if where is None else where[row]
        density = self.response.density_jet(x[row], self._energy(theta)[node], theta[row], side)
        rate = picked(efficiency, (place[row], node))
        weighted = Jet(rate.log_scale + self._weight(theta).log()[node], rate.value, rate.gradient, rate.hessian)
        joint = grouped_sum(product(weighted, density), row, len(theta))
        value = torch.where(torch.isfinite(total), torch.exp(total - joint.log_scale), 0.0)
        joint = Jet(joint.log_scale, value, joint.gradient, joint.hessian)
        return reshaped(product(joint, picked(norm, (place,))), shape)

    def score(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln f (n,) and its gradient in theta (n, K), for x (n, D) and theta (n, K); cheaper than a jet.

        Outside the region of interest ln f = -inf and the gradient is zero.
        """
        points, _, place = _distinct(theta, None)
        efficiency = self._efficiency_jet(points, None)
        log_rates = self._log_rates(efficiency)
        slope = efficiency.gradient / efficiency.value.unsqueeze(-1)
        mu = log_rates.logsumexp(dim=-1)
        mean = (torch.exp(log_rates - mu.unsqueeze(-1)).unsqueeze(-1) * slope).sum(dim=-2)
        row, node, total = self._relevant(x, log_rates[place], theta)
        log_p, gradient = self.response.score(x[row], self._energy(theta)[node], theta[row])
        share = torch.exp(log_rates[place[row], node] + log_p - total[row]).unsqueeze(-1)
        joint = torch.zeros_like(mean[place]).index_add(0, row, share * (slope[place[row], node] + gradient))
        inside = torch.isfinite(total)
        log_f = torch.where(inside, total - mu[place], -torch.inf)
        return log_f, torch.where(inside.unsqueeze(-1), joint - mean[place], 0.0)

    def _log_rates(self, efficiency: Jet) -> Tensor:
        """Return ln [w_m eps_m] (*, M)."""
        return efficiency.log_scale + efficiency.value.log() + self._weight(efficiency.value).log()

    @torch.no_grad()
    def _relevant(self, x: Tensor, log_rates: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return row and node (m,) of the pairs that matter, and ln sum_m w_m eps_m p_m (n,) of all nodes."""
        pairs, totals, start = [], [], 0
        for some_x, some_rates, some_theta in self._chunks(x, log_rates, theta):
            log_joint = self._log_joint(some_x, some_rates, some_theta)
            top = log_joint.amax(dim=-1, keepdim=True)
            row, node = (torch.isfinite(log_joint) & (log_joint >= top + math.log(NEGLIGIBLE))).nonzero().T
            pairs.append(torch.stack([row + start, node]))
            totals.append(log_joint.logsumexp(dim=-1))
            start += len(some_x)
        row, node = torch.cat(pairs, dim=-1)
        return row, node, torch.cat(totals)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, D) at theta (K,), or one per row of theta (n, K)."""
        shape = (n, *self.noise_shape)
        noise = torch.rand(shape, generator=generator, dtype=torch.float64, device=theta.device)
        return self.sample_from_noise(noise, theta)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the uniforms that make one event; the last row picks the energy."""
        rows, columns = self.response.noise_shape
        return (rows + 1, columns)

    def sample_from_noise(self, noise: Tensor, theta: Tensor) -> Tensor:
        """Return the events (n, D) made of uniforms (n, *noise_shape), at theta (K,) or (n, K); row by row."""
        theta = theta.expand(len(noise), self.nuisances.dim)
        points, _, place = _distinct(theta, None)
        cumulative = self._rates(points).cumsum(dim=-1)[place]
        wanted = (noise[:, -1, 0].double() * cumulative[:, -1]).unsqueeze(-1)
        node = (cumulative < wanted).sum(dim=-1).clamp(max=cumulative.shape[-1] - 1)
        return self.response.sample_from_noise(noise[:, :-1], self._energy(theta)[node], theta)


def _common(*tensors: Tensor) -> list[Tensor]:
    """Expand tensors (*, n_i) to a common *."""
    shape = broadcast_shape(*(t.shape[:-1] for t in tensors))
    return [t.expand(*shape, t.shape[-1]) for t in tensors]


def _distinct(theta: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the distinct rows (T, K) of theta (n, K), their centres, and which of them each row is (n,).

    The efficiency costs as much as a density, and the events of a data set share theta.
    """
    k = theta.shape[-1]
    if not (k and len(theta)):
        return theta[:1], None if centre is None else centre[:1], theta.new_zeros(len(theta), dtype=torch.long)
    joined = theta if centre is None else torch.cat([theta, centre.to(theta)], dim=-1)
    rows, place = joined.detach().unique(dim=0, return_inverse=True)
    return rows[:, :k], None if centre is None else rows[:, k:], place
