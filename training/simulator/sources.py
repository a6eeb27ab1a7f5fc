"""Event sources: what a detector records of one kind of interaction, at any theta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from surrogate.errors import ConfigError, unknown_name
from surrogate.spectrum import Spectrum, draw_energy
from training.simulator.detector import Detector, YieldModel
from training.simulator.nr_yields import nest_recoil, ybe_recoil
from training.simulator.quanta import electronic_quanta, nuclear_quanta, poisson_quanta
from training.simulator.signals import s1_finding_table
from training.simulator.theta import THETA_NAMES, Theta
from training.simulator.tpc import Columns, FixedTruth, draw_vertices, fixed, form_signals, reconstruct
from training.simulator.yields import Medium, Quanta, electronic_recoil

Recoil = Literal["er", "nr"]
Fluctuations = Literal["nest", "poisson"]


class EventSource(Protocol):
    """What the simulator knows of a source."""

    @property
    def name(self) -> str:
        """Name of the source, such as ``er``."""
        ...

    @property
    def detector(self) -> Detector:
        """The detector that records it."""
        ...

    @property
    def parameters(self) -> tuple[str, ...]:
        """The components of theta on which it depends."""
        ...

    @property
    def generated_rate(self) -> float:
        """Generated events per tonne-year of fiducial exposure: mu(theta) is this times kept over generated."""
        ...

    def generate(self, n: int, theta: Theta, generator: torch.Generator, truth: FixedTruth) -> Columns:
        """Generate n events and return the columns of the selected ones, on the device of the generator."""
        ...

    def scaled(self, factor: float) -> EventSource:
        """Return the source with its rate multiplied by a factor."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what identifies the source, as plain data."""
        ...


@dataclass(frozen=True)
class RecoilSource:
    """Recoils of one spectrum, uniform in the liquid.

    Parameters
    ----------
    name
        Such as ``er``, ``nr`` or ``wimp50``.
    detector
        Where they are recorded.
    recoil
        ``er`` or ``nr``.
    spectrum
        dR/dE per tonne-year.
    nr_yields
        ``nest`` or ``ybe``, for nuclear recoils.
    fluctuations
        ``nest``, or ``poisson`` for independent Poisson numbers of photons and electrons (nuclear recoils only).

    Raises
    ------
    ConfigError
        For an unknown choice, or Poisson fluctuations of electronic recoils.
    """

    name: str
    detector: Detector
    recoil: Recoil
    spectrum: Spectrum
    nr_yields: YieldModel = "nest"
    fluctuations: Fluctuations = "nest"

    def __post_init__(self) -> None:
        choices = {
            "recoil": (self.recoil, ("er", "nr")),
            "nr_yields": (self.nr_yields, ("nest", "ybe")),
            "fluctuations": (self.fluctuations, ("nest", "poisson")),
        }
        for key, (value, known) in choices.items():
            if value not in known:
                raise ConfigError(unknown_name(key, value, known, f"source '{self.name}'"))
        if self.recoil == "er" and self.fluctuations == "poisson":
            raise ConfigError(f"source '{self.name}': fluctuations = 'poisson' is for nuclear recoils; use 'nest'")

    @property
    def parameters(self) -> tuple[str, ...]:
        """All four."""
        return THETA_NAMES

    @property
    def generated_rate(self) -> float:
        """The integral of the spectrum, for the padded volume."""
        return self.spectrum.total * self.detector.volume_ratio()

    @cached_property
    def medium(self) -> Medium:
        """Field and density of the liquid."""
        return Medium(self.detector.drift_field, self.detector.density)

    @cached_property
    def _energy_table(self) -> Tensor:
        return self.spectrum.quantile_table()

    @cached_property
    def finding_table(self) -> Tensor:
        """Probability to find an S1 by its number of detected photons."""
        return s1_finding_table(self.detector)

    def mean_quanta(self, energy: Tensor, theta: Theta) -> Quanta:
        """Return the mean photons and electrons of recoils of these energies (n,), keV."""
        if self.recoil == "er":
            return electronic_recoil(energy, theta, self.medium)
        return (ybe_recoil if self.nr_yields == "ybe" else nest_recoil)(energy, theta, self.medium)

    def draw_quanta(self, energy: Tensor, theta: Theta, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw photons and electrons of recoils of these energies (n,), keV."""
        mean = self.mean_quanta(energy, theta)
        if self.fluctuations == "poisson":
            return poisson_quanta(mean, generator)
        draw = electronic_quanta if self.recoil == "er" else nuclear_quanta
        return draw(energy, mean, self.medium, generator)

    def vertices_and_quanta(self, n: int, theta: Theta, generator: torch.Generator, truth: FixedTruth) -> Columns:
        """Draw n recoils up to their quanta: what :func:`~training.simulator.tpc.form_signals` takes."""
        device = generator.device
        columns = draw_vertices(self.detector, n, generator, truth)
        energy = fixed(truth, "energy", n, device)
        if energy is None:
            energy = draw_energy(self._energy_table.to(device), n, generator)
        photons, electrons = self.draw_quanta(energy, theta, generator)
        fixed_photons, fixed_electrons = (fixed(truth, name, n, device) for name in ("photons", "electrons"))
        columns["energy"] = energy
        columns["photons"] = photons if fixed_photons is None else fixed_photons
        columns["electrons"] = electrons if fixed_electrons is None else fixed_electrons
        columns["elife"], columns["g1"] = theta.elife.expand(n), theta.g1.expand(n)
        return columns

    def generate(self, n: int, theta: Theta, generator: torch.Generator, truth: FixedTruth) -> Columns:
        """Generate n recoils and return the selected ones."""
        columns = self.vertices_and_quanta(n, theta, generator, truth)
        columns = form_signals(columns, self.detector, self.finding_table.to(generator.device), generator)
        return reconstruct(columns, self.detector, generator)

    def scaled(self, factor: float) -> RecoilSource:
        """Return the source with its rate multiplied by a factor."""
        return replace(self, spectrum=self.spectrum.scaled(factor))

    def describe(self) -> Mapping[str, Any]:
        """Return name, recoil type, yield model and spectrum."""
        return {
            "name": self.name,
            "recoil": self.recoil,
            "nr_yields": self.nr_yields if self.recoil == "nr" else None,
            "fluctuations": self.fluctuations,
            "spectrum": self.spectrum.name,
            "energy_range_kev": [self.spectrum.energy[0], self.spectrum.energy[-1]],
            "rate_per_tonne_year": self.spectrum.total,
        }
