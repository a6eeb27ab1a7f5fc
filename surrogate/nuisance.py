"""Nuisance space: the parameters theta on which a source's density and rate depend, and where they are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from surrogate.errors import ConfigError, RangeError, unknown_name

Scale = Literal["linear", "log"]
SCALES: tuple[str, ...] = ("linear", "log")


@dataclass(frozen=True)
class Nuisance:
    """One nuisance parameter with the range on which a source is defined.

    Parameters
    ----------
    name
        Such as ``t_ly``, ``t_qy``, ``elife`` or ``g1``.
    unit
        ``sigma``, ``us``, ``phd/photon``, ...
    low, high
        The range [low, high] on which the source was trained or has templates.
    nominal
        The reference value.
    scale
        ``linear`` or ``log``: the scale in which the range is standardised to [-1, 1].

    Raises
    ------
    ConfigError
        If the range is empty or does not contain the nominal value.
    """

    name: str
    unit: str
    low: float
    high: float
    nominal: float
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(unknown_name("scale", self.scale, SCALES, f"nuisance '{self.name}'"))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"nuisance '{self.name}': range [{self.low}, {self.high}] must be finite with low < high")
        if not self.low <= self.nominal <= self.high:
            raise ConfigError(
                f"nuisance '{self.name}': nominal {self.nominal} must lie in its range [{self.low}, {self.high}]"
            )
        if self.scale == "log" and self.low <= 0:
            raise ConfigError(f"nuisance '{self.name}': low = {self.low} must be > 0 for the log scale")


@dataclass(frozen=True)
class NuisanceSpace:
    """An ordered set of nuisance parameters; empty for a source that depends on none."""

    nuisances: tuple[Nuisance, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"nuisances: names must be unique, got {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(n.name for n in self.nuisances)

    @property
    def dim(self) -> int:
        """Number of nuisance parameters K."""
        return len(self.nuisances)

    def nominal(self, like: Tensor | None = None) -> Tensor:
        """Return the reference point (K,), float64 unless ``like`` says otherwise."""
        values = torch.tensor([n.nominal for n in self.nuisances], dtype=torch.float64)
        return values if like is None else values.to(like)

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper ends of the ranges, each (K,), with the dtype and device of ``like``."""
        low = torch.as_tensor([n.low for n in self.nuisances], dtype=like.dtype, device=like.device)
        high = torch.as_tensor([n.high for n in self.nuisances], dtype=like.dtype, device=like.device)
        return low, high

    def contains(self, theta: Tensor) -> Tensor:
        """Return, for theta (*, K), whether each point lies in the ranges (NaN does not): bool (*,)."""
        low, high = self.bounds(theta)
        return ((theta >= low) & (theta <= high)).all(dim=-1)

    def check(self, theta: Tensor) -> None:
        """Raise unless theta (*, K) has the right last dimension and lies in the ranges.

        Raises
        ------
        RangeError
            Naming the first parameter that is outside, its value and its range.
        """
        if theta.shape[-1] != self.dim:
            raise RangeError(
                f"theta: last dimension is {theta.shape[-1]}, must be {self.dim} ({', '.join(self.names) or 'none'})"
            )
        if bool(self.contains(theta).all()):
            return
        flat = theta.detach().reshape(-1, self.dim)
        row = flat[~self.contains(flat)][0]
        for value, n in zip(row.tolist(), self.nuisances, strict=True):
            if not n.low <= value <= n.high:
                raise RangeError(
                    f"{n.name} = {value:.6g} {n.unit} is outside the range [{n.low:.6g}, {n.high:.6g}] on which the "
                    "source is defined; tighten the parameter's bounds or train on a wider range"
                )

    def standardise(self, theta: Tensor) -> Tensor:
        """Return theta (*, K) mapped to [-1, 1] over the ranges, each parameter in its own scale."""
        columns = []
        for k, n in enumerate(self.nuisances):
            t, low, high = theta[..., k], n.low, n.high
            if n.scale == "log":
                t, low, high = t.log(), math.log(low), math.log(high)
            columns.append((2 * t - (low + high)) / (high - low))
        return torch.stack(columns, dim=-1) if columns else theta

    def standardise_derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and second derivatives (*, K) of :meth:`standardise`, each of its own parameter."""
        slope, curvature = torch.zeros_like(theta), torch.zeros_like(theta)
        for k, n in enumerate(self.nuisances):
            if n.scale == "log":
                slope[..., k] = 2.0 / math.log(n.high / n.low) / theta[..., k]
                curvature[..., k] = -slope[..., k] / theta[..., k]
            else:
                slope[..., k] = 2.0 / (n.high - n.low)
        return slope, curvature

    def to_dict(self) -> list[dict[str, Any]]:
        """Return plain data from which :meth:`from_dict` rebuilds the space."""
        return [asdict(n) for n in self.nuisances]

    @classmethod
    def from_dict(cls, data: Sequence[Mapping[str, Any]]) -> NuisanceSpace:
        """Build the space from the output of :meth:`to_dict`."""
        return cls(tuple(Nuisance(**n) for n in data))
