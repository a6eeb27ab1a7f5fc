"""The fit of every row from one start point, and the choice between several."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inference.fit_rows import FitBatch
from inference.likelihood import Likelihood
from inference.minimize import NewtonOptions, minimise
from inference.parameters import ParameterSet

#: How far inside its bound a start value is put, in typical sizes: ln L may have no finite slope on the bound.
LIFT = 0.1
#: Gain in ln L that is no rounding.
ROUNDING = 1e-12
#: Starts whose maxima differ by more than this in ln L disagree.
DISAGREEMENT = 1e-6
#: Distance from a breakpoint, in 1 / sqrt(-H_jj), within which there may be a higher maximum on its other side.
NEAR_BREAKPOINT = 0.15
#: Most coordinates whose breakpoints are looked beyond together.
MOST_MIRRORED = 3


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
    of their maxima, in every combination of the coordinates that are close to a breakpoint.
    """
    mirrored, near = _mirrored(fitter, best)
    columns = near.any(dim=0).nonzero().flatten().tolist()[:MOST_MIRRORED]
    for flipped in itertools.chain.from_iterable(itertools.combinations(columns, r + 1) for r in range(len(columns))):
        chosen = torch.zeros(near.shape[1], dtype=torch.bool, device=near.device)
        chosen[list(flipped)] = True
        rows = (near | ~chosen).all(dim=-1).nonzero().flatten()
        if len(rows):
            start = torch.where(chosen, mirrored[rows], best.values[rows])
            other = fitter.take(rows).run(start)
            higher = other.success & (other.log_likelihood > best.log_likelihood[rows] + ROUNDING)
            best = best.put(rows[higher], other.take(higher))
    return best


def _mirrored(fitter: Fitter, best: FitBatch) -> tuple[Tensor, Tensor]:
    """Return the mirror images (B, P) of maxima at their nearest breakpoints, and which lie close to one (B, P)."""
    image, near = best.values.clone(), torch.zeros_like(best.held)
    width = (-best.hessian.diagonal(dim1=-2, dim2=-1)).clamp_min(1e-300).rsqrt()
    for j, points in fitter.likelihood.breakpoints.items():
        inner = torch.tensor(points, dtype=torch.float64, device=image.device)
        inside = (inner > fitter.lower[:, j, None]) & (inner < fitter.upper[:, j, None])
        distance = torch.where(inside, (best.values[:, j, None] - inner).abs(), math.inf)
        closest, where = distance.min(dim=-1)
        image[:, j] = 2 * inner[where] - best.values[:, j]
        near[:, j] = (closest < NEAR_BREAKPOINT * width[:, j]) & best.success & best.smooth[:, j]
    return image, near
