"""Global significance of a scan: how often background alone fluctuates somewhere as far as the data do anywhere.

With local discovery statistics q0(m) at the masses of a scan, the global p-value of the largest, c = max_m q0(m), is

    p_global = P( max_m q0(m) >= c | background only ).

Toys give it directly, provided that one toy is looked at by all masses: toys are addressed by number, and streams by
the names of runs and sources, so background-only studies of all masses with one seed see the same data. Beyond the
reach of toys the expected number of upcrossings N(c_0) of a low level c_0 is extrapolated (Gross and Vitells,
arXiv:1005.1891, for one degree of freedom and mu >= 0),

    p_global ~ P(chi2_1 > c)/2 + N(c_0) exp(-(c - c_0)/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from inference.record import Record
from inference.studies.counting import Fraction, at_least, clopper_pearson
from surrogate.errors import DataError


@dataclass(frozen=True)
class GlobalSignificance(Record):
    """The outcome of a scan.

    Attributes
    ----------
    largest
        c, the largest local q0.
    position
        Which point of the scan has it.
    local_p
        P(chi2_1 > c)/2, the asymptotic local p-value there.
    p_toys
        Fraction of toys whose largest q0 is at least c.
    upcrossings
        Mean number of upcrossings of ``level`` in the toys.
    level
        c_0.
    p_extrapolated
        Of Gross and Vitells.
    """

    largest: float
    position: int
    local_p: float
    p_toys: Fraction
    upcrossings: float
    level: float
    p_extrapolated: float

    @property
    def z_local(self) -> float:
        """Local significance in standard deviations."""
        return float(-special.ndtri(self.local_p))

    @property
    def z_global(self) -> float:
        """Global significance from the extrapolation, in standard deviations; 0 where p exceeds one half."""
        return max(0.0, float(-special.ndtri(self.p_extrapolated)))


def count_upcrossings(scans: np.ndarray, level: float) -> np.ndarray:
    """Return how often each scan (n, M) rises through a level from one point to the next (n,)."""
    above = np.asarray(scans) >= level
    crossings: np.ndarray = (above[:, 1:] & ~above[:, :-1]).sum(axis=1)
    return crossings


def global_significance(observed: np.ndarray, toys: np.ndarray, level: float = 0.5) -> GlobalSignificance:
    """Return the global significance of a scan.

    Parameters
    ----------
    observed
        Local q0 at the points of the scan (M,).
    toys
        The same for background-only toys (n, M): one toy a row, seen by every point.
    level
        Low level c_0 at which upcrossings are counted.

    Raises
    ------
    DataError
        If the shapes do not fit, or a value is NaN.
    """
    observed, toys = np.asarray(observed, dtype=float), np.asarray(toys, dtype=float)
    if observed.ndim != 1 or toys.ndim != 2 or toys.shape[1:] != observed.shape or not toys.size:
        raise DataError(f"scan: observed {observed.shape} and toys {toys.shape} must be (M,) and (n, M)")
    if np.isnan(observed).any() or np.isnan(toys).any():
        raise DataError("scan: q0 is NaN somewhere; look at the status of the fits")
    position = int(np.argmax(observed))
    c = float(observed[position])
    local = float(special.chdtrc(1, c) / 2) if c > 0 else 0.5
    p_toys = clopper_pearson(int(at_least(toys.max(axis=1), c).sum()), len(toys))
    crossings = float(count_upcrossings(toys, level).mean())
    extrapolated = min(1.0, local + crossings * math.exp(-(c - level) / 2)) if c > level else 1.0
    return GlobalSignificance(c, position, local, p_toys, crossings, level, extrapolated)
