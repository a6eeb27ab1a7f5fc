"""Two statistical models of the same search on the same data: best fits, limits and profiles side by side.

For a model whose templates were replaced by flows, or whose binning was given up, the question is how far its answers
move: best fits in units of their errors, limits as a ratio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from inference.analysis import Analysis, level_and_kind
from inference.intervals.asymptotics import IntervalKind
from inference.record import Record
from inference.reports.report import KINKED_POINTS, SMOOTH_POINTS, curve_grid, default_poi
from inference.results import FitResult, Interval, ProfileCurve
from surrogate.errors import ConfigError


@dataclass(frozen=True)
class ModelComparison(Record):
    """What a second model says beside a first.

    Attributes
    ----------
    first, second
        The intervals on the parameter of interest, with the best fits.
    shifts
        Parameter that floats in both -> (second - first best fit) / error, of the first fit or, where that has none (on
        a kink or a bound), of the second; None where neither has one.
    upper_ratio, lower_ratio
        Second over first limit; None where one of them does not exist.
    first_curve, second_curve
        The profiles of the parameter of interest.
    """

    first: Interval
    second: Interval
    shifts: dict[str, float | None]
    upper_ratio: float | None
    lower_ratio: float | None
    first_curve: ProfileCurve
    second_curve: ProfileCurve

    @property
    def success(self) -> bool:
        """Whether both models have a best fit and the limits that were asked for."""
        return self.first.success and self.second.success


def compare_models(
    first: Analysis,
    second: Analysis,
    poi: str | None = None,
    confidence_level: float | None = None,
    kind: IntervalKind | None = None,
    fixed: Mapping[str, float] | None = None,
) -> ModelComparison:
    """Set an interval with each of two models on the data that each was given.

    Parameters
    ----------
    first, second
        The models with their data; what is measured is how far the second is from the first.
    poi
        The parameter of interest, in both.
    confidence_level, kind
        Those of the first model where not given.
    fixed
        Parameters held in all fits.

    Raises
    ------
    ConfigError
        If the second model does not have the parameter of interest.
    """
    name = default_poi(first.parameters) if poi is None else poi
    if name not in second.parameters.names:
        raise ConfigError(f"parameter of interest '{name}': the second model does not have it; see --poi")
    level, which = level_and_kind(first, confidence_level, kind)
    one = first.interval(name, level, which, fixed=fixed)
    two = second.interval(name, level, which, fixed=fixed)
    return ModelComparison(
        one,
        two,
        _shifts(one.best_fit, two.best_fit),
        _ratio(two.upper.value, one.upper.value),
        _ratio(two.lower.value, one.lower.value),
        _curve(first, one, fixed),
        _curve(second, two, fixed),
    )


def _curve(model: Analysis, interval: Interval, fixed: Mapping[str, float] | None) -> ProfileCurve:
    kinked = bool(model.likelihood.breakpoints)
    grid = curve_grid(interval, KINKED_POINTS if kinked else SMOOTH_POINTS)
    known = [f for f in (interval.best_fit, interval.lower.fit, interval.upper.fit) if f is not None]
    return model.drawn_profile(interval.parameter, grid, known, fixed)


def _shifts(first: FitResult, second: FitResult) -> dict[str, float | None]:
    shifts: dict[str, float | None] = {}
    for name, value in first.values.items():
        if name not in second.values or name in first.fixed or name in second.fixed:
            continue
        error = first.errors.get(name) or second.errors.get(name)
        shifts[name] = (second.values[name] - value) / error if error else None
    return shifts


def _ratio(value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None or reference == 0 or not math.isfinite(value / reference):
        return None
    return value / reference
