"""The profile likelihood ratio of one parameter: on a grid, and where it has risen by n^2 (profile errors)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.fits.fit import fit_result
from inference.likelihood.extended import Likelihood
from inference.minimize import FitStatus
from inference.profiles.crossing import CrossingFinder
from inference.profiles.crossing_records import CrossingStatus
from inference.record import number, provenance
from inference.results import FitResult, ProfileCurve, ProfileError
from surrogate.errors import ConfigError, RangeError

logger = logging.getLogger(__name__)


def profile_batch(
    likelihood: Likelihood,
    poi: str,
    grid: Tensor,
    fixed: Mapping[str, float] | None = None,
    best: FitBatch | None = None,
    options: FitOptions | None = None,
    start: Tensor | None = None,
) -> tuple[FitBatch, FitBatch]:
    """Fit every data set freely and at every grid point.

    Parameters
    ----------
    likelihood
        The model with T data sets.
    poi
        The parameter.
    grid
        Its values (G,).
    fixed
        Other parameters that are held.
    best
        Free fits made before, one per data set.
    options
        How fits are made.
    start
        Where conditional fits start (T x G, P); at the free fit if None.

    Returns
    -------
    tuple of FitBatch
        The free fits (T rows) and the conditional ones (T x G rows, data set by data set). A free fit below one of its
        conditional fits is repeated from there.
    """
    held = dict(fixed or {})
    n, g = likelihood.n_datasets, len(grid)
    best = best if best is not None else fit_batch(likelihood, held, None, None, options)
    rows = torch.arange(n, device=best.rows.device).repeat_interleave(g)
    at: dict[str, float | Tensor] = {**held, poi: grid.to(best.values).repeat(n)}
    conditional = fit_batch(likelihood, at, rows, best.values[rows] if start is None else start, options)
    highest, where = conditional.log_likelihood.reshape(n, g).max(dim=-1)
    low = (highest > best.log_likelihood).nonzero().flatten()
    if len(low):
        start = conditional.values[low * g + where[low]]
        best = best.put(low, fit_batch(likelihood, held, low, start, options))
    return best, conditional


def profile_curve(
    likelihood: Likelihood,
    poi: str,
    grid: Sequence[float],
    fixed: Mapping[str, float] | None = None,
    options: FitOptions | None = None,
    near: Sequence[FitResult] = (),
) -> ProfileCurve:
    """Return t(mu) of one data set on a grid; for plots, and for curves that are not monotonic.

    Parameters
    ----------
    likelihood
        The model with one data set.
    poi
        The parameter.
    grid
        Its values.
    fixed
        Other parameters that are held.
    options
        How fits are made.
    near
        Fits of the same data at some values of the parameter: the best fit, the ends of an interval. Fits start on the
        straight lines between them.

    Notes
    -----
    By the envelope theorem dt/dmu = -2 d ln L/dmu at the conditional fit, so that slopes cost nothing.

    Raises
    ------
    ConfigError
        If the grid is empty or the parameter unknown.
    RangeError
        If a grid point is outside the parameter's bounds, or there is more than one data set.
    """
    if likelihood.n_datasets != 1:
        raise RangeError(f"profile_curve takes one data set, got {likelihood.n_datasets}; use profile_batch")
    if not len(grid):
        raise ConfigError("grid: at least one value is needed")
    points = torch.tensor(list(grid), dtype=torch.float64)
    best, start = None, None
    if near:
        highest = max(near, key=lambda f: -np.inf if f.log_likelihood is None else f.log_likelihood)
        best = fit_batch(likelihood, fixed, None, likelihood.parameters.vector(highest.values), options)
        start = _between(likelihood, poi, points, near)
    return _curve(likelihood, poi, points, *profile_batch(likelihood, poi, points, fixed, best, options, start))


def _curve(likelihood: Likelihood, poi: str, grid: Tensor, best: FitBatch, conditional: FitBatch) -> ProfileCurve:
    """Return the record of the free and the conditional fits of one data set."""
    t = 2 * (best.log_likelihood - conditional.log_likelihood)
    slope = -2 * conditional.gradient[:, likelihood.parameters.index(poi)]
    known = torch.isfinite(t) & (not likelihood.breakpoints)
    return ProfileCurve(
        parameter=poi,
        grid=tuple(grid.tolist()),
        t=tuple(number(v) for v in t.tolist()),
        slope=tuple(number(v) for v in torch.where(known, slope, torch.nan).tolist()),
        status=tuple(FitStatus(s).label for s in conditional.status.tolist()),
        best_fit=fit_result(likelihood, best),
        values={name: tuple(conditional.values[:, j].tolist()) for j, name in enumerate(likelihood.parameters.names)},
        provenance=provenance(likelihood.model_hash),
    )


def _between(likelihood: Likelihood, poi: str, grid: Tensor, near: Sequence[FitResult]) -> Tensor:
    """Return parameters (G, P) on the straight lines between fits, and those of the outermost fits beyond."""
    known = {f.values[poi]: f.values for f in near}
    at = sorted(known)
    columns = [np.interp(grid.numpy(), at, [known[m][name] for m in at]) for name in likelihood.parameters.names]
    return torch.from_numpy(np.stack(columns, axis=-1))


def profile_errors(
    likelihood: Likelihood,
    parameters: Sequence[str] | None = None,
    sigmas: float = 1.0,
    best: FitBatch | None = None,
    options: FitOptions | None = None,
    fixed: Mapping[str, float] | None = None,
) -> tuple[ProfileError, ...]:
    """Return how far each parameter may move in either direction before t rises by sigmas^2, the others following.

    Parameters
    ----------
    likelihood
        The model with one data set.
    parameters
        Names; all that are free by default.
    sigmas
        Number of standard deviations, > 0.
    best
        The free fit, if made before.
    options
        How fits are made.
    fixed
        Parameters that are held.

    Raises
    ------
    ConfigError
        If a parameter is unknown, not fittable or held.
    RangeError
        If ``sigmas`` is not positive, or there is more than one data set.
    """
    if not sigmas > 0 or likelihood.n_datasets != 1:
        raise RangeError(f"profile errors need sigmas > 0 and one data set, got {sigmas} and {likelihood.n_datasets}")
    held = dict(fixed or {})
    best = best if best is not None else fit_batch(likelihood, held, options=options)
    free = [name for name in likelihood.parameters.free() if name not in held]
    names = free if parameters is None else parameters
    found = []
    for k, name in enumerate(names):
        logger.info("profile errors: %s, %d of %d parameters", name, k + 1, len(names))
        found.append(_profile_error(likelihood, name, sigmas, best, held, options))
    return tuple(found)


def _profile_error(
    likelihood: Likelihood,
    name: str,
    sigmas: float,
    best: FitBatch,
    fixed: Mapping[str, float],
    options: FitOptions | None,
) -> ProfileError:
    column = likelihood.parameters.index(name)
    if not likelihood.parameters[name].fittable or name in fixed:
        raise ConfigError(f"parameter '{name}' is not fittable or held and has no profile error")
    sign = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    bound = torch.stack([likelihood.lower[column], likelihood.upper[column]])
    finder = CrossingFinder(likelihood, name, sigmas**2, fixed, options)
    found = finder.find(best.take(torch.zeros(2, dtype=torch.long)), sign, bound)
    value = float(best.values[0, column])
    status = [CrossingStatus(s) for s in found.status.tolist()]
    ends = zip(found.value.tolist(), status, strict=True)
    down, up = (v - value if s == CrossingStatus.FOUND else None for v, s in ends)
    return ProfileError(name, value, sigmas, down, up, status[0].label, status[1].label)
