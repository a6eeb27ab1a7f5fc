"""Nodes and weights over the energies of a recoil spectrum.

    integral dE dR/dE g(E)  ~  sum_m w_m g(E_m),    w_m >= 0,

by Gauss-Legendre rules in ln E on panels. The response of a detector resolves ln E to some 0.07 at best; panels of 0.5
with eight nodes integrate a Gaussian of that width to 1e-6. Where the spectrum itself has finer structure, panels are
halved until they integrate it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surrogate.errors import ConfigError
from surrogate.spectrum import Spectrum

PANEL = 0.5
"""Widest panel in ln E."""

ORDER = 8
"""Nodes per panel."""

TOLERANCE = 1e-5
"""Largest error of the rate in a panel, as a share of the total."""

DEEPEST = 14
"""Times that a panel is halved at most: table edges that jump are then resolved to 3e-5 in ln E."""

LOWEST = 1e-3
"""Lowest energy of a node, keV."""


@dataclass(frozen=True)
class EnergyNodes:
    """A quadrature over a spectrum.

    Attributes
    ----------
    energy
        (M,) keV, increasing.
    weight
        (M,) events per tonne-year, > 0.
    below, above
        Rates of the spectrum below and above the energies that were asked for, which the nodes leave out.
    """

    energy: Tensor
    weight: Tensor
    below: float
    above: float


def energy_nodes(spectrum: Spectrum, low: float, high: float, panel: float = PANEL) -> EnergyNodes:
    """Return the quadrature over the part of a spectrum between two energies, keV.

    Parameters
    ----------
    spectrum
        dR/dE.
    low, high
        Energies.
    panel
        Widest panel in ln E.

    Raises
    ------
    ConfigError
        If the spectrum has no rate between them, or ``panel`` is not positive.
    """
    if not panel > 0:
        raise ConfigError(f"panel = {panel} must be > 0")
    first, last = max(low, spectrum.energy[0], LOWEST), min(high, spectrum.energy[-1])
    inside = spectrum.integral(low, high)
    if not inside > 0 or first > last:
        raise ConfigError(
            f"spectrum '{spectrum.name}': has no rate between {low:g} and {high:g} keV, where the response is defined"
        )
    below, above = spectrum.integral(0.0, low), spectrum.integral(high, math.inf)
    if first == last:
        line = torch.tensor([first], dtype=torch.float64)
        return EnergyNodes(line, torch.tensor([inside], dtype=torch.float64), 0.0, 0.0)
    count = max(1, math.ceil(math.log(last / first) / panel))
    edges = np.geomspace(first, last, count + 1)
    parts = [_panel(spectrum, a, b, TOLERANCE * inside, 0) for a, b in itertools.pairwise(edges)]
    energy, weight = np.concatenate(parts, axis=1)
    kept = weight > 0
    # the exact rate, which panels at the deepest level reproduce only nearly
    weight = weight * (inside / weight.sum())
    return EnergyNodes(torch.from_numpy(energy[kept]), torch.from_numpy(weight[kept]), below, above)


def _panel(spectrum: Spectrum, low: float, high: float, tolerance: float, depth: int) -> np.ndarray:
    """Return energies and weights (2, m) of one panel, halved where the rule misses its rate."""
    roots, weights = np.polynomial.legendre.leggauss(ORDER)
    half = 0.5 * math.log(high / low)
    energy = math.sqrt(low * high) * np.exp(half * roots)
    weight = half * weights * energy * spectrum.density_at(energy)
    if abs(weight.sum() - spectrum.integral(low, high)) <= tolerance or depth == DEEPEST:
        return np.stack([energy, weight])
    middle = math.sqrt(low * high)
    halves = (
        _panel(spectrum, low, middle, tolerance, depth + 1),
        _panel(spectrum, middle, high, tolerance, depth + 1),
    )
    return np.concatenate(halves, axis=1)
