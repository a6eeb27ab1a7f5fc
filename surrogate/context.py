"""What a flow's networks see of theta: the standardised parameters, and smoothed kinks of some of them.

With t in [-1, 1] the standardised parameters and t_0 their nominal values, the features are

    c = a (t_1, ..., t_K, h(t_k), ...),    h(t) = sqrt((t - t_0)^2 + w^2),    w = 0.05,

with one h for each parameter that is named as a kink. A response whose slope differs on the two sides of the nominal
value, as that to a yield band with unequal half-widths, is linear in t and |t - t_0|; a small smooth network of t alone
rounds the corner over a good part of the range. h is infinitely differentiable, so that the density stays so.

A network starts, and is trained, with weights of about the same size for each of its inputs. A scale a < 1 therefore
makes it vary the more slowly with theta the smaller a is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.errors import ConfigError, unknown_name
from surrogate.nuisance import NuisanceSpace

KINK_WIDTH = 0.05
"""Half-width w of a smoothed kink, in units of half the range of its parameter."""


def smooth_kink(d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return h = sqrt(d^2 + w^2) and its first two derivatives, elementwise."""
    h = (d.square() + KINK_WIDTH**2).sqrt()
    return h, d / h, KINK_WIDTH**2 / h**3


@dataclass(frozen=True)
class ContextFeatures:
    """The F features c(theta), each a function of one parameter.

    Parameters
    ----------
    nuisances
        The K parameters theta.
    kinks
        Names of those with a kink at their nominal value.
    scale
        a > 0.

    Raises
    ------
    ConfigError
        For a name that is unknown or given twice, or a scale that is not positive.
    """

    nuisances: NuisanceSpace
    kinks: tuple[str, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ConfigError(f"theta_scale = {self.scale} must be positive and finite; 1 changes nothing")
        for name in self.kinks:
            if name not in self.nuisances.names:
                raise ConfigError(unknown_name("nuisance", name, self.nuisances.names, "kinks"))
        if len(set(self.kinks)) != len(self.kinks):
            raise ConfigError(f"kinks: names must be unique, got {', '.join(self.kinks)}")

    @property
    def dim(self) -> int:
        """Number of features F."""
        return self.nuisances.dim + len(self.kinks)

    @cached_property
    def _where(self) -> list[int]:
        """Indices of the parameters with a kink."""
        return [self.nuisances.names.index(name) for name in self.kinks]

    def values(self, theta: Tensor) -> Tensor:
        """Return c (*, F) for theta (*, K)."""
        t = self.nuisances.standardise(theta)
        features = torch.cat([t, smooth_kink(self._distance(t))[0]], dim=-1) if self.kinks else t
        return self.scale * features

    def derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and second derivatives (*, F) of each feature in the parameter that owns it."""
        slope, curvature = self.nuisances.standardise_derivatives(theta)
        if self.kinks:
            _, first, second = smooth_kink(self._distance(self.nuisances.standardise(theta)))
            own, bend = (part[..., self._where] for part in (slope, curvature))
            slope = torch.cat([slope, first * own], dim=-1)
            curvature = torch.cat([curvature, second * own.square() + first * bend], dim=-1)
        return self.scale * slope, self.scale * curvature

    def gather(self, by_feature: Tensor, dim: int) -> Tensor:
        """Return sums over the features of each parameter: F numbers along ``dim`` become K."""
        k = self.nuisances.dim
        total = by_feature.narrow(dim, 0, k)
        if not self.kinks:
            return total
        owner = torch.tensor(self._where, device=by_feature.device)
        return total.index_add(dim, owner, by_feature.narrow(dim, k, len(self.kinks)))

    def _distance(self, t: Tensor) -> Tensor:
        """Return t - t_0 (*, number of kinks) of the parameters with a kink."""
        nominal = self.nuisances.standardise(self.nuisances.nominal(t))
        return (t - nominal)[..., self._where]
