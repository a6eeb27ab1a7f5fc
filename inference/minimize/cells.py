"""Cells: the boxes between breakpoints on which a piecewise smooth function is smooth.

A continuous function whose derivatives jump where a coordinate crosses one of its breakpoints is smooth on each product
of intervals. Its one-sided derivatives in coordinate j depend on the side in j alone, so that one evaluation with *all*
coordinates in question moved to their other side tells all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Cells:
    """The grid of cells.

    Parameters
    ----------
    n
        Number of coordinates.
    breakpoints
        Coordinate -> ascending values; coordinates without an entry have one cell.
    device
        Where the edges are kept.
    """

    def __init__(self, n: int, breakpoints: Mapping[int, Sequence[float]], device: torch.device) -> None:
        self.trivial = not any(len(b) for b in breakpoints.values())
        longest = max((len(b) for b in breakpoints.values()), default=0)
        edges = torch.full((n, longest + 2), math.inf, dtype=torch.float64)
        edges[:, 0] = -math.inf
        for j, values in breakpoints.items():
            edges[j, 1 : 1 + len(values)] = torch.tensor(values, dtype=torch.float64)
        self._edges = edges.to(device)
        self._coordinate = torch.arange(n, device=device)

    def locate(self, x: Tensor, high: Tensor) -> Tensor:
        """Return the cell (B, n) of points x (B, n); on an edge the upper one, unless it lies beyond the bound."""
        cell = torch.searchsorted(self._edges, x.T.contiguous(), right=True).T - 1
        low_edge = self._edges[self._coordinate, cell]
        return torch.where((low_edge >= high) & (cell > 0), cell - 1, cell)

    def edges(self, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower and upper edges (B, n) of cells; infinite where there is none."""
        return self._edges[self._coordinate, cell], self._edges[self._coordinate, cell + 1]

    def centre(self, cell: Tensor) -> Tensor | None:
        """Return a point (B, n) inside each cell; None for a function that is smooth everywhere."""
        if self.trivial:
            return None
        low, high = self.edges(cell)
        inside = torch.where(torch.isinf(high), low + 1, torch.where(torch.isinf(low), high - 1, 0.5 * (low + high)))
        return torch.where(torch.isinf(low) & torch.isinf(high), torch.zeros_like(low), inside)
