"""Electronic-recoil spectra: flat, allowed beta decays, lines and simple shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surrogate.errors import ConfigError
from surrogate.spectrum import Spectrum
from surrogate.tables import read_table

ELECTRON_MASS = 510.99895
"""keV (CODATA 2018)."""

FINE_STRUCTURE = 1 / 137.035999
"""CODATA 2018."""

BETA_DECAYS: dict[str, tuple[float, int]] = {
    "tritium": (18.59, 2),
    "pb214": (1019.0, 83),
    "kr85": (687.0, 37),
}
"""End point, keV, and charge of the daughter.

Tritium as in NEST (arXiv:2211.10726); 214Pb to the ground state and 85Kr: ENSDF.
"""

POINTS = 2001


def _spectrum(name: str, energy: NDArray[np.float64], density: NDArray[np.float64]) -> Spectrum:
    return Spectrum(name, tuple(energy.tolist()), tuple(density.tolist()))


def flat_spectrum(low: float, high: float, rate_per_kev: float) -> Spectrum:
    """Return dR/dE = ``rate_per_kev``, events per (tonne year keV), between two energies, keV."""
    return Spectrum("flat", (low, high), (rate_per_kev, rate_per_kev))


def line_spectrum(energy: float, rate: float) -> Spectrum:
    """Return a mono-energetic line of ``rate`` events per tonne-year, such as 37Ar at 2.82 keV."""
    return Spectrum(f"line_{energy:g}keV", (energy,), (rate,))


def gaussian_spectrum(mean: float, sigma: float, rate: float) -> Spectrum:
    """Return a Gaussian of ``rate`` events per tonne-year, cut at 5 sigma and at zero energy.

    Raises
    ------
    ConfigError
        Unless sigma > 0.
    """
    if not sigma > 0:
        raise ConfigError(f"gaussian spectrum: sigma = {sigma} keV must be > 0; use a line for sigma = 0")
    energy = np.linspace(max(mean - 5 * sigma, 0.0), mean + 5 * sigma, POINTS)
    return _spectrum("gaussian", energy, np.exp(-0.5 * ((energy - mean) / sigma) ** 2)).normalised(rate)


def exponential_spectrum(scale: float, low: float, high: float, rate: float) -> Spectrum:
    """Return exp(-E/scale) between two energies, keV, of ``rate`` events per tonne-year.

    Raises
    ------
    ConfigError
        Unless scale > 0 and low < high.
    """
    if not (scale > 0 and 0 <= low < high):
        raise ConfigError(f"exponential spectrum: scale = {scale} must be > 0 and 0 <= low = {low} < high = {high} keV")
    energy = np.linspace(low, high, POINTS)
    return _spectrum("exponential", energy, np.exp(-(energy - low) / scale)).normalised(rate)


def beta_shape(energy: NDArray[np.float64], end_point: float, daughter_charge: int) -> NDArray[np.float64]:
    """Return the allowed beta shape F(Z', T) p (T + m) (Q - T)^2, zero above Q, in arbitrary units.

    F = x / (1 - exp(-x)) with x = 2 pi alpha Z' (T + m)/p is the non-relativistic Fermi function, as in NEST
    (arXiv:2211.10726). T is ``energy``, keV.
    """
    total = energy + ELECTRON_MASS
    momentum = np.sqrt(energy * (energy + 2 * ELECTRON_MASS))
    # p F tends to a constant for p -> 0, where x diverges: the product is evaluated, never F alone.
    x_times_p = 2 * np.pi * FINE_STRUCTURE * daughter_charge * total
    with np.errstate(divide="ignore", over="ignore"):
        fermi_times_p = x_times_p / -np.expm1(-np.divide(x_times_p, momentum))
    return np.where(energy < end_point, fermi_times_p * total * (end_point - energy) ** 2, 0.0)


def beta_spectrum(
    name: str, end_point: float, daughter_charge: int, rate: float, low: float = 0.0, high: float | None = None
) -> Spectrum:
    """Return an allowed beta spectrum between two energies, keV; ``rate`` counts all decays per tonne-year.

    Raises
    ------
    ConfigError
        Unless 0 <= low < high <= end_point.
    """
    high = end_point if high is None else high
    if not 0 <= low < high <= end_point:
        raise ConfigError(f"spectrum '{name}': 0 <= low = {low} < high = {high} <= {end_point} keV must hold")
    everywhere = np.linspace(0.0, end_point, 20001)
    integral = float(np.trapezoid(beta_shape(everywhere, end_point, daughter_charge), everywhere))
    energy = np.linspace(low, high, POINTS)
    return _spectrum(name, energy, beta_shape(energy, end_point, daughter_charge) * (rate / integral))


def table_spectrum(path: Path) -> Spectrum:
    """Read a spectrum from a table of energy in keV and dR/dE in events per (tonne year keV).

    A JSON file with ``coordinate_name: cdf`` holds the cumulative share of the events instead, at the energies ``map``,
    and ``rate`` in events per tonne-year; with ``pdf`` it holds the shape (data release of arXiv:2409.17868).

    Raises
    ------
    DataError
        If the file cannot be read.
    ConfigError
        If the table is not a spectrum (see :class:`Spectrum`).
    """
    table = read_table(path)
    if table.quantity != "cdf":
        spectrum = _spectrum(path.stem, table.x, table.y)
        return spectrum if table.rate is None else spectrum.normalised(table.rate)
    energy, share = table.y, table.x
    if table.rate is None or energy.size < 2 or (np.diff(energy) <= 0).any():
        raise ConfigError(f"spectrum table {path}: a 'rate' and increasing energies are needed with a cdf")
    density = np.maximum(np.gradient(share, energy), 0.0)
    return _spectrum(path.stem, energy, density).normalised(table.rate * float(share[-1] - share[0]))
