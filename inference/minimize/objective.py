"""What is minimised, and when it is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """What is minimised."""

    def __call__(self, x: Tensor, rows: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return f (A,), its gradient (A, n) and its Hessian (A, n, n).

        Parameters
        ----------
        x
            Points (A, n), one for each of the rows that still move.
        rows
            Which rows (A,) of the batch these are.
        centre
            (A, n), inside the smooth piece on which derivatives are wanted; None where there are no breakpoints.
        """
        ...


@dataclass(frozen=True)
class NewtonOptions:
    """When rows stop.

    Parameters
    ----------
    tolerance
        A row has converged when the quadratic model promises a decrease of f below this.
    max_evaluations
        Most evaluations of f per row.
    radius
        First half-width of the trust box, in units of 1 / sqrt(H_jj).
    """

    tolerance: float = 1e-11
    max_evaluations: int = 200
    radius: float = 1e3
