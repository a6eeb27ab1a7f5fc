"""Accidental coincidences: an S1 and an S2 that have nothing to do with each other.

Their areas are drawn independently, their drift time and r^2 are uniform; reconstruction, corrections and cuts are
those of every event. cS2 is corrected with the nominal electron lifetime, so nothing depends on theta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from surrogate.errors import ConfigError, RangeError
from training.simulator.detector import Detector
from training.simulator.signals import s1_area
from training.simulator.theta import Theta
from training.simulator.tpc import Columns, FixedTruth, draw_vertices, reconstruct


class LoneSignals(Protocol):
    """Areas of S1s and S2s that occur alone, PE."""

    def draw(self, n: int, detector: Detector, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n S1 areas and n S2 areas."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what identifies them, as plain data."""
        ...


@dataclass(frozen=True)
class ParametricSignals:
    """Lone signals of usual shape; an illustration, as the true ones differ between detectors and over time.

    S1: dark counts pile up to the coincidence level, n_hit = fold + Geometric(``stop``); a fraction ``large`` is
    log-uniform in area instead. S2: flat from the threshold to ``plateau``, then an exponential of scale ``slope``,
    which has quarters like those of the accidental background in arXiv:2409.17868.

    Parameters
    ----------
    stop
        Probability that no further photon joins, in (0, 1].
    large
        Fraction of large S1s, in [0, 1].
    large_range
        Their areas, PE.
    plateau, slope
        End of the flat part and scale of the exponential of the S2 areas, PE.
    """

    stop: float = 0.25
    large: float = 0.10
    large_range: tuple[float, float] = (5.0, 100.0)
    plateau: float = 250.0
    slope: float = 200.0

    def __post_init__(self) -> None:
        if not (0 < self.stop <= 1 and 0 <= self.large <= 1):
            raise ConfigError(f"lone S1: stop = {self.stop} must be in (0, 1] and large = {self.large} in [0, 1]")
        if not 0 < self.large_range[0] < self.large_range[1]:
            raise ConfigError(f"lone S1: large_range = {self.large_range} must be 0 < low < high")
        if not (self.plateau >= 0 and self.slope > 0):
            raise ConfigError(f"lone S2: plateau = {self.plateau} must be >= 0 and slope = {self.slope} > 0")

    def draw(self, n: int, detector: Detector, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n S1 areas and n S2 areas, PE."""
        return self._s1(n, detector, generator), self._s2(n, detector, generator)

    def _s1(self, n: int, detector: Detector, generator: torch.Generator) -> Tensor:
        u, which = torch.rand((2, n), generator=generator, device=generator.device)
        low, high = self.large_range
        # The floor stands for log(0) at stop = 1: every quotient is then below 1.
        extra = ((1 - u).log_() / math.log(max(1 - self.stop, 1e-300))).floor_()
        small = s1_area(detector.coincidence + extra, detector, generator)
        return torch.where(which < self.large, low * (high / low) ** u, small)

    def _s2(self, n: int, detector: Detector, generator: torch.Generator) -> Tensor:
        threshold = detector.selection.s2_min * detector.area_scale
        flat = max(self.plateau - threshold, 0.0)
        # Density 1 on the plateau and exp(-x/slope) beyond it: the tail has area ``slope``.
        u = torch.rand(n, generator=generator, device=generator.device) * (flat + self.slope)
        beyond = ((u - flat) / self.slope).clamp_(0.0, 1 - 1e-7)
        return threshold + torch.where(u < flat, u, flat - self.slope * (-beyond).log1p_())

    def describe(self) -> Mapping[str, Any]:
        """Return the parameters."""
        return {
            "stop": self.stop,
            "large": self.large,
            "large_range": list(self.large_range),
            "plateau": self.plateau,
            "slope": self.slope,
        }


@dataclass(frozen=True)
class MeasuredSignals:
    """Lone signals drawn, with replacement, from lists of measured areas.

    Parameters
    ----------
    s1, s2
        Areas of lone S1s and S2s, PE, each (n,).
    """

    s1: Tensor
    s2: Tensor

    def __post_init__(self) -> None:
        for name, areas in (("s1", self.s1), ("s2", self.s2)):
            if areas.ndim != 1 or len(areas) == 0:
                raise ConfigError(
                    f"lone {name}: areas have shape {tuple(areas.shape)}, must be a list with one or more"
                )
            if not bool((torch.isfinite(areas) & (areas > 0)).all()):
                raise ConfigError(f"lone {name}: areas must be finite and > 0 PE")

    def draw(self, n: int, detector: Detector, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n S1 areas and n S2 areas, PE."""
        drawn = []
        for areas in (self.s1, self.s2):
            row = torch.randint(len(areas), (n,), generator=generator, device=generator.device)
            drawn.append(areas.to(generator.device, torch.float32)[row])
        return drawn[0], drawn[1]

    def describe(self) -> Mapping[str, Any]:
        """Return the numbers and means of the areas."""
        return {
            "n_s1": len(self.s1),
            "n_s2": len(self.s2),
            "mean_s1": float(self.s1.double().mean()),
            "mean_s2": float(self.s2.double().mean()),
        }


@dataclass(frozen=True)
class AccidentalSource:
    """Accidental coincidences.

    Parameters
    ----------
    name
        Such as ``ac``.
    detector
        Where they are recorded.
    generated_rate
        Pairs per tonne-year before the cuts (:func:`training.simulator.simulate.with_accepted_rate` sets it from the
        rate after them).
    signals
        The areas.
    """

    name: str
    detector: Detector
    generated_rate: float
    signals: LoneSignals

    def __post_init__(self) -> None:
        if not (self.generated_rate > 0 and math.isfinite(self.generated_rate)):
            raise ConfigError(f"source '{self.name}': rate = {self.generated_rate} per tonne-year must be > 0")

    @property
    def parameters(self) -> tuple[str, ...]:
        """None."""
        return ()

    def generate(self, n: int, theta: Theta, generator: torch.Generator, truth: FixedTruth) -> Columns:
        """Generate n pairs and return the selected ones; only positions can be fixed.

        Raises
        ------
        RangeError
            If another quantity is to be fixed: an accidental pair has no energy.
        """
        for name in truth:
            if name not in ("r", "z"):
                raise RangeError(f"fix_truth: accidental coincidences have no {name}; only r and z can be fixed")
        columns = draw_vertices(self.detector, n, generator, truth)
        columns["s1"], columns["s2"] = self.signals.draw(n, self.detector, generator)
        return reconstruct(columns, self.detector, generator)

    def scaled(self, factor: float) -> AccidentalSource:
        """Return the source with its rate multiplied by a factor."""
        return replace(self, generated_rate=self.generated_rate * factor)

    def describe(self) -> Mapping[str, Any]:
        """Return name and signals."""
        return {"name": self.name, "kind": "accidental", "signals": dict(self.signals.describe())}
