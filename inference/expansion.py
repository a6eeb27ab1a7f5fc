"""Expansion of a likelihood: ln f_c(x_i | theta) of every event as a polynomial in theta, to a measured accuracy.

Within a fit the events stand still and only theta moves, and within what the data and the ancillary terms allow ln f is
close to a polynomial of low degree. So f is evaluated at a few nodes (:mod:`inference.source_fit`), and every further
likelihood, gradient and Hessian is a small matrix product (:mod:`inference.expanded_density`).

The error is measured on every build: at held-out theta, the whole ln L with expansions is compared with the exact one.
While its effect on -2 ln Lambda exceeds the tolerance, the source that contributes most gets a finer polynomial. One
that cannot be made fine enough keeps its exact density.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.event_density import BinIndexed, bind
from inference.expanded_density import EventTable, ExpandedDensity
from inference.expansion_report import ExpansionOptions, ExpansionReport, SourceReport
from inference.likelihood import Likelihood
from inference.parameters import ParameterSet
from inference.polynomial import PolynomialBasis
from inference.region import Region, ball_points
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.source_fit import SourceFit, chart_of

#: Of the quasi-random points at which densities are compared.
HELD_OUT_SEED = 2
#: What may be left out along one axis at first, as a fraction of the tolerance, and by which factors it is tightened.
FIRST_SHARE, TIGHTER = 0.5, (0.1, 0.5)


@dataclass(frozen=True, eq=False)
class EventSet:
    """Events of one run to be expanded.

    Attributes
    ----------
    x
        (E, D).
    weights
        (E,) their weight in ln L.
    dataset
        (E,) which of T data sets each belongs to.
    n_datasets
        T.
    """

    x: Tensor
    weights: Tensor
    dataset: Tensor
    n_datasets: int


def expandable(source: RunSource) -> bool:
    """Return whether a source is smooth and moves with parameters."""
    moves = any(isinstance(d, str) for d in source.drivers)
    return moves and not isinstance(source.source, BinIndexed) and not source.source.breakpoints


def shape_parameters(parameters: ParameterSet, runs: Sequence[ScienceRun]) -> tuple[str, ...]:
    """Return the parameters that drive a source which can be expanded, in the order of the set."""
    sources = [c for run in runs if not run.binned for c in run.sources if expandable(c)]
    driving = {d for c in sources for d in c.drivers if isinstance(d, str)}
    return tuple(name for name in parameters.names if name in driving)


class RunExpansion:
    """The expansions of one run, and their errors at some parameter points.

    Parameters
    ----------
    parameters, run
        The model.
    events
        Of the run.
    region
        Where densities are expanded.
    points
        Parameter values (1 + H, P): the centre of the region and the points at which errors are measured.
    """

    def __init__(
        self, parameters: ParameterSet, run: ScienceRun, events: EventSet, region: Region, points: Tensor
    ) -> None:
        self.run, self.events = run, events
        self._theta = {c.name: theta_of(parameters, c, points) for c in run.sources}
        x = events.x.unsqueeze(0)
        self._exact = {c.name: c.source.log_prob(x, self._theta[c.name].unsqueeze(1)) for c in run.sources}
        log_rates = expected_counts(parameters, run, points).log()
        terms = [r.unsqueeze(-1) + f for r, f in zip(log_rates.T, self._exact.values(), strict=True)]
        # how much of the intensity at each event is due to each source
        self._shares = dict(zip(run.source_names, torch.softmax(torch.stack(terms), dim=0), strict=True))
        self.fits = {c.name: SourceFit(c, chart_of(c, region), events.x) for c in run.sources if expandable(c)}
        self.given_up: set[str] = set()

    @property
    def n_densities(self) -> int:
        """Evaluations made so far."""
        held_out = sum(len(theta) for theta in self._theta.values())
        return len(self.events.x) * (held_out + sum(fit.n_nodes for fit in self.fits.values()))

    def degrees(self, name: str, omission: float) -> tuple[int, ...]:
        """Return the degrees at which one source leaves out no more than this in -2 ln Lambda, along any axis."""
        weight = self.events.weights / self.events.n_datasets
        left_out = 2.0 * self.fits[name].omissions(weight, self._shares[name][0])
        # cumulative from the highest degree down: the first degree that is good enough
        needed = (left_out > omission).sum(dim=-1).clamp(min=1)
        return tuple(needed.tolist())

    def differences(self) -> dict[str, Tensor]:
        """Return source -> error of ln f (1 + H, E), of those that are expanded."""
        return {
            name: fit.predict(self._theta[name]) - self._exact[name]
            for name, fit in self.fits.items()
            if name not in self.given_up
        }

    def error(self, differences: Mapping[str, Tensor]) -> float:
        """Return the largest error of -2 ln Lambda, relative to the centre."""
        # ln lambda' - ln lambda = ln sum_c share_c exp(difference_c)
        change = torch.zeros_like(next(iter(self._shares.values())))
        for name, difference in differences.items():
            change = change + self._shares[name] * torch.expm1(difference)
        return self._deviation(torch.log1p(change))

    def effect(self, name: str, difference: Tensor) -> float:
        """Return what one source contributes to the error, to first order."""
        return self._deviation(self._shares[name] * difference)

    def _deviation(self, by_event: Tensor) -> float:
        weighted = by_event * self.events.weights
        total = weighted.new_zeros(len(weighted), self.events.n_datasets)
        total.index_add_(1, self.events.dataset, weighted)
        return 2.0 * float((total - total[0]).abs().max())


def measuring_points(region: Region, parameters: ParameterSet, values: Tensor, n: int) -> Tensor:
    """Return parameter values (1 + n, P): those given, moved to the centre of a region and to points within it."""
    points = values.expand(1 + n, -1).clone()
    index = [parameters.index(name) for name in region.names]
    ball = ball_points(n, len(index), HELD_OUT_SEED)
    points[:, index] = torch.cat([region.centre.unsqueeze(0), region.from_ball(ball)])
    return points


@dataclass
class _Task:
    """A source on its way to the tolerance."""

    run: RunExpansion
    name: str
    omission: float
    effect: float = 0.0
    largest: float = 0.0

    def refine(self, options: ExpansionOptions, tighter: float) -> None:
        """Make the polynomial finer, or give the source up."""
        fit = self.run.fits[self.name]
        self.omission *= tighter
        degrees = self.run.degrees(self.name, self.omission)
        if degrees == fit.basis.degrees:
            degrees = tuple(p + 1 for p in degrees)
        if len(PolynomialBasis(degrees)) > options.most_terms:
            self.run.given_up.add(self.name)
        else:
            fit.fit(degrees)

    def report(self) -> SourceReport:
        """Return the outcome."""
        fit, expanded = self.run.fits[self.name], self.name not in self.run.given_up
        basis = fit.basis
        return SourceReport(
            self.run.run.name, self.name, expanded, basis.degrees, len(basis), fit.n_nodes, self.largest, self.effect
        )


def refine(runs: Sequence[RunExpansion], options: ExpansionOptions) -> ExpansionReport:
    """Make polynomials finer until the error is within the tolerance."""
    first = options.tolerance * FIRST_SHARE
    tasks = {(run.run.name, name): _Task(run, name, first) for run in runs for name in run.fits}
    for task in tasks.values():
        task.refine(options, 1.0)
    while True:
        error = 0.0
        for run in runs:
            differences = run.differences()
            error += run.error(differences)
            for name, difference in differences.items():
                task = tasks[run.run.name, name]
                task.effect, task.largest = run.effect(name, difference), float(difference.abs().max())
        going = [task for task in tasks.values() if task.name not in task.run.given_up]
        if error <= options.tolerance or not going:
            break
        worst = max(going, key=lambda task: task.effect)
        worst.refine(options, min(max(options.tolerance / (2 * worst.effect), TIGHTER[0]), TIGHTER[1]))
    reports = tuple(task.report() for task in tasks.values())
    return ExpansionReport(reports, error, options.tolerance, sum(run.n_densities for run in runs))


@dataclass(frozen=True, eq=False)
class Expansion:
    """A likelihood on expansions.

    Attributes
    ----------
    likelihood
        The same parameters, runs and data, with expanded densities.
    region
        Where they hold; outside it the likelihood evaluates the exact densities.
    report
        Accuracy and cost.
    """

    likelihood: Likelihood
    region: Region
    report: ExpansionReport


def _event_sets(likelihood: Likelihood) -> Iterator[tuple[ScienceRun, EventSet, Tensor]]:
    """Yield the unbinned runs that have events, with these, and the position (T, N) of each event in the set."""
    for run in likelihood.runs:
        x, weights = likelihood.data.x[run.name], likelihood.data.weights[run.name]
        used = weights > 0
        if run.binned or not bool(used.any()):
            continue
        index = (used.flatten().cumsum(0) - 1).clamp_min(0).reshape(used.shape)
        dataset = torch.arange(len(x), device=x.device).unsqueeze(-1).expand(used.shape)[used]
        yield run, EventSet(x[used], weights[used], dataset, len(x)), index


def expand(
    likelihood: Likelihood, region: Region, values: Tensor, options: ExpansionOptions | None = None
) -> Expansion:
    """Replace the moving densities of a likelihood by polynomials.

    Parameters
    ----------
    likelihood
        With exact densities.
    region
        Over at least the parameters of :func:`shape_parameters`.
    values
        (P,) parameters whose rates say how much each source matters when errors are measured.
    options
        Accuracy.

    Raises
    ------
    ConfigError
        If the region lacks a parameter.
    """
    options = options or ExpansionOptions()
    points = measuring_points(region, likelihood.parameters, values, options.held_out)
    sets = list(_event_sets(likelihood))
    runs = [RunExpansion(likelihood.parameters, run, events, region, points) for run, events, _ in sets]
    report = refine(runs, options)
    densities = {
        run.run.name: {
            name: ExpandedDensity(
                fit.chart,
                fit.basis,
                EventTable(fit.coefficients, index),
                bind(fit.source.source, likelihood.data.x[run.run.name]),
            )
            for name, fit in run.fits.items()
            if name not in run.given_up
        }
        for run, (_, _, index) in zip(runs, sets, strict=True)
    }
    expanded = Likelihood(likelihood.parameters, likelihood.runs, likelihood.data, densities)
    return Expansion(expanded, region, report)
