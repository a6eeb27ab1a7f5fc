"""Fits and limits with everything that goes with them: the record, its figures and a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inference.analysis import Analysis
from inference.intervals.asymptotics import IntervalKind
from inference.parameters import ParameterSet
from inference.profiles.corner import Corner, corner
from inference.record import Record
from inference.record_store import write_records
from inference.reports.cls_study import asymptotic_cls_limit
from inference.reports.corner_plots import plot_corner
from inference.reports.plots import plot_profile, plot_projections, plot_summary, save_figure
from inference.reports.projections import Views, project
from inference.reports.pull_plots import plot_pulls
from inference.reports.summary import summary_text
from inference.results import FitResult, Interval, ProfileCurve
from surrogate.atomic import replacing_file
from surrogate.errors import ConfigError

#: Points of the profile curve in a report: of a smooth likelihood, joined by cubics, and of one with kinks.
SMOOTH_POINTS, KINKED_POINTS = 6, 41


@dataclass(frozen=True)
class ReportFiles:
    """Where a report lies.

    Attributes
    ----------
    directory
        The report.
    record
        The machine-readable result.
    summary
        The table for people.
    figures
        Name -> file.
    """

    directory: Path
    record: Path
    summary: Path
    figures: dict[str, Path]


def write_report(
    directory: str | Path,
    fit: FitResult,
    views: Views,
    interval: Interval | None = None,
    curve: ProfileCurve | None = None,
    pairs: Corner | None = None,
    units: Mapping[str, str] | None = None,
) -> ReportFiles:
    """Write ``result.json``, ``result.h5``, ``summary.txt``, figures and the records behind them into a directory.

    Parameters
    ----------
    directory
        Made if missing; files of the same names are replaced, each atomically.
    fit
        The best fit.
    views
        The data and the fit in each observable.
    interval
        The interval; ``result.json`` holds it, else the fit.
    curve
        The profile behind the interval.
    pairs
        The profiles of pairs of parameters.
    units
        Parameter -> its unit, for the axes of figures.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    result: Record = fit if interval is None else interval
    result.save(directory / "result.json")
    records = {"result": result, "profile": curve, "corner": pairs}
    write_records(directory / "result.h5", {name: r for name, r in records.items() if r is not None})
    summary, projections = write_best_fit(directory, fit, views, interval)
    figures = {"projections": projections}
    if fit.pulls:
        figures["pulls"] = save_figure(plot_pulls(fit), directory / "pulls.png")
    if curve is not None:
        figures["profile"] = save_figure(plot_profile(curve, interval, units), directory / "profile.png")
        curve.save(directory / "profile.json")
        if views.planes:
            figures["summary"] = save_figure(
                plot_summary(views.planes, curve, interval, units), directory / "summary.png"
            )
    if pairs is not None:
        figures["corner"] = save_figure(plot_corner(pairs, units), directory / "corner.png")
    return ReportFiles(directory, directory / "result.json", summary, figures)


def write_best_fit(
    directory: Path, fit: FitResult, views: Views, interval: Interval | None = None
) -> tuple[Path, Path]:
    """Write the table of a fit and an interval, and the figure of the data over the fit; return the two files."""
    summary = directory / "summary.txt"
    with replacing_file(summary) as temporary:
        temporary.write_text(summary_text(fit, interval))
    return summary, save_figure(plot_projections(views.projections, views.planes), directory / "projections.png")


def _units(analysis: Analysis) -> dict[str, str]:
    return {p.name: p.unit for p in analysis.parameters.parameters}


def default_poi(parameters: ParameterSet) -> str:
    """Return the parameter of interest that goes without saying: the only free rate without an ancillary term.

    Raises
    ------
    ConfigError
        If there is none, or more than one.
    """
    free = [p.name for p in parameters.parameters if p.kind == "rate" and p.fittable]
    found = [name for name in free if name not in parameters.ancillary_names]
    if len(found) != 1:
        raise ConfigError(f"parameter of interest: say which one, --poi NAME; free rates: {', '.join(free) or 'none'}")
    return found[0]


def curve_grid(interval: Interval, points: int = KINKED_POINTS) -> tuple[float, ...]:
    """Return where a profile is worth drawing: over the interval, and some way beyond both ends.

    To the equidistant points come the best fit and the ends, where fits were made already.
    """
    best = interval.best_fit.values[interval.parameter]
    error = interval.best_fit.errors.get(interval.parameter) or abs(best) or 1.0
    high = interval.upper.value
    low = interval.lower.value
    if high is None:
        high = best + (3 * error if low is None else best - low)
    if low is None:
        low = best - (high - best)
    start, stop = low - 0.3 * (high - low), high + 0.3 * (high - low)
    if interval.lower.bound is not None:
        start = max(start, interval.lower.bound)
    if interval.upper.bound is not None:
        stop = min(stop, interval.upper.bound)
    known = [v for v in (best, interval.lower.value, interval.upper.value) if v is not None and start <= v <= stop]
    apart = 0.25 * (stop - start) / max(1, points - 1)
    others = [v for v in np.linspace(start, stop, points).tolist() if all(abs(v - k) > apart for k in known)]
    return tuple(sorted({*known, *others}))


def fit_report(
    analysis: Analysis,
    directory: str | Path,
    fixed: Mapping[str, float] | None = None,
    pairs_of: Sequence[str] = (),
    profile_errors: bool = False,
) -> tuple[FitResult, ReportFiles]:
    """Fit and write the report; see :meth:`Analysis.fit_result`.

    All pairs of the parameters ``pairs_of`` are profiled; ``profile_errors`` asks for asymmetric errors.
    """
    fit = analysis.fit_result(fixed)
    fit = replace(fit, surrogate_error=analysis.surrogate_error(fit))
    if profile_errors and fit.success:
        fit = replace(fit, profile_errors=analysis.profile_errors(fixed=fixed, near=fit))
    planes = corner(analysis.likelihood, pairs_of, fixed=fixed) if pairs_of else None
    return fit, write_report(directory, fit, analysis.views(fit.values), pairs=planes, units=_units(analysis))


def limit_report(
    analysis: Analysis,
    directory: str | Path,
    poi: str | None = None,
    confidence_level: float | None = None,
    kind: IntervalKind | None = None,
    fixed: Mapping[str, float] | None = None,
    cls: bool = False,
) -> tuple[Interval, ReportFiles]:
    """Set an interval, or an asymptotic CLs limit, and write the report; see :meth:`Analysis.interval`."""
    name = default_poi(analysis.parameters) if poi is None else poi
    if cls:
        interval = asymptotic_cls_limit(analysis, name, confidence_level, fixed)
    else:
        interval = analysis.interval(name, confidence_level, kind, fixed=fixed)
    interval = replace(interval, surrogate_error=analysis.surrogate_error(interval.best_fit, interval))
    kinked = bool(analysis.likelihood.breakpoints)
    grid = curve_grid(interval, KINKED_POINTS if kinked else SMOOTH_POINTS)
    known = [f for f in (interval.best_fit, interval.lower.fit, interval.upper.fit) if f is not None]
    curve = analysis.drawn_profile(name, grid, known, fixed)
    high = interval.upper.value
    rate = analysis.parameters[name].kind == "rate"
    raised = {name: high} if rate and high is not None else None
    # The table counts events at the conditional fit, so the figures do, too.
    at = None if raised is None or interval.upper.fit is None else interval.upper.fit.values
    best = interval.best_fit.values
    views = project(analysis.parameters, analysis.runs, analysis.data, best, raised, at=at)
    return interval, write_report(directory, interval.best_fit, views, interval, curve, units=_units(analysis))
