"""Monotone maps of [0, 1] onto itself, from which the flows are built.

A map z = F(u) with F(0) = 0, F(1) = 1 and F' > 0 turns a density that is uniform in z into the density F'(u) in u. Its
raw, unconstrained parameters come one row per point, as a conditioner network emits them.

:class:`LogisticMixtureMap`, the default family, is a mixture of K logistic distributions truncated to [0, 1],

    F(u) = sum_k w_k [s(z_k) - s(-m_k/s_k)] / [s((1-m_k)/s_k) - s(-m_k/s_k)],    z_k = (u - m_k)/s_k,

with s(x) = 1/(1 + exp(-x)). It is infinitely differentiable in u and in every parameter. Mixtures of logistics as flow
layers: Ho et al., "Flow++", arXiv:1902.00275, section 3.2; the truncation makes the map exact on a bounded window.

The tails of a logistic fall as exp(-|z|), which no mixture of them can undercut, while what comes of many quanta falls
like a normal distribution. With a bend k > 0 each argument x of s is replaced by

    g(x) = x sqrt(1 + k x^2),

which makes the tails exp(-sqrt(k) z^2). For k = (pi/16)^2 centre and tails are those of a normal distribution of
standard deviation sqrt(8/pi) s, and the distribution function is its own to within 6e-4; unlike it, this one is
inverted and truncated in closed form.
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


NORMAL_BEND = (math.pi / 16) ** 2
"""Bend that turns a logistic distribution into one very close to a normal one."""


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
    bend
        k of the module: 0 for logistics, :data:`NORMAL_BEND` for components close to normal ones.

    Raises
    ------
    ConfigError
        If K < 1 or the floor is not in [1e-4, 0.5].

    Notes
    -----
    With z = g((u-m)/s), b = g((1-m)/s) and c = g(m/s) the bracket factorises without cancellation,

        s(b) - s(-c) = s(b) s(c) (1 - exp(-b-c)),

    so that, with L = ln s(.) and L(-x) = L(x) - x,

        ln F_k' = 2 L(z) - z + ln g' - L(b) - L(c) - ln(1 - exp(-b-c)) - ln s,
        F_k     = exp(L(z) - L(b)) (1 - exp(-z-c)) / (1 - exp(-b-c)),

    both exact to rounding at the edges, far outside the window and for any width. Without a bend b + c = 1/s and
    z + c = u/s.
    """

    components: int = 20
    floor: float = 0.002
    bend: float = 0.0

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
        return _mixture_cdf(u, parts, self.bend), _mixture_log_density(u, parts, self.bend)

    def log_derivative(self, u: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return ln dF/du (*,)."""
        return _mixture_log_density(u, self._components(raw, move), self.bend)

    @torch.no_grad()
    def inverse(self, z: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,) with F(u) = z, by safeguarded Newton steps to rounding accuracy."""
        parts = self._components(raw, move)
        return _invert(lambda u: (_mixture_cdf(u, parts, self.bend), _mixture_log_density(u, parts, self.bend)), z)

    @torch.no_grad()
    def sample(self, noise: Tensor, raw: Tensor, move: Move | None = None) -> Tensor:
        """Return u (*,): one uniform picks a component by weight, the other its quantile, which is a closed form."""
        parts = self._components(raw, move)
        pick, v = noise.unbind(dim=-1)
        edges = parts.logits.softmax(dim=-1).cumsum(dim=-1)[..., :-1]
        index = (pick.unsqueeze(-1) >= edges).sum(dim=-1, keepdim=True)
        location, rate = (p.gather(-1, index).squeeze(-1) for p in (parts.location, parts.rate))
        return _truncated_quantile(v, location, rate, self.bend)

    def _components(self, raw: Tensor, move: Move | None) -> _Components:
        logits, location, width = raw.unflatten(-1, (3, self.components)).unbind(dim=-2)
        location = LOCATION_LOW + (LOCATION_HIGH - LOCATION_LOW) * torch.sigmoid(location)
        # -logsigmoid(-x) is softplus without the threshold at which torch's softplus turns linear
        rate = 1.0 / (self.floor - logsigmoid(-width))
        return _Components(logits, location if move is None else move(location), rate)


def bent(x: Tensor, bend: float) -> Tensor:
    """Return g(x) = x sqrt(1 + bend x^2), elementwise."""
    return x * torch.sqrt(1.0 + bend * x.square()) if bend else x


def _bent_sum(x: Tensor, y: Tensor, total: Tensor, bend: float) -> Tensor:
    """Return g(x) + g(y) >= 0 for x + y = total >= 0, without cancellation where x and y differ in sign."""
    if not bend:
        return total
    return torch.where(x * y < 0, total * _bent_ratio(x, y, bend), bent(x, bend) + bent(y, bend))


def _bent_ratio(x: Tensor, y: Tensor, bend: float) -> Tensor:
    """Return [g(x) + g(y)]/(x + y) for x and y of different signs."""
    size = (bent(x, bend).abs() + bent(y, bend).abs()).clamp(min=torch.finfo(x.dtype).tiny)
    return (x.abs() + y.abs()) * (1.0 + bend * (x.square() + y.square())) / size


def _mixture_log_density(u: Tensor, parts: _Components, bend: float) -> Tensor:
    """Return ln F'(u) (*,) of the mixture."""
    logits, location, rate = parts
    x, c = (u.unsqueeze(-1) - location) * rate, location * rate
    z, b, c = bent(x, bend), bent(rate - c, bend), bent(c, bend)
    norm = logsigmoid(b) + logsigmoid(c) + torch.log(-torch.expm1(-(b + c if bend else rate)) / rate)
    log_density = 2 * logsigmoid(z) - z - norm
    if bend:
        square = bend * x.square()
        log_density = log_density + torch.log1p(2.0 * square) - 0.5 * torch.log1p(square)
    return torch.logsumexp(logits + log_density, dim=-1) - torch.logsumexp(logits, dim=-1)


def _mixture_cdf(u: Tensor, parts: _Components, bend: float) -> Tensor:
    """Return F(u) (*,) of the mixture, exactly 0 and 1 at the edges."""
    logits, location, rate = parts
    u = u.unsqueeze(-1)
    z, b, c = (u - location) * rate, (1.0 - location) * rate, location * rate
    ratio = torch.exp(logsigmoid(bent(z, bend)) - logsigmoid(bent(b, bend)))
    cdf = ratio * torch.expm1(-_bent_sum(z, c, u * rate, bend)) / torch.expm1(-_bent_sum(b, c, rate, bend))
    total = (logits.softmax(dim=-1) * cdf).sum(dim=-1)
    return torch.where(u.squeeze(-1) >= 1.0, torch.ones_like(total), total.clamp(0.0, 1.0))


def _truncated_quantile(v: Tensor, location: Tensor, rate: Tensor, bend: float) -> Tensor:
    """Return u in [0, 1] at which one truncated component has the distribution function v, all (*,).

    With z, b and c as above and q = (1 - exp(-b-c)) s(b) the function is F = (t-1)/(t+e^c)/q for t = exp(z+c), hence

        z + c = ln(1 + v q e^c) - ln(1 - v q),    1 - v q = (1-v) + v [s(-b) + exp(-b-c) s(b)],

    and u = s (x + y), g(x) = z, g(y) = c, with x^2 = 2 z^2/(1 + sqrt(1 + 4 k z^2)). Without a bend u = s (z + c).
    """
    edge, y = (1.0 - location) * rate, location * rate
    total, b, c = _bent_sum(edge, y, rate, bend), bent(edge, bend), bent(y, bend)
    log_q = torch.log(-torch.expm1(-total)) + logsigmoid(b)
    rest = (1.0 - v) + v * (torch.sigmoid(-b) + torch.exp(-total) * torch.sigmoid(b))
    rise = -logsigmoid(-(torch.log(v) + log_q + c)) - torch.log(rest.clamp(min=torch.finfo(v.dtype).tiny))
    if bend:
        z = rise - c
        x = z * torch.sqrt(2.0 / (1.0 + torch.sqrt(1.0 + 4.0 * bend * z.square())))
        rise = torch.where(x * y < 0, rise / _bent_ratio(x, y, bend), x + y)
    return (rise / rate).clamp(0.0, 1.0)


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
