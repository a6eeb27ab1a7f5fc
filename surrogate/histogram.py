"""Monotone map of [0, 1] with a constant slope in each of n equal bins: the density of an observable that is binned.

    F(u) = sum_{j < i} p_j + p_i (n u - i),    i = floor(n u),    p = softmax(raw),

the piecewise-linear map of Müller et al., "Neural importance sampling", arXiv:1808.03856, with as many bins as the
observable has. It is discontinuous in u, at edges that never move, and infinitely differentiable in its
parameters: where a density is known bin by bin only (templates, or counts dequantised by uniform noise), it is exact,
and as smooth in theta as the network that emits the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surrogate.errors import ConfigError
from surrogate.observables import bin_of_unit
from surrogate.univariate import Move


@dataclass(frozen=True)
class HistogramMap:
    """Piecewise-linear map for each of several columns.

    Parameters
    ----------
    bins
        Number of bins of each column; a single number serves all.
    size
        Raw parameters of a column, at least its number of bins, of which the surplus is ignored; 0 for the largest
        number of bins.

    Raises
    ------
    ConfigError
        If a column has no bin, or more than ``size``.
    """

    bins: tuple[int, ...]
    size: int = 0

    def __post_init__(self) -> None:
        if not self.bins or min(self.bins) < 1:
            raise ConfigError(f"bins = {self.bins}: each column needs at least one")
        object.__setattr__(self, "size", self.size or max(self.bins))
        if max(self.bins) > self.size:
            raise ConfigError(f"size = {self.size} must be at least the largest number of bins, {max(self.bins)}")

    @property
    def n_parameters(self) -> int:
        """One per bin of the column that has most."""
        return self.size

    @property
    def movable(self) -> bool:
        """Bins stay where they are."""
        return False

    def at(self, column: int) -> HistogramMap:
        """Return the map of one column."""
        return HistogramMap((self.bins[column % len(self.bins)],), self.size)

    def initial(self) -> Tensor:
        """Return raw parameters (P,) of the identity."""
        return torch.zeros(self.n_parameters, dtype=torch.float64)

    def forward(self, u: Tensor, raw: Tensor, move: Move | None = None) -> tuple[Tensor, Tensor]:
        """Return z = F(u) and ln dF/du, both (*,), the last dimension of u being the columns."""
        n, log_p = self._bins(u), self.log_probabilities(raw)
        index = bin_of_unit(u, n)
        log_slope = log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)
        below = torch.cumsum(log_p.exp(), dim=-1).gather(-1, index.unsqueeze(-1)).squeeze(-1) - log_slope.exp()
        z = below + log_slope.exp() * (u * n - index)
        return torch.where(u >= 1.0, torch.ones_like(z), z.clamp(0.0, 1.0)), log_slope + n.to(u).log()

    def log_derivative(self, u: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return ln dF/du (*,)."""
        n = self._bins(u)
        index = bin_of_unit(u, n).unsqueeze(-1)
        return self.log_probabilities(raw).gather(-1, index).squeeze(-1) + n.to(u).log()

    @torch.no_grad()
    def inverse(self, z: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) with F(u) = z."""
        n, p = self._bins(z), self.log_probabilities(raw).exp()
        total = p.cumsum(dim=-1)
        index = torch.minimum((z.unsqueeze(-1) >= total[..., :-1]).sum(dim=-1), n - 1)
        picked = index.unsqueeze(-1)
        mass = p.gather(-1, picked).squeeze(-1)
        rest = z - (total.gather(-1, picked).squeeze(-1) - mass)
        part = torch.where(mass > 0, rest / mass, 0.5).clamp(0.0, 1.0)
        return torch.where(z >= 1.0, torch.ones_like(z), (index + part) / n)

    @torch.no_grad()
    def sample(self, noise: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) for noise (*, 2), of which the first uniform is inverted."""
        return self.inverse(noise[..., 0], raw)

    def _bins(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.bins, dtype=torch.int64, device=like.device).expand(like.shape)

    def log_probabilities(self, raw: Tensor) -> Tensor:
        """Return ln p (*, P), -inf for the surplus of columns with fewer bins."""
        if min(self.bins) == self.size:
            return raw.log_softmax(dim=-1)
        bins = torch.as_tensor(self.bins, device=raw.device).unsqueeze(-1)
        surplus = torch.arange(self.size, device=raw.device) >= bins
        return raw.masked_fill(surplus, -torch.inf).log_softmax(dim=-1)
