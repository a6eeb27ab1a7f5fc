"""Mono-energetic recoils whose energy is a parameter: the response of a detector, before any spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from surrogate.beta_spectra import line_spectrum
from training.simulator.detector import Detector, YieldModel
from training.simulator.sources import Fluctuations, Recoil, RecoilSource
from training.simulator.theta import ENERGY, ENERGY_NOMINAL, THETA_NAMES, Theta
from training.simulator.tpc import Columns, FixedTruth


@dataclass(frozen=True)
class MonoEnergeticSource:
    """One recoil per tonne-year, of an energy that the caller gives with each event as ``truth["energy"]``.

    Its rate is therefore the efficiency eps(E, theta): recorded events per recoil in the fiducial volume.

    Parameters
    ----------
    name
        Such as ``nr_response``.
    detector
        Where the recoils are recorded.
    recoil
        ``er`` or ``nr``.
    nr_yields, fluctuations
        As in :class:`~training.simulator.sources.RecoilSource`.
    rate
        Recoils per tonne-year.

    Raises
    ------
    ConfigError
        As :class:`~training.simulator.sources.RecoilSource`.
    """

    name: str
    detector: Detector
    recoil: Recoil
    nr_yields: YieldModel = "nest"
    fluctuations: Fluctuations = "nest"
    rate: float = 1.0

    def __post_init__(self) -> None:
        self.recoils.describe()  # building them checks the choices

    @cached_property
    def recoils(self) -> RecoilSource:
        """The recoils, at the reference energy where none is given."""
        line = line_spectrum(ENERGY_NOMINAL, self.rate)
        return RecoilSource(self.name, self.detector, self.recoil, line, self.nr_yields, self.fluctuations)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The energy, and all four components of theta."""
        return (ENERGY, *THETA_NAMES)

    @property
    def generated_rate(self) -> float:
        """The rate in the padded volume."""
        return self.recoils.generated_rate

    def generate(self, n: int, theta: Theta, generator: torch.Generator, truth: FixedTruth) -> Columns:
        """Generate n recoils and return the selected ones."""
        return self.recoils.generate(n, theta, generator, truth)

    def scaled(self, factor: float) -> MonoEnergeticSource:
        """Return the source with its rate multiplied by a factor."""
        return replace(self, rate=factor * self.rate)

    def describe(self) -> Mapping[str, Any]:
        """Return what identifies the source, as plain data."""
        return {
            "name": self.name,
            "kind": "mono",
            "recoil": self.recoil,
            "nr_yields": self.nr_yields if self.recoil == "nr" else None,
            "fluctuations": self.fluctuations,
            "rate_per_tonne_year": self.rate,
        }
