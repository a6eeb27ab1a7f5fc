"""Limits of toys, chunk by chunk: what a study of sensitivities hands to its workers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.intervals.asymptotics import IntervalKind
from inference.intervals.confidence import IntervalBatch, interval_batch
from inference.likelihood.extended import Likelihood
from inference.parameters import ParameterSet
from inference.pools.event_pool import EventPool
from inference.pools.pairs import FINISH, QUICK
from inference.pools.partly_exact import partly_exact
from inference.profiles.crossing_records import Crossings, CrossingStatus
from inference.profiles.tangent import profile_tangent
from inference.science_run import ScienceRun
from inference.studies.critical_values import CriticalCurve
from inference.studies.study_record import Chunk, Columns
from inference.toys.draws import draw_toys, toy_index

#: How often the end of an interval is moved from where it is on an expansion, and how far at most, relative to its
#: distance from the best fit.
MOVES, LARGEST_MOVE = 2, 0.2
UNITS = {
    "point": "",
    "toy": "",
    "mu_hat": "",
    "lower": "",
    "upper": "",
    "status_lower": "",
    "status_upper": "",
    "status_free": "",
    "refits": "",
}


@dataclass(frozen=True, eq=False)
class LimitWork:
    """Draws the toys of a chunk and sets the limits of each.

    Attributes
    ----------
    parameters, runs
        The model.
    poi
        The parameter of interest.
    points
        (G, P) true parameters of the toys.
    critical
        Critical value, or critical values from toys.
    kind
        Which ends.
    seed
        Of the study.
    pool
        Where the events of toys are taken from; drawn anew for every toy if None.
    """

    parameters: ParameterSet
    runs: tuple[ScienceRun, ...]
    poi: str
    points: Tensor
    critical: float | CriticalCurve
    kind: IntervalKind
    seed: int
    pool: EventPool | None = None

    def __call__(self, chunk: Chunk) -> Columns:
        """Return the columns of :data:`UNITS`."""
        size = chunk.size if self.pool is None else self.pool.portion
        parts = [self._columns(chunk.point, toys) for toys in chunk.toys.split(size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in UNITS}

    def _columns(self, point: int, toys: Tensor) -> dict[str, np.ndarray]:
        truth, index = self.points[point], toy_index(point, toys)
        if self.pool is None:
            drawn = draw_toys(self.parameters, self.runs, truth, index, self.seed)
            found = self._limits(Likelihood(self.parameters, self.runs, drawn.data), truth)
            columns = self._record(found)
        else:
            columns = self._pooled(self.pool, self.pool.draw(truth, index, self.seed), truth)
        return {"point": np.full(len(toys), point), "toy": toys.numpy(), **columns}

    def _limits(self, likelihood: Likelihood, truth: Tensor, options: FitOptions | None = None) -> IntervalBatch:
        centres = likelihood.data.centres
        rows = torch.arange(likelihood.n_datasets, device=centres.device)
        best = fit_batch(likelihood, None, rows, truth.to(centres), options)
        return interval_batch(likelihood, self.poi, self.critical, self.kind, best=best, options=options)

    def _pooled(self, pool: EventPool, likelihood: Likelihood, truth: Tensor) -> dict[str, np.ndarray]:
        """Return limits that are found on an expansion and finished with exact densities where these matter.

        Those of toys that fail are found with exact densities throughout.
        """
        found = self._limits(likelihood, truth, QUICK)
        ends = [found.best.values, *(end.conditional.values for end in (found.lower, found.upper) if end is not None)]
        outside = ~torch.stack([pool.covers(end) for end in ends]).all(dim=0)
        found = self._finished(partly_exact(pool, likelihood, ends, outside), found)
        good = found.best.success
        for end in (found.lower, found.upper):
            good = good if end is None else good & (end.status != int(CrossingStatus.FAILED))
        columns, lost = self._record(found), (~good).nonzero().flatten()
        if len(lost):
            exact = Likelihood(self.parameters, likelihood.runs, likelihood.data.take(lost))
            again, index = self._record(self._limits(exact, truth)), lost.cpu().numpy()
            for name, column in columns.items():
                column[index] = again[name]
            columns["refits"][index] += 1
        return columns

    def _finished(self, likelihood: Likelihood, found: IntervalBatch) -> IntervalBatch:
        """Return limits moved to where they are on another likelihood."""
        best = fit_batch(likelihood, None, found.best.rows, found.best.values, FINISH)
        lower, upper = (
            None if end is None else self._moved(likelihood, best, end) for end in (found.lower, found.upper)
        )
        return IntervalBatch(best, lower, upper, found.refits)

    def _moved(self, likelihood: Likelihood, best: FitBatch, end: Crossings) -> Crossings:
        """Return one end of the limits moved; its search counts as failed where it would move far."""
        column, found = self.parameters.index(self.poi), end.status == int(CrossingStatus.FOUND)
        low, high, start = likelihood.lower[column], likelihood.upper[column], end.conditional.values
        for _ in range(MOVES):
            fits = fit_batch(likelihood, {self.poi: end.value}, best.rows, start, FINISH)
            t, tangent = 2 * (best.log_likelihood - fits.log_likelihood), profile_tangent(fits, column)
            c = self.critical(end.value) if callable(self.critical) else self.critical
            move = torch.where(found, (t - c) / (2 * tangent.slope), 0.0)
            far = ~fits.success | (move.abs() > LARGEST_MOVE * (end.value - best.values[:, column]).abs())
            move = torch.where(far, 0.0, move)
            status = torch.where(far, int(CrossingStatus.FAILED), end.status)
            end = replace(end, value=(end.value + move).clamp(low, high), status=status)
            start = fits.values + move.unsqueeze(-1) * tangent.direction
        return end

    def _record(self, found: IntervalBatch) -> dict[str, np.ndarray]:
        n = len(found.best)
        return {
            "mu_hat": found.best.values[:, self.parameters.index(self.poi)].cpu().numpy().copy(),
            "lower": _ends(found.lower, -np.inf, n),
            "upper": _ends(found.upper, np.inf, n),
            "status_lower": _status(found.lower, n),
            "status_upper": _status(found.upper, n),
            "status_free": found.best.status.cpu().numpy().copy(),
            "refits": found.refits.cpu().numpy().copy(),
        }


def _ends(found: Crossings | None, absent: float, n: int) -> np.ndarray:
    """Return limits (n,), ``absent`` where there is none."""
    if found is None:
        return np.full(n, absent)
    there = (found.status == int(CrossingStatus.FOUND)).cpu().numpy()
    return np.where(there, found.value.cpu().numpy(), absent)


def _status(found: Crossings | None, n: int) -> np.ndarray:
    return np.full(n, int(CrossingStatus.NOT_REQUESTED)) if found is None else found.status.cpu().numpy().copy()
