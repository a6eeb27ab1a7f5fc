"""Fits of many rows at once: how they are made, and where they ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from inference.minimize import FitStatus, NewtonOptions
from inference.rows import put_rows, take_rows


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
    retries
        Start points that a row which fails is tried from, one after the other.
    """

    newton: NewtonOptions = field(default_factory=NewtonOptions)
    starts: int = 1
    spread: float = 1.0
    seed: int = 0
    retries: int = 4


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
