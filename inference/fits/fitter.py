"""The fit of every row from one start point, and the choice between several."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.fits.fit_rows import FitBatch
from inference.likelihood.extended import Likelihood
from inference.minimize import NewtonOptions, minimise
from inference.minimize.quadratic import predicted_decrease
from inference.parameters import ParameterSet

#: How far inside its bound a start value is put, in typical sizes: ln L may have no finite slope on the bound.
LIFT = 0.1
#: Gain in ln L that is no rounding.
ROUNDING = 1e-12
#: Starts whose maxima differ by more than this in ln L disagree.
DISAGREEMENT = 1e-6
#: Distance from a breakpoint, in 1 / sqrt(-H_jj), within which there may be a higher maximum on its other side.
NEAR_BREAKPOINT = 0.15
#: A quadratic model on the far side must promise no less than this below a maximum for a fit to be made there.
UNPROMISING = 1e-3
#: Most coordinates whose breakpoints are looked beyond together.
MOST_MIRRORED = 3
#: A parameter whose ancillary term is at least this wide, as a fraction of its range, is loose; and how many places of
#: its range are looked at.
LOOSE, PLACES = 0.25, 8


def typical_sizes(parameters: ParameterSet) -> Tensor:
    """Return a size (P,) for each parameter: the smaller of constraint width and value, else part of its range."""
    widths = parameters.constraint_widths().tolist()
    sizes = []
    for p, width in zip(parameters.parameters, widths, strict=True):
        span = p.high - p.low
        known = [v for v in (width, abs(p.nominal), abs(p.start)) if 0 < v < math.inf]
        sizes.append(min(known) if known else 0.1 * span if math.isfinite(span) else 1.0)
    return torch.tensor(sizes, dtype=torch.float64)


def lifted(start: Tensor, lower: Tensor, upper: Tensor, size: Tensor) -> Tensor:
    """Return start points (B, P) moved off the bounds."""
    margin = LIFT * torch.minimum(size.expand_as(start), upper - lower)
    return torch.minimum(torch.maximum(start, lower + margin), upper - margin)


@dataclass(frozen=True, eq=False)
class Fitter:
    """The minimisation problem of every row."""

    likelihood: Likelihood
    rows: Tensor
    lower: Tensor
    upper: Tensor
    held: Tensor
    size: Tensor
    options: NewtonOptions

    def take(self, index: Tensor) -> Fitter:
        """Return the problems of some rows."""
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
        """Maximise ln L from start points (B, P)."""
        breakpoints = self.likelihood.breakpoints
        m = minimise(self._objective, start, self.lower, self.upper, self.size, breakpoints, self.options)
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

    def promise(self, start: Tensor, edge: Tensor) -> Tensor:
        """Return the ln L (B,) that a quadratic model around points (B, P) promises on their side of breakpoints.

        ``edge`` (B, P) is the breakpoint that a coordinate must not cross, NaN where it has none.
        """
        value, gradient, hessian = self._objective(start, torch.arange(len(start), device=start.device), start)
        low = torch.where(edge < start, edge, self.lower) - start
        high = torch.where(edge > start, edge, self.upper) - start
        finite = torch.isfinite(value) & torch.isfinite(gradient).all(-1) & torch.isfinite(hessian).all(-1).all(-1)
        hessian = torch.where(finite[:, None, None], hessian, 0.0)
        decrease = predicted_decrease(torch.where(finite.unsqueeze(-1), gradient, 0.0), hessian, low, high)
        return torch.where(finite, decrease - value, -math.inf)


def better_rows(first: FitBatch, second: FitBatch) -> FitBatch:
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


def beyond_breakpoints(fitter: Fitter, best: FitBatch) -> FitBatch:
    """Look for a higher maximum on the other side of breakpoints that a maximum lies close to.

    Where the slope of ln L jumps upwards there is a maximum on both sides. Rows are fitted again from the mirror images
    of their maxima, in every combination of the coordinates that are close to a breakpoint, unless a quadratic model
    there shows that nothing is to be gained.
    """
    edge, near = _nearest_breakpoints(fitter, best)
    columns = near.any(dim=0).nonzero().flatten().tolist()[:MOST_MIRRORED]
    for flipped in itertools.chain.from_iterable(itertools.combinations(columns, r + 1) for r in range(len(columns))):
        chosen = torch.zeros(near.shape[1], dtype=torch.bool, device=near.device)
        chosen[list(flipped)] = True
        rows = (near | ~chosen).all(dim=-1).nonzero().flatten()
        if len(rows):
            start = torch.where(chosen, 2 * edge[rows] - best.values[rows], best.values[rows])
            fixed_edge = torch.where(chosen, edge[rows], math.nan)
            promising = fitter.take(rows).promise(start, fixed_edge) > best.log_likelihood[rows] - UNPROMISING
            best = _improved(fitter, best, rows[promising], start[promising])
    return best


def along_kinked(fitter: Fitter, best: FitBatch) -> FitBatch:
    """Look for a higher maximum along every parameter with breakpoints that no ancillary term holds together.

    Between every two breakpoints there may be a maximum. Where ln L at one of a few places of the range, with all other
    parameters as they are, exceeds the maximum found, the row is fitted again from the highest.
    """
    likelihood, low, span = fitter.likelihood, fitter.lower, fitter.upper - fitter.lower
    width = likelihood.parameters.constraint_widths().to(low)
    loose = torch.isfinite(span) & (span > 0) & ~(width < LOOSE * span) & best.success.unsqueeze(-1)
    places = (torch.arange(PLACES).to(low) + 0.5) / PLACES
    for j in likelihood.breakpoints:
        rows = loose[:, j].nonzero().flatten()
        points = best.values[rows].repeat(PLACES, 1, 1)
        points[..., j] = low[rows, j] + places.unsqueeze(-1) * span[rows, j]
        log_l = likelihood.log_likelihood(points.flatten(0, 1), fitter.rows[rows].repeat(PLACES))
        highest, where = log_l.reshape(PLACES, -1).max(dim=0)
        higher = highest > best.log_likelihood[rows] + DISAGREEMENT
        best = _improved(fitter, best, rows[higher], points[where, torch.arange(len(rows))][higher])
    return best


def _improved(fitter: Fitter, best: FitBatch, rows: Tensor, start: Tensor) -> FitBatch:
    """Return the fits with those of some rows replaced where a fit from another start is higher."""
    if not len(rows):
        return best
    other = fitter.take(rows).run(start)
    higher = other.success & (other.log_likelihood > best.log_likelihood[rows] + ROUNDING)
    return best.put(rows[higher], other.take(higher))


def _nearest_breakpoints(fitter: Fitter, best: FitBatch) -> tuple[Tensor, Tensor]:
    """Return the breakpoints (B, P) nearest to maxima, and which of them are close (B, P)."""
    edge, near = best.values.clone(), torch.zeros_like(best.held)
    width = (-best.hessian.diagonal(dim1=-2, dim2=-1)).clamp_min(1e-300).rsqrt()
    for j, points in fitter.likelihood.breakpoints.items():
        inner = torch.tensor(points, dtype=torch.float64, device=edge.device)
        inside = (inner > fitter.lower[:, j, None]) & (inner < fitter.upper[:, j, None])
        distance = torch.where(inside, (best.values[:, j, None] - inner).abs(), math.inf)
        closest, where = distance.min(dim=-1)
        edge[:, j] = inner[where]
        near[:, j] = (closest < NEAR_BREAKPOINT * width[:, j]) & best.success & best.smooth[:, j]
    return edge, near
