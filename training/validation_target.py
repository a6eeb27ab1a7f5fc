"""The density that a validation looks at: that of a flow, or the mean of an ensemble's flows."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from surrogate.ensemble import EnsembleSource
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_source import FlowSource


class MeanDensity:
    """The mean density of an ensemble's flows.

    Parameters
    ----------
    source
        The ensemble.
    """

    def __init__(self, source: EnsembleSource) -> None:
        self._source = source
        self._flows = [member.flow for member in source.members]

    @property
    def config(self) -> FlowConfig:
        """Observables, nuisance parameters and ordering."""
        return self._flows[0].config

    @property
    def dtype(self) -> torch.dtype:
        """In which it is evaluated."""
        return self._flows[0].dtype

    def log_prob_unit(self, u: Tensor, theta: Tensor) -> Tensor:
        """Return ln p(u | theta) (n,) for u (n, D) and theta (n, K)."""
        log_p = torch.stack([flow.log_prob_unit(u, theta) for flow in self._flows])
        return torch.logsumexp(log_p, dim=0) - math.log(len(self._flows))

    def to_base(self, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (n, D), uniform where u (n, D) follows p(u | theta), and ln p(u | theta) (n,).

        z is the transform of member k picked with probability p_k/(p_1 + ... + p_K), by a fixed sequence of random
        numbers: where u follows the mean, (u, k) is drawn from the mixture, and z is uniform given k.
        """
        transforms, log_p = zip(*(flow.to_base(u, theta) for flow in self._flows), strict=True)
        share = torch.stack(log_p, dim=-1).softmax(dim=-1)
        picked = torch.multinomial(share, 1, generator=torch.Generator(share.device).manual_seed(0))
        z = torch.stack(transforms, dim=1)
        chosen = z.gather(1, picked.unsqueeze(-1).expand(-1, 1, z.shape[-1])).squeeze(1)
        return chosen, torch.stack(log_p).logsumexp(dim=0) - math.log(len(self._flows))

    def from_base(self, z: Tensor, theta: Tensor) -> Tensor:
        """Return points u (n, D) for uniform z (n, D), near which p(u | theta) is large: those of the first flow."""
        return self._flows[0].from_base(z, theta)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw events x (n, D) in physical units at theta (n, K)."""
        return self._source.sample(n, theta, generator)

    def double(self) -> MeanDensity:
        """Return a copy in float64."""
        members = self._source.members
        double = (FlowSource(m.flow, m.acceptance, m.generated_rate, torch.float64) for m in members)
        return MeanDensity(EnsembleSource(tuple(double), self._source.sharing))


UnitDensity = ConditionalFlow | MeanDensity
"""p(u | theta) on the unit cube; both have the methods of the latter."""


def unit_density(source: FlowSource | EnsembleSource) -> UnitDensity:
    """Return the density of a source on the unit cube."""
    return source.flow if isinstance(source, FlowSource) else MeanDensity(source)


def in_double(density: UnitDensity) -> UnitDensity:
    """Return a copy of a density in float64."""
    return copy.deepcopy(density).double() if isinstance(density, ConditionalFlow) else density.double()
