"""The rows of a batched minimisation: those that still move, and where the others ended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.minimize.status import FitStatus


@dataclass(frozen=True)
class Minimum:
    """Where the rows of a batch ended.

    Attributes
    ----------
    x
        (B, n), inside the bounds.
    value, gradient, hessian
        (B,), (B, n), (B, n, n) at x; one-sided on kinks.
    status
        (B,) codes of :class:`FitStatus`.
    evaluations
        (B,) evaluations of f.
    at_bound, at_kink
        (B, n): whether a coordinate that may move is on its bound, or held at a breakpoint.
    """

    x: Tensor
    value: Tensor
    gradient: Tensor
    hessian: Tensor
    status: Tensor
    evaluations: Tensor
    at_bound: Tensor
    at_kink: Tensor


@dataclass
class MovingRows:
    """Rows that still move.

    ``pinned`` coordinates stay on a kink, ``verified`` ones were seen from both sides; ``radius`` is half the width
    of the trust box; ``power`` is that of the coordinates of the next step (:mod:`inference.minimize.coordinates`),
    ``stretch`` its length in Newton steps; ``fell`` coordinates were to be lowered by the last one; ``milestone`` is
    the value of f some evaluations ago.
    """

    rows: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    hessian: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor
    cell: Tensor
    pinned: Tensor
    verified: Tensor
    radius: Tensor
    power: Tensor
    fell: Tensor
    stretch: Tensor
    milestone: Tensor


@dataclass(frozen=True)
class Proposal:
    """Where each row is evaluated next: after a step, or (``look``) at its place on the other side of breakpoints."""

    x: Tensor
    cell: Tensor
    crossed: Tensor
    look: Tensor
    reduction: Tensor
    length: Tensor
    limited: Tensor


class EndedRows:
    """Collects the rows as they end."""

    def __init__(self, state: MovingRows) -> None:
        self._status = torch.zeros_like(state.rows)
        self._evaluations = torch.zeros_like(state.rows)
        self._x, self._value = state.x.clone(), state.value.clone()
        self._gradient, self._hessian = state.gradient.clone(), state.hessian.clone()
        self._low, self._high, self._pinned = state.low, state.high, state.pinned.clone()

    def finish(self, s: MovingRows, ended: Tensor, status: FitStatus, evaluations: int) -> None:
        """Write down the rows that ended."""
        rows = s.rows[ended]
        self._x[rows], self._value[rows] = s.x[ended], s.value[ended]
        self._gradient[rows], self._hessian[rows] = s.gradient[ended], s.hessian[ended]
        self._status[rows], self._evaluations[rows], self._pinned[rows] = int(status), evaluations, s.pinned[ended]

    def minimum(self) -> Minimum:
        """Return the rows, with those that converged on a bound marked."""
        at_bound = ((self._x <= self._low) | (self._x >= self._high)) & (self._low < self._high)
        converged = self._status == int(FitStatus.CONVERGED)
        status = torch.where(converged & at_bound.any(dim=-1), int(FitStatus.AT_BOUND), self._status)
        return Minimum(
            self._x,
            self._value,
            self._gradient,
            self._hessian,
            status,
            self._evaluations,
            at_bound,
            self._pinned,
        )
