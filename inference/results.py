"""Results: records of fits, profiles and intervals. Plots, tables and files read only these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from inference.physical import PhysicalInterval
from inference.record import Provenance, Record

#: Difference of the statistic and its critical value at an end, as a share of the latter, that is called a jump.
JUMP = 2e-3


@dataclass(frozen=True)
class SurrogateError(Record):
    """Standard deviations of results that come from the finite training of the surrogates behind them.

    Attributes
    ----------
    values
        Free parameter -> that of its best fit.
    lower, upper
        Those of the ends of the interval; None where there is none.
    by_source
        Source -> result -> its share; shares add in squares.
    incomplete
        Sources of which only a part is known, so that the error is a lower bound: single flows, of which the rate's
        error alone is, and ensembles that were all trained on the same events.
    unknown
        Sources of which nothing is known, and nothing counted: responses folded with a spectrum.
    """

    values: dict[str, float]
    lower: float | None
    upper: float | None
    by_source: dict[str, dict[str, float]]
    incomplete: tuple[str, ...]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProfileError(Record):
    """How far a parameter may move before t rises by sigmas^2, the others profiled.

    Attributes
    ----------
    parameter, value
        Its name and its value at the best fit.
    sigmas
        Number of standard deviations.
    down, up
        Moves, negative and positive; None where there is no crossing before the bound.
    status_down, status_up
        As in :class:`IntervalEnd`.
    """

    parameter: str
    value: float
    sigmas: float
    down: float | None
    up: float | None
    status_down: str
    status_up: str


@dataclass(frozen=True)
class FitResult(Record):
    """A maximum of the likelihood.

    Attributes
    ----------
    values
        All parameters at the maximum, those held included.
    errors
        Standard deviations from the inverse Hessian over the free parameters that are off their bounds; None for
        others, and where the Hessian is not positive definite.
    covariance_names, covariance
        The parameters of the covariance matrix and its rows; both empty where it does not exist.
    pulls
        (value - centre) / width of every constrained parameter.
    pull_errors
        Its error after the fit in that width; None where it has none.
    fixed
        Names of the parameters that were held.
    log_likelihood
        ln L at the maximum; None where it is not finite.
    status, message
        How the fit ended; see :class:`inference.minimize.FitStatus`.
    at_bound, at_kink
        Free parameters on a bound, and on a point where the likelihood has a kink.
    evaluations
        Evaluations of ln L with derivatives.
    starts, disagreeing_starts
        How many start points were used, and how many of them ended converged at a lower maximum.
    provenance
        What made the result.
    surrogate_error
        What finite training adds to the errors; None where it was not asked for or no surrogate was trained.
    remarks
        What a reader must know: events per run and events dropped, surrogates without a valid certificate, parameters
        that end where their sources do.
    profile_errors
        Asymmetric errors from the profile likelihood ratio; empty where they were not asked for.
    expected
        Run -> source -> events expected at the maximum.
    observed
        Run -> events in the data, weighted ones by their weight.
    """

    values: dict[str, float]
    errors: dict[str, float | None]
    covariance_names: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    pulls: dict[str, float]
    fixed: tuple[str, ...]
    log_likelihood: float | None
    status: str
    message: str
    at_bound: tuple[str, ...]
    at_kink: tuple[str, ...]
    evaluations: int
    starts: int
    disagreeing_starts: int
    provenance: Provenance
    surrogate_error: SurrogateError | None = None
    remarks: tuple[str, ...] = ()
    profile_errors: tuple[ProfileError, ...] = ()
    expected: dict[str, dict[str, float]] = field(default_factory=dict)
    observed: dict[str, float] = field(default_factory=dict)
    pull_errors: dict[str, float | None] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the fit as text, one line a parameter; :func:`inference.reports.summary.summary_text` says more."""
        log_l = "not finite" if self.log_likelihood is None else f"{self.log_likelihood:.6f}"
        width = max(len(name) for name in self.values)
        errors = {name: f" +- {error:.3g}" for name, error in self.errors.items() if error is not None}
        rows = [
            f"  {name:{width}}  {value:.6g}{errors.get(name, '')}{' (fixed)' if name in self.fixed else ''}"
            for name, value in self.values.items()
        ]
        return "\n".join([f"fit: {self.message}, ln L = {log_l}", *rows])

    @property
    def success(self) -> bool:
        """Whether the fit is at a maximum."""
        return self.status in ("converged", "at_bound")

    def correlation(self) -> tuple[tuple[float, ...], ...]:
        """Return the correlation matrix over ``covariance_names``."""
        width = [math.sqrt(row[i]) for i, row in enumerate(self.covariance)]
        return tuple(
            tuple(c / (a * b) for c, b in zip(row, width, strict=True))
            for row, a in zip(self.covariance, width, strict=True)
        )


@dataclass(frozen=True)
class ProfileCurve(Record):
    """The profile likelihood ratio of one parameter on a grid.

    Attributes
    ----------
    parameter
        Its name.
    grid
        Values of the parameter.
    t
        2 [ln L(best) - ln L(conditional best)] at each; None where the conditional fit failed.
    slope
        dt/d(parameter) at each; None where the fit failed, and everywhere if the likelihood has kinks.
    status
        Status of each conditional fit.
    best_fit
        The unconditional fit.
    values
        Parameter -> its value at each conditional best fit.
    provenance
        What made the result.
    """

    parameter: str
    grid: tuple[float, ...]
    t: tuple[float | None, ...]
    slope: tuple[float | None, ...]
    status: tuple[str, ...]
    best_fit: FitResult
    values: dict[str, tuple[float, ...]]
    provenance: Provenance


@dataclass(frozen=True)
class IntervalEnd(Record):
    """One end of a confidence interval.

    Attributes
    ----------
    value
        Where t crosses the critical value; None where it does not.
    status
        ``found``; ``no_crossing`` (t stays below the critical value up to the search bound); ``at_bound`` (the best fit
        is on the search bound); ``outside_range`` (the best fit, or the crossing, lies outside the search range);
        ``failed``; ``not_requested``.
    bound
        The end of the search range, None if open.
    t, critical
        Statistic and critical value at ``value``, or at the furthest point reached where there is no crossing. They
        differ where one of them jumps across the other.
    fits
        Conditional fits made.
    fit
        The conditional fit at ``value``.
    """

    value: float | None
    status: str
    bound: float | None
    t: float | None
    critical: float | None
    fits: int
    fit: FitResult | None

    @property
    def found(self) -> bool:
        """Whether there is a limit."""
        return self.status == "found"

    @property
    def jump(self) -> bool:
        """Whether the statistic, or its critical value, jumps at the end: it crosses without being equal."""
        if not self.found or self.t is None or self.critical is None:
            return False
        return abs(self.t - self.critical) > JUMP * abs(self.critical)


@dataclass(frozen=True)
class Interval(Record):
    """A confidence interval on one parameter.

    Attributes
    ----------
    parameter
        The parameter of interest.
    confidence_level
        Such as 0.9.
    kind
        ``upper``, ``lower``, ``central``, or ``unified``, which is central by its name with toys.
    statistic
        The test statistic, in the names of arXiv:1007.1727; without a tilde where the parameter may be negative.
    critical_values
        Where the critical value comes from: ``asymptotic``, or what was given.
    lower, upper
        The ends.
    best_fit
        The unconditional fit.
    refits
        How often a conditional fit found a higher maximum than the free fit, which was then repeated from there.
    provenance
        What made the result.
    surrogate_error
        What finite training adds to the errors; None where it was not asked for or no surrogate was trained.
    remarks
        What a reader must know: events per run and events dropped, surrogates without a valid certificate, parameters
        that end where their sources do.
    physical
        The ends in what the parameter stands for; None where its unit does not say.
    """

    parameter: str
    confidence_level: float
    kind: str
    statistic: str
    critical_values: str
    lower: IntervalEnd
    upper: IntervalEnd
    best_fit: FitResult
    refits: int
    provenance: Provenance
    surrogate_error: SurrogateError | None = None
    remarks: tuple[str, ...] = ()
    physical: PhysicalInterval | None = None

    def __repr__(self) -> str:
        """Return the interval and its best fit as text."""
        lower, upper = (e.status if e.value is None else f"{e.value:.6g}" for e in (self.lower, self.upper))
        level = f"{100 * self.confidence_level:g} % {self.kind} interval"
        ends = f"lower end {lower}, upper end {upper} ({self.statistic}, critical values {self.critical_values})"
        return f"{level} on {self.parameter}: {ends}\n{self.best_fit!r}"

    @property
    def success(self) -> bool:
        """Whether every end that was asked for is found, or known not to exist."""
        return self.best_fit.success and not {"failed", "outside_range"} & {self.lower.status, self.upper.status}
