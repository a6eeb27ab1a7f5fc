"""Responses p(x | E, theta), eps(E, theta) to recoils of one energy, and sources that fold them with a spectrum.

With the efficiency eps, the chance that a recoil is recorded in the region of interest, and the density p of those that
are, a spectrum dR/dE makes

    mu(theta) f(x | theta) = integral dE dR/dE eps(E, theta) p(x | E, theta),
    mu(theta)              = integral dE dR/dE eps(E, theta).

One response therefore serves every WIMP mass, neutrinos and neutrons alike. The integral is a fixed sum over energies
E_m with weights w_m >= 0 (:mod:`surrogate.quadrature`), so that f is a mixture of normalised densities: it is
normalised itself, smooth in theta where the response is, and drawn from by picking an energy first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from surrogate.errors import ConfigError
from surrogate.jet import Jet
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from surrogate.quadrature import PANEL, EnergyNodes, energy_nodes
from surrogate.source import Source
from surrogate.spectrum import Spectrum

OUTSIDE = 0.01
"""Largest share of the recorded events that may come from energies at which the response is not defined."""


class Response(Protocol):
    """What a detector makes of recoils of one energy, ready to be folded with any spectrum."""

    @property
    def observables(self) -> ObservableSpace:
        """The region of interest."""
        ...

    @property
    def nuisances(self) -> NuisanceSpace:
        """The parameters theta; the energy is none of them."""
        ...

    @property
    def breakpoints(self) -> Mapping[str, tuple[float, ...]]:
        """Where derivatives in theta jump, as for a :class:`~surrogate.source.Source`."""
        ...

    @property
    def energy_range(self) -> tuple[float, float]:
        """Lowest and highest energy, keV, at which the response is defined."""
        ...

    @property
    def identity(self) -> str:
        """Hash of everything the response depends on."""
        ...

    def efficiency(self, energy: Tensor, theta: Tensor) -> Tensor:
        """Return eps (*,), recorded events per recoil in the exposure, for E (*,) in keV and theta (*, K)."""
        ...

    def fold(self, spectrum: Spectrum, outside: float = OUTSIDE) -> Source:
        """Return the source of a spectrum; up to the share ``outside`` of its events may come from other energies."""
        ...


class SmoothResponse(Response, Protocol):
    """A response that is a density with jets in theta at every energy. All arguments broadcast over *."""

    def on(self, device: torch.device | str) -> SmoothResponse:
        """Return the response on a device."""
        ...

    def log_prob(self, x: Tensor, energy: Tensor, theta: Tensor) -> Tensor:
        """Return ln p(x | E, theta) (*,) for x (*, D), E (*,) in keV and theta (*, K); -inf outside the region."""
        ...

    def density_jet(self, x: Tensor, energy: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta (*, K) of p(x | E, theta)."""
        ...

    def score(self, x: Tensor, energy: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln p (n,) and its gradient in theta (n, K), for x (n, D), E (n,) and theta (n, K)."""
        ...

    def efficiency_std(self, energy: Tensor, theta: Tensor) -> Tensor:
        """Return the standard error (*,) of eps."""
        ...

    def efficiency_jet(self, energy: Tensor, theta: Tensor, centre: Tensor | None = None) -> Jet:
        """Return the jet in theta (*, K) of eps."""
        ...

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the uniforms that make one event."""
        ...

    def sample_from_noise(self, noise: Tensor, energy: Tensor, theta: Tensor) -> Tensor:
        """Return events (n, D) made of uniforms (n, *noise_shape), at energies (n,) and theta (n, K); row by row."""
        ...


IRRELEVANT = 1e-5
"""Rate beyond the range, relative to the recorded events, that does not matter even if all of it were recorded."""

STEP = 1.02
"""Ratio of energies over which the slope of the efficiency at an edge is taken."""

STEEPEST = 30.0
"""Largest power of the energy with which the efficiency is continued."""


def lost_share(response: Response, spectrum: Spectrum, nodes: EnergyNodes) -> float:
    """Return the share of the recorded events, at the nominal theta, from energies that the nodes leave out.

    Beyond its range the efficiency is continued as a power of the energy, with its slope at the edge; it is at most 1.
    """
    kept = float(nodes.weight @ response.efficiency(nodes.energy, response.nuisances.nominal()))
    low, high = response.energy_range
    worth = IRRELEVANT * kept
    lost = _recorded(response, spectrum, (0.0, low), low, STEP) if nodes.below > worth else 0.0
    lost += _recorded(response, spectrum, (high, math.inf), high, 1 / STEP) if nodes.above > worth else 0.0
    return lost / (kept + lost) if kept + lost > 0 else 0.0


def _recorded(response: Response, spectrum: Spectrum, span: tuple[float, float], edge: float, step: float) -> float:
    """Return the recorded events of energies beyond an edge; ``step`` times it lies inside the range."""
    pair = torch.tensor([edge, edge * step], dtype=torch.float64)
    eps = response.efficiency(pair, response.nuisances.nominal()).tolist()
    if not min(eps) > 0:
        return 0.0
    power = max(-STEEPEST, min(STEEPEST, math.log(eps[1] / eps[0]) / math.log(step)))
    beyond = energy_nodes(spectrum, *span)
    return float(beyond.weight @ (eps[0] * (beyond.energy / edge) ** power).clamp(max=1.0))


def checked_nodes(response: Response, spectrum: Spectrum, outside: float, panel: float = PANEL) -> EnergyNodes:
    """Return the quadrature over the response's energies.

    Raises
    ------
    ConfigError
        If more than the share ``outside`` of the recorded events comes from other energies.
    """
    low, high = response.energy_range
    nodes = energy_nodes(spectrum, low, high, panel)
    lost = lost_share(response, spectrum, nodes)
    if lost > outside:
        raise ConfigError(
            f"spectrum '{spectrum.name}': about {100 * lost:.2g} % of its recorded events come from energies "
            f"outside [{low:g}, {high:g}] keV, where the response is not defined; at most {100 * outside:g} % may. "
            "Extend the response, or accept the loss with a larger 'outside'"
        )
    return nodes
