"""A response made of templates: mono-energetic recoils at given light and charge yields.

The counts n(E, Y_l, Y_q) of a basis on a grid of energies and yields are interpolated by cubic splines along each of
its three axes (or linearly), and the yields follow their uncertainty bands,

    Y(E, t) = Y_median + t (Y_upper - Y_median)  for t >= 0,    Y_median + t (Y_median - Y_lower)  for t < 0,

held inside the grid. Folding with a spectrum at anchors of (t_l, t_q) gives templates between which
:class:`surrogate.template.TemplateSource` morphs, as if they had been simulated there (arXiv:2409.17868, data release).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError, unknown_name
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import ObservableSpace
from surrogate.response import OUTSIDE, checked_nodes
from surrogate.shapes import broadcast_shape
from surrogate.spectrum import Spectrum
from surrogate.tables import read_table
from surrogate.template import TemplateSource

Array = NDArray[np.float64]
Interpolation = Literal["cubic", "linear"]


@dataclass(frozen=True)
class YieldBand:
    """Quanta per keV as a function of the recoil energy: lower edge, median and upper edge of a 1-sigma band.

    Parameters
    ----------
    lower, median, upper
        Each a table (energies [keV], quanta per keV), linear between points and constant outside.

    Raises
    ------
    ConfigError
        If a table has no two increasing energies, or a value is not finite.
    """

    lower: tuple[Array, Array]
    median: tuple[Array, Array]
    upper: tuple[Array, Array]

    def __post_init__(self) -> None:
        for name, (energy, value) in self.tables():
            if energy.ndim != 1 or energy.shape != value.shape or energy.size < 2 or (np.diff(energy) <= 0).any():
                raise ConfigError(f"yield band: {name}: energies must increase, with one value each")
            if not (np.isfinite(energy).all() and np.isfinite(value).all()):
                raise ConfigError(f"yield band: {name}: values must be finite")

    def tables(self) -> tuple[tuple[str, tuple[Array, Array]], ...]:
        """Return the three tables with their names."""
        return (("lower", self.lower), ("median", self.median), ("upper", self.upper))

    def at(self, energy: Array, t: Array) -> Array:
        """Return the yield (*,) at energies (*,) keV and deformations t (*,) in sigma."""
        lower, median, upper = (np.interp(energy, *table) for _, table in self.tables())
        return np.asarray(median + np.maximum(t, 0.0) * (upper - median) + np.minimum(t, 0.0) * (median - lower))


@dataclass(frozen=True, eq=False)
class TemplateBasis:
    """Recorded events per recoil and bin, for mono-energetic recoils at given yields.

    Parameters
    ----------
    binning
        The bins.
    energy
        (E,) keV, increasing, at least four.
    light, charge
        (L,), (Q,) quanta per keV, increasing, at least four each.
    counts
        (E, L, Q, *binning.shape).

    Raises
    ------
    DataError
        If axes do not increase, or the contents have another shape, are negative or not finite.
    """

    binning: Binning
    energy: Array
    light: Array
    charge: Array
    counts: Array

    def __post_init__(self) -> None:
        axes = {"energy": self.energy, "light": self.light, "charge": self.charge}
        for name, axis in axes.items():
            if axis.ndim != 1 or axis.size < 4 or not (np.diff(axis) > 0).all():
                raise DataError(f"template basis: {name} must be at least four increasing values")
        shape = (*(axis.size for axis in axes.values()), *self.binning.shape)
        if self.counts.shape != shape:
            raise DataError(f"template basis: contents have shape {self.counts.shape}, the axes need {shape}")
        if not (np.isfinite(self.counts).all() and (self.counts >= 0).all()):
            raise DataError("template basis: contents must be finite and >= 0")

    def at(self, energy: Array, light: Array, charge: Array, interpolation: Interpolation = "cubic") -> Array:
        """Return the counts (m, n_bins) at energies (m,) and yields (m,), which are held inside the grid."""
        axes = ((self.energy, energy), (self.light, light), (self.charge, charge))
        by_axis = [_weights(grid, np.clip(value, grid[0], grid[-1]), interpolation) for grid, value in axes]
        weights = np.einsum("me,ml,mq->melq", *by_axis).reshape(len(energy), -1)
        return np.maximum(weights @ self.counts.reshape(weights.shape[1], -1), 0.0)


def read_band(lower: Path, median: Path, upper: Path) -> YieldBand:
    """Read a band from three tables of energy [keV] and quanta per keV (:func:`surrogate.tables.read_table`).

    Raises
    ------
    DataError
        If a file cannot be read.
    ConfigError
        If a table is no function of the energy.
    """
    tables = [read_table(path) for path in (lower, median, upper)]
    return YieldBand(*((table.x, table.y) for table in tables))


def _weights(grid: Array, x: Array, interpolation: Interpolation) -> Array:
    """Return, per x (m,), the weights (m, n) of the values on the grid (n,)."""
    unit = np.eye(grid.size)
    if interpolation == "cubic":
        return np.asarray(CubicSpline(grid, unit)(x))
    return np.stack([np.interp(x, grid, row) for row in unit], axis=-1)


@dataclass(frozen=True, eq=False)
class TemplateResponse:
    """A template basis with yields that follow their bands; implements :class:`surrogate.response.Response`.

    Parameters
    ----------
    basis
        Counts on a grid of energies and yields.
    light, charge
        The bands.
    anchors
        The two parameters that deform the light and the charge yield, in this order -> anchors in sigma, between which
        the folded templates are morphed.
    interpolation
        ``cubic`` splines, or ``linear``.

    Raises
    ------
    ConfigError
        Unless there are two parameters with at least two anchors each, or for an unknown interpolation.
    """

    basis: TemplateBasis
    light: YieldBand
    charge: YieldBand
    anchors: Mapping[str, Sequence[float]]
    interpolation: Interpolation = "cubic"

    def __post_init__(self) -> None:
        if self.interpolation not in get_args(Interpolation):
            known = get_args(Interpolation)
            raise ConfigError(unknown_name("interpolation", self.interpolation, known, "template response"))
        if len(self.anchors) != 2 or any(len(a) < 2 for a in self.anchors.values()):
            raise ConfigError(
                "template response: two parameters, of the light and of the charge yield, with at least two anchors "
                f"each are needed, got {dict(self.anchors)}"
            )

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest: the extent of the bins."""
        return self.basis.binning.space()

    @cached_property
    def nuisances(self) -> NuisanceSpace:
        """The deformations of the yields, zero nominally, between the first and the last anchor."""
        return NuisanceSpace(
            tuple(Nuisance(n, "sigma", float(a[0]), float(a[-1]), 0.0) for n, a in self.anchors.items())
        )

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """The anchors."""
        return {n: tuple(float(v) for v in a) for n, a in self.anchors.items()}

    @property
    def energy_range(self) -> tuple[float, float]:
        """The energies of the basis, keV."""
        return float(self.basis.energy[0]), float(self.basis.energy[-1])

    @cached_property
    def identity(self) -> str:
        """SHA-256 of basis, bands, anchors and interpolation."""
        head = (self.basis.binning.names, dict(self.breakpoints), self.interpolation)
        digest = hashlib.sha256(repr(head).encode())
        bands = [part for band in (self.light, self.charge) for _, table in band.tables() for part in table]
        axes = (self.basis.energy, self.basis.light, self.basis.charge, self.basis.counts)
        for array in (*(e.numpy() for e in self.basis.binning.edges), *axes, *bands):
            digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        return digest.hexdigest()

    def counts(self, energy: Tensor, theta: Tensor) -> Tensor:
        """Return recorded events per recoil and bin (*, n_bins) at E (*,) in keV and theta (*, 2)."""
        shape = broadcast_shape(energy.shape, theta.shape[:-1])
        e = energy.expand(shape).reshape(-1).double().numpy()
        t_light, t_charge = theta.expand(*shape, 2).reshape(-1, 2).double().numpy().T
        light, charge = self.light.at(e, t_light), self.charge.at(e, t_charge)
        counts = self.basis.at(e, light, charge, self.interpolation)
        return torch.from_numpy(counts).reshape(*shape, self.basis.binning.n_bins)

    def efficiency(self, energy: Tensor, theta: Tensor) -> Tensor:
        """Return eps (*,), recorded events per recoil in the exposure, for E (*,) in keV and theta (*, 2)."""
        return self.counts(energy, theta).sum(dim=-1)

    def fold(self, spectrum: Spectrum, outside: float = OUTSIDE) -> TemplateSource:
        """Return the templates of a spectrum at all combinations of the anchors.

        Raises
        ------
        ConfigError
            If more than the share ``outside`` of its recorded events comes from energies outside the basis.
        """
        nodes = checked_nodes(self, spectrum, outside)
        axes = [torch.tensor(a, dtype=torch.float64) for a in self.breakpoints.values()]
        theta = torch.cartesian_prod(*axes)
        folded = torch.stack([nodes.weight @ self.counts(nodes.energy, point) for point in theta])
        shape = (*(len(a) for a in axes), *self.basis.binning.shape)
        nominal = dict.fromkeys(self.anchors, 0.0)
        return TemplateSource(self.basis.binning, self.breakpoints, folded.reshape(shape), nominal)
