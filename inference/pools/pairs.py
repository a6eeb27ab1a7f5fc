"""Pairs of fits to toys from a pool of expanded events, finished with exact densities where these matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inference.fits.batch_fit import FitOptions, fit_batch
from inference.likelihood.extended import Likelihood
from inference.minimize import NewtonOptions
from inference.pools.event_pool import EventPool
from inference.pools.partly_exact import partly_exact
from inference.studies.study_record import Chunk, Columns
from inference.toys.draws import toy_index
from inference.toys.toy_fits import PairBatch, ToyFits, fit_likelihood_pairs, join

#: One toy in this many, by its number, is finished a second time with exact densities everywhere: the error of others.
EXAMINED = 32
#: Fits to toys on an expansion are given up after a few steps: there is no maximum in its region.
QUICK = FitOptions(newton=NewtonOptions(tolerance=1e-6, max_evaluations=12, radius=2.0), retries=0)
#: They are finished to where the last step leaves less than this in ln L: at first with the curvature of the expansion,
#: which takes one step or two if at all, then with the exact one.
FINISHED = 1e-3
FINISH, FINISH_CURVED = (
    FitOptions(newton=NewtonOptions(tolerance=FINISHED, max_evaluations=n, radius=2.0), retries=0) for n in (10, 40)
)


@dataclass(frozen=True, eq=False)
class PooledPairWork:
    """Draws the toys of a chunk from a pool and fits each twice.

    Attributes
    ----------
    pool
        The pool, with its model.
    poi, points, tested, seed
        As for :class:`inference.studies.toy_pairs.ToyPairWork`.
    """

    pool: EventPool
    poi: str
    points: Tensor
    tested: Tensor
    seed: int

    def __call__(self, chunk: Chunk) -> Columns:
        """Return the columns of :data:`inference.toys.toy_fits.UNITS`."""
        fits = join([self._fit(chunk.point, toys) for toys in chunk.toys.split(self.pool.portion)])
        columns = {name: getattr(fits, name) for name in ToyFits.__dataclass_fields__}
        return {"point": np.full(chunk.size, chunk.point), "toy": chunk.toys.numpy(), **columns}

    def _fit(self, point: int, toys: Tensor) -> ToyFits:
        truth, tested = self.points[point], self.tested[point].expand(len(toys))
        likelihood = self.pool.draw(truth, toy_index(point, toys), self.seed)
        return pooled_pairs(self.pool, likelihood, self.poi, tested, truth, toys % EXAMINED == 0)


def pooled_pairs(
    pool: EventPool, likelihood: Likelihood, poi: str, mu: Tensor, truth: Tensor, examined: Tensor
) -> ToyFits:
    """Fit toys of a pool on its expansion, and finish with exact densities where these matter.

    Parameters
    ----------
    pool, likelihood
        The pool, and the likelihood of toys from it.
    poi, mu
        The parameter of interest, and where it is held (T,).
    truth
        (P,) where fits start.
    examined
        (T,) toys that are finished with exact densities everywhere, to see what that changes.
    """
    pairs = fit_likelihood_pairs(likelihood, poi, mu, truth, QUICK)
    return exact_where_needed(pool, likelihood, poi, pairs, truth, examined)[1]


def exact_where_needed(
    pool: EventPool, likelihood: Likelihood, poi: str, pairs: PairBatch, truth: Tensor, examined: Tensor
) -> tuple[PairBatch, ToyFits]:
    """Return fits on the expansion of a pool, finished as :func:`pooled_pairs` says, and what is kept of them."""
    finish = _Finish(pool, likelihood, poi, (pairs.free.values, pairs.conditional.values))
    outside = finish.outside
    pairs = finish(pairs, torch.arange(len(outside), device=pool.device), outside)
    lost = finish.lost(pairs, outside)
    fits = pairs.record()
    fits = replace(fits, expanded=np.ones_like(fits.expanded))
    checked = (examined.to(pool.device) & ~lost).nonzero().flatten()
    if len(checked):
        everywhere = torch.ones_like(outside)
        pairs = finish(pairs, checked, everywhere)
        lost[checked] = finish.lost(pairs, everywhere)[checked]
        fits = _examined(fits, pairs.record(), checked.cpu().numpy())
    rows = lost.nonzero().flatten()
    if len(rows):
        exact = Likelihood(pool.parameters, likelihood.runs, likelihood.data.take(rows))
        again, index = fit_likelihood_pairs(exact, poi, pairs.mu[rows], truth), rows.cpu().numpy()
        record = again.record()
        pairs = pairs.put(rows, again)
        fits = fits.put(index, replace(record, refits=record.refits + fits.refits[index] + 1))
    return pairs, fits


@dataclass(frozen=True, eq=False)
class _Finish:
    """Continues fits to toys of a pool that ended on its expansion, on densities that are exact where it matters.

    Attributes
    ----------
    pool, likelihood, poi
        As for :func:`pooled_pairs`.
    ends
        Parameters (T, P) at which the free and the conditional fits have ended on the expansion.
    """

    pool: EventPool
    likelihood: Likelihood
    poi: str
    ends: tuple[Tensor, Tensor]

    @property
    def outside(self) -> Tensor:
        """Toys (T,) of which a fit has ended outside the region of the expansion."""
        return ~(self.pool.covers(self.ends[0]) & self.pool.covers(self.ends[1]))

    def __call__(self, pairs: PairBatch, rows: Tensor, everywhere: Tensor) -> PairBatch:
        """Return the pairs with those of some toys finished; ``everywhere`` (T,) says where all events are exact."""
        pairs = _continued(self._likelihood(everywhere), self.poi, pairs, rows, FINISH)
        again = rows[self.lost(pairs, everywhere)[rows]]
        if len(again):
            # where few events decide, the curvature of the expansion may mislead
            pairs = _continued(self._likelihood(everywhere, curved=True), self.poi, pairs, again, FINISH_CURVED)
        return pairs

    def lost(self, pairs: PairBatch, everywhere: Tensor) -> Tensor:
        """Return toys (T,) whose fits are not valid, or have left the region where not all events are exact."""
        valid = torch.from_numpy(pairs.record().valid).to(everywhere)
        within = self.pool.covers(pairs.free.values) & self.pool.covers(pairs.conditional.values)
        return ~(valid & (within | everywhere))

    def _likelihood(self, everywhere: Tensor, curved: bool = False) -> Likelihood:
        return partly_exact(self.pool, self.likelihood, self.ends, everywhere, curved)


def _continued(likelihood: Likelihood, poi: str, pairs: PairBatch, rows: Tensor, options: FitOptions) -> PairBatch:
    """Return the pairs with those of some toys continued on another likelihood."""
    mu, free, conditional = pairs.mu[rows], pairs.free.take(rows), pairs.conditional.take(rows)
    higher = free.success & (free.log_likelihood >= conditional.log_likelihood)
    start = torch.where(higher.unsqueeze(-1), free.values, conditional.values)
    free = fit_batch(likelihood, None, rows, start, options)
    conditional = fit_batch(likelihood, {poi: mu}, rows, conditional.values, options)
    return replace(pairs, free=pairs.free.put(rows, free), conditional=pairs.conditional.put(rows, conditional))


def _examined(fits: ToyFits, exact: ToyFits, rows: np.ndarray) -> ToyFits:
    """Return the fits with those of some rows replaced by exact ones, and what that changes of -2 ln Lambda."""
    change = 2 * (exact.ll_free - exact.ll_conditional - fits.ll_free + fits.ll_conditional)
    return fits.put(rows, replace(exact, deviation=np.abs(change)).take(rows))
