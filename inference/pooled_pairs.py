"""Pairs of fits to toys from a pool of expanded events, with the exact densities where the expansion is not enough."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inference.batch_fit import FitOptions
from inference.event_pool import EventPool
from inference.likelihood import Likelihood
from inference.minimize import NewtonOptions
from inference.study_record import Chunk, Columns
from inference.toy_fits import PairBatch, ToyFits, fit_likelihood_pairs, join
from inference.toys import toy_index

#: One toy in this many, by its number, is evaluated with the exact densities where toys come from a pool; all of them
#: are where the error of its expansion is above the tolerance.
EXAMINED = 32
#: Fits to toys on an expansion end at a thousandth of its error; those that fail are for the exact densities.
QUICK = FitOptions(newton=NewtonOptions(tolerance=1e-6, max_evaluations=40, radius=2.0), retries=0)


@dataclass(frozen=True, eq=False)
class PooledPairWork:
    """Draws the toys of a chunk from a pool and fits each twice.

    Attributes
    ----------
    pool
        The pool, with its model.
    poi, points, tested, seed
        As for :class:`inference.toy_pairs.ToyPairWork`.
    """

    pool: EventPool
    poi: str
    points: Tensor
    tested: Tensor
    seed: int

    def __call__(self, chunk: Chunk) -> Columns:
        """Return the columns of :data:`inference.toy_fits.UNITS`."""
        fits = join([self._fit(chunk.point, toys) for toys in chunk.toys.split(self.pool.portion)])
        columns = {name: getattr(fits, name) for name in ToyFits.__dataclass_fields__}
        return {"point": np.full(chunk.size, chunk.point), "toy": chunk.toys.numpy(), **columns}

    def _fit(self, point: int, toys: Tensor) -> ToyFits:
        truth, tested = self.points[point], self.tested[point].expand(len(toys))
        likelihood = self.pool.draw(truth, toy_index(point, toys), self.seed)
        examined = toys % (EXAMINED if self.pool.exact_enough else 1) == 0
        return pooled_pairs(self.pool, likelihood, self.poi, tested, truth, examined)


def pooled_pairs(
    pool: EventPool, likelihood: Likelihood, poi: str, mu: Tensor, truth: Tensor, examined: Tensor
) -> ToyFits:
    """Fit toys of a pool on its expansion; those that fail or leave its region again with the exact densities.

    Parameters
    ----------
    pool, likelihood
        The pool, and the likelihood of toys from it.
    poi, mu
        The parameter of interest, and where it is held (T,).
    truth
        (P,) where fits start.
    examined
        (T,) whose ln L is evaluated with the exact densities where the fits end. To first order in the error of an
        expansion these are the exact maxima.
    """
    pairs = fit_likelihood_pairs(likelihood, poi, mu, truth, QUICK)
    return exact_where_needed(pool, likelihood, poi, pairs, truth, examined)


def exact_where_needed(
    pool: EventPool, likelihood: Likelihood, poi: str, pairs: PairBatch, truth: Tensor, examined: Tensor
) -> ToyFits:
    """Return what is kept of fits on the expansion of a pool, with the exact densities as :func:`pooled_pairs` says."""
    fits = pairs.record()
    fits = replace(fits, expanded=np.ones_like(fits.expanded))
    held = (pool.covers(pairs.free.values) & pool.covers(pairs.conditional.values)).cpu().numpy()
    good = fits.valid & held
    checked = np.flatnonzero(good & examined.numpy())
    if len(checked):
        fits = fits.put(checked, _examined(pool, likelihood, pairs, fits, torch.from_numpy(checked)))
    lost = np.flatnonzero(~good)
    if len(lost):
        rows = torch.from_numpy(lost).to(pool.device)
        exact = Likelihood(pool.parameters, likelihood.runs, likelihood.data.take(rows))
        again = fit_likelihood_pairs(exact, poi, pairs.mu[rows], truth).record()
        fits = fits.put(lost, replace(again, refits=again.refits + fits.refits[lost] + 1))
    return fits


def _examined(pool: EventPool, likelihood: Likelihood, pairs: PairBatch, fits: ToyFits, rows: Tensor) -> ToyFits:
    """Return the fits of some rows with the exact ln L at their ends, and what that changes of -2 ln Lambda."""
    rows = rows.to(pool.device)
    exact = Likelihood(pool.parameters, likelihood.runs, likelihood.data.take(rows))
    free, conditional = (exact.log_likelihood(b.values[rows]).cpu().numpy() for b in (pairs.free, pairs.conditional))
    chosen = fits.take(rows.cpu().numpy())
    change = 2 * (free - conditional - chosen.ll_free + chosen.ll_conditional)
    return replace(
        chosen,
        ll_free=free,
        ll_conditional=conditional,
        expanded=np.zeros_like(chosen.expanded),
        deviation=np.abs(change),
    )
