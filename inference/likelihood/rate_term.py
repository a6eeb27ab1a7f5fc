"""Expected events of the sources of a run, with first and second derivatives.

The expected number of events of source c in the run is R_c = scale_c prod_m y_m mu_c(theta), a product of factor
parameters y_m (rate multiplier, efficiencies, exposure) and of the source's own rate mu_c, in events per unit of
exposure: per tonne-year for surrogates. Its derivatives are kept in *local* coordinates, the L = M + K factors and
nuisances of each source, and carried to the P model parameters by constant 0/1 matrices, so that sources are handled
side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.parameters import ParameterSet
from inference.science_run import RunSource, ScienceRun
from surrogate.jet import Jet


@dataclass(frozen=True)
class RateJets:
    """R_c and its local derivatives.

    Attributes
    ----------
    value
        R (B, C), in events.
    gradient
        (B, C, L) in the local coordinates.
    hessian
        (B, C, L, L).
    """

    value: Tensor
    gradient: Tensor
    hessian: Tensor


class SourceBinding:
    """How one source hangs on the parameter vector.

    Parameters
    ----------
    parameters
        The model's parameters.
    source
        The source in its run.
    device
        Where the constants are kept.
    """

    def __init__(self, parameters: ParameterSet, source: RunSource, device: torch.device) -> None:
        self.source = source.source
        drivers = source.drivers
        self.columns = [k for k, d in enumerate(drivers) if isinstance(d, str)]
        self.parameters = torch.tensor(
            [parameters.index(d) for d in drivers if isinstance(d, str)], dtype=torch.long, device=device
        )
        self._held = torch.tensor(
            [0.0 if isinstance(d, str) else float(d) for d in drivers], dtype=torch.float64, device=device
        )
        self.all_driven = len(self.columns) == len(drivers)
        fixed = None if self.moves else self.source.expected_events(self._held.unsqueeze(0))
        self._fixed_rate = None if fixed is None else fixed.detach().to(torch.float64)

    @property
    def moves(self) -> bool:
        """Whether any nuisance of the source is driven by a parameter."""
        return bool(self.columns)

    @property
    def held(self) -> Tensor:
        """Where the nuisances (K,) are held; zero where they are driven."""
        return self._held

    def theta(self, values: Tensor) -> Tensor:
        """Return the nuisances (B, K) at parameter values (B, P)."""
        if self.all_driven:
            return values[:, self.parameters]
        theta = self._held.expand(len(values), -1).clone()
        theta[:, self.columns] = values[:, self.parameters]
        return theta

    def rate(self, values: Tensor) -> Tensor:
        """Return mu (B,), differentiable in the values (B, P)."""
        if self._fixed_rate is not None:
            return self._fixed_rate.expand(len(values))
        return self.source.expected_events(self.theta(values))

    def rate_jet(self, theta: Tensor, centre: Tensor | None) -> Jet:
        """Return the jet of mu over (B,) in the nuisances theta (B, K)."""
        if self._fixed_rate is None:
            return self.source.rate_jet(theta, centre)
        value, k = self._fixed_rate.expand(len(theta)), theta.shape[-1]
        none = value.new_zeros(1).expand(len(theta), k)
        return Jet(torch.zeros_like(value), value, none, none.unsqueeze(-1).expand(-1, k, k))

    def driven_part(self, gradient: Tensor) -> Tensor:
        """Return the part of a gradient (*, K) that belongs to driven nuisances."""
        return gradient if self.all_driven else gradient[..., self.columns]

    def driven(self, gradient: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parts of a gradient (*, K) and a Hessian (*, K, K) that belong to driven nuisances."""
        if self.all_driven:
            return gradient, hessian
        return gradient[..., self.columns], hessian[..., self.columns, :][..., self.columns]


class RateTerm:
    """R_c of all sources of a run as functions of the parameter vector.

    Parameters
    ----------
    parameters
        The model's parameters.
    run
        The run.
    device
        Where the constants are kept.
    """

    def __init__(self, parameters: ParameterSet, run: ScienceRun, device: torch.device) -> None:
        self.bindings = [SourceBinding(parameters, c, device) for c in run.sources]
        n_sources, n_parameters = len(run.sources), len(parameters)
        factors = [[parameters.index(name) for name in run.factors(c)] for c in run.sources]
        self.n_factors = max(len(f) for f in factors)
        self.n_local = self.n_factors + max(len(b.columns) for b in self.bindings)
        # Sources with fewer factors are padded with a constant 1 that stands behind the parameters.
        index = torch.full((n_sources, self.n_factors), n_parameters, dtype=torch.long)
        embed = torch.zeros(n_sources, self.n_local, n_parameters + 1, dtype=torch.float64)
        for c, (f, b) in enumerate(zip(factors, self.bindings, strict=True)):
            index[c, : len(f)] = torch.tensor(f)
            embed[c, torch.arange(self.n_factors), index[c]] = 1.0
            embed[c, self.n_factors + torch.arange(len(b.columns)), b.parameters.cpu()] = 1.0
        self._index = index.to(device)
        self.embed = embed[..., :n_parameters].to(device)
        self._embed_pairs = torch.einsum("clp,cmq->clmpq", self.embed, self.embed).reshape(-1, n_parameters**2)
        self._scale = torch.tensor([c.scale for c in run.sources], dtype=torch.float64, device=device)
        eye = torch.eye(self.n_factors, dtype=torch.bool, device=device)
        self._skip_one = eye
        self._skip_two = eye[:, None, :] | eye[None, :, :]
        self._off_diagonal = (~eye).to(torch.float64)

    def _factors(self, values: Tensor) -> Tensor:
        """Return the factors (B, C, M)."""
        return torch.cat([values, values.new_ones(len(values), 1)], dim=-1)[:, self._index]

    def value(self, values: Tensor) -> Tensor:
        """Return R (B, C), differentiable in the values (B, P)."""
        rates = torch.stack([b.rate(values) for b in self.bindings], dim=-1)
        return self._scale * self._factors(values).prod(dim=-1) * rates

    def _stacked(self, jets: Sequence[Jet]) -> tuple[Tensor, Tensor, Tensor]:
        """Return mu (B, C) of the sources, gradients (B, C, K) and Hessians (B, C, K, K), K the largest number."""
        scale = torch.stack([j.log_scale for j in jets], dim=-1).exp()
        mu = scale * torch.stack([j.value for j in jets], dim=-1)
        k = self.n_local - self.n_factors
        gradient, hessian = mu.new_zeros(*mu.shape, k), mu.new_zeros(*mu.shape, k, k)
        for c, (b, jet) in enumerate(zip(self.bindings, jets, strict=True)):
            n = len(b.columns)
            if n:
                gradient[:, c, :n], hessian[:, c, :n, :n] = b.driven(jet.gradient, jet.hessian)
        return mu, scale.unsqueeze(-1) * gradient, scale[..., None, None] * hessian

    def jets(self, values: Tensor, source_jets: Sequence[Jet]) -> RateJets:
        """Return R and its local derivatives at values (B, P), given the jets of the sources' own rates mu there."""
        mu, mu_gradient, mu_hessian = self._stacked(source_jets)
        factors = self._factors(values)
        full = self._scale * factors.prod(dim=-1)
        one = factors.new_ones(())
        without_one = self._scale[:, None] * torch.where(self._skip_one, one, factors.unsqueeze(-2)).prod(dim=-1)
        pairs = torch.where(self._skip_two, one, factors[:, :, None, None, :]).prod(dim=-1) * self._off_diagonal
        without_two = self._scale[:, None, None] * pairs
        gradient = torch.cat([mu[..., None] * without_one, full[..., None] * mu_gradient], dim=-1)
        mixed = without_one.unsqueeze(-1) * mu_gradient.unsqueeze(-2)
        upper = torch.cat([mu[..., None, None] * without_two, mixed], dim=-1)
        lower = torch.cat([mixed.mT, full[..., None, None] * mu_hessian], dim=-1)
        return RateJets(full * mu, gradient, torch.cat([upper, lower], dim=-2))

    def to_parameters(self, local: Tensor) -> Tensor:
        """Carry local gradients (B, C, L), per source, to the parameters: (B, C, P)."""
        return torch.einsum("bcl,clp->bcp", local, self.embed)

    def sum_hessians(self, local: Tensor) -> Tensor:
        """Sum local Hessians (B, C, L, L) over the sources and carry them to the parameters: (B, P, P)."""
        p = self.embed.shape[-1]
        return (local.flatten(1) @ self._embed_pairs).reshape(-1, p, p)
