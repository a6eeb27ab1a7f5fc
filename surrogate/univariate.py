"""Monotone maps of [0, 1] onto itself, from which the flows are built.

A map z = F(u) with F(0) = 0, F(1) = 1 and F' > 0 turns a density that is uniform in z into the density F'(u) in u. Its
raw, unconstrained parameters come one row per point, as a conditioner network emits them.

:class:`LogisticMixtureMap`, the default family, is a mixture of K logistic distributions truncated to [0, 1],

    F(u) = sum_k w_k [s(z_k) - s(-m_k/s_k)] / [s((1-m_k)/s_k) - s(-m_k/s_k)],    z_k = (u - m_k)/s_k,

with s(x) = 1/(1 + exp(-x)). It is infinitely differentiable in u and in every parameter. Mixtures of logistics as flow
layers: Ho et al., "Flow++", arXiv:1902.00275, section 3.2; the truncation makes the map exact on a bounded window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from surrogate.errors import ConfigError

Move = Callable[[Tensor], Tensor]
"""Moves component locations (*, K) on the unit interval; see :mod:`surrogate.guides`."""

LOCATION_LOW, LOCATION_HIGH = -0.2, 1.2
"""Range of the component locations: beyond the edges, so that a density may rise towards one."""


class UnivariateMap(Protocol):
    """A family of monotone maps of [0, 1] with ``n_parameters`` raw parameters each."""

    @property
    def n_parameters(self) -> int:
        """Number of raw parameters P of one map."""
        ...

    @property
    def movable(self) -> bool:
        """Whether the map has locations that a guide can move."""
        ...

    def at(self, column: int) -> UnivariateMap:
        """Return the map of one column, where a map serves the columns (the last dimension) of points."""
        ...

    def initial(self) -> Tensor:
        """Return raw parameters (P,) of a map close to the identity, where training starts."""
        ...

    def forward(self, u: Tensor, raw: Tensor, move: Move | None = None) -> tuple[Tensor, Tensor]:
        """Return z = F(u) and ln dF/du, both (*,), for u (*,) in [0, 1] and raw (*, P)."""
        ...

    def log_derivative(self, u: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return ln dF/du (*,) alone, which costs less than :meth:`forward`."""
        ...

    def inverse(self, z: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) with F(u) = z, for z (*,) in [0, 1]; not differentiable."""
        ...

    def sample(self, noise: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) of density dF/du for noise (*, 2) of independent uniforms on [0, 1); not differentiable."""
        ...


class _Components(NamedTuple):
    """Mixture parameters, each (*, K): unnormalised log weights, locations m and inverse widths 1/s."""

    logits: Tensor
    location: Tensor
    rate: Tensor


@dataclass(frozen=True)
class LogisticMixtureMap:
    """Mixture of K truncated logistics.

    Parameters
    ----------
    components
        K >= 1.
    floor
        Smallest width, in units of the window; structure finer than this is not resolved.

    Raises
    ------
    ConfigError
        If K < 1 or the floor is not in [1e-4, 0.5].

    Notes
    -----
    With b = (1-m)/s and c = m/s the bracket factorises without cancellation,

        s(b) - s(-c) = s(b) s(c) (1 - exp(-1/s)),

    so that, with L = ln s(.) and L(-x) = L(x) - x,

        ln F_k' = 2 L(z) - z - L(b) - L(c) - ln(1 - exp(-1/s)) - ln s,
        F_k     = exp(L(z) - L(b)) (1 - exp(-u/s)) / (1 - exp(-1/s)),

    both exact to rounding at the edges, far outside the window and for any width.
    """

    components: int = 20
    floor: float = 0.002

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ConfigError(f"components = {self.components} must be >= 1")
        if not 1e-4 <= self.floor <= 0.5:
            raise ConfigError(f"floor = {self.floor} must lie in [1e-4, 0.5] (units of the window)")

    @property
    def n_parameters(self) -> int:
        """3 K: log weights, locations, widths."""
        return 3 * self.components

    @property
    def movable(self) -> bool:
        """Locations can be moved by guides."""
        return True

    def at(self, column: int) -> LogisticMixtureMap:
        """Return the map itself: all columns are alike."""
        return self

    def initial(self) -> Tensor:
        """Return raw parameters (3K,) of equal components evenly spread over the window, overlapping."""
        k = self.components
        centre = (torch.arange(k, dtype=torch.float64) + 0.5) / k
        location = torch.logit((centre - LOCATION_LOW) / (LOCATION_HIGH - LOCATION_LOW))
        width = torch.full((k,), math.log(math.expm1(0.7 / k)), dtype=torch.float64)
        return torch.cat([torch.zeros(k, dtype=torch.float64), location, width])

    def forward(self, u: Tensor, raw: Tensor, move: Move | None = None) -> tuple[Tensor, Tensor]:
        """Return z = F(u) and ln dF/du, both (*,)."""
        parts = self._components(raw, move)
        return _mixture_cdf(u, parts), _mixture_log_density(u, parts)

    def log_derivative(self, u: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return ln dF/du (*,)."""
        return _mixture_log_density(u, self._components(raw, move))

    @torch.no_grad()
    def inverse(self, z: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) with F(u) = z, by safeguarded Newton steps to rounding accuracy."""
        parts = self._components(raw, move)
        return _invert(lambda u: (_mixture_cdf(u, parts), _mixture_log_density(u, parts)), z)

    @torch.no_grad()
    def sample(self, noise: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,): one uniform picks a component by weight, the other its quantile, which is a closed form."""
        parts = self._components(raw, move)
        pick, v = noise.unbind(dim=-1)
        edges = parts.logits.softmax(dim=-1).cumsum(dim=-1)[..., :-1]
        index = (pick.unsqueeze(-1) >= edges).sum(dim=-1, keepdim=True)
        location, rate = (p.gather(-1, index).squeeze(-1) for p in (parts.location, parts.rate))
        return _truncated_logistic_quantile(v, location, rate)

    def _components(self, raw: Tensor, move: Move | None) -> _Components:
        logits, location, width = raw.unflatten(-1, (3, self.components)).unbind(dim=-2)
        location = LOCATION_LOW + (LOCATION_HIGH - LOCATION_LOW) * torch.sigmoid(location)
        # -logsigmoid(-x) is softplus without the threshold at which torch's softplus turns linear
        rate = 1.0 / (self.floor - logsigmoid(-width))
        return _Components(logits, location if move is None else move(location), rate)


def _mixture_log_density(u: Tensor, parts: _Components) -> Tensor:
    """Return ln F'(u) (*,) of the mixture."""
    logits, location, rate = parts
    z = (u.unsqueeze(-1) - location) * rate
    c = location * rate
    norm = logsigmoid(rate - c) + logsigmoid(c) + torch.log(-torch.expm1(-rate) / rate)
    log_density = 2 * logsigmoid(z) - z - norm
    return torch.logsumexp(logits + log_density, dim=-1) - torch.logsumexp(logits, dim=-1)


def _mixture_cdf(u: Tensor, parts: _Components) -> Tensor:
    """Return F(u) (*,) of the mixture, exactly 0 and 1 at the edges."""
    logits, location, rate = parts
    u = u.unsqueeze(-1)
    ratio = torch.exp(logsigmoid((u - location) * rate) - logsigmoid((1.0 - location) * rate))
    cdf = ratio * torch.expm1(-u * rate) / torch.expm1(-rate)
    total = (logits.softmax(dim=-1) * cdf).sum(dim=-1)
    return torch.where(u.squeeze(-1) >= 1.0, torch.ones_like(total), total.clamp(0.0, 1.0))


def _truncated_logistic_quantile(v: Tensor, location: Tensor, rate: Tensor) -> Tensor:
    """Return u in [0, 1] at which one truncated logistic has the distribution function v, all (*,).

    With q = (1 - exp(-1/s)) s(b) the function is F = (t-1)/(t+e^c)/q for t = exp(u/s), hence

        u = s [ln(1 + v q e^c) - ln(1 - v q)],    1 - v q = (1-v) + v [s(-b) + exp(-1/s) s(b)].
    """
    b, c = (1.0 - location) * rate, location * rate
    log_q = torch.log(-torch.expm1(-rate)) + logsigmoid(b)
    rest = (1.0 - v) + v * (torch.sigmoid(-b) + torch.exp(-rate) * torch.sigmoid(b))
    rise = -logsigmoid(-(torch.log(v) + log_q + c))
    return ((rise - torch.log(rest)) / rate).clamp(0.0, 1.0)


def _invert(function: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor) -> Tensor:
    """Return u with F(u) = z for a monotone F on [0, 1] given with ln F'.

    Newton steps are kept inside a shrinking bracket; every third step bisects it, which bounds the number of steps.
    """
    precision = 4 * torch.finfo(z.dtype).eps
    low, high, u = torch.zeros_like(z), torch.ones_like(z), z.clamp(0.0, 1.0)
    for step in range(3 * 60):
        value, log_slope = function(u)
        low, high = torch.where(value < z, u, low), torch.where(value < z, high, u)
        newton = u - (value - z) * torch.exp(-log_slope)
        usable = (newton > low) & (newton < high) & (step % 3 != 2)
        following = torch.where(usable, newton, 0.5 * (low + high))
        following = torch.where(value == z, u, following)
        moved = (following - u).abs()
        u = following
        if bool((moved <= precision).all()):
            break
    return u
