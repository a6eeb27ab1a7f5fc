"""Discovery: the p-value of the background-only hypothesis, asymptotic and from toys (arXiv:1007.1727, section 3.1).

    q0 = 2 [ln L(best) - ln L(mu = 0, nu_hat)] if mu_hat >= 0, else 0;    p0 = P(q0 >= q0_obs | mu = 0)

Asymptotically p0 = 1 - Phi(sqrt(q0)) and Z = sqrt(q0) (eqs. 52 and 53). Toys are made at mu = 0 with the nuisances at
their conditional best fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.fits.batch_fit import fit_batch
from inference.fits.fit import fit_result
from inference.intervals.asymptotics import one_sided_p_value, significance
from inference.intervals.statistics import FAILED_BELOW
from inference.likelihood.extended import Likelihood
from inference.record import Provenance, Record, provenance
from inference.results import FitResult
from inference.studies.counting import Fraction
from inference.studies.toy_pairs import ToyPairs
from surrogate.errors import DataError

#: Below this p-values are not told from 0.
SMALLEST_P = 1e-300


@dataclass(frozen=True)
class Discovery(Record):
    """The test of the background-only hypothesis.

    Attributes
    ----------
    parameter
        The parameter of interest.
    q0
        The observed statistic; None where a fit failed.
    p0, z0
        Asymptotic p-value, 0 where it is too small for a number, and significance sqrt(q0) in standard deviations.
    p0_toys, p0_low, p0_high
        Fraction of background-only toys with at least the observed q0, and its one-sigma Clopper-Pearson interval; None
        without toys.
    z0_toys
        Significance of ``p0_toys``; None if no toy exceeds the data, when only ``p0_high`` bounds it.
    n_toys, n_failed
        Toys, and how many have no valid fits (counted as exceeding the data).
    best_fit, background_only
        The two fits.
    provenance
        What made the result.
    """

    parameter: str
    q0: float | None
    p0: float | None
    z0: float | None
    p0_toys: float | None
    p0_low: float | None
    p0_high: float | None
    z0_toys: float | None
    n_toys: int
    n_failed: int
    best_fit: FitResult
    background_only: FitResult
    provenance: Provenance

    def __repr__(self) -> str:
        """Return the test as text."""
        if self.q0 is None or self.p0 is None:
            return f"discovery of {self.parameter}: the fits failed; best fit {self.best_fit.message}"
        best, error = self.best_fit.values[self.parameter], self.best_fit.errors[self.parameter]
        z0 = math.sqrt(self.q0) if self.z0 is None else self.z0
        p0 = f"= {self.p0:.5g}" if self.p0 > SMALLEST_P else f"< {SMALLEST_P:g}"
        lines = [
            f"best fit {self.parameter} = {best:.5g}{'' if error is None else f' +- {error:.2g}'}",
            f"q0 = {self.q0:.5g}, p0 {p0}, Z = {z0:.5g} (asymptotic)",
        ]
        if self.p0_toys is not None:
            z = "" if self.z0_toys is None else f", Z = {self.z0_toys:.3g}"
            lines.append(f"p0 = {self.p0_toys:.5g} [{self.p0_low:.5g}, {self.p0_high:.5g}]{z}, from {self.n_toys} toys")
        return "\n".join(lines)

    @property
    def success(self) -> bool:
        """Whether both fits converged."""
        return self.q0 is not None


def discovery(likelihood: Likelihood, poi: str, toys: ToyPairs | None = None) -> Discovery:
    """Test the background-only hypothesis on one data set.

    Parameters
    ----------
    likelihood
        The model with the data.
    poi
        The parameter of interest; background only is ``poi`` = 0.
    toys
        Background-only toys tested at 0, from :func:`inference.studies.toy_pairs.run_pairs`.

    Raises
    ------
    DataError
        If there is more than one data set, or the toys are of another model or not background-only.
    RangeError
        If ``poi`` = 0 is outside its bounds.
    """
    if likelihood.n_datasets != 1:
        raise DataError(f"discovery takes one data set, got {likelihood.n_datasets}")
    column = likelihood.parameters.index(poi)
    null = fit_batch(likelihood, {poi: 0.0})
    best = fit_batch(likelihood)
    if float(best.log_likelihood) < float(null.log_likelihood):
        best = fit_batch(likelihood, start=null.values)
    ratio = 2 * float(best.log_likelihood - null.log_likelihood)
    valid = bool(best.success & null.success) and ratio >= FAILED_BELOW
    q0 = max(ratio, 0.0) if valid and float(best.values[0, column]) >= 0 else (0.0 if valid else None)
    p0 = None if q0 is None else one_sided_p_value(q0)
    tail = None if toys is None or q0 is None else _tail(likelihood, toys, poi, q0)
    z_toys = None if tail is None or not 0 < tail.value < 1 else significance(tail.value)
    return Discovery(
        parameter=poi,
        q0=q0,
        p0=p0,
        z0=None if q0 is None else math.sqrt(q0),
        p0_toys=None if tail is None else tail.value,
        p0_low=None if tail is None else tail.low,
        p0_high=None if tail is None else tail.high,
        z0_toys=z_toys,
        n_toys=0 if tail is None else tail.trials,
        n_failed=0 if toys is None else toys.n_failed,
        best_fit=fit_result(likelihood, best),
        background_only=fit_result(likelihood, null),
        provenance=provenance(likelihood.model_hash),
    )


def _tail(likelihood: Likelihood, toys: ToyPairs, poi: str, q0: float) -> Fraction:
    """Return the fraction of toys beyond the data, after making sure that they are the right ones."""
    if toys.model_hash != likelihood.model_hash or toys.poi != poi:
        raise DataError("the toys were made with another model or parameter than the test; make them again")
    if toys.truth[0] != 0 or toys.tested[0] != 0:
        raise DataError(
            f"the first point of the toys has {poi} = {toys.truth[0]:.4g}, tested at {toys.tested[0]:.4g}; a discovery "
            "needs background-only toys tested at 0"
        )
    return toys.tail(0, q0, "q0")


def scan_statistics(pairs: Sequence[ToyPairs], scanned: str | None = None) -> np.ndarray:
    """Return q0 of background-only toys over a scan (n, M): one toy a row, seen by all M models.

    Parameters
    ----------
    pairs
        Background-only toys of each model tested at 0, of one seed: the models must share the names of runs and
        background sources and the true background parameters, which makes toy k the same data for all of them.
    scanned
        The parameter, a constant of each model, in which the models differ.

    Raises
    ------
    DataError
        If seeds, numbers of toys or true backgrounds differ, or toys are not background-only.
    """
    first = pairs[0]
    background = [name != scanned for name in first.names]
    for p in pairs:
        if p.truth[0] != 0 or p.tested[0] != 0:
            raise DataError("a scan needs background-only toys tested at 0")
        same = p.seed == first.seed and p.names == first.names
        if not (same and np.allclose(p.points[0][background], first.points[0][background], rtol=1e-6)):
            raise DataError("a scan needs toys of one seed, made at the same background, for all models")
        if len(p.fits) != len(first.fits):
            raise DataError(f"a scan needs equally many toys for all models, got {len(first.fits)} and {len(p.fits)}")
    return np.stack([p.statistics("q0")[0] for p in pairs], axis=-1)
