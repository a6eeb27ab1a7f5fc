"""A flat ancillary term: what ``stats.uniform`` means as the uncertainty of a parameter in alea."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.constraints.gaussian import Constraint
from surrogate.errors import ConfigError


@dataclass(frozen=True)
class UniformConstraint(Constraint):
    """ln p = -ln(high - low) for low <= theta <= high, -inf outside, whatever the centre.

    The term bounds the parameter and adds a constant to ln L. Its centre carries no information: data may name one,
    and toys throw one uniformly, as alea does, but nothing depends on it.

    Parameters
    ----------
    name
        The parameter.
    low, high
        The range.

    Raises
    ------
    ConfigError
        If the range is empty or not finite.
    """

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"uniform constraint on '{self.name}': range [{self.low}, {self.high}] must be finite with low < high"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The constrained parameter."""
        return (self.name,)

    @property
    def nominal_centre(self) -> tuple[float, ...]:
        """The middle of the range."""
        return (0.5 * (self.low + self.high),)

    @property
    def width(self) -> tuple[float, ...]:
        """Standard deviation of the uniform distribution."""
        return ((self.high - self.low) / math.sqrt(12),)

    def log_prob(self, values: Tensor, centre: Tensor) -> Tensor:
        """Return ln p (B,)."""
        inside = (values[:, 0] >= self.low) & (values[:, 0] <= self.high)
        constant = torch.full_like(values[:, 0], -math.log(self.high - self.low))
        return torch.where(inside, constant, torch.full_like(constant, -math.inf))

    def derivatives(self, values: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, gradient and Hessian; the latter two vanish."""
        zero = torch.zeros_like(values)
        return self.log_prob(values, centre), zero, zero.unsqueeze(-1)

    def throw(self, values: Tensor, normal: Tensor) -> Tensor:
        """Return uniform draws from the range."""
        return self.low + (self.high - self.low) * torch.special.ndtr(normal)

    def valid_centre(self, centre: Tensor) -> Tensor:
        """Return whether the centres are finite."""
        return torch.isfinite(centre).all(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the term."""
        return {"kind": "uniform", "names": [self.name], "low": self.low, "high": self.high}
