"""Decays on the wall: electronic recoils at r = R that lose charge and are now and then reconstructed far inside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from surrogate.errors import ConfigError
from surrogate.spectrum import Spectrum
from training.simulator.detector import Detector
from training.simulator.sources import RecoilSource
from training.simulator.theta import THETA_NAMES, Theta
from training.simulator.tpc import Columns, FixedTruth, form_signals, reconstruct, truth_of


@dataclass(frozen=True)
class WallSource:
    """Electronic recoils on the wall, such as those of 210Pb plate-out (compare arXiv:1902.11297).

    Electrons survive next to the wall with a probability that varies from event to event, Beta(2, 5), so S2s are
    small. The reconstructed position scatters as everywhere; in a fraction of the events it lies further inside by an
    exponential length, the non-Gaussian tail that position reconstruction has at dead sensors and field distortions.
    Shape and size of tail and charge loss are illustrations: both must be measured in a real detector.

    Parameters
    ----------
    name
        Such as ``wall``.
    detector
        Where they are recorded.
    spectrum
        dR/dE of the recoils, per tonne-year of fiducial exposure.
    tail_fraction, tail_length
        Fraction of events in the tail, and its mean length, cm.
    """

    name: str
    detector: Detector
    spectrum: Spectrum
    tail_fraction: float = 0.3
    tail_length: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.tail_fraction <= 1:
            raise ConfigError(f"source '{self.name}': tail_fraction = {self.tail_fraction} must be in [0, 1]")
        if not (self.tail_length > 0 and math.isfinite(self.tail_length)):
            raise ConfigError(f"source '{self.name}': tail_length = {self.tail_length} cm must be > 0")

    @property
    def parameters(self) -> tuple[str, ...]:
        """All four."""
        return THETA_NAMES

    @property
    def generated_rate(self) -> float:
        """The integral of the spectrum; its normalisation is that of the decays in the z window, padded."""
        return self.spectrum.total

    def generate(self, n: int, theta: Theta, generator: torch.Generator, truth: FixedTruth) -> Columns:
        """Generate n decays and return the selected ones; those that appear too far outside are not followed."""
        device = generator.device
        u, which = torch.rand((2, n), generator=generator, device=device)
        inward = torch.where(which < self.tail_fraction, -self.tail_length * (1 - u).log_(), 0.0)
        true_r = torch.as_tensor(truth.get("r", self.detector.radius), dtype=torch.float32, device=device).expand(n)
        apparent_r = (true_r - inward).abs_()
        near = (apparent_r <= self._reach()).nonzero().squeeze(1)
        recoils = RecoilSource(self.name, self.detector, "er", self.spectrum)
        known = truth_of({**truth, "r": true_r}, near)
        columns = recoils.vertices_and_quanta(len(near), theta.at(near), generator, known)
        columns["index"], columns["apparent_r"] = near.int(), apparent_r[near]
        survival = _beta_2_5(len(near), generator)
        columns["electrons"] = torch.binomial(columns["electrons"], survival, generator=generator)
        columns = form_signals(columns, self.detector, recoils.finding_table.to(device), generator)
        return reconstruct(columns, self.detector, generator)

    def _reach(self) -> float:
        """Return the apparent radius, cm, from which the smallest S2 still scatters inside at 6 sigma (1e-9)."""
        (a, b), selection = self.detector.xy_resolution, self.detector.selection
        smallest = selection.s2_min * self.detector.area_scale
        return selection.r_max + 6.0 * math.hypot(a / math.sqrt(smallest), b) if smallest > 0 else math.inf

    def scaled(self, factor: float) -> WallSource:
        """Return the source with its rate multiplied by a factor."""
        return replace(self, spectrum=self.spectrum.scaled(factor))

    def describe(self) -> Mapping[str, Any]:
        """Return name, spectrum and tail."""
        return {
            "name": self.name,
            "kind": "wall",
            "spectrum": self.spectrum.name,
            "tail_fraction": self.tail_fraction,
            "tail_length": self.tail_length,
        }


def _beta_2_5(n: int, generator: torch.Generator) -> Tensor:
    """Draw from Beta(2, 5), the second smallest of six uniform numbers, in Renyi's form 1 - U^(1/6) V^(1/5)."""
    u, v = torch.rand((2, n), generator=generator, device=generator.device)
    return 1 - u ** (1 / 6) * v ** (1 / 5)
