"""What every ancillary term can do: the Constraint protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from surrogate.errors import ConfigError

LOG_2PI = math.log(2 * math.pi)


def require_positive(kind: str, name: str, what: str, value: float) -> None:
    """Raise ConfigError unless a constant of a constraint is finite and positive."""
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


class OneParameter:
    """What the terms of a single parameter share: its name, and one nominal ancillary datum."""

    name: str
    centre: float

    @property
    def names(self) -> tuple[str, ...]:
        """The constrained parameter."""
        return (self.name,)

    @property
    def nominal_centre(self) -> tuple[float, ...]:
        """The nominal ancillary datum."""
        return (self.centre,)


def draw(constraint: Constraint, values: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return ancillary centres (B, m) drawn at theta = ``values`` (B, m)."""
    normal = torch.randn(values.shape, generator=generator, dtype=values.dtype, device=values.device)
    return constraint.throw(values, normal)


def ancillary_names(constraints: Sequence[Constraint]) -> tuple[str, ...]:
    """Return the names of the ancillary data: the constrained parameters, term after term."""
    return tuple(name for c in constraints for name in c.names)
