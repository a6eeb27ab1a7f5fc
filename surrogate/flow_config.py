"""The frozen description of a conditional flow, from which :class:`surrogate.flow.ConditionalFlow` is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from surrogate.context import ContextFeatures
from surrogate.errors import ConfigError, unknown_name
from surrogate.guides import Guide, GuideSet, guide_from_dict, guide_to_dict
from surrogate.histogram import HistogramMap
from surrogate.nuisance import NuisanceSpace
from surrogate.observables import ObservableSpace
from surrogate.spline import RationalQuadraticMap
from surrogate.univariate import NORMAL_BEND, LogisticMixtureMap, UnivariateMap

Family = Literal["logistic_mixture", "normal_mixture", "histogram", "spline_autoregressive", "spline_coupling"]
FAMILIES: tuple[str, ...] = (
    "logistic_mixture",
    "normal_mixture",
    "histogram",
    "spline_autoregressive",
    "spline_coupling",
)

MIXTURES = {"logistic_mixture": 0.0, "normal_mixture": NORMAL_BEND}
"""Families of mixtures and the bend of their components; see :class:`surrogate.univariate.LogisticMixtureMap`."""

Activation = Literal["silu", "gelu", "tanh"]
ACTIVATIONS: tuple[str, ...] = ("silu", "gelu", "tanh")

COORDINATES: tuple[str, ...] = ("x", "y", "z", "drift_time", "r")
"""Names of position-like observables: nearly uniform, they come first in the default ordering."""


@dataclass(frozen=True)
class FlowConfig:
    """Architecture of a conditional flow.

    Parameters
    ----------
    observables
        The region of interest, in the order of the columns of x.
    nuisances
        The parameters theta, in the order of the columns of theta.
    family
        ``logistic_mixture`` (default, smooth), ``normal_mixture`` (the same with tails of normal distributions),
        ``histogram`` (constant in cells, for observables on the scales ``bins`` and ``counts`` alone),
        ``spline_autoregressive`` or ``spline_coupling`` (for comparison).
    components
        Components of each mixture, or bins of each spline; a histogram has the bins of its observables.
    hidden, blocks
        Width of the conditioner network and number of its residual blocks.
    layers
        Stacked layers; a coupling flow needs at least two.
    activation
        ``silu``, ``gelu`` or ``tanh``: smooth, so that the density is smooth in theta.
    ordering
        Names of all observables in autoregressive order; empty puts position-like ones first.
    guides
        Analytic shifts of the component locations in the layer next to the data.
    floor
        Smallest component width, in units of the window (mixtures only).
    kinks
        Names of nuisance parameters in which the response has a kink at the nominal value; see
        :mod:`surrogate.context`.
    theta_scale
        Factor of the standardised parameters before the networks see them. Where guides leave little for them to learn
        of theta, one below 1 makes them follow the noise of the events less closely; one above 1 lets them learn a
        response that changes fast with theta in fewer steps.

    Raises
    ------
    ConfigError
        For a value that is out of bounds, an unknown name, or guides with a family that has no locations.
    """

    observables: ObservableSpace
    nuisances: NuisanceSpace
    family: Family = "logistic_mixture"
    components: int = 20
    hidden: int = 96
    blocks: int = 2
    layers: int = 1
    activation: Activation = "silu"
    ordering: tuple[str, ...] = ()
    guides: tuple[Guide, ...] = ()
    floor: float = 0.002
    kinks: tuple[str, ...] = ()
    theta_scale: float = 1.0

    def __post_init__(self) -> None:
        for key, value, known in (("family", self.family, FAMILIES), ("activation", self.activation, ACTIVATIONS)):
            if value not in known:
                raise ConfigError(unknown_name(key, value, known, "flow"))
        for key in ("components", "hidden", "blocks", "layers"):
            if getattr(self, key) < 1:
                raise ConfigError(f"flow: {key} = {getattr(self, key)} must be >= 1")
        for name in self.ordering:
            if name not in self.observables.names:
                raise ConfigError(unknown_name("observable", name, self.observables.names, "flow: ordering"))
        if self.ordering and sorted(self.ordering) != sorted(self.observables.names):
            raise ConfigError(f"flow: ordering must name each of {', '.join(self.observables.names)} once")
        if self.family == "spline_coupling" and (self.observables.dim < 2 or self.layers < 2):
            raise ConfigError("flow: a coupling flow needs at least 2 observables and 2 layers")
        if self.family == "histogram":
            self._check_bins()
        if self.guides and not self.univariate().movable:
            raise ConfigError(f"flow: guides need family 'logistic_mixture' or 'normal_mixture', not '{self.family}'")
        self.guide_set()
        self.features()

    @property
    def permutation(self) -> tuple[int, ...]:
        """Columns of x in autoregressive order."""
        names = self.observables.names
        if self.ordering:
            return tuple(names.index(name) for name in self.ordering)
        return tuple(sorted(range(len(names)), key=lambda d: names[d] not in COORDINATES))

    def _check_bins(self) -> None:
        unbinned = [o.name for o in self.observables.observables if not o.cells]
        if unbinned:
            raise ConfigError(
                f"flow: family 'histogram' needs observables on the scale 'bins' or 'counts', but "
                f"{', '.join(unbinned)} {'is' if len(unbinned) == 1 else 'are'} not; give bin edges or take "
                "'logistic_mixture'"
            )
        if self.layers > 1:
            raise ConfigError(f"flow: layers = {self.layers}, but family 'histogram' is exact with one")

    @property
    def cells(self) -> tuple[int, ...]:
        """Number of cells of each observable in autoregressive order, 0 for continuous ones."""
        ordered = [self.observables.observables[d] for d in self.permutation]
        return tuple(max(len(o.cells) - 1, 0) for o in ordered)

    def univariate(self) -> UnivariateMap:
        """Return the family's map of [0, 1]."""
        if self.family in MIXTURES:
            return self.mixture()
        if self.family == "histogram":
            return HistogramMap(self.cells)
        return RationalQuadraticMap(self.components)

    def mixture(self) -> LogisticMixtureMap:
        """Return the map of a family of mixtures."""
        return LogisticMixtureMap(self.components, self.floor, MIXTURES[self.family])

    def guide_set(self) -> GuideSet:
        """Return the guides bound to the observables in autoregressive order."""
        ordered = ObservableSpace(tuple(self.observables.observables[d] for d in self.permutation))
        return GuideSet(self.guides, ordered, self.nuisances)

    def features(self) -> ContextFeatures:
        """Return what the networks see of theta."""
        return ContextFeatures(self.nuisances, self.kinks, self.theta_scale)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :meth:`from_dict` rebuilds the configuration."""
        data: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        data["observables"] = self.observables.to_dict()
        data["nuisances"] = self.nuisances.to_dict()
        data["ordering"] = list(self.ordering)
        data["guides"] = [guide_to_dict(g) for g in self.guides]
        data["kinks"] = list(self.kinks)
        # absent where they change nothing, so that surrogates from before there were any keep identity and certificate
        for key, plain in (("kinks", []), ("theta_scale", 1.0)):
            if data[key] == plain:
                del data[key]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FlowConfig:
        """Build the configuration from the output of :meth:`to_dict`.

        Raises
        ------
        ConfigError
            For a missing or an unknown key.
        """
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise ConfigError(unknown_name("key", key, known, "flow"))
        for key in ("observables", "nuisances"):
            if key not in data:
                raise ConfigError(f"flow: the key '{key}' is missing")
        values = dict(data)
        values["observables"] = ObservableSpace.from_dict(data["observables"])
        values["nuisances"] = NuisanceSpace.from_dict(data["nuisances"])
        values["ordering"] = tuple(data.get("ordering", ()))
        values["guides"] = tuple(guide_from_dict(g) for g in data.get("guides", ()))
        values["kinks"] = tuple(data.get("kinks", ()))
        return cls(**values)
