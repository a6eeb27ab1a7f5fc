"""A bounded, batched Newton minimiser with exact derivatives, for smooth and piecewise smooth functions.

Every row is its own problem: minimise f_b(x) over low_b <= x <= high_b. A step minimises the quadratic model inside the
intersection of bounds, cell and a trust box |d_j| <= radius / sqrt(|H_jj|), so that parameters of any scale are alike.
The trust box follows the ratio of actual to predicted decrease; before it shrinks, the step is tried along curves
(:mod:`inference.minimize.coordinates`). A row stops when the model promises less than the tolerance; it then leaves the
batch.

Piecewise smooth functions (see :mod:`inference.minimize.cells`): a step ends at the edge of its cell, and goes on in
the neighbour if the function falls there. Where it rises on both sides the coordinate is *pinned* to the kink; before a
row ends, the one-sided derivatives on the far side of every kink are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from inference.minimize.cells import Cells
from inference.minimize.coordinates import POWERS, curved_hessian, distance, moved, powers, reach, sizes
from inference.minimize.minimum import EndedRows, Minimum, MovingRows, Proposal
from inference.minimize.objective import NewtonOptions, Objective
from inference.minimize.quadratic import convexify, minimise_in_box
from inference.minimize.status import FitStatus
from inference.rows import take_rows

#: Rounding of one float64 operation.
EPSILON = torch.finfo(torch.float64).eps
#: Smallest ratio of actual to predicted decrease at which a step is accepted.
ACCEPT = 1e-4
#: Ratios below which the model was poor, and above which it was good.
POOR, GOOD = 0.25, 0.75
#: Widest trust box, in units of 1 / sqrt(|H_jj|), where the function is not convex.
NON_CONVEX_RADIUS = 2.0
#: Slope at the end of a step, relative to that at its start, at which the step is refused.
OVERSHOOT = 10.0
#: Trust box below which a row has stalled.
SMALLEST_RADIUS = 1e-12
#: Squared length of the longest last step made without an evaluation: the first, plus this many times its promise.
LAST_STEP, LAST_RATIO = 1e-3, 100.0
#: Decrease of f over ``MILESTONE`` evaluations, and promised by the next, that marks the bottom of a flat valley.
FLAT_VALLEY = 1e-7
MILESTONE = 25
#: Longest natural unit of a coordinate, in its typical sizes, and longest step, in Newton steps.
LONGEST = 1e6


class _Newton:
    """The rules by which a state proposes, accepts and ends."""

    def __init__(self, objective: Objective, cells: Cells, options: NewtonOptions) -> None:
        self.objective = objective
        self.cells = cells
        self.options = options

    def begin(self, start: Tensor, lower: Tensor, upper: Tensor, scale: Tensor) -> tuple[MovingRows, Tensor]:
        """Return all rows at their start points, and where everything is finite there (B,)."""
        x = torch.minimum(torch.maximum(start, lower), upper)
        cell, rows = self.cells.locate(x, upper), torch.arange(len(x), device=x.device)
        value, gradient, hessian, finite = self.evaluate(x, rows, cell)
        no = torch.zeros_like(cell, dtype=torch.bool)
        state = MovingRows(
            rows=rows,
            x=x,
            value=value,
            gradient=gradient,
            hessian=hessian,
            low=lower,
            high=upper,
            scale=scale.expand_as(x),
            cell=cell,
            pinned=no,
            verified=no,
            radius=torch.full_like(value, self.options.radius),
            power=torch.full_like(rows, POWERS[0]),
            fell=no,
            stretch=torch.ones_like(value),
            milestone=torch.full_like(value, torch.inf),
        )
        return state, finite

    def evaluate(self, x: Tensor, rows: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return f, gradient, Hessian and whether all of them are finite (A,)."""
        value, gradient, hessian = self.objective(x, rows, self.cells.centre(cell))
        finite = torch.isfinite(value) & torch.isfinite(gradient).all(-1) & torch.isfinite(hessian).all(-1).all(-1)
        return value, gradient, hessian, finite

    def leaving(self, x: Tensor, gradient: Tensor, cell: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return which way f falls out of the cell over an inner edge: -1, +1, or 0 where it does not (A, n)."""
        if self.cells.trivial:
            return torch.zeros_like(cell)
        edge_low, edge_high = self.cells.edges(cell)
        downwards = (x <= edge_low) & (edge_low > low) & (gradient > 0)
        upwards = (x >= edge_high) & (edge_high < high) & (gradient < 0)
        return upwards.long() - downwards.long()

    def propose(self, s: MovingRows) -> tuple[Proposal, Tensor]:
        """Return what to evaluate next, and which rows have converged (A,)."""
        edge_low, edge_high = self.cells.edges(s.cell)
        leaving = self.leaving(s.x, s.gradient, s.cell, s.low, s.high)
        s.pinned = s.pinned & (leaving != 0)
        floor = torch.where(s.pinned, s.x, torch.maximum(s.low, edge_low))
        ceiling = torch.where(s.pinned, s.x, torch.minimum(s.high, edge_high))

        power = powers(s.power, s.x, s.low, s.scale, s.fell)
        hessian = curved_hessian(s.hessian, s.gradient, s.x, power)
        curvature = hessian.diagonal(dim1=-2, dim2=-1).abs()
        size = sizes(s.scale, s.x, power)
        unit = torch.where(curvature * (LONGEST * size).square() > 1, curvature.rsqrt(), size)
        low, high = distance(s.x, floor, power) / unit, distance(s.x, ceiling, power) / unit
        pressed = ((low >= 0) & (s.gradient > 0)) | ((high <= 0) & (s.gradient < 0))
        scaled = hessian * unit.unsqueeze(-1) * unit.unsqueeze(-2)
        matrix, movable, convex = convexify(scaled, low < high, (low < high) & ~pressed)
        low, high = torch.where(movable, low, 0.0), torch.where(movable, high, 0.0)
        # Along a curve the box of factors keeps a step short that has no minimum.
        wide = convex | (s.power < 1)
        radius = torch.where(wide, s.stretch * s.radius, s.radius.clamp(max=NON_CONVEX_RADIUS)).unsqueeze(-1)
        down, up = reach(s.x, unit, radius, power)
        matrix = matrix / s.stretch[:, None, None]
        model = minimise_in_box(s.gradient * unit, matrix, torch.maximum(low, down), torch.minimum(high, up))

        x = moved(s.x, model.step * unit, power)
        x = torch.where(model.step <= low, floor, torch.where(model.step >= high, ceiling, x))
        x = torch.where(movable, torch.minimum(torch.maximum(x, floor), ceiling), s.x)
        length = model.step.abs().amax(dim=-1)
        limited = ((model.step <= down) | (model.step >= up)).any(dim=-1)
        crossed = ((x >= edge_high) & (edge_high < s.high)).long() - ((x <= edge_low) & (edge_low > s.low)).long()
        crossed = torch.where(x != s.x, crossed, 0)

        still = (model.reduction <= self.tolerance(s.value)) & ~limited
        unseen = torch.where(s.pinned, 0, leaving)
        check = torch.where(s.pinned & ~s.verified, leaving, 0)
        look = torch.where((still & ~unseen.any(dim=-1)).unsqueeze(-1), check, unseen)
        looking = look.any(dim=-1)
        crossed = torch.where(looking.unsqueeze(-1), look, crossed)
        x = torch.where(looking.unsqueeze(-1), s.x, x)
        return Proposal(x, s.cell + crossed, crossed, looking, model.reduction, length, limited), still & ~looking

    def tolerance(self, value: Tensor) -> Tensor:
        """Return the decrease (A,) that is not worth a step: the tolerance, or the rounding of f where it is larger."""
        return (2 * EPSILON * (1 + value.abs())).clamp_min(self.options.tolerance)

    def advance(self, s: MovingRows, p: Proposal) -> None:
        """Evaluate the proposals and accept or reject them, in place."""
        value, gradient, hessian, finite = self.evaluate(p.x, s.rows, p.cell)
        decrease = torch.where(finite, s.value - value, -p.reduction)
        noise = 16 * EPSILON * (1 + s.value.abs())
        promised = p.reduction / s.stretch
        lower = (decrease >= ACCEPT * promised) | ((promised < 100 * noise) & (decrease >= -noise))
        taken = finite & (p.look | (lower & ~self._overshot(s, p, gradient)))
        self._resize(s, p, decrease / promised.clamp_min(1e-300), finite, taken)
        self._stretch(s, p, gradient, taken)
        self._curve(s, p, taken & (decrease >= POOR * promised))

        column, block = taken.unsqueeze(-1), taken[:, None, None]
        back = self.leaving(p.x, gradient, p.cell, s.low, s.high) != 0
        crossed, look = p.crossed != 0, p.look.unsqueeze(-1)
        # Where the function rises on both sides the coordinate stays; a side that cannot be evaluated counts as rising.
        s.pinned = torch.where(crossed & (column | look), back | ~column, s.pinned)
        s.verified = torch.where(look, s.verified | (crossed & s.pinned), s.verified & ~column)
        s.x, s.cell = torch.where(column, p.x, s.x), torch.where(column, p.cell, s.cell)
        s.value = torch.where(taken, value, s.value)
        s.gradient = torch.where(column, gradient, s.gradient)
        s.hessian = torch.where(block, hessian, s.hessian)

    def _overshot(self, s: MovingRows, p: Proposal, gradient: Tensor) -> Tensor:
        """Return which steps (A,) end where the function rises much more steeply than it fell.

        A step onto the bound of a logarithm, 0 for a rate that events need, may end lower and yet on a cliff that takes
        many steps to climb back from.
        """
        moved = p.x - s.x
        before, after = (s.gradient * moved).sum(dim=-1), (gradient * moved).sum(dim=-1)
        return after > OVERSHOOT * before.abs().clamp_min(1.0)

    def _stretch(self, s: MovingRows, p: Proposal, gradient: Tensor, taken: Tensor) -> None:
        """Lengthen the steps of rows that climb out of a logarithm.

        On -ln x a Newton step only doubles x, and from 1e-100 a row would crawl. There the slope falls to 1/(1 + m) of
        itself in a step of m Newton lengths; where the function does that, the next step is made longer.
        """
        moved = p.x - s.x
        before, after = (s.gradient * moved).sum(dim=-1), (gradient * moved).sum(dim=-1)
        crawls = taken & ~p.look & (s.power == 1) & (after * (1 + s.stretch) < 0.7 * before)
        longer = torch.where(s.stretch < 4, 2 * s.stretch, 8 * s.stretch).clamp(max=LONGEST)
        s.stretch = torch.where(p.look, s.stretch, torch.where(crawls, longer, 1.0))

    def _curve(self, s: MovingRows, p: Proposal, good: Tensor) -> None:
        """Choose the coordinates of the next step: straight again after one that was good, else the next ones."""
        s.fell = torch.where(p.look.unsqueeze(-1), s.fell, p.x < s.x)
        s.power = torch.where(good | p.look | (s.power == POWERS[-1]), POWERS[0], s.power - 1)

    def _resize(self, s: MovingRows, p: Proposal, ratio: Tensor, finite: Tensor, taken: Tensor) -> None:
        """Shrink the trust box where the model failed in all coordinates, widen it where it was good and in the way."""
        shrunk = p.length * torch.where(finite, torch.where(taken, 0.5, 0.25), 0.1)
        failed = (s.power == POWERS[-1]) & (~taken | (ratio < POOR))
        radius = torch.where(failed, shrunk, s.radius)
        radius = torch.where(taken & (ratio > GOOD) & p.limited, torch.maximum(s.radius, 3 * p.length), radius)
        tiny = p.reduction <= 100 * EPSILON * (1 + s.value.abs())
        s.radius = torch.where(p.look | (taken & tiny), s.radius, radius)


def _crawls(s: MovingRows, p: Proposal) -> Tensor:
    """Return which rows (A,) creep along the bottom of a valley that is flat for all purposes, and set a new milestone.

    Two parameters of which only the product is known have such a valley; its end may be thousands of steps away. A row
    all of whose steps were refused does not creep, it is stuck.
    """
    decrease = s.milestone - s.value
    flat = (decrease > 0) & (decrease < FLAT_VALLEY) & (p.reduction < FLAT_VALLEY) & ~p.look
    s.milestone = s.value.clone()
    return flat


def _last_step(s: MovingRows, p: Proposal, converged: Tensor) -> None:
    """Make the step that was not worth an evaluation: it squares the remaining distance to the minimum.

    Not so a step much longer than its promise explains: along a flat valley it leads out of it, where that is curved.
    """
    made = converged & (p.length.square() <= LAST_STEP + LAST_RATIO * p.reduction)
    step = torch.where(made.unsqueeze(-1), p.x - s.x, 0.0)
    s.x = torch.where(made.unsqueeze(-1), p.x, s.x)
    s.value = s.value - torch.where(made, p.reduction, 0.0)
    s.gradient = s.gradient + (s.hessian @ step.unsqueeze(-1)).squeeze(-1)


def minimise(
    objective: Objective,
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    scale: Tensor,
    breakpoints: Mapping[int, Sequence[float]] | None = None,
    options: NewtonOptions | None = None,
) -> Minimum:
    """Minimise a batch of functions within bounds.

    Parameters
    ----------
    objective
        f with its derivatives.
    start
        Start points (B, n); moved inside the bounds.
    lower, upper
        Bounds (B, n), infinite where open; a coordinate with equal bounds is held.
    scale
        (n,) typical size of each coordinate, > 0; used only where f has no curvature.
    breakpoints
        Coordinate -> ascending values at which derivatives of f jump.
    options
        When rows stop.

    Returns
    -------
    Minimum
        One entry per row; a row that fails carries its status and never disturbs the others.
    """
    options = options or NewtonOptions()
    newton = _Newton(objective, Cells(start.shape[-1], breakpoints or {}, start.device), options)
    state, finite = newton.begin(start, lower, upper, scale)
    result = EndedRows(state)
    result.finish(state, ~finite, FitStatus.NON_FINITE, 1)
    state = take_rows(state, finite)
    for evaluations in range(1, options.max_evaluations + 1):
        if not len(state.rows):
            return result.minimum()
        proposal, converged = newton.propose(state)
        flat = _crawls(state, proposal) if evaluations % MILESTONE == 0 else torch.zeros_like(converged)
        stuck = (state.radius < SMALLEST_RADIUS) | (evaluations == options.max_evaluations)
        ended = converged | flat | stuck
        if bool(ended.any()):
            _last_step(state, proposal, converged)
            result.finish(state, converged | flat, FitStatus.CONVERGED, evaluations)
            result.finish(state, stuck & ~(converged | flat), FitStatus.NOT_CONVERGED, evaluations)
            state, proposal = take_rows(state, ~ended), take_rows(proposal, ~ended)
        if len(state.rows):
            newton.advance(state, proposal)
    return result.minimum()
