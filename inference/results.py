"""Results: frozen records of fits, profiles and intervals.

Plots, tables and files read only these. A record holds plain numbers and words; what does not exist (an error without
curvature, a limit without a crossing) is None with a status that says why, never NaN or infinity, so that every record
is valid JSON and comes back equal from it.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from surrogate.atomic import replacing_file
from surrogate.errors import DataError, unknown_name

#: Version of the JSON form of records.
FORMAT = 1

#: Packages whose versions a result carries.
PACKAGES = ("xeflow", "torch", "numpy", "scipy")


def number(value: float) -> float | None:
    """Return a finite number as it is, anything else as None."""
    return float(value) if math.isfinite(value) else None


def _record_type(hint: Any) -> type | None:
    """Return the record class in a type hint such as ``FitResult`` or ``FitResult | None``."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((t for t in options if isinstance(t, type) and is_dataclass(t)), None)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


class Record:
    """What all results can do."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data with the record's kind and format version."""
        return {"record": type(self).__name__, "format": FORMAT, **asdict(self)}  # type: ignore[call-overload]

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, atomically."""
        with replacing_file(Path(path)) as temporary:
            temporary.write_text(self.to_json() + "\n")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the record from :meth:`to_dict`.

        Raises
        ------
        DataError
            If it is a record of another kind or format, or a field is missing or unknown.
        """
        kind, form = data.get("record", cls.__name__), data.get("format", FORMAT)
        if kind != cls.__name__ or form != FORMAT:
            raise DataError(f"record is a {kind} of format {form}, expected a {cls.__name__} of format {FORMAT}")
        return cls._build({k: v for k, v in data.items() if k not in ("record", "format")})

    @classmethod
    def _build(cls, data: dict[str, Any]) -> Self:
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for name in data:
            if name not in names:
                raise DataError(unknown_name("field", name, names, cls.__name__))
        missing = [name for name in names if name not in data]
        if missing:
            raise DataError(f"{cls.__name__}: field {', '.join(missing)} is missing")
        hints = get_type_hints(cls)
        values = {}
        for name, value in data.items():
            nested = _record_type(hints[name])
            is_record = nested is not None and issubclass(nested, Record) and isinstance(value, dict)
            values[name] = nested._build(value) if is_record else _tuples(value)  # type: ignore[union-attr]
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build the record from :meth:`to_json`; see :meth:`from_dict` for errors."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"record is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise DataError("record is not a JSON object")
        return cls.from_dict(data)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record that :meth:`save` wrote."""
        return cls.from_json(Path(path).read_text())


@dataclass(frozen=True)
class Provenance(Record):
    """What made a result.

    Attributes
    ----------
    model_hash
        SHA-256 of parameters, constraints, runs and sources.
    versions
        Package -> version.
    """

    model_hash: str
    versions: dict[str, str]


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, version(name)) for name in PACKAGES)


def provenance(model_hash: str) -> Provenance:
    """Return the provenance of a result made now."""
    return Provenance(model_hash, dict(_versions()))


@dataclass(frozen=True)
class FitResult(Record):
    """A maximum of the likelihood.

    Attributes
    ----------
    values
        All parameters at the maximum, those held included.
    errors
        Standard deviations from the inverse Hessian over the free parameters that are off their bounds; None for
        others, and where the Hessian is not positive definite.
    covariance_names, covariance
        The parameters of the covariance matrix and its rows; both empty where it does not exist.
    pulls
        (value - centre) / width of every constrained parameter.
    fixed
        Names of the parameters that were held.
    log_likelihood
        ln L at the maximum; None where it is not finite.
    status, message
        How the fit ended; see :class:`inference.minimize.FitStatus`.
    at_bound, at_kink
        Free parameters on a bound, and on a point where the likelihood has a kink.
    evaluations
        Evaluations of ln L with derivatives.
    starts, disagreeing_starts
        How many start points were used, and how many of them ended converged at a lower maximum.
    provenance
        What made the result.
    """

    values: dict[str, float]
    errors: dict[str, float | None]
    covariance_names: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    pulls: dict[str, float]
    fixed: tuple[str, ...]
    log_likelihood: float | None
    status: str
    message: str
    at_bound: tuple[str, ...]
    at_kink: tuple[str, ...]
    evaluations: int
    starts: int
    disagreeing_starts: int
    provenance: Provenance

    @property
    def success(self) -> bool:
        """Whether the fit is at a maximum."""
        return self.status in ("converged", "at_bound")

    def correlation(self) -> tuple[tuple[float, ...], ...]:
        """Return the correlation matrix over ``covariance_names``."""
        width = [math.sqrt(row[i]) for i, row in enumerate(self.covariance)]
        return tuple(
            tuple(c / (a * b) for c, b in zip(row, width, strict=True))
            for row, a in zip(self.covariance, width, strict=True)
        )


@dataclass(frozen=True)
class ProfileCurve(Record):
    """The profile likelihood ratio of one parameter on a grid.

    Attributes
    ----------
    parameter
        Its name.
    grid
        Values of the parameter.
    t
        2 [ln L(best) - ln L(conditional best)] at each; None where the conditional fit failed.
    status
        Status of each conditional fit.
    best_fit
        The unconditional fit.
    values
        Parameter -> its value at each conditional best fit.
    provenance
        What made the result.
    """

    parameter: str
    grid: tuple[float, ...]
    t: tuple[float | None, ...]
    status: tuple[str, ...]
    best_fit: FitResult
    values: dict[str, tuple[float, ...]]
    provenance: Provenance


@dataclass(frozen=True)
class ProfileError(Record):
    """How far a parameter may move before t rises by sigmas^2, the others profiled.

    Attributes
    ----------
    parameter, value
        Its name and its value at the best fit.
    sigmas
        Number of standard deviations.
    down, up
        Moves, negative and positive; None where there is no crossing before the bound.
    status_down, status_up
        As in :class:`IntervalEnd`.
    """

    parameter: str
    value: float
    sigmas: float
    down: float | None
    up: float | None
    status_down: str
    status_up: str


@dataclass(frozen=True)
class IntervalEnd(Record):
    """One end of a confidence interval.

    Attributes
    ----------
    value
        Where t crosses the critical value; None where it does not.
    status
        ``found``; ``no_crossing`` (t stays below the critical value up to the search bound); ``at_bound`` (the best fit
        is on the search bound); ``failed``; ``not_requested``.
    bound
        The end of the search range, None if open.
    t, critical
        Statistic and critical value at ``value``, or at the furthest point reached where there is no crossing.
    fits
        Conditional fits made.
    fit
        The conditional fit at ``value``.
    """

    value: float | None
    status: str
    bound: float | None
    t: float | None
    critical: float | None
    fits: int
    fit: FitResult | None

    @property
    def found(self) -> bool:
        """Whether there is a limit."""
        return self.status == "found"


@dataclass(frozen=True)
class Interval(Record):
    """A confidence interval on one parameter.

    Attributes
    ----------
    parameter
        The parameter of interest.
    confidence_level
        Such as 0.9.
    kind
        ``upper``, ``lower`` or ``central``.
    statistic
        The test statistic, in the names of arXiv:1007.1727.
    critical_values
        Where the critical value comes from: ``asymptotic``, or what was given.
    lower, upper
        The ends.
    best_fit
        The unconditional fit.
    refits
        How often a conditional fit found a higher maximum than the free fit, which was then repeated from there.
    provenance
        What made the result.
    """

    parameter: str
    confidence_level: float
    kind: str
    statistic: str
    critical_values: str
    lower: IntervalEnd
    upper: IntervalEnd
    best_fit: FitResult
    refits: int
    provenance: Provenance

    @property
    def success(self) -> bool:
        """Whether every end that was asked for is found, or known not to exist."""
        return self.best_fit.success and "failed" not in (self.lower.status, self.upper.status)
