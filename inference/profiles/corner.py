"""The profile likelihood of several parameters: of each by itself, and of every pair on a grid."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.fits.fit import covariances, fit_result
from inference.likelihood.extended import Likelihood
from inference.profiles.profile import profile_curve, profile_errors
from inference.record import Provenance, Record, number, provenance
from inference.results import FitResult, ProfileCurve, ProfileError
from surrogate.errors import ConfigError, RangeError

logger = logging.getLogger(__name__)

#: How far grids reach: where t of the parameter alone has risen by the square of this.
REACH = 3.0
#: How often all planes are made again because a conditional fit exceeded the free one.
REPEATS = 3


@dataclass(frozen=True)
class ProfilePlane(Record):
    """The profile likelihood ratio of two parameters on a grid.

    Attributes
    ----------
    x, y
        Their names.
    x_grid, y_grid
        Values of each.
    t
        2 [ln L(best) - ln L(conditional best)], one row for each value of x; None where the fit failed.
    """

    x: str
    y: str
    x_grid: tuple[float, ...]
    y_grid: tuple[float, ...]
    t: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Corner(Record):
    """Profile likelihoods of several parameters and of their pairs.

    Attributes
    ----------
    curves
        One per parameter.
    planes
        One per pair, in the order of the parameters.
    best_fit
        The unconditional fit.
    provenance
        What made the result.
    """

    curves: tuple[ProfileCurve, ...]
    planes: tuple[ProfilePlane, ...]
    best_fit: FitResult
    provenance: Provenance


def corner(
    likelihood: Likelihood,
    parameters: Sequence[str],
    points: int = 21,
    fixed: Mapping[str, float] | None = None,
    options: FitOptions | None = None,
) -> Corner:
    """Profile every pair of some parameters over the range that the data allow, all grid points in one batch a pair.

    Parameters
    ----------
    likelihood
        The model with one data set.
    parameters
        Names of two or more fittable parameters.
    points
        Grid points along each axis, at least 3.
    fixed
        Other parameters that are held.
    options
        How fits are made.

    Raises
    ------
    ConfigError
        If a parameter is unknown, held, given twice, or not fittable, or there are less than two.
    RangeError
        If there are less than 3 points, or more than one data set.
    """
    names, held = tuple(parameters), dict(fixed or {})
    if len(names) < 2 or len(set(names)) < len(names) or any(n in held for n in names):
        raise ConfigError(f"corner: two or more different parameters that are not held are needed, got {names}")
    if points < 3 or likelihood.n_datasets != 1:
        raise RangeError(f"corner: needs 3 points or more and one data set, got {points}, {likelihood.n_datasets}")
    best, pairs = fit_batch(likelihood, held, options=options), list(itertools.combinations(names, 2))
    for _ in range(REPEATS):
        grids = _grids(likelihood, names, best, points, options)
        fits = {}
        for k, pair in enumerate(pairs):
            logger.info("profiles of pairs: %s and %s, %d of %d", *pair, k + 1, len(pairs))
            fits[pair] = _plane(likelihood, pair, grids, held, best, options)
        higher = max(fits.values(), key=lambda f: float(f.log_likelihood.max()))
        at = int(higher.log_likelihood.argmax())
        if float(higher.log_likelihood[at]) <= float(best.log_likelihood) + 1e-9:
            break
        best = fit_batch(likelihood, held, start=higher.values[at : at + 1], options=options)
    result = fit_result(likelihood, best)
    curves = tuple(profile_curve(likelihood, n, grids[n].tolist(), held, options, (result,)) for n in names)
    planes = tuple(_record(pair, grids, best, f) for pair, f in fits.items())
    return Corner(curves, planes, result, provenance(likelihood.model_hash))


def _grids(
    likelihood: Likelihood, names: Sequence[str], best: FitBatch, points: int, options: FitOptions | None
) -> dict[str, Tensor]:
    """Return the values of each parameter: between the points where t has risen by :data:`REACH` squared."""
    errors = profile_errors(likelihood, names, REACH, best, options)
    return {e.parameter: torch.linspace(*_ends(likelihood, e), points, dtype=torch.float64) for e in errors}


def _ends(likelihood: Likelihood, error: ProfileError) -> tuple[float, float]:
    """Return where a grid ends; at the bounds where t does not rise that far, which open bounds have to replace."""
    column = likelihood.parameters.index(error.parameter)
    low, high = float(likelihood.lower[column]), float(likelihood.upper[column])
    reach = max(abs(m) for m in (error.down, error.up, 0.0) if m is not None) or max(abs(error.value), 1.0)
    down = error.value + error.down if error.down is not None else low if math.isfinite(low) else error.value - reach
    up = error.value + error.up if error.up is not None else high if math.isfinite(high) else error.value + reach
    return down, up


def _plane(
    likelihood: Likelihood,
    pair: tuple[str, str],
    grids: Mapping[str, Tensor],
    held: Mapping[str, float],
    best: FitBatch,
    options: FitOptions | None,
) -> FitBatch:
    """Fit at every grid point of a pair, from where the best fit's covariance puts the other parameters."""
    x, y = torch.meshgrid(grids[pair[0]], grids[pair[1]], indexing="ij")
    at = torch.stack([x.flatten(), y.flatten()], dim=-1)
    columns = [likelihood.parameters.index(name) for name in pair]
    covariance = covariances(best)[0][0]
    block = covariance[columns][:, columns]
    # A parameter on its bound has no variance: the others then start at the best fit.
    slopes = covariance[:, columns] @ torch.linalg.pinv(block, hermitian=True)
    start = best.values + (at - best.values[0, columns]) @ slopes.mT
    start = torch.minimum(torch.maximum(start, likelihood.lower), likelihood.upper)
    return fit_batch(likelihood, {**held, pair[0]: at[:, 0], pair[1]: at[:, 1]}, None, start, options)


def _record(pair: tuple[str, str], grids: Mapping[str, Tensor], best: FitBatch, fits: FitBatch) -> ProfilePlane:
    t = 2 * (best.log_likelihood - fits.log_likelihood)
    x, y = grids[pair[0]], grids[pair[1]]
    rows = torch.where(fits.success, t, torch.nan).reshape(len(x), len(y)).tolist()
    table = tuple(tuple(number(v) for v in row) for row in rows)
    return ProfilePlane(pair[0], pair[1], tuple(x.tolist()), tuple(y.tolist()), table)
