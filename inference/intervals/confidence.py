"""Confidence intervals on one parameter from the profile likelihood ratio.

The interval holds the values mu whose test statistic stays below its critical value. The best fit is bounded as the
parameter is; with mu >= 0 the two-sided statistic t_mu is then t_mu_tilde of arXiv:1007.1727, Eq. 11. Where mu may be
negative the statistics are those without a tilde, and are called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.fits.fit import fit_result
from inference.intervals.asymptotics import TWO_SIDED, IntervalKind, check_kind, check_level, critical_value
from inference.intervals.statistics import Statistic
from inference.likelihood.extended import Likelihood, surrogate_bounds
from inference.parameters import ParameterSet
from inference.physical import physical_interval
from inference.profiles.crossing import Critical, CrossingFinder, Crossings, CrossingStatus
from inference.record import number, provenance
from inference.results import Interval, IntervalEnd
from inference.science_run import ScienceRun
from surrogate.errors import ConfigError, RangeError

#: How often a free fit is repeated from a better point that a conditional fit found.
REFITS = 3

#: Kind of interval -> its statistic for a parameter that is not negative, and for one that may be.
STATISTIC: dict[str, tuple[Statistic, Statistic]] = {
    "central": ("t_mu_tilde", "t_mu"),
    "unified": ("t_mu_tilde", "t_mu"),
    "upper": ("q_mu_tilde", "q_mu"),
    "lower": ("l_mu", "l_mu"),
}


@dataclass(frozen=True, eq=False)
class IntervalBatch:
    """Intervals for the rows of a batch.

    Attributes
    ----------
    best
        The free fits (B rows).
    lower, upper
        The searches for each end; None where it was not asked for.
    refits
        (B,) how often a conditional fit found a better maximum than the free fit, which was then repeated from there.
    """

    best: FitBatch
    lower: Crossings | None
    upper: Crossings | None
    refits: Tensor


def statistic_of(parameters: ParameterSet, runs: Sequence[ScienceRun], poi: str, kind: IntervalKind) -> Statistic:
    """Return the statistic of a kind of interval: of the best fit within the bounds of the parameter of interest."""
    lower, _ = surrogate_bounds(parameters, runs)
    return STATISTIC[kind][int(lower[parameters.index(poi)] < 0)]


def search_range(likelihood: Likelihood, poi: str) -> tuple[float, float]:
    """Return where limits on a parameter are searched: its interval bounds within the bounds of fits."""
    p, column = likelihood.parameters[poi], likelihood.parameters.index(poi)
    low, high = float(likelihood.lower[column]), float(likelihood.upper[column])
    if p.interval_bounds is not None:
        low, high = max(low, p.interval_bounds[0]), min(high, p.interval_bounds[1])
    return low, high


def interval_batch(
    likelihood: Likelihood,
    poi: str,
    critical: Critical,
    kind: IntervalKind = "central",
    rows: Tensor | None = None,
    fixed: Mapping[str, float] | None = None,
    best: FitBatch | None = None,
    options: FitOptions | None = None,
) -> IntervalBatch:
    """Find the ends of confidence intervals for many data sets at once.

    Parameters
    ----------
    likelihood
        The model with its data sets.
    poi
        The parameter of interest.
    critical
        Critical value of the statistic, or a function from mu (A,) to critical values (A,).
    kind
        ``central`` and ``unified`` give both ends, ``upper`` and ``lower`` one.
    rows
        (B,) data set of each row; every data set once by default.
    fixed
        Parameters held in all fits.
    best
        Free fits made before, one per row.
    options
        How fits are made.

    Raises
    ------
    ConfigError
        If the parameter is unknown, not fittable or fixed, or the kind is unknown.
    """
    check_kind(kind)
    held = dict(fixed or {})
    if not likelihood.parameters[poi].fittable or poi in held:
        raise ConfigError(f"an interval on '{poi}' needs it to be fittable and not fixed")
    finder = CrossingFinder(likelihood, poi, critical, held, options)
    best = best if best is not None else fit_batch(likelihood, held, rows, None, options)
    sides = [s for s in (-1, 1) if kind in TWO_SIDED or (kind == "upper") == (s > 0)]
    n, low_high = len(best), torch.tensor(search_range(likelihood, poi)).to(best.values)
    sign = torch.tensor(sides).repeat_interleave(n).to(best.values)
    bound = torch.where(sign > 0, low_high[1], low_high[0])
    ends = finder.find(best.take(torch.arange(n).repeat(len(sides))), sign, bound)
    refits = torch.zeros_like(best.status)
    for _ in range(REFITS):
        worse = ends.better.reshape(-1, n).any(dim=0).nonzero().flatten()
        if not len(worse):
            break
        refits[worse] += 1
        index = torch.cat([worse + k * n for k in range(len(sides))])
        best = best.put(worse, _refit(finder, best.take(worse), ends.take(index)))
        again = finder.find(best.take(worse.repeat(len(sides))), sign[index], bound[index], ends.take(index))
        ends = _merged(ends, again, index)
    by_side = {side: ends.take(torch.arange(k * n, (k + 1) * n)) for k, side in enumerate(sides)}
    return IntervalBatch(best, by_side.get(-1), by_side.get(1), refits)


def _refit(finder: CrossingFinder, best: FitBatch, ends: Crossings) -> FitBatch:
    """Repeat free fits (W rows) from the highest conditional fit at any of their ends (sides x W rows)."""
    n = len(best)
    highest = ends.conditional.log_likelihood.reshape(-1, n).argmax(dim=0)
    start = ends.conditional.values[highest * n + torch.arange(n, device=highest.device)]
    return fit_batch(finder.likelihood, finder.fixed, best.rows, start, finder.options)


def _merged(old: Crossings, new: Crossings, index: Tensor) -> Crossings:
    """Return searches with some replaced; conditional fits add up."""
    merged = old.put(index, new)
    merged.fits[index] += old.fits[index]
    return merged


def confidence_interval(
    likelihood: Likelihood,
    poi: str,
    confidence_level: float = 0.9,
    kind: IntervalKind = "central",
    critical: Critical | None = None,
    fixed: Mapping[str, float] | None = None,
    best: FitBatch | None = None,
    options: FitOptions | None = None,
    critical_values: str = "given",
) -> Interval:
    """Return a confidence interval for one data set.

    Parameters
    ----------
    likelihood
        The model with one data set.
    poi
        The parameter of interest.
    confidence_level
        Between 0 and 1.
    kind
        ``central``, ``unified`` (the same), ``upper`` or ``lower``.
    critical
        Critical value of the statistic, a number or a function of mu; asymptotic if None.
    fixed
        Parameters held in all fits.
    best
        The free fit, if made before.
    options
        How fits are made.
    critical_values
        What to call critical values that are given.

    Raises
    ------
    ConfigError
        If the parameter is unknown, not fittable or fixed, or the kind is unknown.
    RangeError
        If the level is not between 0 and 1, or there is more than one data set.
    """
    check_level(confidence_level)
    if likelihood.n_datasets != 1:
        raise RangeError(f"confidence_interval takes one data set, got {likelihood.n_datasets}; use interval_batch")
    value = critical_value(confidence_level, kind) if critical is None else critical
    batch = interval_batch(likelihood, poi, value, kind, None, fixed, best, options)
    origin = "asymptotic" if critical is None else critical_values
    return interval_record(likelihood, poi, confidence_level, kind, batch, origin, (options or FitOptions()).starts)


def interval_record(
    likelihood: Likelihood,
    poi: str,
    confidence_level: float,
    kind: IntervalKind,
    batch: IntervalBatch,
    critical_values: str,
    starts: int = 1,
) -> Interval:
    """Return the record of the one interval of a batch; see :func:`confidence_interval`."""
    low, high = search_range(likelihood, poi)
    best_fit = fit_result(likelihood, batch.best, 0, starts)
    lower, upper = _end(likelihood, batch.lower, low, high), _end(likelihood, batch.upper, high, low)
    named = (("best fit", best_fit), ("lower limit", lower.fit), ("upper limit", upper.fit))
    remarks = [f"{where}: {r}" for where, fit in named if fit is not None for r in fit.remarks]
    if "outside_range" in (lower.status, upper.status):
        remarks.append(
            f"best fit {poi} = {best_fit.values[poi]:.6g}, limits were searched in [{low:.6g}, {high:.6g}] alone; "
            "the interval reaches beyond; widen parameter_interval_bounds"
        )
    return Interval(
        parameter=poi,
        confidence_level=confidence_level,
        kind=kind,
        statistic=statistic_of(likelihood.parameters, likelihood.runs, poi, kind),
        critical_values=critical_values,
        lower=lower,
        upper=upper,
        best_fit=best_fit,
        refits=int(batch.refits[0]),
        provenance=provenance(likelihood.model_hash),
        remarks=tuple(remarks),
        physical=physical_interval(likelihood.parameters[poi], lower.value, upper.value),
    )


def _end(likelihood: Likelihood, crossings: Crossings | None, bound: float, opposite: float) -> IntervalEnd:
    """Return the record of an end that was searched up to a bound; beyond the opposite one there is no end."""
    if crossings is None:
        return IntervalEnd(None, CrossingStatus.NOT_REQUESTED.label, number(bound), None, None, 0, None)
    status, value = CrossingStatus(int(crossings.status[0])), float(crossings.value[0])
    if status == CrossingStatus.FOUND and not min(bound, opposite) <= value <= max(bound, opposite):
        status = CrossingStatus.OUTSIDE_RANGE
    found = status == CrossingStatus.FOUND
    return IntervalEnd(
        value=value if found else None,
        status=status.label,
        bound=number(bound),
        t=number(float(crossings.t[0])),
        critical=number(float(crossings.critical[0])),
        fits=int(crossings.fits[0]),
        fit=fit_result(likelihood, crossings.conditional, 0) if found else None,
    )
