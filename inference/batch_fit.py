"""Maximum-likelihood fits, free and conditional, in batches of data sets and parameter points.

A conditional fit is a fit with some parameters held; every row may hold them at its own values. Bounds are those of the
model, cut to the ranges on which its sources are defined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inference.likelihood import Likelihood
from inference.minimize import FitStatus, Minimum, NewtonOptions, minimise
from inference.parameters import ParameterSet
from inference.rows import put_rows, take_rows
from surrogate.errors import ConfigError, RangeError

#: How far inside its bound a start value is put, in typical sizes: ln L may have no finite slope on the bound.
LIFT = 0.1
#: Starts whose maxima differ by more than this in ln L disagree.
DISAGREEMENT = 1e-6
#: Start points that a row which fails is tried from, one after the other.
RETRIES = 4

Fixed = Mapping[str, float | Tensor]


@dataclass(frozen=True)
class FitOptions:
    """How fits are made.

    Parameters
    ----------
    newton
        When rows stop.
    starts
        Number of start points of every row; the best maximum wins.
    spread
        Standard deviation of the further start points, in typical sizes of the parameters.
    seed
        Of the further start points, which are the same for every row.
    """

    newton: NewtonOptions = field(default_factory=NewtonOptions)
    starts: int = 1
    spread: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FitBatch:
    """Maxima of ln L, one per row.

    Attributes
    ----------
    values
        (B, P).
    log_likelihood
        (B,); -inf where the likelihood vanishes wherever the row was started.
    gradient, hessian
        Of ln L, (B, P) and (B, P, P), over all parameters, those held included.
    status
        (B,) codes of :class:`inference.minimize.FitStatus`.
    evaluations
        (B,) evaluations of ln L with derivatives.
    held, at_bound, at_kink
        (B, P): parameters that were held; that ended on a bound; on a breakpoint of a source.
    disagreeing
        (B,) how many of the start points ended, converged, at a lower maximum.
    rows
        (B,) data set of each row.
    """

    values: Tensor
    log_likelihood: Tensor
    gradient: Tensor
    hessian: Tensor
    status: Tensor
    evaluations: Tensor
    held: Tensor
    at_bound: Tensor
    at_kink: Tensor
    disagreeing: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def success(self) -> Tensor:
        """Whether each row is at a maximum (B,)."""
        return (self.status == int(FitStatus.CONVERGED)) | (self.status == int(FitStatus.AT_BOUND))

    @property
    def smooth(self) -> Tensor:
        """Parameters (B, P) in which ln L is stationary: neither held, nor on a bound or a kink."""
        return ~(self.held | self.at_bound | self.at_kink)

    def take(self, index: Tensor) -> FitBatch:
        """Return some of the rows."""
        return take_rows(self, index)

    def put(self, index: Tensor, other: FitBatch) -> FitBatch:
        """Return the batch with some rows replaced."""
        return put_rows(self, index, other)


def typical_sizes(parameters: ParameterSet) -> Tensor:
    """Return a size (P,) for each parameter: the smaller of constraint width and value, else part of its range."""
    widths = parameters.constraint_widths().tolist()
    sizes = []
    for p, width in zip(parameters.parameters, widths, strict=True):
        span = p.high - p.low
        known = [v for v in (width, abs(p.nominal), abs(p.start)) if 0 < v < math.inf]
        sizes.append(min(known) if known else 0.1 * span if math.isfinite(span) else 1.0)
    return torch.tensor(sizes, dtype=torch.float64)


def _lifted(start: Tensor, lower: Tensor, upper: Tensor, size: Tensor) -> Tensor:
    """Return start points (B, P) moved off the bounds."""
    margin = LIFT * torch.minimum(size.expand_as(start), upper - lower)
    return torch.minimum(torch.maximum(start, lower + margin), upper - margin)


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
    fitter = _Fitter(likelihood, rows, lower, upper, held, size, options.newton)
    # A start point that was given is taken as it is: it is usually the end of a neighbouring fit.
    given = default if start is None else start.to(lower).expand(n, -1)
    best = fitter.run(given if start is not None else _lifted(given, lower, upper, size))
    noise = _further_starts(options.seed, max(options.starts - 1, RETRIES), len(size)).to(lower)
    for k in range(options.starts - 1):
        point = _lifted(default + options.spread * noise[k] * size, lower, upper, size)
        best = _better(best, fitter.run(point))
    for k in range(RETRIES):
        failed = (~best.success).nonzero().flatten()
        if not len(failed):
            break
        shift = 0.0 if k == 0 else noise[k] * size
        point = _lifted(default[failed] + shift, lower[failed], upper[failed], size)
        best = best.put(failed, _better(best.take(failed), fitter.take(failed).run(point)))
    return best


def _further_starts(seed: int, n: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Fitter:
    """The minimisation problem of every row."""

    likelihood: Likelihood
    rows: Tensor
    lower: Tensor
    upper: Tensor
    held: Tensor
    size: Tensor
    options: NewtonOptions

    def take(self, index: Tensor) -> _Fitter:
        return replace(
            self,
            rows=self.rows[index],
            lower=self.lower[index],
            upper=self.upper[index],
            held=self.held[index],
        )

    def _objective(self, x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, hessian = self.likelihood.derivatives(x, self.rows[rows], centre)
        return -value, -gradient, -hessian

    def run(self, start: Tensor) -> FitBatch:
        breakpoints = self.likelihood.breakpoints
        m: Minimum = minimise(self._objective, start, self.lower, self.upper, self.size, breakpoints, self.options)
        none = torch.zeros_like(m.status)
        return FitBatch(
            m.x,
            -m.value,
            -m.gradient,
            -m.hessian,
            m.status,
            m.evaluations,
            self.held,
            m.at_bound & ~self.held,
            m.at_kink & ~self.held,
            none,
            self.rows,
        )


def _better(first: FitBatch, second: FitBatch) -> FitBatch:
    """Return row by row the converged, higher maximum, with the count of starts that disagree."""
    gain = second.log_likelihood - first.log_likelihood
    swap = second.success & (~first.success | (gain > 0))
    swap = swap | (~first.success & (gain > 0))
    both = first.success & second.success
    higher = swap & both & (gain > DISAGREEMENT)
    lower = ~swap & both & (gain < -DISAGREEMENT)
    # When the second start wins, all earlier ones that agreed with each other disagree with it.
    disagreeing = first.disagreeing + lower.long() + higher.long()
    index = swap.nonzero().flatten()
    merged = first.put(index, second.take(index)) if len(index) else first
    return replace(merged, disagreeing=disagreeing, evaluations=first.evaluations + second.evaluations)
