"""Guides: what is known of the response to theta, put into a flow as an analytic shift of component locations.

Drifting electrons attach to impurities, so S2 is proportional to exp(-drift_time/elife); S1 is proportional to the
photon gain g1. A change of theta therefore moves ln S2 and ln S1, to leading order, by

    electron_lifetime:  delta = -drift_time (1/elife - 1/elife_0)
    photon_gain:        delta = ln(g1 / g1_0)

with the nominal values elife_0 and g1_0. A guide moves the component locations m_k of the guided observable by that
much and the network learns what remains. An observable that is already corrected with elife_0 moves the same way.

On the logarithmic scale t = ln(x + offset) the unit coordinate of a component at x_k moves by

    delta x_k/(x_k + offset) / (t(high) - t(low)),

exactly for offset = 0 and to leading order in delta otherwise. The shift never depends on the guided coordinate itself
and is infinitely differentiable in theta, so bounds, normalisation and smoothness of the flow stay exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from surrogate.errors import ConfigError, unknown_name
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.univariate import Move


@dataclass(frozen=True)
class ElectronLifetimeGuide:
    """ln x of ``observable`` moves by -drift_time (1/elife - 1/elife_0).

    Parameters
    ----------
    observable
        The guided observable, such as ``cs2``; its scale must be ``log``.
    nuisance
        The electron lifetime, such as ``elife``.
    drift
        The observable that tells the drift time: a time in the unit of the lifetime, or a depth z.
    velocity
        Drift velocity in the unit of ``drift`` per unit of the lifetime (cm/us) where ``drift`` is a depth; None where
        it is a time.
    gate
        Depth of zero drift time; drift_time = (gate - z)/velocity.
    """

    kind: ClassVar[str] = "electron_lifetime"

    observable: str
    nuisance: str = "elife"
    drift: str = "drift_time"
    velocity: float | None = None
    gate: float = 0.0

    def __post_init__(self) -> None:
        if self.velocity is not None and not (math.isfinite(self.velocity) and self.velocity > 0):
            raise ConfigError(f"guide of '{self.observable}': velocity = {self.velocity} must be > 0, or absent")

    @property
    def needs(self) -> tuple[str, ...]:
        """Observables on which the shift depends."""
        return (self.drift,)

    def delta(self, values: Mapping[str, Tensor], theta: Tensor, nominal: float) -> Tensor:
        """Return the shift of ln x, from the observables it needs and its nuisance, all (*,)."""
        return self._time(values) * (1.0 / nominal - 1.0 / theta)

    def derivatives(self, values: Mapping[str, Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and the second derivative of the shift in its nuisance, both (*,)."""
        first = self._time(values) / theta.square()
        return first, -2.0 * first / theta

    def _time(self, values: Mapping[str, Tensor]) -> Tensor:
        time = values[self.drift]
        return time if self.velocity is None else (self.gate - time) / self.velocity


@dataclass(frozen=True)
class PhotonGainGuide:
    """ln x of ``observable`` moves by ln(g1/g1_0).

    Parameters
    ----------
    observable
        The guided observable, such as ``cs1``; its scale must be ``log``.
    nuisance
        The gain, such as ``g1``.
    """

    kind: ClassVar[str] = "photon_gain"

    observable: str
    nuisance: str = "g1"

    @property
    def needs(self) -> tuple[str, ...]:
        """No observable enters the shift."""
        return ()

    def delta(self, values: Mapping[str, Tensor], theta: Tensor, nominal: float) -> Tensor:
        """Return the shift of ln x (*,)."""
        return torch.log(theta / nominal)

    def derivatives(self, values: Mapping[str, Tensor], theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and the second derivative of the shift in its nuisance, both (*,)."""
        return 1.0 / theta, -1.0 / theta.square()


Guide = ElectronLifetimeGuide | PhotonGainGuide
GUIDES: dict[str, type[ElectronLifetimeGuide] | type[PhotonGainGuide]] = {
    guide.kind: guide for guide in (ElectronLifetimeGuide, PhotonGainGuide)
}


def guide_from_dict(data: Mapping[str, Any]) -> Guide:
    """Build a guide from ``{"kind": ..., "observable": ..., ...}``.

    Raises
    ------
    ConfigError
        For an unknown kind or key, or a missing observable.
    """
    kind = data.get("kind", "")
    cls = GUIDES.get(kind)
    if cls is None:
        raise ConfigError(unknown_name("guide kind", kind, GUIDES, "guides"))
    known = [f.name for f in fields(cls)]
    for key in data:
        if key not in ("kind", *known):
            raise ConfigError(unknown_name("key", key, ("kind", *known), f"guide '{kind}'"))
    if "observable" not in data:
        raise ConfigError(f"guide '{kind}': the key 'observable' is missing")
    return cls(**{key: value for key, value in data.items() if key != "kind"})


def guide_to_dict(guide: Guide) -> dict[str, Any]:
    """Return plain data from which :func:`guide_from_dict` rebuilds the guide."""
    return {"kind": guide.kind, **asdict(guide)}


@dataclass(frozen=True)
class GuideSet:
    """The guides of a flow, bound to its spaces.

    Parameters
    ----------
    guides
        At most one per observable.
    observables
        The observables **in autoregressive order**.
    nuisances
        The nuisance parameters, in the order of the columns of theta.

    Raises
    ------
    ConfigError
        For a name that does not exist, an observable that is guided twice or not on the log scale, a drift coordinate
        that does not precede the guided observable, or units that do not match.
    """

    guides: tuple[Guide, ...]
    observables: ObservableSpace
    nuisances: NuisanceSpace

    def __post_init__(self) -> None:
        guided = [g.observable for g in self.guides]
        if len(set(guided)) != len(guided):
            raise ConfigError(f"guides: one per observable, got {', '.join(guided)}")
        for guide in self.guides:
            self._check(guide)

    def move(self, u: Tensor, theta: Tensor, columns: Sequence[int]) -> Move | None:
        """Return the move of the locations (*, C, K) of C columns, None where none of them is guided.

        Parameters
        ----------
        u
            Points (*, D) on the unit cube; only columns before a guided one are read.
        theta
            (*, K) in physical units.
        columns
            Which columns, in autoregressive order.
        """
        guides = [self._guide(d) for d in columns]
        if all(guide is None for guide in guides):
            return None
        zero = torch.zeros_like(u[..., 0])
        deltas = [zero if guide is None else self._delta(guide, u, theta) for guide in guides]
        return _mover(torch.stack(deltas, dim=-1), [self.scales[d] for d in columns])

    def delta_jet(self, u: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the shifts delta (n, D) of ln x, their gradients (n, K, D) and Hessians (n, K, K, D) in theta."""
        n, k, d = len(u), self.nuisances.dim, self.observables.dim
        delta, first, second = (u.new_zeros(n, *shape, d) for shape in ((), (k,), (k, k)))
        for column in range(d):
            guide = self._guide(column)
            if guide is None:
                continue
            i = self.nuisances.names.index(guide.nuisance)
            delta[:, column] = self._delta(guide, u, theta)
            first[:, i, column], second[:, i, i, column] = guide.derivatives(self._values(guide, u), theta[:, i])
        return delta, first, second

    @cached_property
    def scales(self) -> tuple[tuple[float, float, float], ...]:
        """For every column t(low), t(high) - t(low) and the offset of t = ln(x + offset); harmless where unguided."""
        return tuple(
            (0.0, 1.0, 0.0) if self._guide(d) is None else _log_scale(observable)
            for d, observable in enumerate(self.observables.observables)
        )

    def _guide(self, d: int) -> Guide | None:
        return next((g for g in self.guides if g.observable == self.observables.names[d]), None)

    def _values(self, guide: Guide, u: Tensor) -> dict[str, Tensor]:
        """Return the physical values (*,) of the observables that a guide needs."""
        columns = {name: self.observables.names.index(name) for name in guide.needs}
        return {name: self.observables.observables[j].from_unit(u[..., j]) for name, j in columns.items()}

    def _delta(self, guide: Guide, u: Tensor, theta: Tensor) -> Tensor:
        """Return the shift (*,) of ln x of the guided column."""
        k = self.nuisances.names.index(guide.nuisance)
        return guide.delta(self._values(guide, u), theta[..., k], self.nuisances.nuisances[k].nominal)

    def _check(self, guide: Guide) -> None:
        names, where = self.observables.names, f"guide '{guide.kind}' of '{guide.observable}'"
        for name in (guide.observable, *guide.needs):
            if name not in names:
                raise ConfigError(unknown_name("observable", name, names, where))
        if guide.nuisance not in self.nuisances.names:
            raise ConfigError(unknown_name("nuisance", guide.nuisance, self.nuisances.names, where))
        position = names.index(guide.observable)
        if self.observables.observables[position].scale != "log":
            raise ConfigError(f"{where}: the observable must have scale 'log'; change its scale or drop the guide")
        nuisance = self.nuisances.nuisances[self.nuisances.names.index(guide.nuisance)]
        if nuisance.low <= 0:
            raise ConfigError(f"{where}: the range of '{nuisance.name}' starts at {nuisance.low}, must be > 0")
        for name in guide.needs:
            if names.index(name) >= position:
                raise ConfigError(f"{where}: '{name}' must come before it in the ordering {', '.join(names)}")
        if isinstance(guide, ElectronLifetimeGuide) and guide.velocity is None:
            unit = self.observables.observables[names.index(guide.drift)].unit
            if unit != nuisance.unit:
                raise ConfigError(
                    f"{where}: '{guide.drift}' is in '{unit}' but '{nuisance.name}' in '{nuisance.unit}'; use one "
                    "unit, or give the drift velocity where the coordinate is a depth"
                )


def _log_scale(observable: Observable) -> tuple[float, float, float]:
    """Return t(low), t(high) - t(low) and the offset of a log-scaled observable."""
    low = math.log(observable.low + observable.offset)
    return low, math.log(observable.high + observable.offset) - low, observable.offset


def _mover(delta: Tensor, scales: Sequence[tuple[float, float, float]]) -> Move:
    """Return m (*, C, K) -> m + delta x_k/(x_k + offset)/span, with x_k + offset = exp(low + span m_k)."""
    low, span, offset = delta.new_tensor(scales).unsqueeze(-1).unbind(dim=-2)
    shift = delta.unsqueeze(-1) / span
    if all(scale[2] == 0.0 for scale in scales):
        return lambda location: location + shift
    return lambda location: location + shift * (1.0 - offset * torch.exp(-low - span * location))
