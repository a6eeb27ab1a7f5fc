"""Toy Neyman construction: critical values c(mu) from toys, and the interval on the data that they give.

At each grid point mu_g toys are made with the nuisances at their conditional best fit to the data (the profile
construction of arXiv:2105.00599, section 2.2), or at values given, and each is fitted twice: free and with mu = mu_g.
The CL-quantile of the statistic is the critical value c(mu_g), and the interval on the data is where t(mu) <= c(mu).
With t_mu_tilde the ordering is that of Feldman and Cousins (arXiv:physics/9711021): the interval is unified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inference.fits.batch_fit import fit_batch
from inference.intervals.asymptotics import IntervalKind
from inference.intervals.confidence import statistic_of
from inference.intervals.quick_results import around_maximum, set_interval
from inference.likelihood.extended import Likelihood
from inference.record import Record
from inference.results import Interval, IntervalEnd
from inference.studies.counting import check_level, quantile
from inference.studies.critical_values import FLOOR, CriticalCurve, Smoothing, critical_curve
from inference.studies.toy_pairs import ToyPairs
from surrogate.errors import ConfigError, DataError

#: The curve of critical values is recorded at this many steps between grid points.
STEPS = 8
#: An error of an end above this part of its distance from the best fit is remarked on.
LARGE_ERROR = 0.1


def profiled_points(
    likelihood: Likelihood, poi: str, grid: Sequence[float], nuisances: Mapping[str, float] | None = None
) -> Tensor:
    """Return the true parameters (G, P) of the toys at each grid point.

    Parameters
    ----------
    likelihood
        The model with the data.
    poi
        The parameter of interest.
    grid
        Its values.
    nuisances
        Values of other parameters; nominal ones where not given. If None, all are at their conditional best fit.

    Raises
    ------
    ConfigError
        If the grid does not increase, or the parameter of interest is among the nuisances.
    DataError
        If a conditional fit to the data fails.
    """
    parameters = likelihood.parameters
    values = torch.tensor(list(grid), dtype=torch.float64)
    if len(values) < 1 or not bool((values.diff() > 0).all()):
        raise ConfigError(f"grid of {poi}: increasing values are needed, got {list(grid)}")
    if nuisances is not None:
        if poi in nuisances:
            raise ConfigError(f"'{poi}' is the parameter of interest; its values are the grid")
        return torch.stack([parameters.vector({**nuisances, poi: mu}) for mu in values.tolist()])
    best = fit_batch(likelihood, {poi: values})
    if not bool(best.success.all()):
        failed = [f"{mu:.4g}" for mu, ok in zip(values.tolist(), best.success.tolist(), strict=True) if not ok]
        raise DataError(
            f"the conditional fit to the data failed at {poi} = {', '.join(failed)}; give the nuisances at which toys "
            "are to be made, or another grid"
        )
    return best.values


def suggested_grid(low: float, high: float, n_points: int, margin: float = 0.25) -> list[float]:
    """Return equally spaced grid points that enclose where a limit may lie.

    Parameters
    ----------
    low
        Lower end of the search: the bound of the parameter, or below the asymptotic lower limit.
    high
        The asymptotic upper limit.
    n_points
        At least 2.
    margin
        How far beyond ``high`` the grid goes, as a fraction of high - low.

    Raises
    ------
    ConfigError
        If the range is empty or there are less than two points.
    """
    check_level("margin", margin)
    if not low < high or n_points < 2:
        raise ConfigError(f"grid: needs low < high and at least 2 points, got [{low}, {high}] and {n_points}")
    return np.linspace(low, high + margin * (high - low), n_points).tolist()


def critical_values(
    pairs: ToyPairs, cl: float = 0.9, statistic: str = "t_mu_tilde", smoothing: Smoothing = "spline"
) -> CriticalCurve:
    """Return c(mu) at confidence level ``cl`` from the toys of a construction.

    Toys without valid fits count as +inf, which can only raise c.

    Raises
    ------
    ConfigError
        If toys were not tested where they were made, or the level, the statistic or the smoothing is none.
    """
    if not np.allclose(pairs.truth, pairs.tested, rtol=1e-12, atol=0):
        raise ConfigError(f"critical values of {pairs.poi}: toys must be tested at the value at which they were made")
    samples = pairs.statistics(statistic)
    quantiles = [quantile(t, cl) for t in samples]
    failed = [int(np.isnan(t).sum()) for t in samples]
    return critical_curve(pairs.poi, statistic, cl, pairs.tested.tolist(), quantiles, failed, smoothing)


@dataclass(frozen=True)
class NeymanInterval(Record):
    """An interval with critical values from toys.

    Attributes
    ----------
    interval
        The interval; what its ends say of the critical value is the smooth curve.
    lower_error, upper_error
        Standard errors of the ends from the number of toys; None where there is no end.
    within_grid
        Whether every end lies where toys were made. Where it does not, c was continued and the grid should be widened.
    grid, critical, critical_low, critical_high
        The grid and the quantiles of the statistic on it, with their one-sigma intervals.
    fine, smooth, smooth_error
        The curve c(mu), as the interval uses it, with its standard error, at the grid points and some between them.
    n_toys, n_failed
        Toys per grid point, and how many of them have no valid fits.
    n_refits
        How many fits to toys were repeated.
    seed
        Of the toys.
    n_expanded
        Toys on densities that are expanded in the nuisances, but for where they matter; the others are exact.
    expansion_error
        Largest change of -2 ln Lambda by exact densities everywhere, over the toys that got them; None if none.
    """

    interval: Interval
    lower_error: float | None
    upper_error: float | None
    within_grid: bool
    grid: tuple[float, ...]
    critical: tuple[float, ...]
    critical_low: tuple[float, ...]
    critical_high: tuple[float, ...]
    fine: tuple[float, ...]
    smooth: tuple[float, ...]
    smooth_error: tuple[float, ...]
    n_toys: tuple[int, ...]
    n_failed: tuple[int, ...]
    n_refits: int
    seed: int
    n_expanded: int = 0
    expansion_error: float | None = None

    @property
    def success(self) -> bool:
        """Whether the interval is found, and lies where toys were made."""
        return self.interval.success and self.within_grid


def neyman_interval(
    likelihood: Likelihood,
    pairs: ToyPairs,
    cl: float = 0.9,
    kind: IntervalKind = "central",
    smoothing: Smoothing = "spline",
) -> NeymanInterval:
    """Return the interval on the data with the critical values of a construction.

    Parameters
    ----------
    likelihood
        The model with one data set.
    pairs
        The toys, of the same model.
    cl
        Confidence level.
    kind
        ``central`` (both ends, unified), ``upper`` or ``lower``.
    smoothing
        How c(mu) is made of its values on the grid.

    Raises
    ------
    DataError
        If the toys are of another model.
    """
    if pairs.model_hash != likelihood.model_hash:
        raise DataError("the toys were made with another model than the one of the data; make them again")
    statistic = statistic_of(likelihood.parameters, likelihood.runs, pairs.poi, kind)
    curve = critical_values(pairs, cl, statistic, smoothing)
    around = around_maximum(likelihood)
    found, above, below = (
        set_interval(likelihood, pairs.poi, cl, kind, shifted(curve, k), around, critical_values="toys")
        for k in (0.0, 1.0, -1.0)
    )
    errors = _half_distance(below.lower, above.lower), _half_distance(below.upper, above.upper)
    fine = np.interp(np.arange(STEPS * (len(curve.mu) - 1) + 1) / STEPS, np.arange(len(curve.mu)), curve.mu)
    return NeymanInterval(
        interval=replace(found, remarks=(*found.remarks, *error_remarks(found, *errors))),
        lower_error=errors[0],
        upper_error=errors[1],
        within_grid=all(e.value is None or curve.covers(e.value) for e in (found.lower, found.upper)),
        grid=curve.mu,
        critical=curve.value,
        critical_low=curve.low,
        critical_high=curve.high,
        fine=tuple(fine.tolist()),
        smooth=tuple(curve(torch.from_numpy(fine)).tolist()),
        smooth_error=tuple(curve.error(mu) for mu in fine.tolist()),
        n_toys=curve.n_toys,
        n_failed=curve.n_failed,
        n_refits=pairs.n_refits,
        seed=pairs.seed,
        n_expanded=pairs.n_expanded,
        expansion_error=pairs.expansion_error,
    )


def error_remarks(found: Interval, lower_error: float | None, upper_error: float | None) -> tuple[str, ...]:
    """Return a remark on every end that toys determine poorly."""
    best, remarks = found.best_fit.values[found.parameter], []
    for side, end, error in (("lower", found.lower, lower_error), ("upper", found.upper, upper_error)):
        if end.value is not None and error is not None and error > LARGE_ERROR * abs(end.value - best):
            remarks.append(
                f"the {side} limit {end.value:.4g} is known to +- {error:.2g} only; make more toys. If that does not "
                "help, t of the data and its critical values run side by side, as where many toys are as empty as the "
                "data: compare with the asymptotic limit and with CLs"
            )
    return tuple(remarks)


def shifted(curve: CriticalCurve, sigmas: float) -> Callable[[Tensor], Tensor]:
    """Return c(mu) moved by a number of its standard errors, always positive."""

    def moved(mu: Tensor) -> Tensor:
        error = torch.tensor([curve.error(m) for m in mu.flatten().tolist()], dtype=torch.float64).to(mu)
        return (curve(mu) + sigmas * error.reshape(mu.shape)).clamp_min(FLOOR)

    return moved if sigmas else curve


def _half_distance(first: IntervalEnd, second: IntervalEnd) -> float | None:
    if first.value is None or second.value is None:
        return None
    return abs(second.value - first.value) / 2
