"""A statistical model together with its data, and the results that can be asked of it.

Each method calls one function of the package on the same immutable pieces (parameters, runs, data set); what the
methods return are records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from inference.configuration.conversion import Conversion
from inference.data.dataset import Dataset, EventData, Outside
from inference.data.event_checks import MANY
from inference.data.input import as_dataset
from inference.fits.batch_fit import FitOptions, fit_batch
from inference.fits.fit import fit
from inference.intervals.asymptotics import IntervalKind
from inference.intervals.confidence import confidence_interval
from inference.intervals.expanded_fit import located_fit
from inference.intervals.quick_results import Expansions, drawn_profile, set_interval, worth_expanding
from inference.intervals.surrogate_error import surrogate_error
from inference.likelihood.extended import Likelihood
from inference.parameters import ParameterSet
from inference.profiles.crossing import Critical
from inference.profiles.profile import profile_curve, profile_errors
from inference.reports.projections import Projection, Views, project
from inference.results import FitResult, Interval, ProfileCurve, ProfileError, SurrogateError
from inference.science_run import ScienceRun, expected_counts
from surrogate.errors import DataError, UncertifiedError


def with_interval_bounds(parameters: ParameterSet, poi: str, bounds: tuple[float, float]) -> ParameterSet:
    """Return the parameters with another search range for limits on one of them."""
    changed = replace(parameters[poi], interval_bounds=bounds)
    return replace(parameters, parameters=tuple(changed if p.name == poi else p for p in parameters.parameters))


def event_remark(run: str, events: EventData) -> str:
    """Return how many events a run has, and how many were dropped."""
    count, total = events.n_dropped, len(events) + events.n_dropped
    if not count:
        return f"run {run}: {len(events)} events"
    doubt = "; check their units" if count > MANY * total else ""
    return f"run {run}: {len(events)} events, {count} of {total} outside the region of interest dropped{doubt}"


Told = TypeVar("Told", FitResult, Interval)


class Analysis:
    """Science runs, their sources and the parameters that drive them, with data to be compared to.

    Parameters
    ----------
    parameters
        Names, bounds, nominal values and ancillary terms.
    runs
        The science runs.
    confidence_level, confidence_interval_kind
        What limits are set with unless a call says otherwise.
    uncertified
        Surrogates without a valid certificate; with any, limits are refused unless ``allow_uncertified``.
    allow_uncertified
        Set limits all the same.
    conversion
        What of a foreign model file could not be taken over as it stands.

    Raises
    ------
    ConfigError
        If a run names an unknown parameter.
    """

    def __init__(
        self,
        parameters: ParameterSet,
        runs: Sequence[ScienceRun],
        confidence_level: float = 0.9,
        confidence_interval_kind: IntervalKind = "central",
        uncertified: tuple[str, ...] = (),
        allow_uncertified: bool = False,
        conversion: Conversion | None = None,
    ) -> None:
        for run in runs:
            run.check_parameters(parameters)
        self.parameters = parameters
        self.runs = tuple(runs)
        self.confidence_level = confidence_level
        self.confidence_interval_kind = confidence_interval_kind
        self.uncertified = uncertified
        self.allow_uncertified = allow_uncertified
        self.conversion = conversion
        self._likelihood: Likelihood | None = None
        self._expansions = Expansions()
        self._dataset: Dataset | None = None

    @property
    def data(self) -> Dataset:
        """The data set; assign a list [run 1, ..., ancillary] of structured arrays, a mapping, a file or a Dataset.

        What does not fit the model raises DataError; see :func:`inference.data.input.as_dataset`.
        """
        if self._dataset is None:
            raise DataError("the model has no data; assign them: model.data = [events of each run ..., ancillary]")
        return self._dataset

    @data.setter
    def data(self, data: Any) -> None:
        self.set_data(data)

    def set_data(self, data: Any, index: int | None = None, outside: Outside = "refuse") -> None:
        """Assign data, choosing one set of a file that holds several, or dropping events outside the region."""
        dataset = as_dataset(self.parameters, self.runs, data, index, outside)
        self._likelihood = Likelihood(self.parameters, self.runs, dataset)
        self._dataset = dataset

    @property
    def is_data_set(self) -> bool:
        """Whether data were assigned."""
        return self._dataset is not None

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of the model and its data."""
        if self._likelihood is None:
            self._likelihood = Likelihood(self.parameters, self.runs, self.data)
        return self._likelihood

    def remarks(self) -> tuple[str, ...]:
        """Return what a reader of results must know: events per run, events dropped, surrogates not certified."""
        events = (event_remark(name, events) for name, events in self.data.events.items())
        return tuple(filter(None, (*events, self.certificate_remark())))

    def certificate_remark(self) -> str:
        """Return which surrogates have no valid certificate; empty if all have one."""
        return f"without a valid certificate: {', '.join(self.uncertified)}" if self.uncertified else ""

    def set_fit_guesses(self, **fit_guesses: float) -> None:
        """Set where fits start, for the parameters given."""
        self.parameters.check(fit_guesses)
        guessed = (replace(p, fit_guess=fit_guesses.get(p.name, p.fit_guess)) for p in self.parameters.parameters)
        self.parameters = replace(self.parameters, parameters=tuple(guessed))
        self._likelihood = None

    def expected_events(self, values: Mapping[str, float] | None = None) -> dict[str, dict[str, float]]:
        """Return run -> source -> expected events, at the values given and nominal ones for the rest."""
        parameters, point = self.parameters, self.parameters.vector(values)[None]
        counts = {run.name: expected_counts(parameters, run, point)[0].tolist() for run in self.runs}
        return {run.name: dict(zip(run.source_names, counts[run.name], strict=True)) for run in self.runs}

    def projections(self, values: Mapping[str, float]) -> tuple[Projection, ...]:
        """Return data and expectation of every run in each of its observables."""
        return self.views(values).projections

    def views(self, values: Mapping[str, float], raised: Mapping[str, float] | None = None) -> Views:
        """Return the same with the plane of the first two observables, and rates also at raised values."""
        return project(self.parameters, self.runs, self.data, values, raised)

    def fit_result(self, fixed: Mapping[str, float] | None = None, options: FitOptions | None = None) -> FitResult:
        """Maximise the likelihood with some parameters held."""
        quick = options is None and worth_expanding(self.likelihood)
        found = located_fit(self.likelihood, fixed) if quick else fit(self.likelihood, fixed, options=options)
        return told(self, found)

    def drawn_profile(
        self, poi: str, grid: Sequence[float], near: Sequence[FitResult], fixed: Mapping[str, float] | None = None
    ) -> ProfileCurve:
        """Return a profile for a figure; see :func:`inference.intervals.quick_results.drawn_profile`."""
        return drawn_profile(self.likelihood, self._expansions.around(self.likelihood, fixed), poi, grid, near, fixed)

    def profile(
        self,
        poi: str,
        grid: Sequence[float],
        fixed: Mapping[str, float] | None = None,
        options: FitOptions | None = None,
        near: Sequence[FitResult] = (),
    ) -> ProfileCurve:
        """Return the profile likelihood ratio of one parameter on a grid; fits start between those ``near``."""
        return profile_curve(self.likelihood, poi, grid, fixed, options, near)

    def profile_errors(
        self,
        parameters: Sequence[str] | None = None,
        sigmas: float = 1.0,
        fixed: Mapping[str, float] | None = None,
        near: FitResult | None = None,
    ) -> tuple[ProfileError, ...]:
        """Return how far parameters, all free ones by default, may move before t rises by sigmas^2 (as MINOS does).

        ``near`` is the best fit with the same parameters held, if it is known already.
        """
        best = fit_batch(self.likelihood, fixed, start=None if near is None else self.parameters.vector(near.values))
        return profile_errors(self.likelihood, parameters, sigmas, best, fixed=fixed)

    def surrogate_error(self, fit: FitResult, interval: Interval | None = None) -> SurrogateError | None:
        """Return what finite training of the sources adds to a fit and an interval; None if none was trained."""
        return surrogate_error(self.likelihood, fit, interval)

    def require_certified(self) -> None:
        """Raise UncertifiedError if a surrogate has no valid certificate and that was not allowed."""
        if self.uncertified and not self.allow_uncertified:
            raise UncertifiedError(
                f"no valid certificate: {', '.join(self.uncertified)}; validate the surrogates, or allow limits all "
                "the same with --allow-uncertified (allow_uncertified=True in Python)"
            )

    def interval(
        self,
        poi: str,
        confidence_level: float | None = None,
        kind: IntervalKind | None = None,
        critical: Critical | None = None,
        fixed: Mapping[str, float] | None = None,
        bounds: tuple[float, float] | None = None,
        options: FitOptions | None = None,
    ) -> Interval:
        """Return the confidence interval on one parameter.

        Parameters
        ----------
        poi
            The parameter of interest.
        confidence_level, kind
            Those of the model where not given.
        critical
            Critical value of the statistic, a number or a function of the parameter (A,) -> (A,); asymptotic if None.
        fixed, options
            Parameters held in all fits; how fits are made.
        bounds
            Where limits are searched; the parameter's interval bounds where not given.

        Raises
        ------
        UncertifiedError, ConfigError, RangeError
            If a surrogate has no valid certificate, or what is asked for cannot be honoured.
        """
        self.require_certified()
        likelihood = self.likelihood
        if bounds is not None:
            likelihood = Likelihood(with_interval_bounds(self.parameters, poi, bounds), self.runs, self.data)
        level, kind = level_and_kind(self, confidence_level, kind)
        if options is None:
            around = self._expansions.made(likelihood, fixed)
            found = set_interval(likelihood, poi, level, kind, critical, around, fixed)
        else:
            found = confidence_interval(likelihood, poi, level, kind, critical, fixed, options=options)
        return told(self, found)


def told(analysis: Analysis, found: Told) -> Told:
    """Return a fit or an interval whose remarks begin with what a reader must know of the analysis."""
    return replace(found, remarks=(*analysis.remarks(), *found.remarks))


def level_and_kind(
    analysis: Analysis, confidence_level: float | None, kind: IntervalKind | None
) -> tuple[float, IntervalKind]:
    """Return what intervals are set with: the model's where nothing is said."""
    level = analysis.confidence_level if confidence_level is None else confidence_level
    return level, kind or analysis.confidence_interval_kind
