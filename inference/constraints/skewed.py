"""Ancillary terms of positive quantities: log-normal measurements and auxiliary counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.constraints.constraint import LOG_2PI, OneParameter, require_positive
from inference.toys.philox import poisson_counts
from surrogate.errors import ConfigError


@dataclass(frozen=True)
class LogNormalConstraint(OneParameter):
    """ln a ~ N(ln theta, s): ln p = -(ln a - ln theta)^2 / (2 s^2) - ln(s a) - ln(2 pi)/2, for theta > 0.

    Parameters
    ----------
    name
        The parameter.
    log_sigma
        Standard deviation s of ln a, > 0.
    centre
        The nominal ancillary datum a, > 0.

    Raises
    ------
    ConfigError
        If s or the centre is not positive.
    """

    name: str
    log_sigma: float
    centre: float

    def __post_init__(self) -> None:
        require_positive("log-normal", self.name, "log_sigma", self.log_sigma)
        require_positive("log-normal", self.name, "centre", self.centre)

    @property
    def width(self) -> tuple[float, ...]:
        """S times the centre, to first order."""
        return (self.log_sigma * self.centre,)

    def log_prob(self, values: Tensor, centre: Tensor) -> Tensor:
        """Return ln p(a | theta); see :class:`Constraint`."""
        theta, a = values[:, 0], centre[:, 0]
        inside = theta > 0
        pull = (a.log() - torch.where(inside, theta, torch.ones_like(theta)).log()) / self.log_sigma
        log_p = -0.5 * pull.square() - math.log(self.log_sigma) - a.log() - 0.5 * LOG_2PI
        return torch.where(inside, log_p, torch.full_like(log_p, -math.inf))

    def derivatives(self, values: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, gradient and Hessian; see :class:`Constraint`. Zero derivatives where ln p = -inf."""
        inside = values > 0
        theta = torch.where(inside, values, torch.ones_like(values))
        distance = centre.log() - theta.log()
        s2 = self.log_sigma**2
        zero = torch.zeros_like(theta)
        gradient = torch.where(inside, distance / (s2 * theta), zero)
        hessian = torch.where(inside, -(1 + distance) / (s2 * theta.square()), zero)
        return self.log_prob(values, centre), gradient, hessian.unsqueeze(-1)

    def throw(self, values: Tensor, normal: Tensor) -> Tensor:
        """Return theta exp(s z)."""
        return values * (self.log_sigma * normal).exp()

    def valid_centre(self, centre: Tensor) -> Tensor:
        """Return whether the centres are finite and positive."""
        return (torch.isfinite(centre) & (centre > 0)).all(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the term."""
        return {"kind": "log_normal", "names": [self.name], "log_sigma": self.log_sigma, "centre": [self.centre]}


@dataclass(frozen=True)
class PoissonConstraint(OneParameter):
    """An auxiliary count n = tau a ~ Poisson(tau theta): ln p = n ln(tau theta) - tau theta - ln n!, for theta >= 0.

    Parameters
    ----------
    name
        The parameter.
    tau
        Expected counts per unit of the parameter, > 0.
    centre
        The nominal ancillary datum a = n / tau, >= 0. Fractional n is legal (Asimov data), with ln Gamma(n + 1).

    Raises
    ------
    ConfigError
        If tau is not positive or the centre negative.
    """

    name: str
    tau: float
    centre: float

    def __post_init__(self) -> None:
        require_positive("Poisson", self.name, "tau", self.tau)
        if not (math.isfinite(self.centre) and self.centre >= 0):
            raise ConfigError(f"Poisson constraint on '{self.name}': centre = {self.centre} must be finite and >= 0")

    @property
    def width(self) -> tuple[float, ...]:
        """Square root of (n + 1) over tau; the 1 keeps it positive when nothing was counted."""
        return (math.sqrt(self.centre * self.tau + 1) / self.tau,)

    def log_prob(self, values: Tensor, centre: Tensor) -> Tensor:
        """Return ln p(a | theta); see :class:`Constraint`."""
        mean, n = self.tau * values[:, 0], self.tau * centre[:, 0]
        possible = (mean > 0) | ((mean == 0) & (n == 0))
        log_mean = torch.where(mean > 0, mean, torch.ones_like(mean)).log()
        log_p = n * log_mean - mean - torch.lgamma(n + 1)
        return torch.where(possible, log_p, torch.full_like(log_p, -math.inf))

    def derivatives(self, values: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, gradient and Hessian; see :class:`Constraint`. At theta = 0 with n = 0 they are one-sided."""
        inside = values > 0
        theta = torch.where(inside, values, torch.ones_like(values))
        n = torch.where(inside, self.tau * centre, torch.zeros_like(centre))
        gradient = n / theta - self.tau
        hessian = -n / theta.square()
        return self.log_prob(values, centre), gradient, hessian.unsqueeze(-1)

    def throw(self, values: Tensor, normal: Tensor) -> Tensor:
        """Return n / tau with n the Poisson quantile of the normal's probability."""
        # Quantiles of 0 and of 1 are no counts; a normal is that far out once in 1e15 throws.
        probability = torch.special.ndtr(normal).clamp(1e-15, 1 - 1e-15)
        return poisson_counts(probability, self.tau * values.detach()).to(values) / self.tau

    def valid_centre(self, centre: Tensor) -> Tensor:
        """Return whether the centres are finite and not negative."""
        return (torch.isfinite(centre) & (centre >= 0)).all(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the term."""
        return {"kind": "poisson", "names": [self.name], "tau": self.tau, "centre": [self.centre]}
