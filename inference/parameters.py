"""Model parameters: names, kinds, bounds, nominal values, and the ancillary terms that constrain them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from inference.constraints.gaussian import Constraint, ancillary_names
from surrogate.errors import ConfigError, RangeError, unknown_name

Kind = Literal["rate", "shape", "efficiency", "livetime"]
KINDS: tuple[str, ...] = ("rate", "shape", "efficiency", "livetime")


def require_exposure(name: str, value: float) -> None:
    """Raise ConfigError unless an exposure, or a factor of one, is positive."""
    if not value > 0:
        raise ConfigError(f"{name} = {value} is an exposure and must be > 0; give the run's own, or remove the run")


@dataclass(frozen=True)
class Parameter:
    """One parameter of the statistical model.

    Parameters
    ----------
    name
        Such as ``wimp_rate_multiplier``, ``t_ly`` or ``livetime_sr0``.
    kind
        ``rate`` multiplies the rate of sources, ``efficiency`` likewise within finite bounds >= 0, ``livetime`` is an
        exposure factor, ``shape`` drives nuisances of sources.
    nominal
        The value that holds where none is given.
    low, high
        Bounds of fits, of values given and of ancillary throws; infinite where open.
    fittable
        False keeps the parameter at its nominal value (or the one given) in every fit.
    fit_guess
        Start of fits; the nominal value if None.
    interval_bounds
        Where confidence limits on this parameter are searched; [low, high] if None.
    unit
        Such as ``us``; with a number, as in ``1e-47 cm2``, it is what a value of 1 stands for.
    description
        For people.

    Raises
    ------
    ConfigError
        If the bounds are empty, or one of the values lies outside them.
    """

    name: str
    kind: Kind
    nominal: float
    low: float = -math.inf
    high: float = math.inf
    fittable: bool = True
    fit_guess: float | None = None
    interval_bounds: tuple[float, float] | None = None
    unit: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(unknown_name("kind", self.kind, KINDS, f"parameter '{self.name}'"))
        if math.isnan(self.low) or math.isnan(self.high) or not self.low < self.high:
            raise ConfigError(f"parameter '{self.name}': bounds [{self.low}, {self.high}] must satisfy low < high")
        self._require_inside("nominal", self.nominal)
        if self.kind == "livetime":
            require_exposure(self.name, self.nominal)
        if self.fit_guess is not None:
            self._require_inside("fit_guess", self.fit_guess)
        if self.kind == "efficiency" and not (self.low >= 0 and math.isfinite(self.high)):
            raise ConfigError(
                f"parameter '{self.name}': an efficiency needs finite bounds with low >= 0, got "
                f"[{self.low}, {self.high}]"
            )
        if self.interval_bounds is not None:
            low, high = self.interval_bounds
            if not self.low <= low < high <= self.high:
                raise ConfigError(
                    f"parameter '{self.name}': interval_bounds [{low}, {high}] must be a range inside the bounds "
                    f"[{self.low}, {self.high}]"
                )
        if not self.fittable and (self.fit_guess is not None or self.interval_bounds is not None):
            raise ConfigError(
                f"parameter '{self.name}' is not fittable: fit_guess and interval_bounds have no meaning; remove them"
            )

    def _require_inside(self, what: str, value: float) -> None:
        if not (math.isfinite(value) and self.low <= value <= self.high):
            unit = f" {self.unit}" if self.unit else ""
            raise ConfigError(
                f"parameter '{self.name}': {what} = {value}{unit} must be finite and inside the bounds "
                f"[{self.low}, {self.high}]{unit}"
            )

    @property
    def reference(self) -> tuple[float, str] | None:
        """What a value of 1 stands for, such as (1e-47, "cm2"); None for a unit without a number."""
        size, _, unit = self.unit.strip().partition(" ")
        try:
            found = float(size), unit.strip()
        except ValueError:
            return None
        return found if found[1] and 0 < found[0] < math.inf else None

    @property
    def start(self) -> float:
        """Where fits start: the fit guess, or the nominal value."""
        return self.nominal if self.fit_guess is None else self.fit_guess

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the parameter; open bounds are None."""
        record = asdict(self)
        for key in ("low", "high"):
            record[key] = record[key] if math.isfinite(record[key]) else None
        if self.interval_bounds is not None:
            record["interval_bounds"] = [b if math.isfinite(b) else None for b in self.interval_bounds]
        return record


@dataclass(frozen=True)
class ParameterSet:
    """The ordered parameters of a model with their constraints.

    Parameters
    ----------
    parameters
        In the order of the columns of every ``values`` tensor (B, P).
    constraints
        Ancillary terms; a parameter belongs to one at most.
    ancillary_weight
        Factor on the sum of their ln p; no likelihood any more unless it is 1.

    Raises
    ------
    ConfigError
        If a name occurs twice, a constraint names an unknown parameter, or two constrain the same one.
    """

    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...] = ()
    ancillary_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ConfigError("parameters: at least one is needed")
        if not 0 <= self.ancillary_weight < math.inf:
            raise ConfigError(f"ancillary_weight = {self.ancillary_weight} must be finite and >= 0")
        repeated = sorted({n for n in self.names if self.names.count(n) > 1})
        if repeated:
            raise ConfigError(f"parameters: names must be unique, repeated: {', '.join(repeated)}")
        constrained = ancillary_names(self.constraints)
        for name in constrained:
            if name not in self.names:
                raise ConfigError(unknown_name("parameter", name, self.names, "constraints"))
            if constrained.count(name) > 1:
                raise ConfigError(f"parameter '{name}' is constrained by more than one term; join them into one")

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return self.parameters[self.index(name)]

    def __str__(self) -> str:
        """Return a table of the parameters."""
        widths = dict(zip(self.names, self.constraint_widths().tolist(), strict=True))
        rows = [("name", "kind", "nominal", "bounds", "width", "")]
        for p in self.parameters:
            bounds = f"[{p.low:g}, {p.high:g}]" if p.fittable else "fixed"
            width = f"{widths[p.name]:.4g}" if math.isfinite(widths[p.name]) else ""
            remark = " ".join(word for word in (f"[{p.unit}]" if p.unit else "", p.description) if word)
            rows.append((p.name, p.kind, f"{p.nominal:.6g}", bounds, width, remark))
        longest = [max(len(row[k]) for row in rows) for k in range(5)]
        cells = ([*(c.ljust(n) for c, n in zip(row, longest, strict=False)), row[5]] for row in rows)
        return "\n".join("  ".join(row).rstrip() for row in cells)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def ancillary_names(self) -> tuple[str, ...]:
        """Names of the ancillary data, in the order of the columns of every ``centres`` tensor (B, m)."""
        return ancillary_names(self.constraints)

    def index(self, name: str) -> int:
        """Return the position of a parameter.

        Raises
        ------
        ConfigError
            If there is none of that name; the message holds the nearest one.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise ConfigError(unknown_name("parameter", name, self.names)) from None

    def nominal(self) -> Tensor:
        """Return the nominal values (P,)."""
        return torch.tensor([p.nominal for p in self.parameters], dtype=torch.float64)

    def start(self) -> Tensor:
        """Return where fits start (P,)."""
        return torch.tensor([p.start for p in self.parameters], dtype=torch.float64)

    @property
    def lower(self) -> Tensor:
        """Lower bounds (P,), -inf where open; those of exposures are positive."""
        low = (max(p.low, torch.finfo(torch.float64).tiny) if p.kind == "livetime" else p.low for p in self.parameters)
        return torch.tensor(list(low), dtype=torch.float64)

    @property
    def upper(self) -> Tensor:
        """Upper bounds (P,), +inf where open."""
        return torch.tensor([p.high for p in self.parameters], dtype=torch.float64)

    def nominal_centres(self) -> Tensor:
        """Return the nominal ancillary data (m,)."""
        return torch.tensor([a for c in self.constraints for a in c.nominal_centre], dtype=torch.float64)

    def constraint_widths(self) -> Tensor:
        """Return what standard deviation the ancillary terms alone give each parameter (P,), +inf where none does."""
        width = dict(zip(self.ancillary_names, (w for c in self.constraints for w in c.width), strict=True))
        return torch.tensor([width.get(name, math.inf) for name in self.names], dtype=torch.float64)

    def check(self, values: Mapping[str, float]) -> None:
        """Raise unless every name is known and every value finite and inside its bounds.

        Raises
        ------
        ConfigError
            If a name is unknown, a value no number, or an exposure not positive.
        RangeError
            If a value is outside the bounds.
        """
        for name, value in values.items():
            p = self[name]
            if not isinstance(value, Real):
                raise ConfigError(f"{name} = {value!r} must be a number")
            if p.kind == "livetime":
                require_exposure(name, float(value))
            if not (math.isfinite(value) and p.low <= value <= p.high):
                raise RangeError(
                    f"{name} = {value} must be finite and inside its bounds [{p.low}, {p.high}]; change it or them"
                )

    def vector(self, values: Mapping[str, float] | None = None) -> Tensor:
        """Return all parameters (P,): the values given, checked, and nominal ones for the rest."""
        given = dict(values or {})
        self.check(given)
        return torch.tensor([given.get(p.name, p.nominal) for p in self.parameters], dtype=torch.float64)

    def mapping(self, values: Tensor) -> dict[str, float]:
        """Return a vector (P,) as name -> value, the inverse of :meth:`vector`."""
        return dict(zip(self.names, values.tolist(), strict=True))

    def free(self, fixed: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the names that a fit varies: fittable and not among ``fixed``."""
        held = {self.parameters[self.index(name)].name for name in fixed}
        return tuple(p.name for p in self.parameters if p.fittable and p.name not in held)

    def with_bounds(self, bounds: Mapping[str, tuple[float, float]]) -> ParameterSet:
        """Return the set with other bounds for some parameters; the nominal values must lie inside them.

        Search ranges of limits are cut to the new bounds, start values moved inside.
        """
        changed = {name: self._rebound(self[name], *limits) for name, limits in bounds.items()}
        return replace(self, parameters=tuple(changed.get(n, self[n]) for n in self.names))

    def with_nominal(self, values: Mapping[str, float]) -> ParameterSet:
        """Return the set with other nominal values for some parameters."""
        self.check(values)
        changed = tuple(replace(p, nominal=values.get(p.name, p.nominal)) for p in self.parameters)
        return replace(self, parameters=changed)

    @staticmethod
    def _rebound(p: Parameter, low: float, high: float) -> Parameter:
        guess = None if p.fit_guess is None else min(max(p.fit_guess, low), high)
        interval = p.interval_bounds and (max(p.interval_bounds[0], low), min(p.interval_bounds[1], high))
        return replace(p, low=low, high=high, fit_guess=guess, interval_bounds=interval)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that identify the set."""
        record: dict[str, Any] = {
            "parameters": [p.to_dict() for p in self.parameters],
            "constraints": [c.to_dict() for c in self.constraints],
        }
        return record if self.ancillary_weight == 1 else {**record, "ancillary_weight": self.ancillary_weight}
