"""Conditional normalizing flow: a density f(x | theta) that is exactly normalised over the region of interest.

    f(x | theta) = prod_l |det dT_l| |det du/dx|,    u -> T_1 -> ... -> T_L -> uniform on the unit cube,

where u(x) maps the region of interest onto the unit cube (:mod:`surrogate.observables`) and each T_l takes the cube to
itself (:mod:`surrogate.flow_layers`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surrogate.errors import DataError
from surrogate.flow_config import FlowConfig
from surrogate.flow_layers import CubeFlow
from surrogate.shapes import broadcast_shape

SAMPLE_CHUNK = 65_536
"""Events drawn at a time, which bounds the memory of sampling."""


class ConditionalFlow(nn.Module):
    """Density f(x | theta) over a region of interest, exactly normalised, smooth in theta.

    Parameters
    ----------
    config
        The architecture.
    seed
        Seed of the initial weights; the global random state is left alone.

    Notes
    -----
    Everything is evaluated in the dtype of the parameters: float32 while training, float64 after ``.double()``.
    """

    def __init__(self, config: FlowConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._flow = CubeFlow(config)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) (*,), for x (*, D) in physical units and theta (*, K), broadcasting over *.

        Exactly -inf outside the region of interest and for NaN.

        Raises
        ------
        DataError
            If the last dimension of x is not the number of observables.
        RangeError
            If theta is outside the trained ranges.
        """
        self.config.nuisances.check(theta)
        u, log_volume, inside = self.to_unit(x)
        shape = broadcast_shape(x.shape[:-1], theta.shape[:-1])
        rows = u.expand(*shape, -1).reshape(-1, u.shape[-1])
        log_p = self.log_prob_unit(rows, self._rows(theta, shape)).reshape(shape)
        return torch.where(inside, log_p + log_volume, -torch.inf)

    def to_unit(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return u (*, D), ln|det du/dx| (*,) and whether x (*, D) lies inside the region of interest (*,).

        Points outside are moved to the centre before any arithmetic, so that no NaN enters a gradient.
        """
        space = self.config.observables
        if x.shape[-1:] != (space.dim,):
            raise DataError(f"x: shape {tuple(x.shape)}, last dimension must be {space.dim} ({', '.join(space.names)})")
        inside, (low, high) = space.contains(x), space.bounds(x)
        u, log_volume = space.to_unit(torch.where(inside.unsqueeze(-1), x, 0.5 * (low + high)).to(self.dtype))
        return u, log_volume, inside

    def log_prob_unit(self, u: Tensor, theta: Tensor) -> Tensor:
        """Return ln p(u | theta) (n,) on the unit cube, for u (n, D) and theta (n, K); nothing is checked."""
        log_p: Tensor = self._flow._log_prob(u, theta)
        return log_p

    def to_base(self, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (n, D), uniform on the cube where u (n, D) follows p(u | theta), and ln|det dz/du| (n,).

        Column j of z belongs to the j-th coordinate in autoregressive order; with one layer it is the probability
        integral transform given the coordinates before.
        """
        return self._flow.to_base(u, theta)

    def from_base(self, z: Tensor, theta: Tensor) -> Tensor:
        """Return u (n, D) with ``to_base(u, theta)`` = z (n, D); not differentiable."""
        with torch.no_grad():
            return self._flow.from_base(z, theta)

    def sample(self, n: int, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw n events (n, D) inside the region of interest, at theta (K,) or one per row of theta (n, K).

        Raises
        ------
        RangeError
            If theta is outside the trained ranges.
        """
        shape = (n, *self.noise_shape)
        return self.sample_from_noise(
            torch.rand(shape, generator=generator, dtype=self.dtype, device=theta.device), theta
        )

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape (D, 2) of the uniforms that make one event."""
        return (self.config.observables.dim, 2)

    @torch.no_grad()
    def sample_from_noise(self, noise: Tensor, theta: Tensor) -> Tensor:
        """Return the events (n, D) made of uniforms (n, D, 2), at theta (K,) or (n, K); row by row."""
        self.config.nuisances.check(theta)
        rows = self._rows(theta, noise.shape[:1])
        chunks = zip(noise.to(self.dtype).split(SAMPLE_CHUNK), rows.split(SAMPLE_CHUNK), strict=True)
        return self.config.observables.from_unit(torch.cat([self._flow.from_noise(*chunk) for chunk in chunks]))

    def conditioner_network(self) -> nn.Module:
        """Return the masked network of the layer next to the data (autoregressive families)."""
        return self._flow.conditioner_network()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return next(self.parameters()).dtype

    def _rows(self, theta: Tensor, shape: torch.Size) -> Tensor:
        return theta.to(self.dtype).expand(*shape, theta.shape[-1]).reshape(shape.numel(), theta.shape[-1])
