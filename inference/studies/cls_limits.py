"""CLs of data: the critical value of an asymptotic limit, and CLs at some signal strengths from toys.

The statistic is q_mu_tilde. Nuisances of the Asimov data and of the toys are at their conditional best fits to the
data, those without signal at mu = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.fits.batch_fit import FitBatch, fit_batch
from inference.intervals.statistics import Statistic, evaluate
from inference.likelihood.extended import Likelihood
from inference.studies.cls import CLsPoint, asymptotic_cls_critical, cls_point
from inference.studies.neyman import profiled_points
from inference.studies.toy_pairs import ToyPairs
from inference.toys.asimov import asimov_data
from surrogate.errors import ConfigError, DataError

STATISTIC: Statistic = "q_mu_tilde"
#: Events by which each smooth source of the Asimov data is represented.
ASIMOV_EVENTS = 1024


@dataclass(frozen=True, eq=False)
class AsymptoticCLs:
    """Critical values c(mu) of q_mu_tilde at which the asymptotic CLs is 1 - CL.

    Attributes
    ----------
    asimov
        The likelihood of background-only Asimov data.
    best
        Its maximum.
    poi, cl, fixed
        The parameter of interest, the confidence level, and parameters that are held.
    """

    asimov: Likelihood
    best: FitBatch
    poi: str
    cl: float
    fixed: Mapping[str, float]

    def __call__(self, mu: Tensor) -> Tensor:
        """Return c at mu (A,)."""
        column = self.asimov.parameters.index(self.poi)
        tested = mu.clamp(float(self.asimov.lower[column]), float(self.asimov.upper[column]))
        start = self.best.values.expand(len(mu), -1)
        fits = fit_batch(self.asimov, {**self.fixed, self.poi: tested}, None, start)
        q = 2 * (self.best.log_likelihood - fits.log_likelihood).clamp_min(0.0)
        return torch.from_numpy(asymptotic_cls_critical(q.cpu().numpy(), self.cl)).to(mu)


def asymptotic_cls_curve(
    likelihood: Likelihood, poi: str, cl: float = 0.9, fixed: Mapping[str, float] | None = None
) -> AsymptoticCLs:
    """Return the critical values of asymptotic CLs limits, for an interval of kind ``upper``.

    Parameters
    ----------
    likelihood
        The model with one data set.
    poi
        The parameter of interest, bounded at zero.
    cl
        Confidence level.
    fixed
        Parameters that are held.

    Raises
    ------
    ConfigError
        If the parameter of interest may be negative.
    DataError
        If there is more than one data set, or the background-only fit failed.
    """
    _require_bound(likelihood, poi)
    if likelihood.n_datasets != 1:
        raise DataError(f"CLs takes one data set, got {likelihood.n_datasets}")
    held = dict(fixed or {})
    null = fit_batch(likelihood, {**held, poi: 0.0})
    if not bool(null.success):
        raise DataError("CLs: the background-only fit to the data failed")
    parameters, runs = likelihood.parameters, likelihood.runs
    data = asimov_data(parameters, runs, parameters.mapping(null.values[0]), ASIMOV_EVENTS)
    asimov = Likelihood(parameters, runs, data)
    return AsymptoticCLs(asimov, fit_batch(asimov, held, None, null.values), poi, cl, held)


def _require_bound(likelihood: Likelihood, poi: str) -> None:
    """Raise ConfigError unless a parameter is bounded at zero: only then q_mu of the best fit is q_mu_tilde."""
    lower = float(likelihood.lower[likelihood.parameters.index(poi)])
    if lower != 0:
        raise ConfigError(
            f"CLs: the lower bound of {poi} is {lower:.4g} and must be 0, where there is background only; bound "
            "the parameter there"
        )


def cls_points(likelihood: Likelihood, poi: str, grid: Sequence[float]) -> tuple[Tensor, list[float]]:
    """Return where toys of CLs are made and tested: at each grid point, then as many without signal, tested there.

    Parameters
    ----------
    likelihood
        The model with one data set.
    poi
        The parameter of interest.
    grid
        Its values, increasing and positive.

    Returns
    -------
    tuple
        True parameters (2 G, P), and where the parameter of interest is tested (2 G,).

    Raises
    ------
    ConfigError
        If the grid does not increase from a positive value, or the parameter of interest may be negative.
    DataError
        If a conditional fit to the data fails.
    """
    _require_bound(likelihood, poi)
    if not min(grid) > 0:
        raise ConfigError(f"grid of {poi}: CLs needs values above 0, got {list(grid)}")
    signal = profiled_points(likelihood, poi, grid)
    background = profiled_points(likelihood, poi, [0.0]).expand_as(signal)
    return torch.cat([signal, background]), [*grid, *grid]


def cls_from_toys(likelihood: Likelihood, pairs: ToyPairs) -> tuple[CLsPoint, ...]:
    """Return CLs of the data from toys made at :func:`cls_points`, at every grid point.

    Raises
    ------
    ConfigError
        If these are other toys.
    DataError
        If they are of another model, or a fit to the data failed.
    """
    half = len(pairs.tested) // 2
    made = np.concatenate([pairs.tested[:half], np.zeros(len(pairs.tested) - half)])
    if not (half and len(pairs.tested) == 2 * half and np.allclose(pairs.truth, made, rtol=1e-12, atol=0)):
        raise ConfigError("CLs: toys with signal, and without tested at the same values, are needed; make them anew")
    if pairs.model_hash != likelihood.model_hash:
        raise DataError("the toys were made with another model than the one of the data; make them again")
    grid = torch.from_numpy(pairs.tested[:half])
    observed = evaluate(likelihood, pairs.poi, grid, STATISTIC, torch.zeros(half, dtype=torch.long)).value.tolist()
    samples = pairs.statistics(STATISTIC)
    columns = zip(grid.tolist(), observed, samples[:half], samples[half:], strict=True)
    return tuple(cls_point(*column) for column in columns)
