"""From alea's parameter definitions to a :class:`ParameterSet`: bounds, kinds and ancillary terms."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from inference.configuration.alea import ModelConfig, ParameterConfig
from inference.configuration.conversion import Note
from inference.configuration.expressions import parse_distribution
from inference.constraints.gaussian import Constraint, GaussianConstraint
from inference.constraints.uniform import UniformConstraint
from inference.parameters import Kind, Parameter, ParameterSet
from surrogate.errors import ConfigError, unknown_name

logger = logging.getLogger(__name__)

Range = tuple[float, float]

#: alea's kinds that are constants for a fit appear as shape parameters that no fit moves.
KINDS: Mapping[str, Kind] = {
    "rate": "rate",
    "shape": "shape",
    "efficiency": "efficiency",
    "livetime": "livetime",
    "needs_reinit": "shape",
}


def _limits(limits: tuple[float | None, float | None] | None) -> Range:
    low, high = limits or (None, None)
    return (-math.inf if low is None else float(low)), (math.inf if high is None else float(high))


def _frozen_distribution(name: str, text: str, place: str) -> Constraint:
    """Return the constraint that alea's ``stats.*`` text stands for."""
    found = parse_distribution(text, place)
    known = ("norm", "uniform")
    if found.name not in known:
        raise ConfigError(unknown_name("distribution", found.name, known, f"{place} (or use a 'constraint')"))
    arguments = {**dict(zip(("loc", "scale"), found.arguments, strict=False)), **found.keywords}
    extra = [k for k in arguments if k not in ("loc", "scale")]
    if extra or len(found.arguments) > 2:
        raise ConfigError(f"{place}: '{text}' takes loc and scale alone")
    loc, scale = float(arguments.get("loc", 0.0)), float(arguments.get("scale", 1.0))
    return GaussianConstraint(name, scale, loc) if found.name == "norm" else UniformConstraint(name, loc, loc + scale)


def _constraint(name: str, config: ParameterConfig, place: str) -> Constraint | None:
    """Return the ancillary term of a parameter, if it has one."""
    if config.constraint is not None:
        if config.uncertainty is not None:
            raise ConfigError(f"{place}: has both 'uncertainty' and 'constraint'; remove one")
        return config.constraint.build(name, float(_nominal(name, config, place)))
    uncertainty = config.uncertainty
    if uncertainty is None:
        return None
    if isinstance(uncertainty, str):
        try:
            uncertainty = float(uncertainty)
        except ValueError:
            if config.relative_uncertainty:
                raise ConfigError(
                    f"{place}: relative_uncertainty needs a number as uncertainty, got '{config.uncertainty}'"
                ) from None
            return _frozen_distribution(name, str(config.uncertainty), f"{place}.uncertainty")
    nominal = _nominal(name, config, place)
    if config.relative_uncertainty:
        if nominal == 0:
            raise ConfigError(
                f"{place}: relative_uncertainty = true with nominal_value 0 leaves no width; give an absolute one"
            )
        return GaussianConstraint.relative(name, float(uncertainty), nominal)
    return GaussianConstraint(name, float(uncertainty), nominal)


def _nominal(name: str, config: ParameterConfig, place: str) -> float:
    if config.nominal_value is None:
        raise ConfigError(f"{place}: key 'nominal_value' is missing")
    return float(config.nominal_value)


def _parameter(name: str, config: ParameterConfig, bounds: Range, fittable: bool, place: str) -> Parameter:
    interval = config.parameter_interval_bounds
    if not config.fittable and (config.fit_guess is not None or interval is not None):
        raise ConfigError(f"{place}: fittable is false, so fit_guess and parameter_interval_bounds must not be given")
    search: Range | None = None
    if interval is not None and fittable:
        low, high = _limits(interval)
        search = max(low, bounds[0]), min(high, bounds[1])
    return Parameter(
        name=name,
        kind=KINDS[config.ptype],
        nominal=_nominal(name, config, place),
        low=bounds[0],
        high=bounds[1],
        fittable=fittable,
        fit_guess=float(config.fit_guess) if config.fit_guess is not None and fittable else None,
        interval_bounds=search,
        unit=config.unit,
        description=config.description or "",
    )


def _bounds(name: str, config: ParameterConfig, ranges: Sequence[Range], where: str) -> tuple[Range, list[Note]]:
    """Return fit limits cut to where the sources that a parameter drives are defined, and what was changed."""
    low, high = _limits(config.fit_limits)
    if config.ptype == "livetime" and -math.inf < low < 0:
        raise ConfigError(f"{where}.fit_limits: {low:g} is the lower one of an exposure and must be >= 0; raise it")
    place, given = f"{name}.fit_limits", str(config.fit_limits)
    notes = []
    if config.ptype == "rate" and low == -math.inf:
        low = 0.0
        notes.append(Note(place, given, True, "an open lower limit of a rate is read as 0"))
    inner = max([low, *(r[0] for r in ranges)]), min([high, *(r[1] for r in ranges)])
    cut = [new for old, new in zip((low, high), inner, strict=True) if math.isfinite(old) and new != old]
    if cut:
        reason = f"cut to [{inner[0]:g}, {inner[1]:g}], where the sources are defined"
        notes.append(Note(place, given, True, reason))
    return inner, notes


def _own(config: ModelConfig) -> bool:
    """Return whether a file has keys that alea does not know, so that it was written for xeflow."""
    sources = (s for term in config.likelihood_config.likelihood_terms for s in term.sources)
    if any(s.surrogate or s.basis or s.spectrum or s.nuisance_parameters for s in sources):
        return True
    return bool(config.correlated_constraints) or any(
        p.unit or p.constraint for p in config.parameter_definition.values()
    )


def _idle(name: str, config: ParameterConfig, own: bool, place: str) -> list[Note]:
    """Return what is to be said of keys that steer fits on a parameter that needs_reinit.

    Raises
    ------
    ConfigError
        Where a file written for xeflow does not say the ptype: it was most likely forgotten.
    """
    given = {"uncertainty": config.uncertainty, "fit_limits": config.fit_limits, "constraint": config.constraint}
    idle = [key for key, value in given.items() if value is not None]
    if config.ptype != "needs_reinit" or not idle:
        return []
    if "ptype" not in config.model_fields_set and config.fittable:
        message = f"{place}: has {', '.join(idle)}, but no ptype, so that every fit holds it"
        remedy = "add 'ptype: shape', or 'fittable: false' if it is a constant"
        if own:
            raise ConfigError(f"{message}; {remedy}")
        logger.warning("%s, as in alea; %s", message, remedy)
    reason = "a parameter that needs_reinit is held in every fit; give it another ptype to fit it"
    return [Note(f"{name}.{key}", str(given[key]), True, reason) for key in idle]


def build_parameters(
    config: ModelConfig, where: str, ranges: Mapping[str, list[Range]], acting: set[str]
) -> tuple[ParameterSet, list[Note]]:
    """Return the parameters of a model, and what is to be said of them.

    Parameters
    ----------
    config
        The file.
    where
        Its name, for messages.
    ranges
        Parameter -> ranges on which the sources that it drives are defined.
    acting
        Parameters on which a run depends.

    Raises
    ------
    ConfigError
        Naming the parameter and its key.
    """
    notes: list[Note] = []
    parameters, constraints = [], []
    correlated = {name for block in config.correlated_constraints for name in block.parameters}
    own = _own(config)
    for name, p in config.parameter_definition.items():
        place = f"{where}: parameter_definition.{name}"
        if p.ptype == "efficiency" and p.fit_limits is None:
            raise ConfigError(f"{place}: an efficiency needs finite fit_limits with a lower one >= 0")
        notes += _idle(name, p, own, place)
        constraint = _constraint(name, p, place)
        fittable = p.fittable and p.ptype != "needs_reinit"
        if p.fittable and not fittable:
            notes.append(Note(name, "fittable: true", True, "a parameter that needs_reinit is held in every fit"))
        if fittable and name not in acting and name not in correlated and constraint is None:
            fittable = False
            notes.append(Note(name, "fittable: true", True, "nothing depends on it; it is held at its nominal value"))
        bounds, changed = _bounds(name, p, ranges.get(name, []), place)
        notes += changed
        parameters.append(_parameter(name, p, bounds, fittable, place))
        constraints += [] if constraint is None else [constraint]
    nominal = {p.name: p.nominal for p in parameters}
    for i, block in enumerate(config.correlated_constraints):
        constraints.append(block.build(nominal, f"{where}: correlated_constraints.{i}"))
    weights = config.likelihood_config.likelihood_weights or (1,)
    return ParameterSet(tuple(parameters), tuple(constraints), float(weights[-1])), notes
