"""CLs upper limits from start to end: asymptotically, and with toys around the asymptotic limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from inference.analysis import Analysis
from inference.physical import PhysicalInterval, physical_interval
from inference.record import Record
from inference.results import Interval
from inference.studies.cls import CLsPoint, cls_limit
from inference.studies.cls_limits import asymptotic_cls_curve, cls_from_toys, cls_points
from inference.toy_studies import ToySettings
from surrogate.errors import DataError

#: Grid of the toys, in asymptotic limits.
WITHIN = (0.4, 1.6)


def asymptotic_cls_limit(
    analysis: Analysis,
    poi: str,
    confidence_level: float | None = None,
    fixed: Mapping[str, float] | None = None,
) -> Interval:
    """Return the asymptotic CLs upper limit on one parameter.

    Raises
    ------
    UncertifiedError
        If a surrogate has no valid certificate and that was not allowed.
    ConfigError
        If the parameter may be negative.
    """
    analysis.require_certified()
    level = analysis.confidence_level if confidence_level is None else confidence_level
    critical = asymptotic_cls_curve(analysis.likelihood, poi, level, fixed)
    return replace(analysis.interval(poi, level, "upper", critical, fixed), critical_values="asymptotic CLs")


@dataclass(frozen=True)
class CLsLimit(Record):
    """A CLs upper limit from toys.

    Attributes
    ----------
    parameter, confidence_level
        What it is a limit on, and its level.
    value, error
        The limit, with its standard error from the number of toys.
    points
        CLs at the values of the parameter at which toys were made.
    asymptotic
        The asymptotic CLs limit, with the best fit.
    n_failed, n_refits
        Toys without valid fits, and fits to toys that were repeated.
    seed
        Of the toys.
    physical
        The limit in what the parameter stands for; None where its unit does not say.
    n_expanded, expansion_error
        As for :class:`inference.studies.neyman.NeymanInterval`.
    """

    parameter: str
    confidence_level: float
    value: float
    error: float
    points: tuple[CLsPoint, ...]
    asymptotic: Interval
    n_failed: int
    n_refits: int
    seed: int
    physical: PhysicalInterval | None = None
    n_expanded: int = 0
    expansion_error: float | None = None


def cls_study(
    analysis: Analysis,
    poi: str,
    confidence_level: float | None = None,
    settings: ToySettings | None = None,
    n_points: int = 12,
) -> CLsLimit:
    """Make toys with and without signal around the asymptotic CLs limit, and set the limit with them.

    Raises
    ------
    DataError
        If there is no asymptotic limit, a conditional fit fails, or the store holds another study.
    """
    rough = asymptotic_cls_limit(analysis, poi, confidence_level)
    if rough.upper.value is None:
        raise DataError(f"the asymptotic CLs limit on {poi} does not exist ({rough.upper.status}): no place for toys")
    grid = (rough.upper.value * np.linspace(*WITHIN, n_points)).tolist()
    pairs = (settings or ToySettings()).pairs(analysis, poi, *cls_points(analysis.likelihood, poi, grid))
    points = cls_from_toys(analysis.likelihood, pairs)
    value, error = cls_limit(points, rough.confidence_level)
    return CLsLimit(
        poi,
        rough.confidence_level,
        value,
        error,
        points,
        rough,
        pairs.n_failed,
        pairs.n_refits,
        pairs.seed,
        physical_interval(analysis.parameters[poi], None, value),
        pairs.n_expanded,
        pairs.expansion_error,
    )
