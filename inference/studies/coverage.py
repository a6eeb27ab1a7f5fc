"""Coverage: how often intervals hold the true value, at any (mu, theta), with Clopper-Pearson errors.

An interval by inversion of a test holds the true mu exactly when the statistic at the true mu does not exceed its
critical value there; no limit has to be searched. Toys come from the model itself, or from data sets given (events of a
simulator), in which case the error of a surrogate shows as a lack of coverage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.data.dataset import DataBatch
from inference.intervals.asymptotics import IntervalKind
from inference.intervals.confidence import STATISTIC
from inference.parameters import ParameterSet
from inference.pools.event_pool import EventPool
from inference.pools.given_events import expanded_data
from inference.pools.pairs import EXAMINED, pooled_pairs
from inference.record import Record
from inference.science_run import ScienceRun, model_hash
from inference.studies.counting import at_least, check_level, clopper_pearson
from inference.studies.critical_values import CriticalCurve
from inference.studies.toy_pairs import ToyPairs
from inference.toys.toy_fits import ToyFits, fit_pairs, join
from surrogate.errors import ConfigError, DataError

#: Data sets fitted at a time.
CHUNK = 500


@dataclass(frozen=True)
class CoveragePoint(Record):
    """Coverage at one true parameter point.

    Attributes
    ----------
    parameter
        The parameter of interest.
    confidence_level, kind
        Of the intervals.
    truth
        All true parameters by name.
    coverage
        Fraction of the toys whose interval holds the true value.
    low, high
        Its one-sigma Clopper-Pearson interval.
    n_toys, n_failed
        Toys, and how many have no valid fits: they count as not covered.
    critical
        Critical value at the true value.
    origin
        ``model``, or what the data sets were called.
    seed
        Of the toys; None for data sets given.
    model_hash
        The model that was fitted.
    """

    parameter: str
    confidence_level: float
    kind: str
    truth: dict[str, float]
    coverage: float
    low: float
    high: float
    n_toys: int
    n_failed: int
    critical: float
    origin: str
    seed: int | None
    model_hash: str

    @property
    def error(self) -> float:
        """Half the width of the Clopper-Pearson interval."""
        return (self.high - self.low) / 2


def critical_at(critical: float | CriticalCurve, mu: float) -> float:
    """Return the critical value at mu."""
    return float(critical(torch.tensor(mu, dtype=torch.float64))) if callable(critical) else float(critical)


def _portions(batch: DataBatch, size: int = CHUNK) -> Iterator[DataBatch]:
    """Yield a batch in portions of at most so many data sets."""
    for rows in torch.arange(len(batch)).split(size):
        yield batch.take(rows)


def _expanded_fits(pool: EventPool, data: DataBatch, poi: str, held: Tensor, start: Tensor) -> ToyFits:
    """Fit data sets with densities in the functions of a pool, and with the exact ones where these are not enough."""
    examined = torch.arange(len(data)) % EXAMINED == 0
    return pooled_pairs(pool, expanded_data(pool, data), poi, held, start, examined)


def _point(
    fits: ToyFits,
    truth: dict[str, float],
    poi: str,
    critical: float | CriticalCurve,
    cl: float,
    kind: IntervalKind,
    origin: str,
    seed: int | None,
    model: str,
) -> CoveragePoint:
    """Return the coverage of fits made with the parameter of interest held at its true value."""
    check_level("cl", cl)
    threshold = critical_at(critical, truth[poi])
    # That of the best fit within the bounds of the parameter, as of the intervals.
    _, name = STATISTIC[kind]
    t = fits.statistic(name)
    fraction = clopper_pearson(int(at_least(threshold, t).sum()), len(t))
    return CoveragePoint(
        parameter=poi,
        confidence_level=cl,
        kind=kind,
        truth=truth,
        coverage=fraction.value,
        low=fraction.low,
        high=fraction.high,
        n_toys=len(t),
        n_failed=int(np.isnan(t).sum()),
        critical=threshold,
        origin=origin,
        seed=seed,
        model_hash=model,
    )


def coverage(
    pairs: ToyPairs, critical: float | CriticalCurve, cl: float = 0.9, kind: IntervalKind = "central"
) -> tuple[CoveragePoint, ...]:
    """Return the coverage at every point of a study of the model's own toys.

    Parameters
    ----------
    pairs
        Toys tested where they were made, from :func:`inference.studies.toy_pairs.run_pairs`; independent of those that
        the critical values come from (another seed), else the result is circular.
    critical
        The critical value of the intervals, or critical values from toys.
    cl, kind
        Of the intervals.

    Raises
    ------
    ConfigError
        If toys were not tested where they were made, or the level is none.
    """
    if not np.allclose(pairs.truth, pairs.tested, rtol=1e-12, atol=0):
        raise ConfigError(f"coverage of {pairs.poi}: toys must be tested at the value at which they were made")
    points = []
    for g, row in enumerate(pairs.points):
        fits = pairs.fits.take(pairs.point == g)
        truth = dict(zip(pairs.names, row.tolist(), strict=True))
        points.append(_point(fits, truth, pairs.poi, critical, cl, kind, "model", pairs.seed, pairs.model_hash))
    return tuple(points)


def coverage_of_data(
    parameters: ParameterSet,
    runs: tuple[ScienceRun, ...],
    data: Sequence[DataBatch],
    poi: str,
    truth: dict[str, float],
    critical: float | CriticalCurve,
    cl: float = 0.9,
    kind: IntervalKind = "central",
    origin: str = "data sets",
    pool: EventPool | None = None,
) -> CoveragePoint:
    """Return the coverage over data sets that were made elsewhere, such as by a simulator.

    Parameters
    ----------
    parameters, runs
        The model that is fitted.
    data
        The data sets, in one batch or several; each fitted in portions of at most 500.
    poi
        The parameter of interest.
    truth
        The parameters at which the data were made; nominal where not given. ``poi`` is needed.
    critical
        The critical value of the intervals, or critical values from toys.
    cl, kind
        Of the intervals.
    origin
        What to call the data.
    pool
        In whose functions of the nuisances the densities of the events are expanded; exact densities if None.

    Raises
    ------
    DataError
        If there are no data, or the true value of the parameter of interest is not given.
    """
    if poi not in truth:
        raise DataError(f"truth: the value of '{poi}' at which the data were made is needed")
    if not any(len(batch) for batch in data):
        raise DataError("coverage: at least one data set is needed")
    start = parameters.vector(truth)
    held = torch.tensor(truth[poi], dtype=torch.float64)
    if pool is None:
        parts = [fit_pairs(parameters, runs, some, poi, held, start) for batch in data for some in _portions(batch)]
    else:
        pool.require(parameters, runs)
        parts = [_expanded_fits(pool, some, poi, held, start) for b in data for some in _portions(b, pool.portion)]
    full = parameters.mapping(start)
    return _point(join(parts), full, poi, critical, cl, kind, origin, None, model_hash(parameters, runs))
