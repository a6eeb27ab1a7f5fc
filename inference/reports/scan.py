"""Limits over a scan of a constant of the model, such as a mass: one model at each value, the same data for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inference.analysis import Analysis, level_and_kind
from inference.intervals.asymptotics import IntervalKind, check_kind, critical_value
from inference.pools.choice import PoolChoice
from inference.pools.event_pool import EventPool
from inference.record import Record
from inference.results import Interval
from inference.studies.counting import check_level
from inference.studies.critical_values import CriticalCurve
from inference.studies.discovery import discovery, scan_statistics
from inference.studies.look_elsewhere import GlobalSignificance, global_significance
from inference.studies.neyman import critical_values, profiled_points
from inference.studies.power_constraint import (
    DEFAULT_THRESHOLD,
    Power,
    PowerConstraint,
    constrain,
    discovery_constraint,
    rejection_constraint,
)
from inference.studies.sensitivity import SensitivityBand, ToyLimits, sensitivity_band, toy_limits
from inference.studies.study import StudyPlan
from inference.studies.toy_pairs import ToyPairs, run_pairs
from inference.toy_studies import automatic_grid, interval_of_pairs, no_upper_end, rough_interval
from surrogate.errors import ConfigError

#: Where the power of a discovery is measured: so many signal strengths, up to so many median background-only limits.
POWER_POINTS, POWER_REACH = 9, 2.0


@dataclass(frozen=True)
class ScanPoint(Record):
    """One value of the scan.

    Attributes
    ----------
    value
        Of the scanned constant.
    interval
        The interval on the parameter of interest.
    upper_error
        Standard error of the upper limit from the number of toys; None without toys.
    band
        Quantiles of the limits of background-only toys; None where none were made.
    constrained
        The upper limit after the power constraint; None where none was asked for, or there is no upper limit.
    q0, p0
        Local discovery statistic and its asymptotic p-value; None where a fit failed.
    """

    value: float
    interval: Interval
    upper_error: float | None
    band: SensitivityBand | None
    constrained: float | None
    q0: float | None
    p0: float | None


@dataclass(frozen=True)
class LimitScan(Record):
    """Limits at every value of a scan.

    Attributes
    ----------
    scanned, unit
        The constant, and its unit.
    points
        In increasing order of its value.
    power_threshold
        Power that the power constraint asks for; None without.
    significance
        Global significance of the largest local one; None without toys.
    power
        What power means: ``rejection`` or ``discovery``.
    """

    scanned: str
    unit: str
    points: tuple[ScanPoint, ...]
    power_threshold: float | None
    significance: GlobalSignificance | None
    power: Power = "rejection"

    @property
    def success(self) -> bool:
        """Whether every interval is found, or known not to exist."""
        return all(p.interval.success and (p.band is None or p.band.n_failed == 0) for p in self.points)


@dataclass(frozen=True)
class ScanSettings:
    """What is done at every value.

    Attributes
    ----------
    poi
        The parameter of interest.
    confidence_level, kind
        Of the intervals; the model's where None.
    critical_toys
        Toys at each point of a Neyman construction; asymptotic critical values if 0.
    band_toys
        Background-only toys for the bands, none if 0. Their nuisances are at nominal values.
    global_toys
        Background-only toys that all values look at, for the global significance; none if 0.
    power_threshold
        Of the power constraint (arXiv:1105.3166), which needs ``band_toys``; none if None.
    power
        What power means there: that of rejecting a signal on background alone, or of discovering it at a p-value of
        1 - CL. The latter needs ``band_toys`` more at each of :data:`POWER_POINTS` signal strengths.
    n_points
        Grid points of a Neyman construction.
    seed
        Of all toys.
    plan
        Who works.
    folder
        Where the toys are collected, one file a study; in memory if None.
    pools
        Where toys are taken from if that pays; drawn anew if None. Those that all values share are drawn anew.
    """

    poi: str
    confidence_level: float | None = None
    kind: IntervalKind | None = None
    critical_toys: int = 0
    band_toys: int = 0
    global_toys: int = 0
    power_threshold: float | None = None
    power: Power = "rejection"
    n_points: int = 12
    seed: int = 0
    plan: StudyPlan = field(default_factory=StudyPlan)
    folder: Path | None = None
    pools: PoolChoice | None = None

    def pool(self, analysis: Analysis, points: Tensor, n_toys: int) -> EventPool | None:
        """Return the pool from which toys at some points (G, P) are taken."""
        return None if self.pools is None else self.pools.pool(analysis.parameters, analysis.runs, points, n_toys)

    def plan_for(self, study: str, value: float) -> StudyPlan:
        """Return the plan of one study of one value, with a store of its own."""
        if self.folder is None:
            return self.plan
        self.folder.mkdir(parents=True, exist_ok=True)
        return replace(self.plan, path=self.folder / f"{study}_{value:g}.h5")


def _interval(
    analysis: Analysis, value: float, settings: ScanSettings
) -> tuple[Interval, float | None, float | CriticalCurve]:
    """Return the interval, the error of its upper end, and the critical values for the limits of toys.

    Without an asymptotic upper end there is no place for toys; the interval is then asymptotic, and says so.
    """
    s = settings
    level, kind = level_and_kind(analysis, s.confidence_level, s.kind)
    if not s.critical_toys:
        return analysis.interval(s.poi, level, kind), None, critical_value(level, kind)
    rough = rough_interval(analysis, s.poi, level, kind)
    if rough.upper.value is None:
        found = rough if rough.kind == kind else analysis.interval(s.poi, level, kind)
        remark = f"critical values are asymptotic: {no_upper_end(rough)}, and so no range for toys"
        return replace(found, remarks=(*found.remarks, remark)), None, critical_value(level, kind)
    points = profiled_points(analysis.likelihood, s.poi, automatic_grid(analysis, rough, s.n_points))
    plan = s.plan_for("neyman", value)
    pool, n = s.pool(analysis, points, s.critical_toys), s.critical_toys
    pairs = run_pairs(analysis.parameters, analysis.runs, s.poi, points, n, s.seed, plan=plan, pool=pool)
    toys = interval_of_pairs(analysis, pairs, level, kind)
    return toys.interval, toys.upper_error, critical_values(pairs, level, toys.interval.statistic)


def _toy_limits(
    analysis: Analysis, value: float, interval: Interval, critical: float | CriticalCurve, settings: ScanSettings
) -> ToyLimits:
    """Return the limits of background-only toys at the nominal parameters."""
    s = settings
    truth = analysis.parameters.vector({s.poi: 0.0})[None]
    level, kind, plan = interval.confidence_level, check_kind(interval.kind), s.plan_for("limits", value)
    n, model, pool = s.band_toys, analysis, s.pool(analysis, truth, s.band_toys)
    return toy_limits(model.parameters, model.runs, s.poi, truth, n, s.seed, critical, level, kind, plan, pool)


def _constraint(
    analysis: Analysis, value: float, interval: Interval, limits: ToyLimits, settings: ScanSettings
) -> PowerConstraint:
    """Return the smallest limit that has the power asked for, by the definition asked for."""
    s, given = settings, settings.power_threshold
    threshold = DEFAULT_THRESHOLD if given is None else given
    if s.power == "rejection":
        return rejection_constraint(limits.ends("upper"), threshold)
    reach = POWER_REACH * rejection_constraint(limits.ends("upper"), 0.5).minimum
    grid = np.linspace(0.0, reach, POWER_POINTS).tolist()
    points = torch.stack([analysis.parameters.vector({s.poi: mu}) for mu in grid])
    plan = s.plan_for("power", value)
    pool, tested = s.pool(analysis, points, s.band_toys), [0.0] * POWER_POINTS
    pairs = run_pairs(analysis.parameters, analysis.runs, s.poi, points, s.band_toys, s.seed, tested, plan, pool)
    # A toy without valid fits counts as no discovery, which can only raise the smallest limit.
    q0 = [np.nan_to_num(q, nan=0.0) for q in pairs.statistics("q0")]
    return discovery_constraint(grid, q0, critical_value(interval.confidence_level, "upper"), threshold)


def scan_point(analysis: Analysis, value: float, settings: ScanSettings) -> ScanPoint:
    """Return the limits of one value; see :func:`limit_scan`."""
    s = settings
    interval, error, critical = _interval(analysis, value, s)
    local = discovery(analysis.likelihood, s.poi)
    band, constrained = None, None
    if s.band_toys:
        limits = _toy_limits(analysis, value, interval, critical, s)
        band = sensitivity_band(limits, "lower" if interval.kind == "lower" else "upper")
        if s.power_threshold is not None and interval.upper.value is not None:
            constraint = _constraint(analysis, value, interval, limits, s)
            constrained = constrain(interval.upper.value, constraint).constrained
    return ScanPoint(value, interval, error, band, constrained, local.q0, local.p0)


def _background_toys(
    analysis: Analysis, value: float, background: Mapping[str, float], settings: ScanSettings
) -> ToyPairs:
    """Return toys at the background given, which all values of the scan share, tested at zero."""
    point = analysis.parameters.vector({**background, settings.poi: 0.0})[None]
    plan, n = settings.plan_for("background", value), settings.global_toys
    return run_pairs(analysis.parameters, analysis.runs, settings.poi, point, n, settings.seed, plan=plan)


def limit_scan(
    models: Iterable[tuple[float, Analysis]], scanned: str, settings: ScanSettings, unit: str = ""
) -> LimitScan:
    """Set limits at every value of a scan.

    Parameters
    ----------
    models
        Value -> the model at this value, with the data; in increasing order. They are built one after the other when a
        generator is given, and must agree in runs, background sources and names of parameters.
    scanned, unit
        Name of the constant, and its unit.
    settings
        What is done at each.

    Raises
    ------
    ConfigError
        If there is no value, or the values do not increase, or a power constraint is asked for without toys or with a
        threshold that is none.
    UncertifiedError
        If a surrogate has no valid certificate and that was not allowed.
    """
    if settings.power_threshold is not None:
        check_level("power_threshold", settings.power_threshold)
        if not settings.band_toys:
            raise ConfigError("a power constraint needs the limits of background-only toys; ask for bands as well")
    points: list[ScanPoint] = []
    toys: list[ToyPairs] = []
    background: dict[str, float] = {}
    for value, analysis in models:
        if points and not value > points[-1].value:
            raise ConfigError(f"{scanned}: values of a scan must increase, got {points[-1].value:g} before {value:g}")
        points.append(scan_point(analysis, value, settings))
        if settings.global_toys:
            if not background:
                best = analysis.fit_result({settings.poi: 0.0}).values
                background = {name: v for name, v in best.items() if name not in (scanned, settings.poi)}
            toys.append(_background_toys(analysis, value, background, settings))
    if not points:
        raise ConfigError(f"{scanned}: a scan needs at least one value")
    return LimitScan(
        scanned, unit, tuple(points), settings.power_threshold, _global(points, toys, scanned), settings.power
    )


def _global(points: list[ScanPoint], toys: list[ToyPairs], scanned: str) -> GlobalSignificance | None:
    """Return the global significance; None without toys, or where a local one could not be found."""
    local = [p.q0 for p in points]
    if not toys or None in local:
        return None
    statistics = scan_statistics(toys, scanned)
    # A toy without valid fits somewhere counts as exceeding the data.
    statistics = np.nan_to_num(statistics, nan=np.inf)
    return global_significance(np.array(local, dtype=float), statistics)
