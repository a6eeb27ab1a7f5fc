"""What happened during a training, and when it should end."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from surrogate.atomic import replacing_file


@dataclass(frozen=True)
class Check:
    """One validation.

    Attributes
    ----------
    step
        Optimiser steps so far.
    train_nll
        Mean loss of the steps since the last validation, at the weights of each step.
    held_out_nll, held_out_error
        NLL of the held-out events in the unit cube under the averaged weights, and its standard error.
    learning_rate
        Learning rate of the next step.
    cpu_seconds
        CPU time of the training so far, interruptions included.
    """

    step: int
    train_nll: float
    held_out_nll: float
    held_out_error: float
    learning_rate: float
    cpu_seconds: float


@dataclass
class History:
    """The validations of a training and the rule that ends it.

    Attributes
    ----------
    checks
        The validations so far.
    stopped
        Why the training ended: ``finished``, ``no improvement``, ``time limit``; empty while it runs.
    latest
        Whether the last validation counts as the best, as where the mean of other flows is learned: their noise is
        none of this training's, and the held-out NLL says nothing about when to stop.
    """

    checks: list[Check] = field(default_factory=list)
    stopped: str = ""
    latest: bool = False

    @property
    def best(self) -> Check:
        """The validation with the lowest held-out NLL, the first of equals; the last one if ``latest``."""
        if self.latest:
            return self.checks[-1]
        return min(self.checks, key=lambda check: check.held_out_nll)

    def add(self, check: Check, total_steps: int, patience: int, cpu_limit: float | None) -> bool:
        """Add a validation, decide whether the training ends, and return whether it is the best so far.

        Parameters
        ----------
        check
            The validation.
        total_steps
            Steps after which the training is finished.
        patience
            Validations without improvement after which it ends.
        cpu_limit
            CPU seconds after which it ends; None for no limit.
        """
        self.checks.append(check)
        best = self.best
        if check.step >= total_steps:
            self.stopped = "finished"
        elif len(self.checks) - 1 - self.checks.index(best) >= patience:
            self.stopped = "no improvement"
        elif cpu_limit is not None and check.cpu_seconds >= cpu_limit:
            self.stopped = "time limit"
        return best is check

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which :meth:`from_dict` rebuilds the history."""
        return {"checks": [asdict(check) for check in self.checks], "stopped": self.stopped}

    @classmethod
    def from_dict(cls, data: dict[str, Any], latest: bool = False) -> History:
        """Build the history from the output of :meth:`to_dict`."""
        return cls([Check(**check) for check in data["checks"]], data["stopped"], latest)

    def write_csv(self, path: Path) -> None:
        """Write one line per validation, atomically."""
        with replacing_file(path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [f.name for f in fields(Check)])
            writer.writeheader()
            writer.writerows(asdict(check) for check in self.checks)
