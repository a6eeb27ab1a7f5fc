"""Sensitivity: the distribution of limits over toys, and its bands.

The median expected limit and the intervals of 68 % and 95 % around it are quantiles of the limits of background-only
toys; their errors come from order statistics. A toy without a limit (no crossing below the search bound) counts as
infinite, one whose search failed as infinite too, and both are reported; without a lower limit it counts as minus
infinity, below all that have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special
from torch import Tensor

from inference.intervals.asymptotics import IntervalKind, check_kind
from inference.parameters import ParameterSet
from inference.pools.event_pool import EventPool
from inference.profiles.crossing_records import CrossingStatus
from inference.record import Record, number
from inference.science_run import ScienceRun, model_hash
from inference.studies.counting import check_level, quantile
from inference.studies.critical_values import CriticalCurve
from inference.studies.limit_work import UNITS, LimitWork
from inference.studies.storage import read_study
from inference.studies.study import StudyPlan, run_study
from inference.studies.study_record import StudyHeader
from surrogate.errors import ConfigError

KIND = "limits"

#: Positions of the usual bands, in standard deviations of a normal distribution.
BANDS: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class ToyLimits:
    """Limits of toys.

    Attributes
    ----------
    poi
        The parameter of interest.
    cl, kind
        Confidence level and kind of interval.
    points
        (G, P) true parameters.
    columns
        Rows of all toys by column; see :data:`UNITS`. Limits are infinite where there is none.
    model_hash, seed
        What the toys were made of.
    expansion_error
        Measured error of -2 ln Lambda of the expansion on which limits were searched; None for exact densities.
    """

    poi: str
    cl: float
    kind: IntervalKind
    points: np.ndarray
    columns: Mapping[str, np.ndarray]
    model_hash: str
    seed: int
    expansion_error: float | None = None

    def ends(self, end: str = "upper", point: int = 0) -> np.ndarray:
        """Return the upper or the lower limits of the toys of a point."""
        if end not in ("upper", "lower"):
            raise ConfigError(f"end '{end}': must be 'upper' or 'lower'")
        return self.columns[end][self.columns["point"] == point]

    def count(self, end: str, status: CrossingStatus, point: int = 0) -> int:
        """Return how many searches for an end finished with a status."""
        return int((self.columns[f"status_{end}"][self.columns["point"] == point] == int(status)).sum())


@dataclass(frozen=True)
class SensitivityBand(Record):
    """Quantiles of limits over toys.

    Attributes
    ----------
    parameter, confidence_level, kind, end
        Which limits.
    sigmas
        Positions of the quantiles, in standard deviations of a normal distribution: 0 is the median.
    values, low, high
        The quantiles with their one-sigma intervals; None where they are infinite, and for lower limits where there is
        none.
    n_toys
        Number of toys.
    n_without, n_failed
        Toys without a limit within the search bounds, and toys whose search failed; both count as infinite, for lower
        limits as minus infinity: below all others.
    seed, model_hash
        What the toys were made of.
    expansion_error
        Measured error of -2 ln Lambda of the expansion on which limits were searched; None for exact densities.
    """

    parameter: str
    confidence_level: float
    kind: str
    end: str
    sigmas: tuple[float, ...]
    values: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    n_toys: int
    n_without: int
    n_failed: int
    seed: int
    model_hash: str
    expansion_error: float | None = None

    def __repr__(self) -> str:
        """Return the quantiles with their errors as text, one a line."""
        said = f"{100 * self.confidence_level:g} % {self.end} limits on {self.parameter} over {self.n_toys} toys"
        absent = "none" if self.end == "lower" else "infinite"
        lines = [f"{said}: median and bands, their one-sigma ranges in brackets"]
        for sigma, *numbers in zip(self.sigmas, self.values, self.low, self.high, strict=True):
            value, low, high = (absent if v is None else f"{v:.5g}" for v in numbers)
            lines.append(f"{sigma:+.0f} sigma  {value}  [{low}, {high}]")
        if self.end == "lower":
            lines.append(f"{self.n_without} of {self.n_toys} toys have no lower limit and count below all others")
        return "\n".join(lines)

    @property
    def median(self) -> float | None:
        """The median limit."""
        return self.values[self.sigmas.index(0.0)]


def toy_limits(
    parameters: ParameterSet,
    runs: tuple[ScienceRun, ...],
    poi: str,
    points: Tensor,
    n_toys: int,
    seed: int,
    critical: float | CriticalCurve,
    cl: float,
    kind: IntervalKind = "central",
    plan: StudyPlan | None = None,
    pool: EventPool | None = None,
) -> ToyLimits:
    """Make toys and set limits with each.

    Parameters
    ----------
    parameters, runs
        The model.
    poi
        The parameter of interest.
    points
        (G, P) true parameters of the toys.
    n_toys
        Toys per point; those stored already are not made again.
    seed
        Of the study.
    critical
        Critical value, from :func:`inference.intervals.asymptotics.critical_value`, or critical values from toys.
    cl
        The confidence level that they belong to.
    kind
        ``central``, ``upper`` or ``lower``.
    plan
        Who works, and where the rows are stored; in this process and in memory if None.
    pool
        Where the events of toys are taken from; drawn anew for every toy if None.

    Raises
    ------
    ConfigError
        If the kind or the level is none, or the pool is of another model.
    DataError
        If the store holds another study.
    """
    check_kind(kind)
    check_level("cl", cl)
    threshold: Any = critical.to_dict() if isinstance(critical, CriticalCurve) else float(critical)
    settings = {"poi": poi, "cl": cl, "kind": kind, "points": points.tolist(), "critical": threshold}
    work = LimitWork(parameters, runs, poi, points, critical, kind, seed, pool)
    if pool is not None:
        pool.require(parameters, runs)
        settings |= {"pool": pool.identity, "expansion_error": pool.report.error}
    header = StudyHeader(KIND, model_hash(parameters, runs), seed, settings, UNITS)
    return _gathered(header, run_study(header, work, len(points), n_toys, plan or StudyPlan()))


def read_limits(path: str | Path) -> ToyLimits:
    """Read limits of toys from their store, finished or not.

    Raises
    ------
    DataError
        If the file is missing, holds another kind of study, or no toys yet.
    """
    return _gathered(*read_study(path, KIND))


def _gathered(header: StudyHeader, columns: Mapping[str, np.ndarray]) -> ToyLimits:
    s = header.settings
    points = np.asarray(s["points"], dtype=float)
    error = s.get("expansion_error")
    return ToyLimits(s["poi"], s["cl"], s["kind"], points, columns, header.model_hash, header.seed, error)


def sensitivity_band(
    limits: ToyLimits, end: str = "upper", point: int = 0, sigmas: tuple[float, ...] = BANDS
) -> SensitivityBand:
    """Return quantiles of the limits of one point.

    Raises
    ------
    ConfigError
        If the end is none.
    """
    values = limits.ends(end, point)
    # A lower limit that does not exist is -inf: the order of quantiles stays that of the numbers.
    found = [quantile(values, float(special.ndtr(s))) for s in sigmas]
    failed = limits.count(end, CrossingStatus.FAILED, point)
    return SensitivityBand(
        parameter=limits.poi,
        confidence_level=limits.cl,
        kind=limits.kind,
        end=end,
        sigmas=sigmas,
        values=tuple(number(q.value) for q in found),
        low=tuple(number(q.low) for q in found),
        high=tuple(number(q.high) for q in found),
        n_toys=len(values),
        n_without=int(np.isinf(values).sum()) - failed,
        n_failed=failed,
        seed=limits.seed,
        model_hash=limits.model_hash,
        expansion_error=limits.expansion_error,
    )
