"""Ancillary terms: what other measurements say of a parameter.

Each constraint is the probability of its *centre* a (the ancillary datum, in the units of the parameter) given the
parameter theta, ln p(a | theta). The centre belongs to the data: toys throw it again, and a data set may shift it. All
normalisation constants are kept, so that absolute values of ln L can be compared between programs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from scipy import stats
from torch import Tensor

from surrogate.errors import ConfigError

LOG_2PI = math.log(2 * math.pi)


def _require_positive(kind: str, name: str, what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{kind} constraint on '{name}': {what} = {value} must be finite and > 0")


@runtime_checkable
class Constraint(Protocol):
    """The ancillary probability ln p(a | theta) of m parameters."""

    @property
    def names(self) -> tuple[str, ...]:
        """The constrained parameters, in the order of the columns of every argument."""
        ...

    @property
    def nominal_centre(self) -> tuple[float, ...]:
        """The ancillary data a (m,) that hold until a data set brings its own."""
        ...

    @property
    def width(self) -> tuple[float, ...]:
        """Standard deviation (m,) that the term alone gives each parameter, at the nominal centre."""
        ...

    def log_prob(self, values: Tensor, centre: Tensor) -> Tensor:
        """Return ln p(a | theta) (B,) for theta = ``values`` (B, m) and a = ``centre`` (B, m); -inf where undefined."""
        ...

    def derivatives(self, values: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln p (B,), its gradient (B, m) and its Hessian (B, m, m) in theta."""
        ...

    def throw(self, values: Tensor, normal: Tensor) -> Tensor:
        """Return centres (B, m) drawn at theta = ``values`` (B, m), as a map of standard normals (B, m)."""
        ...

    def valid_centre(self, centre: Tensor) -> Tensor:
        """Return, for centres (B, m), whether each row is a possible outcome: bool (B,)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the term."""
        ...


def draw(constraint: Constraint, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return ancillary centres (B, m) drawn at theta = ``values`` (B, m)."""
    normal = torch.randn(values.shape, generator=generator, dtype=values.dtype, device=values.device)
    return constraint.throw(values, normal)


@dataclass(frozen=True)
class GaussianConstraint:
    """a ~ N(theta, sigma): ln p = -(a - theta)^2 / (2 sigma^2) - ln sigma - ln(2 pi)/2.

    Parameters
    ----------
    name
        The parameter.
    sigma
        Standard deviation, > 0.
    centre
        The nominal ancillary datum.

    Raises
    ------
    ConfigError
        If sigma is not positive or the centre not finite.
    """

    name: str
    sigma: float
    centre: float

    def __post_init__(self) -> None:
        _require_positive("Gaussian", self.name, "sigma", self.sigma)
        if not math.isfinite(self.centre):
            raise ConfigError(f"Gaussian constraint on '{self.name}': centre = {self.centre} must be finite")

    @classmethod
    def relative(cls, name: str, fraction: float, nominal: float) -> GaussianConstraint:
        """Return the constraint with sigma = fraction x |nominal|, centred at the nominal value."""
        return cls(name, fraction * abs(nominal), nominal)

    @property
    def names(self) -> tuple[str, ...]:
        """The constrained parameter."""
        return (self.name,)

    @property
    def nominal_centre(self) -> tuple[float, ...]:
        """The nominal ancillary datum."""
        return (self.centre,)

    @property
    def width(self) -> tuple[float, ...]:
        """Sigma."""
        return (self.sigma,)

    def log_prob(self, values: Tensor, centre: Tensor) -> Tensor:
        """Return ln p(a | theta); see :class:`Constraint`."""
        pull = (values[:, 0] - centre[:, 0]) / self.sigma
        return -0.5 * pull.square() - math.log(self.sigma) - 0.5 * LOG_2PI

    def derivatives(self, values: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, gradient and Hessian; see :class:`Constraint`."""
        gradient = (centre - values) / self.sigma**2
        hessian = torch.full_like(gradient, -1 / self.sigma**2).unsqueeze(-1)
        return self.log_prob(values, centre), gradient, hessian

    def throw(self, values: Tensor, normal: Tensor) -> Tensor:
        """Return theta + sigma z."""
        return values + self.sigma * normal

    def valid_centre(self, centre: Tensor) -> Tensor:
        """Return whether the centres are finite."""
        return torch.isfinite(centre).all(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the term."""
        return {"kind": "gaussian", "names": [self.name], "sigma": self.sigma, "centre": [self.centre]}


@dataclass(frozen=True)
class CorrelatedGaussianConstraint:
    """a ~ N(theta, C) with covariance C: ln p = -(a-theta)^T C^-1 (a-theta)/2 - ln det(C)/2 - m ln(2 pi)/2.

    Parameters
    ----------
    names
        The m parameters.
    covariance
        m rows of m numbers, symmetric and positive definite.
    nominal_centre
        The nominal ancillary data.

    Raises
    ------
    ConfigError
        If the shapes differ, or the covariance is not symmetric and positive definite.
    """

    names: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    nominal_centre: tuple[float, ...]

    def __post_init__(self) -> None:
        label, m = ", ".join(self.names), len(self.names)
        if len(set(self.names)) != m or m == 0:
            raise ConfigError(f"correlated constraint on '{label}': names must be unique, at least one")
        if len(self.covariance) != m or any(len(r) != m for r in self.covariance) or len(self.nominal_centre) != m:
            raise ConfigError(f"correlated constraint on '{label}': needs {m} centres and a {m} x {m} covariance")
        matrix = self._matrix(torch.zeros(1, dtype=torch.float64))
        scale = matrix.diagonal().abs().clamp_min(1e-300).sqrt()
        unit = matrix / (scale[:, None] * scale[None, :])
        if not bool(torch.isfinite(unit).all()) or not torch.allclose(unit, unit.T, rtol=0, atol=1e-10):
            raise ConfigError(f"correlated constraint on '{label}': the covariance must be finite and symmetric")
        lowest = float(torch.linalg.eigvalsh(unit)[0])
        if lowest < 1e-12:
            raise ConfigError(
                f"correlated constraint on '{label}': the covariance must be positive definite; the smallest "
                f"eigenvalue of its correlation matrix is {lowest:.3g}"
            )

    @classmethod
    def from_correlation(
        cls,
        names: Sequence[str],
        sigma: Sequence[float],
        correlation: Sequence[Sequence[float]],
        centre: Sequence[float],
    ) -> CorrelatedGaussianConstraint:
        """Return the block with C_jk = sigma_j sigma_k correlation_jk."""
        covariance = tuple(
            tuple(s * t * r for t, r in zip(sigma, row, strict=True)) for s, row in zip(sigma, correlation, strict=True)
        )
        return cls(tuple(names), covariance, tuple(centre))

    def _matrix(self, like: Tensor) -> Tensor:
        return torch.tensor(self.covariance, dtype=torch.float64).to(like)

    @property
    def width(self) -> tuple[float, ...]:
        """Square roots of the diagonal of C."""
        return tuple(math.sqrt(row[i]) for i, row in enumerate(self.covariance))

    def precision(self, like: Tensor) -> Tensor:
        """Return C^-1 (m, m) with the dtype and device of ``like``."""
        return torch.linalg.inv(self._matrix(like))

    @property
    def log_norm(self) -> float:
        """-ln det(C)/2 - m ln(2 pi)/2."""
        matrix = torch.tensor(self.covariance, dtype=torch.float64)
        return -0.5 * float(torch.linalg.slogdet(matrix)[1]) - 0.5 * len(self.names) * LOG_2PI

    def log_prob(self, values: Tensor, centre: Tensor) -> Tensor:
        """Return ln p(a | theta); see :class:`Constraint`."""
        residual = values - centre
        return -0.5 * ((residual @ self.precision(values)) * residual).sum(-1) + self.log_norm

    def derivatives(self, values: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, gradient and Hessian; see :class:`Constraint`."""
        precision = self.precision(values)
        gradient = (centre - values) @ precision
        return self.log_prob(values, centre), gradient, (-precision).expand(len(values), -1, -1)

    def throw(self, values: Tensor, normal: Tensor) -> Tensor:
        """Return theta + L z with C = L L^T."""
        return values + normal @ torch.linalg.cholesky(self._matrix(values)).T

    def valid_centre(self, centre: Tensor) -> Tensor:
        """Return whether the centres are finite."""
        return torch.isfinite(centre).all(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the term."""
        return {
            "kind": "correlated_gaussian",
            "names": list(self.names),
            "covariance": [list(row) for row in self.covariance],
            "centre": list(self.nominal_centre),
        }


@dataclass(frozen=True)
class LogNormalConstraint:
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
        _require_positive("log-normal", self.name, "log_sigma", self.log_sigma)
        _require_positive("log-normal", self.name, "centre", self.centre)

    @property
    def names(self) -> tuple[str, ...]:
        """The constrained parameter."""
        return (self.name,)

    @property
    def nominal_centre(self) -> tuple[float, ...]:
        """The nominal ancillary datum."""
        return (self.centre,)

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
class PoissonConstraint:
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
        _require_positive("Poisson", self.name, "tau", self.tau)
        if not (math.isfinite(self.centre) and self.centre >= 0):
            raise ConfigError(f"Poisson constraint on '{self.name}': centre = {self.centre} must be finite and >= 0")

    @property
    def names(self) -> tuple[str, ...]:
        """The constrained parameter."""
        return (self.name,)

    @property
    def nominal_centre(self) -> tuple[float, ...]:
        """The nominal ancillary datum n / tau."""
        return (self.centre,)

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
        mean = (self.tau * values).detach().cpu().numpy()
        # The survival function keeps its precision in the upper tail, where 1 - probability would round to zero.
        upper = torch.special.ndtr(-normal).clamp(1e-300, 1.0).cpu().numpy()
        counts = torch.from_numpy(stats.poisson.isf(upper, mean)).to(values)
        return counts.clamp_min(0.0) / self.tau

    def valid_centre(self, centre: Tensor) -> Tensor:
        """Return whether the centres are finite and not negative."""
        return (torch.isfinite(centre) & (centre >= 0)).all(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the term."""
        return {"kind": "poisson", "names": [self.name], "tau": self.tau, "centre": [self.centre]}


def ancillary_names(constraints: Sequence[Constraint]) -> tuple[str, ...]:
    """Return the names of the ancillary data: the constrained parameters, term after term."""
    return tuple(name for c in constraints for name in c.names)
