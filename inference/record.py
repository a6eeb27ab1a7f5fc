"""Records: frozen results that become JSON and come back.

A record holds plain numbers and words; what does not exist (an error without curvature, a limit without a crossing) is
None with a status that says why, never NaN or infinity: every record is valid JSON and comes back equal from it.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
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


def _record_type(hint: Any) -> type[Record] | None:
    """Return the record class in a type hint: ``FitResult``, ``FitResult | None`` or ``tuple[FitResult, ...]``."""
    origin = get_origin(hint)
    options = get_args(hint) if origin in (Union, types.UnionType, tuple) else (hint,)
    return next((t for t in options if isinstance(t, type) and issubclass(t, Record) and is_dataclass(t)), None)


def _decoded(hint: Any, value: Any) -> Any:
    """Return a field of plain data as its type hint wants it: records for mappings, tuples for lists."""
    nested = _record_type(hint)
    if nested is not None and isinstance(value, dict):
        return nested.from_dict(value)
    if nested is not None and isinstance(value, list | tuple):
        return tuple(nested.from_dict(v) for v in value)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
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
        missing = [
            f.name
            for f in fields(cls)  # type: ignore[arg-type]
            if f.default is MISSING and f.default_factory is MISSING and f.name not in data
        ]
        if missing:
            raise DataError(f"{cls.__name__}: field {', '.join(missing)} is missing")
        hints = get_type_hints(cls)
        return cls(**{name: _decoded(hints[name], value) for name, value in data.items()})

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
        """Read a record that :meth:`save` wrote.

        Raises
        ------
        DataError
            If the file is no text; see :meth:`from_dict` for others.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"'{path}' is no JSON file; read_record reads records in HDF5") from error
        return cls.from_json(text)


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
