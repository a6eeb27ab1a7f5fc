"""Expansion of a likelihood: ln f_c(x_i | theta) of every event as a polynomial in theta, to a measured accuracy.

Within a fit the events stand still and only theta moves, and within what the data and the ancillary terms allow ln f is
close to a polynomial of low degree. So f is evaluated at a few nodes (:mod:`inference.expansion.source_fit`), and every
further likelihood, gradient and Hessian is a small matrix product (:mod:`inference.expansion.density`).

The error is measured on every build: at held-out theta, the whole ln L with expansions is compared with the exact one.
While its effect on -2 ln Lambda exceeds the tolerance, the source that contributes most gets a finer polynomial. One
that cannot be made fine enough keeps its exact density.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.expansion.chart import chart_of
from inference.expansion.density import ExpandedDensity
from inference.expansion.error import EventSet, ExactDensities, measuring_points
from inference.expansion.event_table import EventTable
from inference.expansion.region import Region
from inference.expansion.report import ExpansionOptions, ExpansionReport, SourceReport
from inference.expansion.source_fit import Nodes, SourceFit, even_nodes
from inference.likelihood.event_density import BinIndexed
from inference.likelihood.extended import Likelihood
from inference.parameters import ParameterSet
from inference.science_run import RunSource, ScienceRun

#: What may be left out along one axis at first, as a fraction of the tolerance, and by which factors it is tightened.
FIRST_SHARE, TIGHTER = 0.5, (0.1, 0.5)


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
    """The expansions of one run, and what they are compared with.

    Parameters
    ----------
    exact
        The densities at the events of the run, at the points where errors are measured.
    region
        Where densities are expanded.
    nodes
        Where they are evaluated.
    """

    def __init__(self, exact: ExactDensities, region: Region, nodes: Nodes = even_nodes) -> None:
        self.run, self.exact = exact.run, exact
        x = exact.events.x
        self.fits = {c.name: SourceFit(c, chart_of(c, region), x, nodes) for c in exact.run.sources if expandable(c)}
        self.given_up: set[str] = set()

    @property
    def n_densities(self) -> int:
        """Evaluations made so far."""
        return self.exact.n_densities + len(self.exact.events.x) * sum(fit.n_nodes for fit in self.fits.values())

    def degrees(self, name: str, omission: float) -> tuple[int, ...]:
        """Return the degrees at which one source leaves out no more than this in -2 ln Lambda, along any axis."""
        events = self.exact.events
        left_out = 2.0 * self.fits[name].omissions(events.weights / events.n_datasets, self.exact.shares[name][0])
        # cumulative from the highest degree down: the first degree that is good enough
        needed = (left_out > omission).sum(dim=-1).clamp(min=1)
        return tuple(needed.tolist())

    def differences(self) -> dict[str, Tensor]:
        """Return source -> error of ln f (1 + H, E), of those that are expanded."""
        return {
            name: fit.predict(self.exact.theta[name]) - self.exact.log_f[name]
            for name, fit in self.fits.items()
            if name not in self.given_up
        }


@dataclass
class _Task:
    """A source on its way to the tolerance."""

    run: RunExpansion
    name: str
    omission: float
    effect: float = 0.0
    largest: float = 0.0
    finest: bool = False

    def refine(self, options: ExpansionOptions, tighter: float) -> None:
        """Make the polynomial finer, if it may have more terms."""
        fit = self.run.fits[self.name]
        self.omission *= tighter
        degrees = self.run.degrees(self.name, self.omission)
        if degrees == fit.degrees:
            degrees = tuple(p + 1 for p in degrees)
        if len(fit.basis_of(degrees)) > options.most_terms:
            self.finest = True
        else:
            fit.fit(degrees)

    def report(self) -> SourceReport:
        """Return the outcome."""
        fit, expanded = self.run.fits[self.name], self.name not in self.run.given_up
        return SourceReport(
            self.run.run.name, self.name, expanded, fit.degrees, len(fit.basis), fit.n_nodes, self.largest, self.effect
        )


def refine(
    runs: Sequence[RunExpansion], options: ExpansionOptions, first: float = FIRST_SHARE, best_effort: bool = False
) -> ExpansionReport:
    """Make polynomials finer until the error is within the tolerance.

    Parameters
    ----------
    runs
        What is expanded.
    options
        The tolerance, and the most terms a source may have.
    first
        What may be left out along one axis at first, as a fraction of the tolerance.
    best_effort
        Whether a source that would need more terms keeps the polynomial it has; else it is given up.
    """
    tasks = {(run.run.name, name): _Task(run, name, options.tolerance * first) for run in runs for name in run.fits}
    for task in tasks.values():
        task.refine(options, 1.0)
    while True:
        for task in tasks.values():
            if task.finest and not best_effort:
                task.run.given_up.add(task.name)
        error = 0.0
        for run in runs:
            differences = run.differences()
            error += run.exact.error(differences)
            for name, difference in differences.items():
                task = tasks[run.run.name, name]
                task.effect, task.largest = run.exact.effect(name, difference), float(difference.abs().max())
        going = [task for task in tasks.values() if not task.finest]
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
        Where they hold; outside it they are continued, see :mod:`inference.expansion.theta_basis`.
    report
        Accuracy and cost.
    """

    likelihood: Likelihood
    region: Region
    report: ExpansionReport

    def covers(self, values: Tensor) -> Tensor:
        """Return whether the expansion holds at parameters (B, P): (B,)."""
        return self.region.contains(values[:, [self.likelihood.parameters.index(n) for n in self.region.names]])


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
    runs = [RunExpansion(ExactDensities(likelihood.parameters, run, events, points), region) for run, events, _ in sets]
    report = refine(runs, options)
    densities = {
        run.run.name: {
            name: ExpandedDensity(fit.basis, EventTable(fit.coefficients, index))
            for name, fit in run.fits.items()
            if name not in run.given_up
        }
        for run, (_, _, index) in zip(runs, sets, strict=True)
    }
    expanded = Likelihood(likelihood.parameters, likelihood.runs, likelihood.data, densities)
    return Expansion(expanded, region, report)
