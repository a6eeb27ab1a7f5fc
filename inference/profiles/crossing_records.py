"""What a search for crossings of the profile likelihood ratio returns, and how it is collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch
from inference.rows import put_rows, take_rows

#: A critical value, or a function from mu (A,) to critical values (A,).
Critical = float | Callable[[Tensor], Tensor]


class CrossingStatus(IntEnum):
    """How a search ended."""

    FOUND = 0
    NO_CROSSING = 1
    AT_BOUND = 2
    FAILED = 3
    NOT_REQUESTED = 4
    OUTSIDE_RANGE = 5

    @property
    def label(self) -> str:
        """The word that records use."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class Crossings:
    """Results of Q searches.

    Attributes
    ----------
    value
        mu (Q,) at the crossing; where there is none, the furthest mu reached.
    status
        (Q,) codes of :class:`CrossingStatus`.
    t, critical
        (Q,) at ``value``.
    fits
        (Q,) conditional fits made.
    conditional
        The conditional fits at ``value``.
    better
        (Q,) whether a conditional fit exceeded the best fit given; it stands in ``conditional``.
    """

    value: Tensor
    status: Tensor
    t: Tensor
    critical: Tensor
    fits: Tensor
    conditional: FitBatch
    better: Tensor

    def take(self, index: Tensor) -> Crossings:
        """Return some of the searches."""
        return take_rows(self, index)

    def put(self, index: Tensor, other: Crossings) -> Crossings:
        """Return the searches with some replaced."""
        return put_rows(self, index, other)


class CrossingCollector:
    """Collects searches as they end."""

    def __init__(self, best: FitBatch, mu_hat: Tensor) -> None:
        self.status = torch.full(mu_hat.shape, int(CrossingStatus.FAILED), device=mu_hat.device)
        self.value, self.t, self.critical = mu_hat.clone(), torch.zeros_like(mu_hat), torch.zeros_like(mu_hat)
        self.fits = torch.zeros_like(self.status)
        self.better = torch.zeros_like(self.status, dtype=torch.bool)
        self.conditional = best

    def write(self, index: Tensor, mu: Tensor, t: Tensor, critical: Tensor, fits: FitBatch) -> None:
        """Note the latest conditional fits."""
        self.value[index], self.t[index], self.critical[index] = mu, t, critical
        self.fits[index] += 1
        self.conditional = self.conditional.put(index, fits)

    def end(self, index: Tensor, ended: Tensor, status: CrossingStatus) -> None:
        """Note searches that end where they are."""
        self.status[index[ended]] = int(status)

    def finish(self, index: Tensor, move: Tensor, direction: Tensor, best: Tensor, critical: Tensor) -> None:
        """Note searches that found their crossing.

        Parameters
        ----------
        index
            Which searches (A,).
        move, direction
            The last move (A,) in mu, made along the tangent (A, P) without a fit.
        best, critical
            ln L (A,) of the best fit and critical value (A,) at the crossing.

        Notes
        -----
        The move leads to where the parabola of t meets the critical value. Without one t is what was measured, and
        differs from the critical value where one of them jumps.
        """
        self.status[index] = int(CrossingStatus.FOUND)
        self.value[index] += move
        moved = index[move != 0]
        self.critical[index], self.t[moved] = critical, critical[move != 0]
        values, log_l = self.conditional.values.clone(), self.conditional.log_likelihood.clone()
        values[index] += move.unsqueeze(-1) * direction
        log_l[moved] = (best - 0.5 * critical)[move != 0]
        self.conditional = replace(self.conditional, values=values, log_likelihood=log_l)

    def crossings(self) -> Crossings:
        """Return what was found."""
        return Crossings(self.value, self.status, self.t, self.critical, self.fits, self.conditional, self.better)
