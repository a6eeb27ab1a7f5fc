"""The region of parameter space in which a likelihood is expanded: an ellipsoid, cut by bounds.

The ellipsoid is that of a covariance, (p - c)^T V^-1 (p - c) <= R^2. It follows correlations, which a box does not, and
a total degree of polynomials means the same in any affine coordinates; so the natural coordinates are t with
p = c + R L t, L L^T = V, in which the region is the unit ball.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surrogate.errors import ConfigError, RangeError


@dataclass(frozen=True, eq=False)
class Region:
    """An ellipsoid in some parameters, cut by bounds.

    Parameters
    ----------
    names
        The S parameters.
    centre
        (S,), inside the bounds.
    covariance
        (S, S), positive definite.
    radius
        R > 0, in standard deviations.
    lower, upper
        (S,) bounds, infinite where open.

    Raises
    ------
    ConfigError
        If the shapes do not fit or the covariance is not positive definite.
    RangeError
        If the radius is not positive or the centre outside the bounds.
    """

    names: tuple[str, ...]
    centre: Tensor
    covariance: Tensor
    radius: float
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        n = len(self.names)
        shapes = [tuple(t.shape) for t in (self.centre, self.lower, self.upper, self.covariance)]
        if shapes != [(n,), (n,), (n,), (n, n)]:
            raise ConfigError(f"region: shapes {shapes} do not fit the {n} parameters {', '.join(self.names)}")
        if not self.radius > 0:
            raise RangeError(f"region: radius = {self.radius} must be > 0")
        outside = ~((self.centre >= self.lower) & (self.centre <= self.upper))
        if bool(outside.any()):
            k = int(outside.nonzero()[0, 0])
            raise RangeError(
                f"region: {self.names[k]} = {float(self.centre[k]):.6g} is outside its bounds "
                f"[{float(self.lower[k]):.6g}, {float(self.upper[k]):.6g}]"
            )
        _, info = torch.linalg.cholesky_ex(self.covariance)
        if int(info):
            raise ConfigError(f"region: the covariance of {', '.join(self.names)} is not positive definite")

    @cached_property
    def axes(self) -> Tensor:
        """The matrix R L (S, S) with p = c + R L t."""
        return self.radius * torch.linalg.cholesky(self.covariance)

    def to(self, device: torch.device) -> Region:
        """Return the region on a device."""
        centre, covariance, lower, upper = (
            t.to(device) for t in (self.centre, self.covariance, self.lower, self.upper)
        )
        return Region(self.names, centre, covariance, self.radius, lower, upper)

    def of(self, names: Sequence[str]) -> Region:
        """Return the region of some of the parameters: the shadow of the ellipsoid."""
        index = [self.names.index(name) for name in names]
        return Region(
            tuple(names),
            self.centre[index],
            self.covariance[index][:, index],
            self.radius,
            self.lower[index],
            self.upper[index],
        )

    def to_ball(self, values: Tensor) -> Tensor:
        """Return t (*, S) for values (*, S)."""
        shifted = (values - self.centre).reshape(-1, len(self.names)).T
        return torch.linalg.solve_triangular(self.axes, shifted, upper=False).T.reshape(values.shape)

    def from_ball(self, t: Tensor) -> Tensor:
        """Return the values (*, S) of t (*, S), moved onto the bounds where they lie beyond."""
        return torch.minimum(torch.maximum(self.centre + t @ self.axes.T, self.lower), self.upper)

    def distance(self, values: Tensor) -> Tensor:
        """Return how many standard deviations (*,) values (*, S) lie from the centre; inside: at most the radius."""
        return self.radius * self.to_ball(values).norm(dim=-1)

    def contains(self, values: Tensor) -> Tensor:
        """Return whether values (*, S) lie in the region: bool (*,)."""
        inside = ((values >= self.lower) & (values <= self.upper)).all(dim=-1)
        return inside & (self.to_ball(values).square().sum(dim=-1) <= 1.0 + 1e-12)


def ball_points(n: int, dim: int, seed: int) -> Tensor:
    """Return n points (n, dim) that fill the unit ball evenly; a longer sequence begins with the shorter one.

    Directions are normal deviates and radii u^(1/dim), of a scrambled Sobol sequence.
    """
    if dim == 0:
        return torch.zeros(n, 0, dtype=torch.float64)
    u = torch.quasirandom.SobolEngine(dim + 1, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    u = u.clamp(1e-6, 1.0 - 1e-6)
    direction = torch.special.ndtri(u[:, :dim])
    return direction / direction.norm(dim=-1, keepdim=True) * u[:, dim:] ** (1.0 / dim)


def normal_points(n: int, dim: int, radius: float, seed: int) -> Tensor:
    """Return n points (n, dim) of a unit ball of ``radius`` standard deviations, distributed as estimates are.

    That is, normally; points that would lie outside are put on the edge. Of a scrambled Sobol sequence.
    """
    u = torch.quasirandom.SobolEngine(max(dim, 1), scramble=True, seed=seed).draw(n, dtype=torch.float64)[:, :dim]
    z = torch.special.ndtri(u.clamp(1e-6, 1.0 - 1e-6))
    return z / z.norm(dim=-1, keepdim=True).clamp_min(radius)
