"""Reading configuration files strictly: duplicate keys, unknown keys and wrong types are errors that name their place.

Also what xeflow adds to alea's schema of a statistical model: ancillary terms that are no independent Gaussians, and
sources that fold a response with a spectrum.
"""

from __future__ import annotations

import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.configuration.conversion import Note
from inference.constraints.gaussian import (
    Constraint,
    CorrelatedGaussianConstraint,
    GaussianConstraint,
    LogNormalConstraint,
    PoissonConstraint,
)
from surrogate.errors import ConfigError, unknown_name
from surrogate.spectrum_config import SpectrumBlock
from surrogate.template_response import Interpolation

Schema = TypeVar("Schema", bound=BaseModel)


class Strict(BaseModel):
    """A section of a configuration file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key_node.tag != "tag:yaml.org,2002:merge" and isinstance(key, Hashable):
                if key in seen:
                    raise yaml.MarkedYAMLError(problem=f"key '{key}' is given twice", problem_mark=key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    ConfigError
        If it is missing, is no YAML, holds a key twice or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"configuration file '{path}' does not exist")
    try:
        # A subclass of SafeLoader: plain data only, no objects.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file '{path}' is no valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file '{path}': a mapping is needed, got {type(content).__name__}")
    return content


def _keys_at(schema: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the keys known at a place inside a schema, by walking its annotations."""
    model: Any = schema
    for part in location:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        field = model.model_fields.get(part)
        if field is None:
            continue
        model = next(iter(_models_in(field.annotation)), model)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in typing.get_args(annotation) for m in _models_in(a)]


def _named_place(location: Sequence[int | str], data: Any) -> str:
    """Return a place as ``likelihood_terms.SR0.sources.wimp.histname``: entries of lists by their names."""
    words: list[str] = []
    for part in location:
        if isinstance(part, int):
            data = data[part] if isinstance(data, list) and part < len(data) else None
            name = data.get("name") if isinstance(data, dict) else None
            words.append(str(name) if name is not None else str(part))
        elif isinstance(data, dict) and part in data:
            data = data[part]
            words.append(part)
        elif data is not None and not words:
            words.append(part)
        # Tags of unions that are no keys of the file are left out.
    return ".".join(words)


def validate(schema: type[Schema], data: Mapping[str, Any], where: str) -> Schema:
    """Return data as a schema, or raise with the place of everything that does not fit.

    Parameters
    ----------
    schema
        The pydantic model.
    data
        Plain data.
    where
        The file, and the section in it, for messages.

    Raises
    ------
    ConfigError
        Naming each place; for unknown keys with the nearest known one.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problems = []
        for e in error.errors(include_url=False):
            location = e["loc"]
            if e["type"] == "extra_forbidden":
                place = _named_place(location[:-1], data)
                known = _keys_at(schema, location[:-1])
                problems.append(unknown_name("key", str(location[-1]), known, ": ".join(filter(None, (where, place)))))
            elif e["type"] == "missing":
                place = _named_place(location[:-1], data)
                problems.append(f"{': '.join(filter(None, (where, place)))}: key '{location[-1]}' is missing")
            else:
                place = ": ".join(filter(None, (where, _named_place(location, data))))
                message = e["msg"].removeprefix("Value error, ")
                problems.append(f"{place}: {message[:1].lower()}{message[1:]}, got {e['input']!r}")
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def unknown_keys(schema: type[BaseModel], data: Mapping[str, Any]) -> list[Note]:
    """Return all keys of plain data that a schema does not know, as settings that are not supported."""
    try:
        schema.model_validate(data)
    except ValidationError as error:
        found = [(e["loc"], e["input"]) for e in error.errors(include_url=False) if e["type"] == "extra_forbidden"]
    else:
        return []
    notes = []
    for location, value in found:
        key, place = str(location[-1]), _named_place(location[:-1], data)
        reason = unknown_name("key", key, _keys_at(schema, location[:-1]))
        notes.append(Note(f"{place}.{key}" if place else key, repr(value), False, reason))
    return notes


class BasisConfig(Strict):
    """Templates of mono-energetic recoils at given yields, and the bands that the yields follow.

    ``{edge}`` in the names of the bands becomes ``lower``, ``median`` and ``upper``.
    """

    file: str
    light_yield: str
    charge_yield: str
    run: str = "{run:lower}"
    interpolation: Interpolation = "cubic"


class SpectrumSection(Strict):
    """A recoil spectrum, after the fields in it have been filled in."""

    spectrum: SpectrumBlock


class GaussianTerm(Strict):
    """``{type: gaussian, sigma: 0.1}``, around the nominal value."""

    type: Literal["gaussian"]
    sigma: float

    def build(self, name: str, nominal: float) -> Constraint:
        """Return the constraint on a parameter."""
        return GaussianConstraint(name, self.sigma, nominal)


class LogNormalTerm(Strict):
    """``{type: log_normal, log_sigma: 0.1}``, around the nominal value."""

    type: Literal["log_normal"]
    log_sigma: float

    def build(self, name: str, nominal: float) -> Constraint:
        """Return the constraint on a parameter."""
        return LogNormalConstraint(name, self.log_sigma, nominal)


class PoissonTerm(Strict):
    """``{type: poisson, tau: 12.5}``: a control region expects tau events per unit of the parameter.

    ``observed`` is the count seen there, tau times the nominal value where not given.
    """

    type: Literal["poisson"]
    tau: float
    observed: float | None = None

    def build(self, name: str, nominal: float) -> Constraint:
        """Return the constraint on a parameter."""
        return PoissonConstraint(name, self.tau, nominal if self.observed is None else self.observed / self.tau)


ConstraintTerm = Annotated[GaussianTerm | LogNormalTerm | PoissonTerm, Field(discriminator="type")]


class CorrelatedTerm(Strict):
    """Several parameters measured together, around their nominal values, with standard deviations and correlations."""

    parameters: tuple[str, ...]
    sigma: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]

    def build(self, nominal: Mapping[str, float], where: str) -> Constraint:
        """Return the constraint.

        Raises
        ------
        ConfigError
            If the numbers of parameters, deviations and correlations differ, or a parameter is unknown.
        """
        m = len(self.parameters)
        if len(self.sigma) != m or len(self.correlation) != m or any(len(row) != m for row in self.correlation):
            raise ConfigError(f"{where}: {m} parameters need {m} sigma and a {m} x {m} correlation")
        for name in self.parameters:
            if name not in nominal:
                raise ConfigError(unknown_name("parameter", name, nominal, where))
        centre = [nominal[n] for n in self.parameters]
        return CorrelatedGaussianConstraint.from_correlation(self.parameters, self.sigma, self.correlation, centre)
