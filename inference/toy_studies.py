"""Studies with toys from start to end: choose the points, make the toys, evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inference.analysis import Analysis, level_and_kind, told
from inference.fits.batch_fit import fit_batch
from inference.fits.fitter import typical_sizes
from inference.intervals.asymptotics import IntervalKind, critical_value
from inference.intervals.confidence import search_range
from inference.pools.choice import PoolChoice
from inference.pools.event_pool import EventPool
from inference.results import Interval
from inference.studies.critical_values import CriticalCurve, Smoothing
from inference.studies.discovery import Discovery, discovery
from inference.studies.neyman import NeymanInterval, neyman_interval, profiled_points, suggested_grid
from inference.studies.sensitivity import SensitivityBand, ToyLimits, sensitivity_band, toy_limits
from inference.studies.study import StudyPlan
from inference.studies.toy_pairs import ToyPairs, run_pairs
from surrogate.errors import DataError

#: Toys are made elsewhere than at a fit to the data where a nuisance differs by more than this, in typical sizes.
ELSEWHERE = 0.1


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
        Where toys are taken from if that pays; drawn anew, and fitted with exact densities, if None.
    """

    n_toys: int = 2000
    seed: int = 0
    plan: StudyPlan = field(default_factory=StudyPlan)
    pools: PoolChoice | None = field(default_factory=PoolChoice)

    def pairs(self, analysis: Analysis, poi: str, points: Tensor, tested: Sequence[float] | None = None) -> ToyPairs:
        """Make toys at some points (G, P) and fit each twice, once with ``poi`` held: at its truth, or as tested."""
        model, pool = analysis, self.pool(analysis, points)
        return run_pairs(model.parameters, model.runs, poi, points, self.n_toys, self.seed, tested, self.plan, pool)

    def pool(self, analysis: Analysis, points: Tensor) -> EventPool | None:
        """Return the pool from which toys at some points (G, P) are taken."""
        return None if self.pools is None else self.pools.pool(analysis.parameters, analysis.runs, points, self.n_toys)


def no_upper_end(interval: Interval) -> str:
    """Return what to say of an asymptotic interval without an upper end."""
    return f"the asymptotic interval on {interval.parameter} has no upper end ({interval.upper.status})"


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
        raise DataError(f"{no_upper_end(interval)}; say where toys are to be made, as a range of the parameter")
    bound, _ = search_range(analysis.likelihood, name)
    low = interval.lower.value
    if low is None:
        low = max(bound, interval.best_fit.values[name] - (high - interval.best_fit.values[name]))
    else:
        low = max(bound, low - 0.5 * (high - low))
    return suggested_grid(low, high, n_points)


def rough_interval(analysis: Analysis, poi: str, cl: float, kind: IntervalKind) -> Interval:
    """Return the asymptotic interval around which toys are made: that of the kind, with both ends for a lower limit."""
    return analysis.interval(poi, cl, "central" if kind == "lower" else kind)


def neyman_study(
    analysis: Analysis,
    poi: str,
    settings: ToySettings,
    grid: Sequence[float] | None = None,
    n_points: int = 12,
    nuisances: Mapping[str, float] | None = None,
    kind: IntervalKind | None = None,
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
        Of the interval; the model's where not given.
    smoothing
        How c(mu) is made of its values on the grid.

    Raises
    ------
    DataError
        If no grid can be chosen, a conditional fit fails, or the store holds another study.
    """
    level, kind = level_and_kind(analysis, cl, kind)
    if grid is None:
        grid = automatic_grid(analysis, rough_interval(analysis, poi, level, kind), n_points)
    points = profiled_points(analysis.likelihood, poi, grid, nuisances)
    pairs = settings.pairs(analysis, poi, points)
    return interval_of_pairs(analysis, pairs, level, kind, smoothing), pairs


def interval_of_pairs(
    analysis: Analysis, pairs: ToyPairs, cl: float, kind: IntervalKind, smoothing: Smoothing = "spline"
) -> NeymanInterval:
    """Return the interval on the data with the critical values of toys made before."""
    found = neyman_interval(analysis.likelihood, pairs, cl, kind, smoothing)
    return replace(found, interval=told(analysis, found.interval))


def interval_of_store(analysis: Analysis, pairs: ToyPairs, cl: float, kind: IntervalKind) -> NeymanInterval:
    """Return the interval on the data with toys made before; a remark says so where these were made for other data."""
    found = interval_of_pairs(analysis, pairs, cl, kind)
    remark = made_elsewhere(analysis, pairs)
    if remark is None:
        return found
    return replace(found, interval=replace(found.interval, remarks=(*found.interval.remarks, remark)))


def made_elsewhere(analysis: Analysis, pairs: ToyPairs) -> str | None:
    """Return what to say of toys whose nuisances are neither nominal nor at the conditional best fits to the data.

    Compared in typical sizes, at the grid points where the conditional fit converges.
    """
    parameters, points = analysis.parameters, torch.from_numpy(pairs.points)
    others = [j for j, p in enumerate(parameters.parameters) if p.fittable and p.name != pairs.poi]
    size = typical_sizes(parameters)
    best = fit_batch(analysis.likelihood, {pairs.poi: torch.from_numpy(pairs.truth)})
    apart = ((points - best.values) / size)[:, others].abs() * best.success.unsqueeze(-1)
    nominal = bool(((points - parameters.nominal()) / size)[:, others].abs().le(ELSEWHERE).all())
    if not others or nominal or float(apart.max()) <= ELSEWHERE:
        return None
    g, k = divmod(int(apart.argmax()), len(others))
    name, made, fitted = parameters.names[others[k]], points[g, others[k]], best.values[g, others[k]]
    return (
        f"the toys were made for other data: at {pairs.poi} = {pairs.truth[g]:.4g} with {name} = {float(made):.4g}, to "
        f"which these data fit {float(fitted):.4g}; make them again for these data, or with --nuisances nominal for any"
    )


def sensitivity_study(
    analysis: Analysis,
    poi: str,
    settings: ToySettings,
    truth: Mapping[str, float] | None = None,
    critical: float | CriticalCurve | None = None,
    kind: IntervalKind | None = None,
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
        Of the limits; the model's where not given.

    Raises
    ------
    UncertifiedError
        If a surrogate has no valid certificate and that was not allowed.
    """
    analysis.require_certified()
    level, kind = level_and_kind(analysis, cl, kind)
    points = analysis.parameters.vector({poi: 0.0, **(truth or {})})[None]
    threshold = critical_value(level, kind) if critical is None else critical
    s = settings
    pool = s.pool(analysis, points)
    limits = toy_limits(
        analysis.parameters, analysis.runs, poi, points, s.n_toys, s.seed, threshold, level, kind, s.plan, pool
    )
    return sensitivity_band(limits, "lower" if kind == "lower" else "upper"), limits


def discovery_study(
    analysis: Analysis, poi: str, settings: ToySettings | None = None
) -> tuple[Discovery, ToyPairs | None]:
    """Test the background-only hypothesis on the data: asymptotically, and with toys where settings are given.

    Returns the test, and the toys.

    Raises
    ------
    UncertifiedError
        If a surrogate has no valid certificate and that was not allowed.
    """
    analysis.require_certified()
    likelihood = analysis.likelihood
    toys = None if settings is None else settings.pairs(analysis, poi, profiled_points(likelihood, poi, [0.0]))
    found = discovery(likelihood, poi, toys)
    return replace(found, best_fit=told(analysis, found.best_fit)), toys


class ToyAnalysis(Analysis):
    """An analysis, and what toys say about it."""

    def neyman(
        self,
        poi: str,
        toys: ToySettings | None = None,
        grid: Sequence[float] | None = None,
        confidence_level: float | None = None,
        kind: IntervalKind | None = None,
    ) -> NeymanInterval:
        """Return the interval on the data with critical values of toys; see :func:`neyman_study`."""
        return neyman_study(self, poi, toys or ToySettings(), grid, kind=kind, cl=confidence_level)[0]

    def sensitivity(
        self,
        poi: str,
        toys: ToySettings | None = None,
        truth: Mapping[str, float] | None = None,
        confidence_level: float | None = None,
        kind: IntervalKind | None = None,
    ) -> SensitivityBand:
        """Return the median limit of background-only toys and its bands; see :func:`sensitivity_study`."""
        return sensitivity_study(self, poi, toys or ToySettings(), truth, kind=kind, cl=confidence_level)[0]

    def discovery(self, poi: str, toys: ToySettings | None = None) -> Discovery:
        """Return the test of the background-only hypothesis, asymptotic, and from toys where they are given."""
        return discovery_study(self, poi, toys)[0]
