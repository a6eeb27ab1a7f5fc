"""Records and figures of studies with toys, and critical values from toys made before."""

from __future__ import annotations

from pathlib import Path

from inference.analysis import Analysis
from inference.intervals.asymptotics import IntervalKind, critical_value
from inference.intervals.confidence import statistic_of
from inference.reports.cls_study import CLsLimit
from inference.reports.plots import save_figure
from inference.reports.report import write_best_fit
from inference.reports.study_plots import (
    plot_cls,
    plot_critical_values,
    plot_discovery,
    plot_statistics,
    plot_toy_limits,
)
from inference.results import FitResult, Interval
from inference.science_run import model_hash
from inference.studies.critical_values import CriticalCurve
from inference.studies.discovery import Discovery
from inference.studies.neyman import NeymanInterval, critical_values
from inference.studies.sensitivity import SensitivityBand, ToyLimits
from inference.studies.toy_pairs import ToyPairs, read_pairs
from surrogate.errors import DataError

#: Points at which the profile of the data is drawn beside critical values.
DRAWN = 41


def write_neyman(analysis: Analysis, found: NeymanInterval, pairs: ToyPairs, directory: Path) -> dict[str, Path]:
    """Write ``neyman.json`` and its figures into a directory; return them by name."""
    directory.mkdir(parents=True, exist_ok=True)
    low, high = found.grid[0], found.grid[-1]
    drawn = [low + (high - low) * k / (DRAWN - 1) for k in range(DRAWN)]
    known = [f for f in (found.interval.best_fit, found.interval.lower.fit, found.interval.upper.fit) if f is not None]
    curve = analysis.drawn_profile(pairs.poi, drawn, known)
    found.save(directory / "neyman.json")
    level, statistic = found.interval.confidence_level, found.interval.statistic
    return {
        "record": directory / "neyman.json",
        **_best_fit_files(analysis, found.interval.best_fit, directory, found.interval),
        "critical": save_figure(plot_critical_values(found, curve), directory / "critical_values.png"),
        "statistic": save_figure(plot_statistics(pairs, level, statistic), directory / "statistic.png"),
    }


def _best_fit_files(
    analysis: Analysis, best: FitResult, directory: Path, interval: Interval | None = None
) -> dict[str, Path]:
    """Write the table of a best fit, and of an interval, and the figure of the data over it; return them by name."""
    summary, figure = write_best_fit(directory, best, analysis.views(best.values), interval)
    return {"summary": summary, "best fit": figure}


def write_cls(analysis: Analysis, found: CLsLimit, directory: Path) -> dict[str, Path]:
    """Write ``cls.json``, its figures and the table of the asymptotic limit into a directory; return them by name."""
    directory.mkdir(parents=True, exist_ok=True)
    found.save(directory / "cls.json")
    return {
        "record": directory / "cls.json",
        **_best_fit_files(analysis, found.asymptotic.best_fit, directory, found.asymptotic),
        "cls": save_figure(plot_cls(found), directory / "cls.png"),
    }


def stored_pairs(analysis: Analysis, poi: str, path: Path) -> ToyPairs:
    """Return the toys of a construction made before.

    Raises
    ------
    DataError
        If there is no such file, or they are of another model, or of another parameter of interest.
    """
    if not path.is_file():
        raise DataError(f"critical values: '{path}' is neither 'asymptotic' nor 'toys', nor a file of toys made before")
    pairs = read_pairs(path)
    if pairs.poi != poi:
        raise DataError(f"{path}: its critical values are those of {pairs.poi}, not of {poi}")
    if pairs.model_hash != model_hash(analysis.parameters, analysis.runs):
        raise DataError(f"{path}: its toys were made with another model; make them again")
    return pairs


def stored_critical(
    analysis: Analysis, poi: str, path: Path | None, cl: float, kind: IntervalKind
) -> float | CriticalCurve:
    """Return critical values from the store of a construction, or the asymptotic one if there is none."""
    if path is None:
        return critical_value(cl, kind)
    statistic = statistic_of(analysis.parameters, analysis.runs, poi, kind)
    return critical_values(stored_pairs(analysis, poi, path), cl, statistic)


def write_sensitivity(band: SensitivityBand, limits: ToyLimits, directory: Path) -> dict[str, Path]:
    """Write ``sensitivity.json`` and its figure into a directory; return them by name."""
    directory.mkdir(parents=True, exist_ok=True)
    band.save(directory / "sensitivity.json")
    return {
        "record": directory / "sensitivity.json",
        "limits": save_figure(plot_toy_limits(limits, band), directory / "sensitivity.png"),
    }


def write_discovery(analysis: Analysis, found: Discovery, toys: ToyPairs | None, directory: Path) -> dict[str, Path]:
    """Write ``discovery.json`` and its figures into a directory; return them by name. Fits that failed have none."""
    directory.mkdir(parents=True, exist_ok=True)
    found.save(directory / "discovery.json")
    files = {"record": directory / "discovery.json"}
    if found.success:
        files |= _best_fit_files(analysis, found.best_fit, directory)
        files["test"] = save_figure(plot_discovery(found, toys), directory / "discovery.png")
    return files
