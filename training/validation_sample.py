"""Fresh events against which a surrogate is validated, and their division into slices of theta."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surrogate.nuisance import NuisanceSpace
from training.event_set import BlockCounts, EventSet, UnitEvents
from training.simulation_plan import SimulationPlan
from training.supply import unit_batch

CHUNK = 65_536


@dataclass(frozen=True)
class FreshSample:
    """Events that the surrogate has never seen, with the counts they come from.

    Attributes
    ----------
    events
        The events in the unit cube.
    blocks
        Generated and kept events per theta.
    """

    events: UnitEvents
    blocks: BlockCounts

    @classmethod
    def simulate(cls, plan: SimulationPlan, n_events: int) -> FreshSample:
        """Simulate batches until there are ``n_events`` events, or the plan ends."""
        parts, counts, total = [], [], 0
        for k in range(plan.n_batches):
            events, blocks = unit_batch(plan, k)
            parts.append(events)
            counts.append(blocks)
            total += events.size
            if total >= n_events:
                break
        return cls(UnitEvents.join(parts), BlockCounts.join(counts))

    @classmethod
    def read(cls, events: EventSet, limit: int) -> FreshSample:
        """Read whole files, thinned evenly in chunks to about ``limit`` events; the counts are kept whole."""
        step = max(-(-events.n_events // limit), 1)
        starts = range(0, events.n_events, CHUNK)
        rows = (events.read(start, min(start + CHUNK, events.n_events)) for start in starts)
        return cls(UnitEvents.join([r.take(torch.arange(0, r.size, step)) for r in rows]), events.blocks())


def theta_cells(nuisances: NuisanceSpace, theta: Tensor, count: int) -> Tensor:
    """Return a cell number (n,) in [0, m) for each theta (n, K), m <= ``count``.

    Where there are at most ``count`` distinct thetas, each is a cell. Otherwise the box is cut at medians, always of
    the fullest cell and across its longest standardised side, until there are ``count`` cells.
    """
    if nuisances.dim == 0:
        return torch.zeros(len(theta), dtype=torch.int64)
    distinct, cell = torch.unique(theta, dim=0, return_inverse=True)
    if len(distinct) <= count:
        return cell
    t = nuisances.standardise(theta.double())
    cells = [torch.arange(len(t))]
    while len(cells) < count:
        rows = cells.pop(max(range(len(cells)), key=lambda c: len(cells[c])))
        sides = t[rows].amax(dim=0) - t[rows].amin(dim=0)
        column = t[rows, int(sides.argmax())]
        above = column > column.median()
        if not bool(above.any()):
            cells.append(rows)
            break
        cells += [rows[~above], rows[above]]
    for number, rows in enumerate(cells):
        cell[rows] = number
    return cell
