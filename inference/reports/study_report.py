"""Studies with toys from start to end: choose the points, make the toys, evaluate, write records and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from inference.analysis import Analysis
from inference.intervals.asymptotics import IntervalKind, critical_value
from inference.intervals.confidence import STATISTIC, search_range
from inference.pools.choice import PoolChoice
from inference.pools.event_pool import EventPool
from inference.reports.plots import save_figure
from inference.reports.study_plots import plot_critical_values, plot_statistics, plot_toy_limits
from inference.results import Interval
from inference.science_run import model_hash
from inference.studies.critical_values import CriticalCurve, Smoothing
from inference.studies.discovery import Discovery, discovery
from inference.studies.neyman import NeymanInterval, critical_values, neyman_interval, profiled_points, suggested_grid
from inference.studies.sensitivity import SensitivityBand, ToyLimits, sensitivity_band, toy_limits
from inference.studies.study import StudyPlan
from inference.studies.toy_pairs import ToyPairs, read_pairs, run_pairs
from surrogate.errors import DataError

#: Points at which the profile of the data is drawn beside critical values.
DRAWN = 41


@dataclass(frozen=True)
class ToySettings:
    """How many toys, of what seed, made how.

    Attributes
    ----------
    n_toys
        Toys per point.
    seed
        Of the study.
    plan
        Who works, and where the rows are stored.
    pools
        Where toys are taken from if that pays; drawn anew if None.
    """

    n_toys: int = 2000
    seed: int = 0
    plan: StudyPlan = field(default_factory=StudyPlan)
    pools: PoolChoice | None = None

    def pairs(self, analysis: Analysis, poi: str, points: Tensor) -> ToyPairs:
        """Make toys at some points (G, P) and fit each twice."""
        pool = self.pool(analysis, points)
        return run_pairs(
            analysis.parameters, analysis.runs, poi, points, self.n_toys, self.seed, plan=self.plan, pool=pool
        )

    def pool(self, analysis: Analysis, points: Tensor) -> EventPool | None:
        """Return the pool from which toys at some points (G, P) are taken."""
        return None if self.pools is None else self.pools.pool(analysis.parameters, analysis.runs, points, self.n_toys)


def automatic_grid(analysis: Analysis, interval: Interval, n_points: int) -> list[float]:
    """Return a grid from the lower search bound, or from below the asymptotic lower limit, to beyond the upper one.

    Raises
    ------
    DataError
        If the asymptotic interval has no upper end: the range must then be given.
    """
    name = interval.parameter
    high = interval.upper.value
    if high is None:
        raise DataError(
            f"the asymptotic interval on {name} has no upper end ({interval.upper.status}); say where toys are to be "
            "made, as a range of the parameter"
        )
    bound, _ = search_range(analysis.likelihood, name)
    low = interval.lower.value
    if low is None:
        low = max(bound, interval.best_fit.values[name] - (high - interval.best_fit.values[name]))
    else:
        low = max(bound, low - 0.5 * (high - low))
    return suggested_grid(low, high, n_points)


def neyman_study(
    analysis: Analysis,
    poi: str,
    settings: ToySettings,
    grid: Sequence[float] | None = None,
    n_points: int = 12,
    nuisances: Mapping[str, float] | None = None,
    kind: IntervalKind = "central",
    cl: float | None = None,
    smoothing: Smoothing = "spline",
) -> tuple[NeymanInterval, ToyPairs]:
    """Make a toy Neyman construction and set the interval on the data with it.

    Parameters
    ----------
    analysis
        The model with its data.
    poi
        The parameter of interest.
    settings
        The toys.
    grid
        Where toys are made; chosen around the asymptotic interval if None.
    n_points
        Number of points of a grid that is chosen.
    nuisances
        Where the nuisances of the toys are; at their conditional best fit to the data if None, nominal for those that
        a mapping leaves out.
    kind, cl
        Of the interval; two-sided, and the model's level, where not given.
    smoothing
        How c(mu) is made of its values on the grid.

    Raises
    ------
    DataError
        If no grid can be chosen, a conditional fit fails, or the store holds another study.
    """
    level = analysis.confidence_level if cl is None else cl
    asymptotic = analysis.interval(poi, level, kind if kind == "upper" else "central")
    points = profiled_points(
        analysis.likelihood, poi, grid or automatic_grid(analysis, asymptotic, n_points), nuisances
    )
    pairs = settings.pairs(analysis, poi, points)
    return neyman_interval(analysis.likelihood, pairs, level, kind, smoothing), pairs


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
        "critical": save_figure(plot_critical_values(found, curve), directory / "critical_values.png"),
        "statistic": save_figure(plot_statistics(pairs, level, statistic), directory / "statistic.png"),
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
    return critical_values(stored_pairs(analysis, poi, path), cl, STATISTIC[kind])


def sensitivity_study(
    analysis: Analysis,
    poi: str,
    settings: ToySettings,
    truth: Mapping[str, float] | None = None,
    critical: float | CriticalCurve | None = None,
    kind: IntervalKind = "central",
    cl: float | None = None,
) -> tuple[SensitivityBand, ToyLimits]:
    """Return the band of the limits of background-only toys, and the limits.

    Parameters
    ----------
    analysis
        The model; its data are not looked at.
    poi
        The parameter of interest, zero in the toys unless ``truth`` says otherwise.
    settings
        The toys.
    truth
        True parameters; nominal where not given.
    critical
        Critical value or critical values from toys; asymptotic if None.
    kind, cl
        Of the limits; two-sided, and the model's level, where not given.

    Raises
    ------
    UncertifiedError
        If a surrogate has no valid certificate and that was not allowed.
    """
    analysis.require_certified()
    level = analysis.confidence_level if cl is None else cl
    points = analysis.parameters.vector({poi: 0.0, **(truth or {})})[None]
    threshold = critical_value(level, kind) if critical is None else critical
    s = settings
    pool = s.pool(analysis, points)
    limits = toy_limits(
        analysis.parameters, analysis.runs, poi, points, s.n_toys, s.seed, threshold, level, kind, s.plan, pool
    )
    return sensitivity_band(limits, "lower" if kind == "lower" else "upper"), limits


def write_sensitivity(band: SensitivityBand, limits: ToyLimits, directory: Path) -> dict[str, Path]:
    """Write ``sensitivity.json`` and its figure into a directory; return them by name."""
    directory.mkdir(parents=True, exist_ok=True)
    band.save(directory / "sensitivity.json")
    return {
        "record": directory / "sensitivity.json",
        "limits": save_figure(plot_toy_limits(limits, band), directory / "sensitivity.png"),
    }


def discovery_study(analysis: Analysis, poi: str, settings: ToySettings | None = None) -> Discovery:
    """Test the background-only hypothesis on the data: asymptotically, and with toys where settings are given.

    Raises
    ------
    UncertifiedError
        If a surrogate has no valid certificate and that was not allowed.
    """
    analysis.require_certified()
    if settings is None:
        return discovery(analysis.likelihood, poi)
    toys = settings.pairs(analysis, poi, profiled_points(analysis.likelihood, poi, [0.0]))
    return discovery(analysis.likelihood, poi, toys)
