"""Maximum-likelihood fits, free and conditional, in batches of data sets and parameter points.

A conditional fit is a fit with some parameters held; every row may hold them at its own values. Bounds are those of the
model, cut to the ranges on which its sources are defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from inference.fits.fit_rows import FitBatch, FitOptions
from inference.fits.fitter import Fitter, along_kinked, better_rows, beyond_breakpoints, lifted, typical_sizes
from inference.likelihood.extended import Likelihood
from surrogate.errors import ConfigError, RangeError

__all__ = ["FitBatch", "FitOptions", "Fixed", "fit_batch"]

Fixed = Mapping[str, float | Tensor]


def _bounds(likelihood: Likelihood, fixed: Fixed, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bounds of every row (n, P), equal where a parameter is held, and which are held (n, P).

    Raises
    ------
    ConfigError
        If an unknown parameter is fixed, or values for another number of rows are given.
    RangeError
        If a parameter is fixed outside its bounds.
    """
    parameters = likelihood.parameters
    lower, upper = likelihood.lower.expand(n, -1).clone(), likelihood.upper.expand(n, -1).clone()
    held = torch.zeros_like(lower, dtype=torch.bool)
    for j, p in enumerate(parameters.parameters):
        if not p.fittable:
            lower[:, j] = upper[:, j] = p.nominal
            held[:, j] = True
    for name, given in fixed.items():
        j = parameters.index(name)
        if not isinstance(given, Real | Tensor):
            raise ConfigError(f"fixed: {name} = {given!r} must be a number")
        value = torch.as_tensor(given, dtype=torch.float64)
        if value.ndim > 1 or (value.ndim == 1 and len(value) != n):
            raise ConfigError(f"fixed: {name} has shape {tuple(value.shape)}, must be a number or {n} numbers")
        low, high = float(likelihood.lower[j]), float(likelihood.upper[j])
        if not bool(((value >= low) & (value <= high)).all()):
            worst = value.flatten()[~((value >= low) & (value <= high)).flatten()][0]
            raise RangeError(
                f"{name} cannot be fixed at {float(worst):.6g}: outside [{low:.6g}, {high:.6g}], its bounds and the "
                "range on which the sources are defined"
            )
        lower[:, j] = upper[:, j] = value
        held[:, j] = True
    return lower, upper, held


def _row_count(likelihood: Likelihood, fixed: Fixed, rows: Tensor | None, start: Tensor | None) -> int:
    if rows is not None:
        return len(rows)
    if start is not None and start.ndim == 2:
        return len(start)
    lengths = [len(v) for v in fixed.values() if isinstance(v, Tensor) and v.ndim == 1]
    return lengths[0] if lengths else likelihood.n_datasets


def fit_batch(
    likelihood: Likelihood,
    fixed: Fixed | None = None,
    rows: Tensor | None = None,
    start: Tensor | None = None,
    options: FitOptions | None = None,
) -> FitBatch:
    """Maximise ln L over the free parameters, for every row.

    Parameters
    ----------
    likelihood
        The model with its data.
    fixed
        Parameter -> value, or one value per row (B,).
    rows
        (B,) data set of each row; by default every data set once, or the only one for every value in ``fixed``.
    start
        Where to start, (P,) or (B, P); the parameters' start values by default.
    options
        How fits are made.

    Returns
    -------
    FitBatch
        One entry per row. A row that fails is tried again from other points; if that fails too, its status says so.

    Raises
    ------
    ConfigError
        If an unknown parameter is fixed or shapes do not fit.
    RangeError
        If a parameter is fixed outside its bounds or outside the range on which its sources are defined.
    """
    options, fixed = options or FitOptions(), fixed or {}
    n = _row_count(likelihood, fixed, rows, start)
    rows = likelihood.rows(n, rows)
    lower, upper, held = _bounds(likelihood, fixed, n)
    size = typical_sizes(likelihood.parameters).to(lower.device)
    default = likelihood.parameters.start().to(lower).expand(n, -1)
    fitter = Fitter(likelihood, rows, lower, upper, held, size, options.newton)
    # A start point that was given is taken as it is: it is usually the end of a neighbouring fit.
    given = default if start is None else start.to(lower).expand(n, -1)
    best = fitter.run(given if start is not None else lifted(given, lower, upper, size))
    noise = _further_starts(options.seed, max(options.starts - 1, options.retries), len(size)).to(lower)
    for k in range(options.starts - 1):
        point = lifted(default + options.spread * noise[k] * size, lower, upper, size)
        best = better_rows(best, fitter.run(point))
    for k in range(options.retries):
        failed = (~best.success).nonzero().flatten()
        if not len(failed):
            break
        shift = 0.0 if k == 0 else noise[k] * size
        point = lifted(default[failed] + shift, lower[failed], upper[failed], size)
        best = best.put(failed, better_rows(best.take(failed), fitter.take(failed).run(point)))
    if likelihood.breakpoints:
        best = beyond_breakpoints(fitter, along_kinked(fitter, best) if start is None else best)
    return best


def _further_starts(seed: int, n: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)
