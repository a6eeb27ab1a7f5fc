"""A science run: an observable space, an exposure, and the sources that populate it.

The expected number of events of a source c in a run is

    mu_c = prod(exposure parameters) x rate multiplier x prod(efficiencies) x scale x mu(theta_c),

with mu(theta) the source's own expected events per unit exposure and theta_c its nuisances, each driven by a model
parameter or held at a number.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.parameters import ParameterSet, require_exposure
from surrogate.binning import Binning
from surrogate.errors import ConfigError, unknown_name
from surrogate.observables import ObservableSpace
from surrogate.source import Source


@runtime_checkable
class Binned(Protocol):
    """A source whose density is constant in the bins of a grid."""

    @property
    def binning(self) -> Binning:
        """The grid."""
        ...


#: Relative tolerance on the edges of regions of interest that must agree.
EDGE_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class RunSource:
    """A source in a run, with the parameters that act on it.

    Parameters
    ----------
    name
        Such as ``er`` or ``wimp``.
    source
        The density and the rate.
    rate_parameter
        The rate multiplier, without unit: what mu(theta) of the source is multiplied by. mu(theta) is in events per
        tonne-year for surrogates, so that the exposure must be in tonne-years; for templates it is the sum of the
        contents, in events per unit of the exposure that their maker chose.
    nuisance_parameters
        For every nuisance of the source the name of the model parameter that drives it, or the number at which it is
        held. One parameter may drive several.
    efficiencies
        Parameters that multiply the rate.
    scale
        A constant factor on the rate.

    Raises
    ------
    ConfigError
        If a nuisance is left out or unknown, or held outside its range.
    """

    name: str
    source: Source
    rate_parameter: str
    nuisance_parameters: Mapping[str, str | float]
    efficiencies: tuple[str, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        known = self.source.nuisances.names
        for name in self.nuisance_parameters:
            if name not in known:
                raise ConfigError(unknown_name("nuisance", name, known, f"source '{self.name}'"))
        for n in self.source.nuisances.nuisances:
            if n.name not in self.nuisance_parameters:
                raise ConfigError(
                    f"source '{self.name}': nuisance '{n.name}' is driven by nothing; name a model parameter or a value"
                )
            held = self.nuisance_parameters[n.name]
            if not isinstance(held, str) and not n.low <= held <= n.high:
                raise ConfigError(
                    f"source '{self.name}': nuisance '{n.name}' held at {held} is outside its range [{n.low}, {n.high}]"
                )
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ConfigError(f"source '{self.name}': scale = {self.scale} must be finite and >= 0")

    @property
    def drivers(self) -> tuple[str | float, ...]:
        """What drives each nuisance, in the order of the source's nuisances: a parameter name or a number."""
        return tuple(self.nuisance_parameters[name] for name in self.source.nuisances.names)

    @property
    def parameters(self) -> tuple[str, ...]:
        """All model parameters that act on the source."""
        return (self.rate_parameter, *self.efficiencies, *(d for d in self.drivers if isinstance(d, str)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the source in its run."""
        return {
            "name": self.name,
            "source": self.source.identity,
            "rate_parameter": self.rate_parameter,
            "nuisance_parameters": dict(self.nuisance_parameters),
            "efficiencies": list(self.efficiencies),
            "scale": self.scale,
        }


def _same_unit(name: str, units: Mapping[str, str], where: str) -> None:
    """Raise ConfigError unless all that say a unit of ``name`` say the same one."""
    said = {who: unit for who, unit in units.items() if unit}
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{who} has {unit}" for who, unit in said.items())
        raise ConfigError(f"{where}: units of {name} differ: {listed}; convert one, or correct or remove its unit")


@dataclass(frozen=True, eq=False)
class ScienceRun:
    """One data-taking period, or one channel, with its own exposure.

    Parameters
    ----------
    name
        Such as ``sr0``.
    observables
        The region of interest; that of every source.
    sources
        What populates it.
    exposure_parameters
        Parameters whose product is the exposure: the livetime and, where wanted, a fiducial mass.
    binning
        Bin edges (n_d + 1,) per observable for a binned likelihood; None for an unbinned one.
    weight
        Factor on the run's ln L; no likelihood any more unless it is 1.

    Raises
    ------
    ConfigError
        If names repeat, regions of interest or their units differ, or edges do not ascend over the whole region.
    """

    name: str
    observables: ObservableSpace
    sources: tuple[RunSource, ...]
    exposure_parameters: tuple[str, ...]
    binning: tuple[Tensor, ...] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        names = self.source_names
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"run '{self.name}': weight = {self.weight} must be finite and >= 0")
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"run '{self.name}': needs sources with unique names, got {', '.join(names) or 'none'}")
        for c in self.sources:
            self._check_region(c)
        self._check_units()
        if self.binning is not None:
            self._check_binning(self.binning)

    def _check_region(self, c: RunSource) -> None:
        theirs = c.source.observables
        if theirs.names != self.observables.names:
            raise ConfigError(
                f"run '{self.name}': source '{c.name}' has observables {', '.join(theirs.names)}, the run "
                f"{', '.join(self.observables.names)}; they must be the same in the same order"
            )
        for a, b in zip(theirs.observables, self.observables.observables, strict=True):
            tolerance = EDGE_TOLERANCE * (b.high - b.low)
            if abs(a.low - b.low) > tolerance or abs(a.high - b.high) > tolerance:
                raise ConfigError(
                    f"run '{self.name}': source '{c.name}' is normalised on {a.name} in [{a.low}, {a.high}], the run "
                    f"needs [{b.low}, {b.high}]"
                )

    def _check_units(self) -> None:
        """Raise where sources say different units of an observable; none is said by an empty unit."""
        for k, o in enumerate(self.observables.observables):
            units = {f"source '{c.name}'": c.source.observables.observables[k].unit for c in self.sources}
            _same_unit(o.name, {"the run": o.unit, **units}, f"run '{self.name}'")

    def _check_binning(self, binning: tuple[Tensor, ...]) -> None:
        if len(binning) != self.observables.dim:
            raise ConfigError(
                f"run '{self.name}': binning has {len(binning)} axes, the observables are {self.observables.dim}"
            )
        for edges, o in zip(binning, self.observables.observables, strict=True):
            tolerance = EDGE_TOLERANCE * (o.high - o.low)
            if edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
                raise ConfigError(f"run '{self.name}': bin edges of {o.name} must be at least two, ascending")
            if abs(float(edges[0]) - o.low) > tolerance or abs(float(edges[-1]) - o.high) > tolerance:
                raise ConfigError(
                    f"run '{self.name}': bin edges of {o.name} run from {float(edges[0])} to {float(edges[-1])}, the "
                    f"region of interest from {o.low} to {o.high}"
                )
        grid = Binning(self.observables.names, binning)
        for c in self.sources:
            if not isinstance(c.source, Binned):
                raise ConfigError(
                    f"run '{self.name}' is binned, but source '{c.name}' is not constant in bins; "
                    "wrap it in BinnedSource"
                )
            difference = grid.difference(c.source.binning)
            if difference is not None:
                raise ConfigError(f"run '{self.name}': source '{c.name}' has {difference} by the run")

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources in order."""
        return tuple(c.name for c in self.sources)

    @property
    def binned(self) -> bool:
        """Whether the likelihood of this run is binned."""
        return self.binning is not None

    def factors(self, source: RunSource) -> tuple[str, ...]:
        """Return the parameters whose product, times scale and mu(theta), is the expected number of events."""
        return (source.rate_parameter, *source.efficiencies, *self.exposure_parameters)

    def check_parameters(self, parameters: ParameterSet) -> None:
        """Raise ConfigError unless every parameter that the run names is in the set, with the units of its sources.

        Exposures must be positive, of whatever kind their parameters are.
        """
        for c in self.sources:
            for name in (*c.parameters, *self.exposure_parameters):
                if name not in parameters.names:
                    where = f"run '{self.name}', source '{c.name}'"
                    raise ConfigError(unknown_name("parameter", name, parameters.names, where))
        for name in self.exposure_parameters:
            require_exposure(name, parameters[name].nominal)
        units = {p.name: {"the parameter": p.unit} for p in parameters.parameters}
        for c in self.sources:
            for driver, nuisance in zip(c.drivers, c.source.nuisances.nuisances, strict=True):
                if isinstance(driver, str):
                    units[driver][f"source '{c.name}'"] = nuisance.unit
        for name, found in units.items():
            _same_unit(name, found, f"run '{self.name}'")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the run."""
        record: dict[str, Any] = {
            "name": self.name,
            "observables": self.observables.to_dict(),
            "sources": [c.to_dict() for c in self.sources],
            "exposure_parameters": list(self.exposure_parameters),
            "binning": None if self.binning is None else [edges.tolist() for edges in self.binning],
        }
        return record if self.weight == 1 else {**record, "weight": self.weight}


def expected_counts(parameters: ParameterSet, run: ScienceRun, values: Tensor) -> Tensor:
    """Return the expected number of events of every source of a run.

    Parameters
    ----------
    parameters
        Names and order of the columns of ``values``.
    run
        The run.
    values
        Parameter values (B, P).

    Returns
    -------
    Tensor
        (B, C), in the order of ``run.sources``.
    """
    columns = []
    for c in run.sources:
        index = [parameters.index(name) for name in run.factors(c)]
        rate = c.source.expected_events(theta_of(parameters, c, values))
        columns.append(c.scale * values[:, index].prod(dim=-1) * rate)
    return torch.stack(columns, dim=-1)


def theta_of(parameters: ParameterSet, source: RunSource, values: Tensor) -> Tensor:
    """Return the nuisances theta (B, K) of a source at parameter values (B, P)."""
    columns = [
        values[:, parameters.index(d)] if isinstance(d, str) else values.new_full((len(values),), d)
        for d in source.drivers
    ]
    return torch.stack(columns, dim=-1) if columns else values.new_zeros(len(values), 0)


def model_hash(parameters: ParameterSet, runs: tuple[ScienceRun, ...]) -> str:
    """Return the SHA-256 of everything that defines a model: parameters, constraints, runs and their sources."""
    record = {"parameters": parameters.to_dict(), "runs": [run.to_dict() for run in runs]}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
