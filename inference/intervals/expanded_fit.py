"""Fits and intervals of one data set whose densities are dear: searched on expansions, ended on the exact density.

1. The maximum is located with the scores of the events alone, which need no Hessian (:class:`ScoreDensity`).
2. Densities are expanded around it, in the ellipsoid of the covariance found, and fitted. Where the fit ends far from
   the centre of the region, the region follows.
3. Everything else is done on the expansion: conditional fits cost milliseconds.
4. The free fit and the conditional fits at the ends of an interval are repeated with the exact densities, from where
   the expansion put them, and the ends moved by what that changes. What is reported is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from inference.expansion.build import Expansion, ExpansionOptions, expand, expandable, shape_parameters
from inference.expansion.density import ScoreDensity
from inference.expansion.region import Region
from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.fits.fit import covariances, fit_result
from inference.fits.fitter import typical_sizes
from inference.intervals.asymptotics import IntervalKind, check_level, critical_value
from inference.intervals.confidence import IntervalBatch, interval_batch, interval_record, search_range
from inference.likelihood.extended import Likelihood
from inference.minimize import NewtonOptions
from inference.profiles.crossing import CrossingFinder
from inference.profiles.crossing_records import Critical, CrossingCollector, Crossings, CrossingStatus
from inference.profiles.tangent import profile_tangent
from inference.results import FitResult, Interval
from surrogate.errors import RangeError

#: Radius of the region in standard deviations: along the profile of one parameter up to t = 10 the others hardly move
#: by more than one.
RADIUS = 2.0
#: Decrease of -ln L that ends the first, rough fit.
ROUGH = 0.01
#: How often the region may follow the fit.
MOVES = 3
#: Largest correction of an end by the exact density, as a fraction of its distance to the best fit, and the largest
#: that is made without another fit: it is of second order, so that a thousandth of itself is left.
LARGEST_CORRECTION, LAST_CORRECTION = 0.2, 3e-3
#: Promised increase of ln L below which a fit with exact densities makes its last step without another evaluation; a
#: step from there leaves some 1e-9.
POLISHED = 1e-5

#: An expansion, and the best fit on it.
Around = tuple[Expansion, FitBatch]


def locate(likelihood: Likelihood, fixed: Mapping[str, float] | None = None, start: Tensor | None = None) -> FitBatch:
    """Fit every data set roughly, to a fraction of its errors, without Hessians of the densities.

    Parameters
    ----------
    likelihood
        The model with its data.
    fixed
        Parameters that are held.
    start
        Where to start (P,) or (T, P).
    """
    scores = {
        run.name: {c.name: ScoreDensity(c.source, likelihood.data.x[run.name]) for c in run.sources if expandable(c)}
        for run in likelihood.runs
        if not run.binned
    }
    rough = Likelihood(likelihood.parameters, likelihood.runs, likelihood.data, scores)
    return fit_batch(rough, fixed, None, start, FitOptions(newton=NewtonOptions(tolerance=ROUGH)))


def region_at(likelihood: Likelihood, fits: FitBatch, radius: float = RADIUS) -> Region:
    """Return the ellipsoid of the covariance of the first of some fits, in the parameters that move densities.

    A parameter without a variance gets the width of its constraint, a narrow one where it is held.
    """
    parameters = likelihood.parameters
    names = shape_parameters(parameters, likelihood.runs)
    index = [parameters.index(name) for name in names]
    covariance = covariances(fits)[0][0][index][:, index]
    width = torch.where(fits.held[0, index], 0.01, 1.0) * typical_sizes(parameters)[index]
    absent = covariance.diagonal() <= 0
    covariance = torch.where(absent[:, None] | absent[None, :], 0.0, covariance)
    covariance = covariance + torch.diag(torch.where(absent, width.square(), 0.0))
    return Region(names, fits.values[0, index], covariance, radius, likelihood.lower[index], likelihood.upper[index])


def _raised(likelihood: Likelihood, fits: FitBatch) -> Tensor:
    """Return the parameters (P,) of a fit with all rates two standard deviations higher, where more sources matter.

    A rate on its bound, which has no standard deviation, is raised to where 2 ln L has fallen by four.
    """
    error = covariances(fits)[0][0].diagonal().clamp_min(0.0).sqrt()
    slope, curvature = fits.gradient[0].clamp(max=0.0), fits.hessian[0].diagonal().clamp(max=-1e-300)
    fallen = (-slope - (slope.square() - 4.0 * curvature).sqrt()) / curvature
    moves = torch.tensor([p.kind == "rate" for p in likelihood.parameters.parameters]) & ~fits.held[0]
    step = torch.where(fits.at_bound[0], fallen, 2.0 * error)
    return torch.minimum(fits.values[0] + torch.where(moves, step, 0.0), likelihood.upper)


def expand_at_maximum(
    likelihood: Likelihood,
    fixed: Mapping[str, float] | None = None,
    start: Tensor | None = None,
    radius: float = RADIUS,
    options: ExpansionOptions | None = None,
) -> Around:
    """Expand the densities of one data set around its best fit.

    Parameters
    ----------
    likelihood
        With exact densities and one data set.
    fixed
        Parameters that are held.
    start
        Where the search for the maximum starts (P,).
    radius
        Of the region, in standard deviations.
    options
        Accuracy of the expansion.

    Returns
    -------
    tuple
        The expansion, and the best fit on it (one row).

    Raises
    ------
    RangeError
        If there is more than one data set.
    """
    if likelihood.n_datasets != 1:
        raise RangeError(f"expansion around a maximum needs one data set, got {likelihood.n_datasets}")
    fits = locate(likelihood, fixed, start)
    for _ in range(MOVES):
        region = region_at(likelihood, fits, radius)
        expansion = expand(likelihood, region, _raised(likelihood, fits), options)
        fits = fit_batch(expansion.likelihood, fixed, None, fits.values)
        index = [likelihood.parameters.index(name) for name in region.names]
        if float(region.distance(fits.values[0, index])) <= 0.5 * radius:
            break
    return expansion, fits


def located_fit(
    likelihood: Likelihood, fixed: Mapping[str, float] | None = None, options: FitOptions | None = None
) -> FitResult:
    """Fit one data set: located roughly first, then with the exact densities; see :func:`inference.fits.fit.fit`."""
    options = options or FitOptions()
    rough = locate(likelihood, fixed)
    return fit_result(likelihood, fit_batch(likelihood, fixed, None, rough.values, options), 0, options.starts)


def expanded_interval(
    likelihood: Likelihood,
    poi: str,
    confidence_level: float = 0.9,
    kind: IntervalKind = "central",
    critical: Critical | None = None,
    fixed: Mapping[str, float] | None = None,
    options: FitOptions | None = None,
    accuracy: ExpansionOptions | None = None,
    around: Around | None = None,
    critical_values: str = "given",
) -> Interval:
    """Return a confidence interval for one data set; as :func:`confidence_interval`, but faster.

    Parameters
    ----------
    likelihood
        The model with one data set and exact densities.
    poi
        The parameter of interest.
    confidence_level, kind, critical, fixed, options
        As there.
    accuracy
        Of the expansion.
    around
        What :func:`expand_at_maximum` found with the same parameters held, if that was called before.
    critical_values
        Where they come from, for the record.

    Raises
    ------
    ConfigError
        If the parameter is unknown, not fittable or fixed, or the kind is unknown.
    RangeError
        If the level is not between 0 and 1, or there is more than one data set.
    """
    check_level(confidence_level)
    options = options or FitOptions()
    value = critical_value(confidence_level, kind) if critical is None else critical
    expansion, rough = around or expand_at_maximum(likelihood, fixed, options=accuracy)
    found = interval_batch(expansion.likelihood, poi, value, kind, None, fixed, rough, options)
    polish = replace(options, newton=replace(options.newton, tolerance=POLISHED))
    best = fit_batch(likelihood, fixed, None, found.best.values, polish)
    finder = CrossingFinder(likelihood, poi, value, fixed, polish)
    low, high = search_range(likelihood, poi)
    exact = IntervalBatch(
        best,
        None if found.lower is None else exact_end(finder, best, found.lower, -1.0, low),
        None if found.upper is None else exact_end(finder, best, found.upper, 1.0, high),
        found.refits,
    )
    if any(end is not None and bool(end.better.any()) for end in (exact.lower, exact.upper)):
        exact = interval_batch(likelihood, poi, value, kind, None, fixed, best, options)
    origin = "asymptotic" if critical is None else critical_values
    return interval_record(likelihood, poi, confidence_level, kind, exact, origin, options.starts)


def exact_end(finder: CrossingFinder, best: FitBatch, rough: Crossings, sign: float, bound: float) -> Crossings:
    """Return the end of an interval with the exact densities, given nearly the right place.

    Parameters
    ----------
    finder
        The search with the exact likelihood.
    best
        The exact free fit (one row).
    rough
        What the search on the expansion found (one row).
    sign, bound
        Direction of the search and where it ends.

    Notes
    -----
    Where the expansion found no crossing, or the exact densities move it far or to where the search ends, the search is
    made anew.
    """
    again = torch.tensor([sign], dtype=torch.float64), torch.tensor([bound], dtype=torch.float64)
    if int(rough.status[0]) != int(CrossingStatus.FOUND):
        return finder.find(best, *again)
    column = finder.column
    index, mu, start = torch.zeros(1, dtype=torch.long), rough.value, rough.conditional.values
    result = CrossingCollector(best, best.values[:, column])
    for _ in range(MOVES):
        fits = fit_batch(finder.likelihood, {**finder.fixed, finder.poi: mu}, None, start, finder.options)
        t = 2 * (best.log_likelihood - fits.log_likelihood)
        c = finder.critical(mu) if callable(finder.critical) else torch.full_like(mu, finder.critical)
        tangent = profile_tangent(fits, column)
        move = (t - c) / (2 * tangent.slope)
        move = move - tangent.curvature * move.square() / (2 * tangent.slope)
        distance = (mu - best.values[:, column]).abs()
        near = float(move.abs()) <= LARGEST_CORRECTION * float(distance) and sign * float(mu + move - bound) < 0
        if not (bool(fits.success) and near):
            break
        result.write(index, mu, t, c, fits)
        if float(move.abs()) <= LAST_CORRECTION * float(distance):
            c = finder.critical(mu + move) if callable(finder.critical) else c
            result.finish(index, move, tangent.direction, best.log_likelihood, c)
            return result.crossings()
        mu, start = mu + move, fits.values + move.unsqueeze(-1) * tangent.direction
    return finder.find(best, *again)
