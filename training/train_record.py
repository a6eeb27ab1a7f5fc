"""Records of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from surrogate.acceptance import AcceptanceModel
from training.fit import FittedFlow


@dataclass(frozen=True)
class FlowRecord:
    """What one training of a flow did.

    Attributes
    ----------
    name, seed
        Name of its run, and seed of all its choices.
    stopped
        Why it ended: ``finished``, ``no improvement`` or ``time limit``.
    steps, best_step, passes
        Steps done, step of the weights that were kept, and passes over the events.
    train_nll, held_out_nll, held_out_error
        NLL per event in the unit cube: mean loss before the best validation; held-out events at the weights kept, and
        its standard error.
    cpu_seconds
        CPU time of the fit, interruptions included.
    """

    name: str
    seed: int
    stopped: str
    steps: int
    best_step: int
    passes: float
    train_nll: float
    held_out_nll: float
    held_out_error: float
    cpu_seconds: float

    @classmethod
    def of(cls, name: str, seed: int, fitted: FittedFlow) -> FlowRecord:
        """Return the record of a fitted flow."""
        history = fitted.history
        best, last = history.best, history.checks[-1]
        return cls(
            name,
            seed,
            history.stopped,
            last.step,
            best.step,
            last.step / fitted.steps_per_pass,
            best.train_nll,
            best.held_out_nll,
            best.held_out_error,
            last.cpu_seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class TrainRecord:
    """What the training of a source did.

    Attributes
    ----------
    name, checkpoint
        Name of the source, and the directory of its surrogate.
    steps, cpu_seconds
        Sums over the members; one flow is an ensemble of one.
    held_out_nll, held_out_error
        Mean of the members' held-out NLL per event in the unit cube, and its standard error. The NLL of the mean
        density is lower; no event that was held out of all members exists to measure it on.
    n_events
        Accepted events behind the acceptance: those of the files, and those simulated on the way.
    acceptance_degree, acceptance_chi2, acceptance_n_dof
        Degree and goodness of fit of mu(theta), of the first member where each has its own.
    members
        Their trainings.
    distilled
        The training that made one flow of them, if there is one; it is then its held-out NLL that is stated above,
        of events that some members have seen.
    """

    name: str
    checkpoint: str
    steps: int
    cpu_seconds: float
    held_out_nll: float
    held_out_error: float
    n_events: int
    acceptance_degree: int
    acceptance_chi2: float
    acceptance_n_dof: int
    members: tuple[FlowRecord, ...]
    distilled: FlowRecord | None = None

    @classmethod
    def of(
        cls,
        name: str,
        checkpoint: str,
        members: Sequence[FlowRecord],
        distilled: FlowRecord | None,
        acceptance: AcceptanceModel,
        one_sample: bool,
    ) -> TrainRecord:
        """Return the record of a source; ``one_sample`` tells that all members hold out the same events."""
        final = [distilled] if distilled else members
        every = [*members, distilled] if distilled else members
        variance = math.fsum(each.held_out_error**2 for each in final) / len(final) ** (1 if one_sample else 2)
        return cls(
            name,
            checkpoint,
            sum(each.steps for each in every),
            math.fsum(each.cpu_seconds for each in every),
            math.fsum(each.held_out_nll for each in final) / len(final),
            math.sqrt(variance),
            acceptance.n_accepted,
            acceptance.basis.degree,
            acceptance.chi2,
            acceptance.n_dof,
            tuple(members),
            distilled,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)
