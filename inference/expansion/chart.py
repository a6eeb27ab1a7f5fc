"""Coordinates in which the density of a source is expanded: those of a region, and the smoothed kinks of the source.

A polynomial in the natural coordinates of a region follows a smooth density, not one whose slope turns within a tenth
of a standard deviation. A source that says where it has such kinks (:mod:`surrogate.context`) gets a coordinate for
each, h = sqrt(d^2 + w^2) with d the distance from the kink; since h^2 is a polynomial in d, first powers suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.expansion.region import Region
from inference.science_run import RunSource
from surrogate.context import KINK_WIDTH, ContextFeatures
from surrogate.errors import ConfigError
from surrogate.source import Source

#: Distance from a kink, in its widths, beyond which it is as good as straight.
STRAIGHT = 3.0


@runtime_checkable
class Kinked(Protocol):
    """A source whose density turns sharply at the nominal values of some nuisances."""

    @property
    def kinks(self) -> tuple[str, ...]:
        """Their names."""
        ...


@dataclass(frozen=True, eq=False)
class KinkCoordinates:
    """u_j = (h_j(theta) - offset_j) / scale_j, between -1 and 1 within a region.

    Attributes
    ----------
    features
        Gives h and its derivatives.
    owners
        For each of the J kinks the position of its parameter in the region.
    offset, scale
        (J,).
    """

    features: ContextFeatures
    owners: tuple[int, ...]
    offset: Tensor
    scale: Tensor

    def values(self, theta: Tensor) -> Tensor:
        """Return u (*, J) at theta (*, K)."""
        h = self.features.values(theta)[..., self.features.nuisances.dim :]
        return (h - self.offset.to(theta)) / self.scale.to(theta)

    def derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and second derivatives (*, J) of each in its own parameter."""
        first, second = self.features.derivatives(theta)
        k, scale = self.features.nuisances.dim, self.scale.to(theta)
        return first[..., k:] / scale, second[..., k:] / scale


@dataclass(frozen=True, eq=False)
class Chart:
    """How the nuisances theta of a source map to the coordinates (t, u) of its expansion.

    Attributes
    ----------
    region
        Of the S parameters that drive the source.
    columns
        For each of them the first nuisance that it drives; others that it drives are equal to that one.
    held
        (K,) where nuisances that no parameter drives are held.
    drivers
        (K,) position in the region of the parameter that drives each nuisance; -1 where it is held.
    kinks
        The coordinates u; None if there are none.
    """

    region: Region
    columns: tuple[int, ...]
    held: Tensor
    drivers: tuple[int, ...]
    kinks: KinkCoordinates | None = None

    @property
    def n_parameters(self) -> int:
        """Number S of parameters."""
        return len(self.columns)

    @property
    def n_kinks(self) -> int:
        """Number J of kinks."""
        return 0 if self.kinks is None else len(self.kinks.owners)

    def to(self, device: torch.device) -> Chart:
        """Return the chart on a device."""
        return replace(self, region=self.region.to(device), held=self.held.to(device))

    def to_ball(self, theta: Tensor) -> Tensor:
        """Return t (*, S) at theta (*, K)."""
        return self.region.to_ball(theta[..., list(self.columns)])

    def theta(self, t: Tensor) -> Tensor:
        """Return theta (n, K) at points t (n, S) of the ball, cut by the bounds."""
        values = self.region.from_ball(t)
        theta = self.held.to(t).expand(len(t), -1).clone()
        for k, s in enumerate(self.drivers):
            if s >= 0:
                theta[:, k] = values[:, s]
        return theta

    def coordinates(self, theta: Tensor) -> Tensor:
        """Return (t, u), (*, S + J), at theta (*, K)."""
        t = self.to_ball(theta)
        return t if self.kinks is None else torch.cat([t, self.kinks.values(theta)], dim=-1)

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the derivatives (n, S + J, S) of (t, u) in the parameters, and second ones (n, J) of u in its own."""
        n = len(theta)
        straight = torch.linalg.inv(self.region.axes).expand(n, -1, -1)
        if self.kinks is None:
            return straight, theta.new_zeros(n, 0)
        first, second = self.kinks.derivatives(theta)
        bent = theta.new_zeros(n, self.n_kinks, self.n_parameters)
        bent[:, torch.arange(self.n_kinks), list(self.kinks.owners)] = first
        return torch.cat([straight, bent], dim=1), second

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient (*, S) in t of a function with gradient (*, K) in theta."""
        by_parameter = gradient.new_zeros(*gradient.shape[:-1], self.n_parameters)
        for k, s in enumerate(self.drivers):
            if s >= 0:
                by_parameter[..., s] += gradient[..., k]
        return by_parameter @ self.region.axes


def chart_of(source: RunSource, region: Region) -> Chart:
    """Return the coordinates of a source in a region, of which only the parameters that drive the source count.

    Raises
    ------
    ConfigError
        If the region lacks one of them.
    """
    drivers = source.drivers
    names = tuple(dict.fromkeys(d for d in drivers if isinstance(d, str)))
    for name in names:
        if name not in region.names:
            raise ConfigError(f"region: has no '{name}', which drives source '{source.name}'")
    position = tuple(names.index(d) if isinstance(d, str) else -1 for d in drivers)
    held = torch.tensor([0.0 if isinstance(d, str) else d for d in drivers], dtype=torch.float64)
    own = region.of(names)
    columns = tuple(position.index(s) for s in range(len(names)))
    return Chart(own, columns, held, position, _kinks(source.source, own, position, held))


def _kinks(source: Source, region: Region, drivers: Sequence[int], held: Tensor) -> KinkCoordinates | None:
    """Return the kinks that lie in a region."""
    if not isinstance(source, Kinked) or not source.kinks:
        return None
    reach = region.radius * region.covariance.diagonal().sqrt()
    low, high = torch.maximum(region.centre - reach, region.lower), torch.minimum(region.centre + reach, region.upper)
    space, names, owners, offset, scale = source.nuisances, [], [], [], []
    for name in source.kinks:
        k = space.names.index(name)
        s = drivers[k]
        if s < 0:
            continue
        ends = space.nominal().repeat(3, 1)
        ends[:2, k] = torch.stack([low[s], high[s]])
        d = space.standardise(ends)[:, k]
        if bool(d[0] < d[2] + STRAIGHT * KINK_WIDTH) and bool(d[1] > d[2] - STRAIGHT * KINK_WIDTH):
            h = ContextFeatures(space, (name,)).values(ends)[:, -1]
            largest, least = float(h[:2].max()), KINK_WIDTH
            names.append(name)
            owners.append(s)
            offset.append(0.5 * (largest + least))
            scale.append(0.5 * (largest - least))
    if not names:
        return None
    numbers = (torch.tensor(v, dtype=torch.float64) for v in (offset, scale))
    return KinkCoordinates(ContextFeatures(space, tuple(names)), tuple(owners), *numbers)
