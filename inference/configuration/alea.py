"""The schema of alea's statistical models (https://github.com/XENONnT/alea, version 0.3.5), read unchanged.

Beyond alea's own keys a source may name a ``surrogate`` (a checkpoint) where alea has ``template_filename``, or a
``basis`` of mono-energetic templates; a ``spectrum`` to fold either with; and ``nuisance_parameters`` to drive its
nuisances by other parameters than those of the same name. A parameter may have a ``unit`` and a ``constraint``, the
file ``correlated_constraints``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from inference.configuration.alea_rules import MORPHER_RULES, PARAMETER_RULES, TEMPLATE_RULES, TOP_RULES
from inference.configuration.config import (
    BasisConfig,
    ConstraintTerm,
    CorrelatedTerm,
    Strict,
    read_yaml,
    unknown_keys,
    validate,
)
from inference.configuration.conversion import Conversion, Note, apply_rules
from inference.configuration.expressions import parse_numbers
from inference.intervals.asymptotics import IntervalKind
from surrogate.errors import ConfigError, unknown_name
from surrogate.response import OUTSIDE
from surrogate.shipped import config_path

Ptype = Literal["rate", "shape", "efficiency", "livetime", "needs_reinit"]


def _number(value: Any) -> Any:
    """Turn text such as 1e5, which YAML 1.1 does not take for a number, into one; refuse booleans."""
    if isinstance(value, bool):
        raise ValueError("a number is needed")
    return float(value) if isinstance(value, str) else value


def _numbers(value: Any) -> Any:
    return None if value is None else tuple(parse_numbers(value, "value"))


def _space(value: Any) -> Any:
    """Turn alea's list of one-entry mappings into (axis, numbers) pairs."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError("a list of '- axis: edges' is needed")
    pairs = [pair for entry in value for pair in entry.items()]
    return tuple((str(axis), None if e is None else tuple(parse_numbers(e, str(axis)))) for axis, e in pairs)


def _likelihood_type(value: Any) -> Any:
    """Take the class name of a dotted path: BinnedLogLikelihood is binned."""
    return str(value).rsplit(".", 1)[-1].removesuffix("LogLikelihood").lower()


def _slices(value: Any) -> Any:
    return [value] if isinstance(value, dict) and value else [v for v in value or [] if v]


Number = Annotated[int | float, BeforeValidator(_number)]
Numbers = Annotated[tuple[int | float, ...] | None, BeforeValidator(_numbers)]
Limits = tuple[Number | None, Number | None]


class SliceConfig(Strict):
    """One entry of ``slice_args``: keep a range of one axis of the template, and sum over it on request."""

    slice_axis: str
    slice_axis_limits: tuple[Number, Number] | None = None
    sum_axis: bool = False


class TemplateOptions(Strict):
    """How templates are read; given for a source or, as default, for all sources of a run."""

    histname: str | None = None
    template_filename: str | None = None
    named_parameters: tuple[str, ...] | None = None
    in_events_per_bin: bool | None = None
    normalise_template: bool | None = None
    histogram_scale_factor: Number | None = None
    log10_bins: tuple[int, ...] | None = None
    slice_args: Annotated[tuple[SliceConfig, ...] | None, BeforeValidator(_slices)] = None
    efficiency_name: str | None = None
    apply_efficiency: bool | None = None


class SourceConfig(TemplateOptions):
    """A source of a run."""

    name: str
    parameters: tuple[str, ...]
    surrogate: str | None = None
    basis: BasisConfig | None = None
    spectrum: dict[str, str | Number] | None = None
    outside: Annotated[float, Field(ge=0, lt=1)] = OUTSIDE
    nuisance_parameters: dict[str, str | Number] = Field(default_factory=dict)


class TermConfig(TemplateOptions):
    """A term of the likelihood: a science run."""

    name: str
    likelihood_type: Annotated[Literal["binned", "unbinned"], BeforeValidator(_likelihood_type)]
    analysis_space: Annotated[tuple[tuple[str, Numbers], ...] | None, BeforeValidator(_space)] = None
    livetime_parameter: str
    fiducial_mass_parameter: str | None = None
    sources: tuple[SourceConfig, ...]


class LikelihoodConfig(Strict):
    """The runs."""

    likelihood_terms: tuple[TermConfig, ...]
    likelihood_weights: tuple[Number, ...] | None = None
    template_folder: str | tuple[str, ...] | None = None


class ParameterConfig(Strict):
    """A parameter; see ``docs/alea.md`` for what each key means."""

    nominal_value: Number | None = None
    ptype: Ptype = "needs_reinit"
    uncertainty: Number | str | None = None
    relative_uncertainty: bool | None = None
    fittable: bool = True
    fit_limits: Limits | None = None
    fit_guess: Number | None = None
    parameter_interval_bounds: Limits | None = None
    blueice_anchors: Numbers = None
    description: str | None = None
    unit: str = ""
    constraint: ConstraintTerm | None = None


class ModelConfig(Strict):
    """A statistical model."""

    parameter_definition: dict[str, ParameterConfig]
    likelihood_config: LikelihoodConfig
    correlated_constraints: tuple[CorrelatedTerm, ...] = ()
    confidence_level: Number = 0.9
    confidence_interval_kind: IntervalKind = "central"


@dataclass(frozen=True)
class AleaFile:
    """A statistical-model file as read.

    Attributes
    ----------
    path
        Where it lies.
    config
        Its content, validated.
    conversion
        What could not be taken over.
    """

    path: Path
    config: ModelConfig
    conversion: Conversion


def _resolve_conditions(name: str, raw: Any, nominal: Mapping[str, Any], where: str) -> Any:
    """Pick the entries of a parameter that depends on the value of another one."""
    if not isinstance(raw, dict) or "conditioning_parameter_name" not in raw:
        return raw
    place = f"{where}: parameter_definition.{name}"
    other = raw["conditioning_parameter_name"]
    if other not in nominal:
        raise ConfigError(unknown_name("parameter", str(other), nominal, f"{place}.conditioning_parameter_name"))
    at = nominal[other]
    resolved = {}
    for key, value in raw.items():
        if key == "conditioning_parameter_name":
            continue
        if isinstance(value, dict) and key != "constraint":
            if at not in value:
                raise ConfigError(f"{place}.{key}: has no entry for {other} = {at}; known: {sorted(value)}")
            value = value[at]
        resolved[key] = value
    return resolved


def _section(parent: Any, key: str, kind: type, where: str) -> Any:
    value = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(value, kind):
        need = "mapping" if kind is dict else "list"
        raise ConfigError(f"{where}: a {need} '{key}' is needed")
    return value


def _set_aside(raw: dict[str, Any], where: str) -> list[Note]:
    """Take all foreign keys out of a raw file and return what is to be said of them."""
    notes = apply_rules(raw, TOP_RULES, "")
    for name, definition in _section(raw, "parameter_definition", dict, where).items():
        if isinstance(definition, dict) and definition.get("ptype") == "index":
            notes += apply_rules(definition, PARAMETER_RULES, f"parameter_definition.{name}")
    likelihood = _section(raw, "likelihood_config", dict, where)
    terms = _section(likelihood, "likelihood_terms", list, f"{where}: likelihood_config")
    for term in (t for t in terms if isinstance(t, dict)):
        place = f"likelihood_config.likelihood_terms.{term.get('name', '?')}"
        notes += apply_rules(term, TEMPLATE_RULES, place)
        if isinstance(nested := term.pop("likelihood_config", None), dict):
            notes += apply_rules(nested, MORPHER_RULES, f"{place}.likelihood_config")
            notes += [
                Note(f"{place}.likelihood_config.{k}", repr(v), False, unknown_name("key", k, MORPHER_RULES))
                for k, v in nested.items()
            ]
        for source in (s for s in term.get("sources") or [] if isinstance(s, dict)):
            notes += apply_rules(source, TEMPLATE_RULES, f"{place}.sources.{source.get('name', '?')}")
    return notes


def _prepared(path: Path, nominal_values: Mapping[str, float]) -> tuple[dict[str, Any], Conversion]:
    """Return the content of a file without foreign keys, and what is to be said of these and of unknown ones."""
    raw = copy.deepcopy(read_yaml(path))
    where = path.name
    definitions = _section(raw, "parameter_definition", dict, where)
    for name, value in nominal_values.items():
        if not isinstance(definitions.get(name), dict):
            raise ConfigError(unknown_name("parameter", name, definitions, "nominal_values"))
        definitions[name]["nominal_value"] = value
    notes = _set_aside(raw, where)
    nominal = {n: d.get("nominal_value") for n, d in definitions.items() if isinstance(d, dict)}
    raw["parameter_definition"] = {n: _resolve_conditions(n, d, nominal, where) for n, d in definitions.items()}
    return raw, Conversion(str(path), (*notes, *unknown_keys(ModelConfig, raw)))


def inspect_alea(path: str | Path) -> Conversion:
    """Return what of a statistical-model file cannot be taken over, all of it, without building anything.

    Raises
    ------
    ConfigError
        If it is no such file, or, where nothing is unsupported, if a key is missing or of a wrong type.
    """
    path = config_path("models", path)
    raw, conversion = _prepared(path, {})
    if not conversion.unsupported:
        validate(ModelConfig, raw, path.name)
    return conversion


def read_alea(path: str | Path, nominal_values: Mapping[str, float] | None = None) -> AleaFile:
    """Read a statistical-model file.

    Parameters
    ----------
    path
        The YAML file, or the name of a shipped one.
    nominal_values
        Other nominal values than those of the file; parameters conditioned on them follow.

    Raises
    ------
    ConfigError
        Naming the file, the place in it and, for unknown keys and parameters, the nearest known name; settings that are
        not supported all together.
    """
    path = config_path("models", path)
    raw, conversion = _prepared(path, nominal_values or {})
    conversion.require_supported()
    return AleaFile(path, validate(ModelConfig, raw, path.name), conversion)
