"""Intervals and profiles of one data set, on an expansion of its likelihood where that pays.

It pays where densities are those of trained flows and ln L is smooth; elsewhere these are the exact searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from inference.expansion.build import expandable
from inference.expansion.density import Scored
from inference.fits.batch_fit import FitOptions
from inference.intervals.asymptotics import IntervalKind
from inference.intervals.confidence import confidence_interval
from inference.intervals.expanded_fit import Around, expand_at_maximum, expanded_interval
from inference.likelihood.extended import Likelihood
from inference.profiles.crossing_records import Critical
from inference.profiles.profile import profile_curve
from inference.results import FitResult, Interval, ProfileCurve

#: Start points of each fit of a profile with kinks: far from the best fit a morphed likelihood may have several maxima.
KINKED_STARTS = 4


def worth_expanding(likelihood: Likelihood) -> bool:
    """Return whether fits of one data set are cheaper on an expansion: smooth, with densities of trained flows."""
    if likelihood.n_datasets != 1 or likelihood.breakpoints:
        return False
    sources = (c for run in likelihood.runs if not run.binned for c in run.sources)
    return any(expandable(c) and isinstance(c.source, Scored) for c in sources)


def around_maximum(likelihood: Likelihood, fixed: Mapping[str, float] | None = None) -> Around | None:
    """Return :func:`expand_at_maximum` where that pays, else None."""
    return expand_at_maximum(likelihood, fixed) if worth_expanding(likelihood) else None


def set_interval(
    likelihood: Likelihood,
    poi: str,
    confidence_level: float,
    kind: IntervalKind,
    critical: Critical | None,
    around: Around | None,
    fixed: Mapping[str, float] | None = None,
    critical_values: str = "given",
) -> Interval:
    """Return an interval, on the expansion if there is one; see :func:`confidence_interval`."""
    if around is None:
        return confidence_interval(
            likelihood, poi, confidence_level, kind, critical, fixed, critical_values=critical_values
        )
    return expanded_interval(
        likelihood, poi, confidence_level, kind, critical, fixed, around=around, critical_values=critical_values
    )


def drawn_profile(
    likelihood: Likelihood,
    around: Around | None,
    poi: str,
    grid: Sequence[float],
    near: Sequence[FitResult],
    fixed: Mapping[str, float] | None = None,
) -> ProfileCurve:
    """Return a profile for a figure, on the expansion if there is one that holds at all its fits, else exact.

    On an expansion t is good to its tolerance, 0.01 unless said otherwise.
    """
    if around is not None:
        curve = profile_curve(around[0].likelihood, poi, grid, fixed, None, near)
        ends = torch.tensor([curve.values[name] for name in likelihood.parameters.names], dtype=torch.float64).T
        if bool(around[0].covers(ends).all()):
            return curve
    starts = KINKED_STARTS if likelihood.breakpoints else 1
    return profile_curve(likelihood, poi, grid, fixed, FitOptions(starts=starts), near)


class Expansions:
    """Expansions of one likelihood, made once for each choice of held parameters."""

    def __init__(self) -> None:
        self._likelihood: Likelihood | None = None
        self._made: dict[tuple[tuple[str, float], ...], Around | None] = {}

    def around(self, likelihood: Likelihood, fixed: Mapping[str, float] | None) -> Around | None:
        """Return :func:`around_maximum` of the likelihood, which replaces another that was asked about before."""
        if likelihood is not self._likelihood:
            self._likelihood, self._made = likelihood, {}
        key = _key(fixed)
        if key not in self._made:
            self._made[key] = around_maximum(likelihood, fixed)
        return self._made[key]

    def made(self, likelihood: Likelihood, fixed: Mapping[str, float] | None) -> Around | None:
        """Return what :meth:`around` has made before, else None: one interval alone is cheaper with exact densities."""
        return self._made.get(_key(fixed)) if likelihood is self._likelihood else None


def _key(fixed: Mapping[str, float] | None) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((fixed or {}).items()))
