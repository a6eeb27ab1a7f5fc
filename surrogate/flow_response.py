"""A response learned from simulated mono-energetic recoils: a flow with the recoil energy among its parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from surrogate.ensemble import EnsembleSource
from surrogate.errors import ConfigError
from surrogate.flow_source import FlowSource
from surrogate.jet import Jet
from surrogate.jet_algebra import joined, reshaped
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from surrogate.response import OUTSIDE
from surrogate.shapes import broadcast_shape
from surrogate.spectrum import Spectrum
from surrogate.spectrum_source import SpectrumSource

ENERGY = "energy"
"""Name of the nuisance that is the recoil energy, keV."""

RATE_CHUNK = 16_384
"""Efficiencies evaluated at a time, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class FlowResponse:
    """p(x | E, theta) and eps(E, theta) of a source that depends on a parameter named ``energy``.

    Parameters
    ----------
    source
        Trained on recoils of given energies, one per tonne-year: its rate is the efficiency.

    Raises
    ------
    ConfigError
        If it does not depend on a parameter named ``energy``.
    """

    source: FlowSource | EnsembleSource

    def __post_init__(self) -> None:
        names = self.source.nuisances.names
        if ENERGY not in names:
            raise ConfigError(
                f"response: a surrogate with a nuisance '{ENERGY}' [keV] is needed, this one has "
                f"{', '.join(names) or 'none'}; train it on a source of kind 'mono'"
            )

    def on(self, device: torch.device | str) -> FlowResponse:
        """Return the response on a device."""
        return replace(self, source=self.source.on(device))

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest."""
        return self.source.observables

    @cached_property
    def _place(self) -> int:
        return self.source.nuisances.names.index(ENERGY)

    @cached_property
    def nuisances(self) -> NuisanceSpace:
        """The parameters theta: those of the source without the energy."""
        return NuisanceSpace(tuple(n for n in self.source.nuisances.nuisances if n.name != ENERGY))

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """Those of the source: none for flows."""
        return self.source.breakpoints

    @cached_property
    def energy_range(self) -> tuple[float, float]:
        """The trained range, keV."""
        energy = self.source.nuisances.nuisances[self._place]
        return energy.low, energy.high

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the source, as a response."""
        return hashlib.sha256(f"response {self.source.identity}".encode()).hexdigest()

    def _joined(self, energy: Tensor, theta: Tensor) -> Tensor:
        """Return the parameters of the source (*, K + 1)."""
        shape = broadcast_shape(energy.shape, theta.shape[:-1])
        theta = theta.expand(*shape, theta.shape[-1])
        column = energy.to(theta).expand(shape).unsqueeze(-1)
        return torch.cat([theta[..., : self._place], column, theta[..., self._place :]], dim=-1)

    def _sliced(self, jet: Jet) -> Jet:
        """Return the jet in theta of one in theta and the energy."""
        kept = [k for k in range(self.source.nuisances.dim) if k != self._place]
        return Jet(jet.log_scale, jet.value, jet.gradient[..., kept], jet.hessian[..., kept, :][..., kept])

    def log_prob(self, x: Tensor, energy: Tensor, theta: Tensor) -> Tensor:
        """Return ln p(x | E, theta) (*,) for x (*, D), E (*,) in keV and theta (*, K)."""
        return self.source.log_prob(x, self._joined(energy, theta))

    def density_jet(self, x: Tensor, energy: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta (*, K) of p(x | E, theta)."""
        return self._sliced(self.source.density_jet(x, self._joined(energy, theta)))

    def score(self, x: Tensor, energy: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln p (n,) and its gradient in theta (n, K) to single precision, for x (n, D), E (n,), theta (n, K)."""
        log_p, gradient = self.source.score(x, self._joined(energy, theta))
        kept = [k for k in range(self.source.nuisances.dim) if k != self._place]
        return log_p, gradient[:, kept]

    def efficiency(self, energy: Tensor, theta: Tensor) -> Tensor:
        """Return eps (*,): recorded events per recoil in the fiducial volume."""
        full = self._joined(energy, theta)
        rows = full.reshape(-1, full.shape[-1]).split(RATE_CHUNK)
        return torch.cat([self.source.expected_events(some) for some in rows]).reshape(full.shape[:-1])

    def efficiency_std(self, energy: Tensor, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of eps."""
        return self.source.expected_events_std(self._joined(energy, theta))

    def efficiency_jet(self, energy: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta (*, K) of eps."""
        full = self._joined(energy, theta)
        jets = [self.source.rate_jet(rows) for rows in full.reshape(-1, full.shape[-1]).split(RATE_CHUNK)]
        return self._sliced(reshaped(joined(jets), full.shape[:-1]))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the uniforms that make one event."""
        return self.source.noise_shape

    def sample_from_noise(self, noise: Tensor, energy: Tensor, theta: Tensor) -> Tensor:
        """Return events (n, D) made of uniforms (n, *noise_shape), at energies (n,) and theta (n, K); row by row."""
        return self.source.sample_from_noise(noise, self._joined(energy, theta))

    def fold(self, spectrum: Spectrum, outside: float = OUTSIDE) -> SpectrumSource:
        """Return the source of a spectrum.

        Raises
        ------
        ConfigError
            If more than the share ``outside`` of its recorded events comes from energies outside the trained range.
        """
        return SpectrumSource(self, spectrum, outside)
