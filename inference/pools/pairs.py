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
    return exact_where_needed(pool, likelihood, poi, pairs, truth, examined)


def exact_where_needed(
    pool: EventPool, likelihood: Likelihood, poi: str, pairs: PairBatch, truth: Tensor, examined: Tensor
) -> ToyFits:
    """Return what is kept of fits on the expansion of a pool, finished as :func:`pooled_pairs` says."""
    ends = (pairs.free.values, pairs.conditional.values)
    outside = ~(pool.covers(ends[0]) & pool.covers(ends[1]))
    rows = torch.arange(len(outside), device=pool.device)
    pairs = _finish(partly_exact(pool, likelihood, ends, outside), poi, pairs, rows, FINISH)
    lost = _lost(pool, pairs, outside)
    if len(lost):
        # where few events decide, the curvature of the expansion may mislead
        curved = partly_exact(pool, likelihood, ends, outside, curved=True)
        pairs = _finish(curved, poi, pairs, lost, FINISH_CURVED)
        lost = _lost(pool, pairs, outside)
    fits = pairs.record()
    fits = replace(fits, expanded=np.ones_like(fits.expanded))
    checked = (examined.to(pool.device) & torch.from_numpy(fits.valid).to(pool.device)).nonzero().flatten()
    if len(checked):
        everywhere = partly_exact(pool, likelihood, ends, torch.ones_like(outside))
        fits = _examined(fits, _finish(everywhere, poi, pairs, checked, FINISH).record(), checked.cpu().numpy())
    if len(lost):
        exact = Likelihood(pool.parameters, likelihood.runs, likelihood.data.take(lost))
        again, index = fit_likelihood_pairs(exact, poi, pairs.mu[lost], truth).record(), lost.cpu().numpy()
        fits = fits.put(index, replace(again, refits=again.refits + fits.refits[index] + 1))
    return fits


def _finish(likelihood: Likelihood, poi: str, pairs: PairBatch, rows: Tensor, options: FitOptions) -> PairBatch:
    """Return the pairs with those of some toys continued on another likelihood."""
    mu, free, conditional = pairs.mu[rows], pairs.free.take(rows), pairs.conditional.take(rows)
    higher = free.success & (free.log_likelihood >= conditional.log_likelihood)
    start = torch.where(higher.unsqueeze(-1), free.values, conditional.values)
    free = fit_batch(likelihood, None, rows, start, options)
    conditional = fit_batch(likelihood, {poi: mu}, rows, conditional.values, options)
    return replace(pairs, free=pairs.free.put(rows, free), conditional=pairs.conditional.put(rows, conditional))


def _lost(pool: EventPool, pairs: PairBatch, outside: Tensor) -> Tensor:
    """Return the toys whose fits are not valid, or have left the region unless they were ``outside`` (T,) before."""
    valid = torch.from_numpy(pairs.record().valid).to(outside)
    within = outside | (pool.covers(pairs.free.values) & pool.covers(pairs.conditional.values))
    return (~(valid & within)).nonzero().flatten()


def _examined(fits: ToyFits, exact: ToyFits, rows: np.ndarray) -> ToyFits:
    """Return the fits with those of some rows replaced by exact ones, and what that changes of -2 ln Lambda."""
    change = 2 * (exact.ll_free - exact.ll_conditional - fits.ll_free + fits.ll_conditional)
    return fits.put(rows, replace(exact, deviation=np.abs(change)).take(rows))
