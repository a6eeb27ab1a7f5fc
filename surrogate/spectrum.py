"""Recoil spectra: a table of dR/dE, its integral, and draws from it by inversion.

The table is linear between its points, so its integral and its cumulative are exact. Energies are drawn as
E(s) with s = -ln U, U uniform: E at CDF = 1 - exp(-s) is tabulated once, at knots uniform in s, and interpolated
linearly. Falling spectra are resolved down to the last 1e-7 of their tail, and a draw needs no search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surrogate.errors import ConfigError

KNOTS = 8192
"""Number of knots in s."""

DEPTH = 17.0
"""Largest s in the table: exp(-17) = 4e-8."""

SMALLEST_UNIFORM = 1e-7
"""Floor of U: it keeps s inside the table."""


@dataclass(frozen=True)
class Spectrum:
    """A recoil spectrum dR/dE, linear between points.

    Parameters
    ----------
    name
        Such as ``flat`` or ``wimp_si_50GeV``.
    energy
        Recoil energies (n,), keV, increasing; a single one for a line.
    density
        dR/dE (n,) in events per (tonne year keV); for a line its rate in events per tonne-year.
    total
        The integral, events per tonne-year; computed.

    Raises
    ------
    ConfigError
        For energies that are not positive and increasing, rates that are negative or not finite, or a zero integral.
    """

    name: str
    energy: tuple[float, ...]
    density: tuple[float, ...]
    total: float = field(init=False)

    def __post_init__(self) -> None:
        where = f"spectrum '{self.name}'"
        e, d = np.asarray(self.energy, dtype=np.float64), np.asarray(self.density, dtype=np.float64)
        if e.ndim != 1 or e.shape != d.shape or e.size == 0:
            raise ConfigError(f"{where}: energies {e.shape} and rates {d.shape} must be lists of equal length")
        if not np.isfinite(e).all() or e[0] < 0 or e[-1] <= 0:
            raise ConfigError(f"{where}: energies must be finite and positive, got [{e.min():g}, {e.max():g}] keV")
        if (np.diff(e) <= 0).any():
            k = int(np.argmax(np.diff(e) <= 0))
            raise ConfigError(
                f"{where}: energies must increase, but {e[k]:g} keV is followed by {e[k + 1]:g} keV; sort them"
            )
        if not np.isfinite(d).all() or (d < 0).any():
            k = int(np.argmax(~np.isfinite(d) | (d < 0)))
            raise ConfigError(f"{where}: rate {d[k]:g} at {e[k]:g} keV must be finite and >= 0")
        total = float(d[0]) if e.size == 1 else float(self._steps(e, d).sum())
        if not total > 0:
            raise ConfigError(
                f"{where}: the integral of dR/dE is {total:g}, must be > 0; no event can be drawn from it"
            )
        object.__setattr__(self, "total", total)

    @staticmethod
    def _steps(e: NDArray[np.float64], d: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the integral over each segment."""
        return 0.5 * (d[1:] + d[:-1]) * np.diff(e)

    def density_at(self, energy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return dR/dE (n,) at energies (n,), keV; zero outside the table."""
        return np.interp(energy, self.energy, self.density, left=0.0, right=0.0)

    def integral(self, low: float, high: float) -> float:
        """Return the rate between two energies, keV, per tonne-year; for a line all of it or nothing."""
        if len(self.energy) == 1:
            return self.total if low <= self.energy[0] <= high else 0.0
        e, d = np.asarray(self.energy), np.asarray(self.density)
        ends = np.clip([low, max(low, high)], e[0], e[-1])
        k = np.clip(np.searchsorted(e, ends, side="right") - 1, 0, e.size - 2)
        x, slope = ends - e[k], (d[k + 1] - d[k]) / (e[k + 1] - e[k])
        below = np.concatenate([[0.0], np.cumsum(self._steps(e, d))])[k] + d[k] * x + 0.5 * slope * x**2
        return float(below[1] - below[0])

    def quantile_table(self) -> Tensor:
        """Return E at CDF = 1 - exp(-s) for ``KNOTS`` values of s uniform in [0, ``DEPTH``]: (KNOTS,) float32, keV."""
        e, d = np.asarray(self.energy, dtype=np.float64), np.asarray(self.density, dtype=np.float64)
        if e.size == 1:
            return torch.full((KNOTS,), float(e[0]))
        # Cumulate from the top: 1 - CDF keeps its relative precision in the tail.
        above = np.concatenate([np.cumsum(self._steps(e, d)[::-1])[::-1], [0.0]]) / self.total
        target = np.exp(-np.linspace(0.0, DEPTH, KNOTS))
        k = np.clip(np.searchsorted(-above, -target, side="right") - 1, 0, e.size - 2)
        width, slope = e[k + 1] - e[k], (d[k + 1] - d[k])
        # Inside segment k: (above - target) * total = d x + slope x^2 / (2 width), solved without cancellation.
        area = np.maximum((above[k] - target) * self.total, 0.0)
        root = np.sqrt(np.maximum(d[k] ** 2 + 2 * slope * area / width, 0.0))
        x = np.divide(2 * area, d[k] + root, out=np.zeros_like(area), where=d[k] + root > 0)
        return torch.from_numpy((e[k] + np.clip(x, 0.0, width)).astype(np.float32))

    def truncated(self, low: float, high: float = math.inf) -> Spectrum:
        """Return the spectrum between two energies, keV; its total is the rate that is left.

        Raises
        ------
        ConfigError
            If nothing is left.
        """
        e, d = np.asarray(self.energy), np.asarray(self.density)
        low, high = max(low, float(e[0])), min(high, float(e[-1]))
        if low > high or (low == high and e.size > 1):
            raise ConfigError(
                f"spectrum '{self.name}': nothing is left of [{e[0]:g}, {e[-1]:g}] keV between {low:g} and {high:g} keV"
            )
        if e.size == 1:
            return self
        inside = e[(e > low) & (e < high)]
        kept = np.concatenate([[low], inside, [high]])
        return Spectrum(self.name, tuple(kept.tolist()), tuple(np.interp(kept, e, d).tolist()))

    def scaled(self, factor: float) -> Spectrum:
        """Return the spectrum with every rate multiplied by a positive factor."""
        return Spectrum(self.name, self.energy, tuple(factor * d for d in self.density))

    def normalised(self, total: float) -> Spectrum:
        """Return the spectrum scaled to an integral of ``total`` events per tonne-year."""
        return self.scaled(total / self.total)


def draw_energy(table: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw n energies (n,), keV, from a quantile table (:meth:`Spectrum.quantile_table`) on its device."""
    u = torch.rand(n, generator=generator, device=table.device)
    position = u.clamp_(min=SMALLEST_UNIFORM).log_().mul_(-(KNOTS - 1) / DEPTH)
    knot = position.to(torch.int32)
    position -= knot
    return torch.lerp(table.index_select(0, knot), table.index_select(0, knot + 1), position)
