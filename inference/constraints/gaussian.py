"""Ancillary terms: what other measurements say of a parameter.

Each constraint is the probability of its *centre* a (the ancillary datum, in the units of the parameter) given the
parameter theta, ln p(a | theta). The centre belongs to the data: toys throw it again, and a data set may shift it. All
normalisation constants are kept, so that absolute values of ln L can be compared between programs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.constraints.constraint import LOG_2PI, Constraint, OneParameter, ancillary_names, draw, require_positive
from inference.constraints.skewed import LogNormalConstraint, PoissonConstraint
from surrogate.errors import ConfigError

__all__ = [
    "Constraint",
    "CorrelatedGaussianConstraint",
    "GaussianConstraint",
    "LogNormalConstraint",
    "PoissonConstraint",
    "ancillary_names",
    "draw",
]


@dataclass(frozen=True)
class GaussianConstraint(OneParameter):
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
        require_positive("Gaussian", self.name, "sigma", self.sigma)
        if not math.isfinite(self.centre):
            raise ConfigError(f"Gaussian constraint on '{self.name}': centre = {self.centre} must be finite")

    @classmethod
    def relative(cls, name: str, fraction: float, nominal: float) -> GaussianConstraint:
        """Return the constraint with sigma = fraction x |nominal|, centred at the nominal value."""
        return cls(name, fraction * abs(nominal), nominal)

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
