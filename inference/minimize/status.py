"""How a row of a minimisation ended."""

from __future__ import annotations

from enum import IntEnum


class FitStatus(IntEnum):
    """The end of one row; kept as an integer in batched tensors."""

    CONVERGED = 0
    AT_BOUND = 1
    NOT_CONVERGED = 2
    NON_FINITE = 3

    @property
    def label(self) -> str:
        """The word that records and tables use."""
        return self.name.lower()

    @property
    def message(self) -> str:
        """What it means, for people."""
        return _MESSAGES[self]

    @property
    def success(self) -> bool:
        """Whether the row is at a minimum."""
        return self in (FitStatus.CONVERGED, FitStatus.AT_BOUND)


_MESSAGES = {
    FitStatus.CONVERGED: "converged",
    FitStatus.AT_BOUND: "converged with at least one parameter on a bound",
    FitStatus.NOT_CONVERGED: "stopped before the optimum was reached",
    FitStatus.NON_FINITE: "ln L is not finite where the fit starts",
}
