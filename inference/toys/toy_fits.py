"""Pairs of fits to toys: free, and with the parameter of interest held; all statistics come of these numbers.

The two fits of a toy check each other: the free maximum cannot be lower than the conditional one. Where it is, by more
than 1e-3 in -2 ln Lambda, the free fit has stopped at a lower maximum and is repeated from the conditional one; fits
that did not converge are repeated from each other's end. Every repetition is counted, no toy is dropped; a -2 ln Lambda
between -1e-3 and 0 counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.data.dataset import DataBatch
from inference.fits.batch_fit import FitBatch, FitOptions, fit_batch
from inference.intervals.statistics import FAILED_BELOW, one_sided
from inference.likelihood.extended import Likelihood
from inference.parameters import ParameterSet
from inference.science_run import ScienceRun
from surrogate.errors import ConfigError

#: Columns of a stored pair of fits, with their units.
UNITS = {
    "point": "",
    "toy": "",
    "mu": "",
    "mu_hat": "",
    "ll_free": "",
    "ll_conditional": "",
    "status_free": "",
    "status_conditional": "",
    "refits": "",
    "expanded": "",
    "deviation": "",
}


@dataclass(frozen=True, eq=False)
class ToyFits:
    """Free and conditional maxima of B toys.

    Attributes
    ----------
    mu, mu_hat
        (B,) value at which the parameter of interest was held, and its free estimate.
    ll_free, ll_conditional
        (B,) maxima of ln L.
    status_free, status_conditional
        (B,) codes of :class:`inference.minimize.FitStatus`.
    refits
        (B,) how many fits were repeated.
    expanded
        (B,) 1 where densities are expanded in the nuisances but for where they matter, 0 where all are exact.
    deviation
        (B,) by how much -2 ln Lambda changed when such a fit was finished with exact densities everywhere; NaN where it
        was not.
    """

    mu: np.ndarray
    mu_hat: np.ndarray
    ll_free: np.ndarray
    ll_conditional: np.ndarray
    status_free: np.ndarray
    status_conditional: np.ndarray
    refits: np.ndarray
    expanded: np.ndarray
    deviation: np.ndarray

    def __len__(self) -> int:
        return len(self.mu)

    def take(self, index: np.ndarray) -> ToyFits:
        """Return some of the pairs, by mask or position."""
        return ToyFits(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def put(self, index: np.ndarray, other: ToyFits) -> ToyFits:
        """Return the pairs with some replaced."""
        columns = {name: getattr(self, name).copy() for name in self.__dataclass_fields__}
        for name, column in columns.items():
            column[index] = getattr(other, name)
        return ToyFits(**columns)

    @property
    def valid(self) -> np.ndarray:
        """Whether both fits converged and agree, per toy."""
        lowest = 2 * (self.ll_free - self.ll_conditional) >= FAILED_BELOW
        valid: np.ndarray = (self.status_free <= 1) & (self.status_conditional <= 1) & lowest
        return valid

    def statistic(self, name: str) -> np.ndarray:
        """Return a test statistic (B,); NaN where the fits are not valid.

        Raises
        ------
        ConfigError
            If there is no statistic of that name, or it needs fits at 0 that were not made.
        """
        return np.where(self.valid, likelihood_ratio(name, self), np.nan)


def likelihood_ratio(name: str, fits: ToyFits) -> np.ndarray:
    """Return a statistic (B,) from maxima as they are, valid or not.

    Raises
    ------
    ConfigError
        If there is no statistic of that name, or it has a tilde and an estimate is negative: ln L(0) is not known.
    """
    if name.endswith("tilde") and bool((fits.mu_hat < 0).any()):
        raise ConfigError(
            f"{name}: toys have estimates down to {np.nanmin(fits.mu_hat):.4g}, and were not fitted at 0; ask for "
            f"{name.removesuffix('_tilde')}, or bound the parameter of interest at 0"
        )
    t, mu_hat, mu = (torch.from_numpy(v) for v in (fits.ll_free - fits.ll_conditional, fits.mu_hat, fits.mu))
    return one_sided(name, (2 * t).clamp_min(0.0), mu_hat, mu).numpy()


def fit_pairs(
    parameters: ParameterSet, runs: tuple[ScienceRun, ...], data: DataBatch, poi: str, mu: Tensor, start: Tensor
) -> ToyFits:
    """Fit every data set of a batch, free and with the parameter of interest held.

    Parameters
    ----------
    parameters, runs
        The model.
    data
        T data sets.
    poi
        The parameter of interest.
    mu
        (T,) where it is held.
    start
        (P,) or (T, P): where fits start; for toys the truth.

    Returns
    -------
    ToyFits
        One entry per data set.
    """
    return fit_likelihood_pairs(Likelihood(parameters, runs, data), poi, mu, start).record()


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Free and conditional fits to T data sets.

    Attributes
    ----------
    poi
        Position of the parameter of interest.
    mu
        (T,) where it was held.
    free, conditional
        The fits.
    refits
        (T,) how many fits were repeated.
    """

    poi: int
    mu: Tensor
    free: FitBatch
    conditional: FitBatch
    refits: Tensor

    def put(self, index: Tensor, other: PairBatch) -> PairBatch:
        """Return the batch with some rows (B,) replaced, whose repetitions come on top of those before."""
        refits = self.refits.index_put((index,), self.refits[index] + other.refits)
        free, conditional = self.free.put(index, other.free), self.conditional.put(index, other.conditional)
        return PairBatch(self.poi, self.mu, free, conditional, refits)

    def record(self) -> ToyFits:
        """Return what is kept of them."""
        free, conditional = self.free, self.conditional
        columns = (
            self.mu,
            free.values[:, self.poi],
            free.log_likelihood,
            conditional.log_likelihood,
            free.status,
            conditional.status,
            self.refits,
            torch.zeros_like(self.refits),
            torch.full_like(self.mu, torch.nan),
        )
        return ToyFits(*(column.cpu().numpy() for column in columns))


def fit_likelihood_pairs(
    likelihood: Likelihood, poi: str, mu: Tensor, start: Tensor, options: FitOptions | None = None
) -> PairBatch:
    """Fit every data set of a likelihood; see :func:`fit_pairs`."""
    rows = torch.arange(likelihood.n_datasets, device=likelihood.data.centres.device)
    begin = start.to(likelihood.data.centres).expand(len(rows), -1)
    mu = mu.to(begin).expand(len(rows))
    free = fit_batch(likelihood, None, rows, begin, options)
    conditional = fit_batch(likelihood, {poi: mu}, rows, begin, options)
    refits = torch.zeros_like(rows)

    lost = (~conditional.success).nonzero().flatten()
    if len(lost):
        again = fit_batch(likelihood, {poi: mu[lost]}, rows[lost], free.values[lost], options)
        conditional = _put_better(conditional, lost, again)
        refits[lost] += 1
    below = 2 * (free.log_likelihood - conditional.log_likelihood) < FAILED_BELOW
    low = (below | ~free.success).nonzero().flatten()
    if len(low):
        again = fit_batch(likelihood, None, rows[low], conditional.values[low], options)
        free = _put_better(free, low, again)
        refits[low] += 1
    return PairBatch(likelihood.parameters.index(poi), mu, free, conditional, refits)


def _put_better(batch: FitBatch, index: Tensor, again: FitBatch) -> FitBatch:
    """Return the batch with those rows replaced that ended, converged, at a higher maximum."""
    old = batch.take(index)
    better = again.success & (~old.success | (again.log_likelihood > old.log_likelihood))
    chosen = better.nonzero().flatten()
    return batch.put(index[chosen], again.take(chosen)) if len(chosen) else batch


def join(parts: Sequence[ToyFits]) -> ToyFits:
    """Return several batches as one."""
    names = ToyFits.__dataclass_fields__
    return ToyFits(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
