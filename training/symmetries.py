"""Exact symmetries of a detector, used to draw more from the same events.

Where electrons are lost only to attachment and nothing else depends on depth, an event's probability depends on
drift_time and elife through their ratio alone. Then an accepted event may be moved along its ray

    (drift_time, elife) -> (lambda drift_time, lambda elife)

to any place inside the window and the trained range. Events are generated uniformly in drift_time, and in elife or ln
elife; lambda drawn with the density that this leaves along the ray,

    p(lambda) ~ lambda^(1 + a),   a = 0 for elife uniform, a = -1 for ln elife uniform,

keeps the distribution of generated events as it is (a Gibbs step), hence also that of the accepted ones. A training
that sees each event at a fresh lambda in each pass does not have to learn the symmetry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from surrogate.errors import ConfigError, unknown_name
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from training.event_set import UnitEvents


@dataclass(frozen=True)
class DriftLifetimeSymmetry:
    """The symmetry of drift time and electron lifetime, bound to the spaces of the events.

    Parameters
    ----------
    observables, nuisances
        Spaces of the events.
    drift, lifetime
        Names of the drift time, on a linear scale, and of the lifetime.
    drawn
        How the lifetimes were drawn: ``uniform``, or ``log`` for uniform in the logarithm.

    Raises
    ------
    ConfigError
        If a name is unknown or the drift time is not on a linear scale from a non-negative edge.
    """

    observables: ObservableSpace
    nuisances: NuisanceSpace
    drift: str = "drift_time"
    lifetime: str = "elife"
    drawn: Literal["uniform", "log"] = "uniform"

    def __post_init__(self) -> None:
        if self.drift not in self.observables.names:
            raise ConfigError(unknown_name("observable", self.drift, self.observables.names, "symmetry"))
        if self.lifetime not in self.nuisances.names:
            raise ConfigError(unknown_name("nuisance", self.lifetime, self.nuisances.names, "symmetry"))
        drift = self.observables.observables[self._column]
        if drift.scale != "linear" or drift.low < 0:
            raise ConfigError(
                f"symmetry: '{self.drift}' must have the linear scale and a window that starts at 0 or later, not "
                f"{drift.scale} from {drift.low}"
            )

    @property
    def _column(self) -> int:
        return self.observables.names.index(self.drift)

    @property
    def _row(self) -> int:
        return self.nuisances.names.index(self.lifetime)

    def move(self, events: UnitEvents, generator: torch.Generator) -> UnitEvents:
        """Return the events at a new place on their rays."""
        window, range_ = self.observables.observables[self._column], self.nuisances.nuisances[self._row]
        low, high = window.low, window.high
        time = low + events.u[:, self._column].double() * (high - low)
        elife = events.theta[:, self._row].double()
        first = torch.maximum(range_.low / elife, low / time)
        last = torch.minimum(range_.high / elife, high / time)
        v = torch.rand(events.size, generator=generator, dtype=torch.float64)
        power = 1.0 if self.drawn == "log" else 2.0
        factor = (first**power + v * (last**power - first**power)) ** (1 / power)
        factor = torch.where(time > 0, factor, torch.ones_like(factor))
        u, theta = events.u.clone(), events.theta.clone()
        u[:, self._column] = ((time * factor - low) / (high - low)).clamp(0.0, 1.0).float()
        theta[:, self._row] = (elife * factor).clamp(range_.low, range_.high).float()
        return UnitEvents(u, theta, events.weight)
