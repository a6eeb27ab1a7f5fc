"""How a pool of events is made: how many of each source, and their densities expanded to a measured accuracy.

Polynomials are fitted to a pilot sample and cut down to the few functions that matter (:mod:`inference.reduced_basis`);
on a second sample the error is measured, with the very procedure that then gives the coefficients of all events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inference.event_pool import EventPool, PoolTable, RunPool
from inference.expansion import RunExpansion, refine
from inference.expansion_error import EventSet, ExactDensities, measuring_points
from inference.expansion_report import ExpansionOptions, ExpansionReport, SourceReport
from inference.parameters import ParameterSet
from inference.philox import stream_of
from inference.reduced_basis import NodalFit, principal_modes
from inference.region import Region
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.source_fit import central_nodes
from surrogate.errors import ConfigError, RangeError

#: Events expanded at a time.
CHUNK = 8192
#: Events of each source in a pilot sample.
PILOT = 250
#: Part of the tolerance for the polynomials of the pilot sample; the rest is for what the reduction leaves out.
POLYNOMIAL_SHARE = 0.5
#: What polynomials may leave out along an axis at first, relative to the tolerance: estimates are rarely at its end.
FIRST_SHARE = 5.0
#: Remainder of the functions that are left out at first, in ln L; the factor by which it shrinks, and the reduction of
#: the error below which that was of no use.
FIRST_TAIL, SHRINK, USELESS = 1e-2, 0.3, 0.8
#: Part of the intensity at an event that a source is taken to have at least: where it has none, a wild function of
#: theta could still make it rise above the others.
LEAST_SHARE = 0.3
#: Error of one source, relative to the tolerance, that need not be reduced any further.
ENOUGH = 0.2


def _default_accuracy() -> ExpansionOptions:
    return ExpansionOptions(most_terms=300, held_out=16)


@dataclass(frozen=True)
class PoolOptions:
    """How large a pool is, and how exact.

    Parameters
    ----------
    oversampling
        Events in the pool per expected event of a toy.
    least
        Fewest events of a source.
    most_bytes
        Memory of the coefficients; pools are cut to it.
    radius
        Of the region, in standard deviations of estimates beyond all points at which toys are made.
    accuracy
        Of the expansion, at points that are distributed as estimates from toys are.
    seed
        Of the events.

    Raises
    ------
    RangeError
        If a number is not positive.
    """

    oversampling: float = 20.0
    least: int = 2000
    most_bytes: int = 2**30
    radius: float = 4.5
    accuracy: ExpansionOptions = field(default_factory=_default_accuracy)
    seed: int = 0

    def __post_init__(self) -> None:
        numbers = {n: getattr(self, n) for n in ("oversampling", "least", "most_bytes", "radius")}
        if not min(numbers.values()) > 0:
            raise RangeError(f"event pool: {', '.join(f'{n} = {v}' for n, v in numbers.items())} must be > 0")


def build_pool(
    parameters: ParameterSet,
    runs: Sequence[ScienceRun],
    values: Tensor,
    region: Region,
    options: PoolOptions | None = None,
) -> EventPool:
    """Draw events of every source and expand the densities of all sources at them.

    Parameters
    ----------
    parameters, runs
        The model; its runs are unbinned.
    values
        (P,) where the events are drawn, and whose rates say how many are needed.
    region
        Where densities are expanded: where fits to the toys end.
    options
        Size and accuracy.

    Raises
    ------
    ConfigError
        If a run is binned: its toys need no pool.
    """
    options = options or PoolOptions()
    for run in runs:
        if run.binned:
            raise ConfigError(f"event pool: run '{run.name}' is binned, toys of which are cheap already")
    builders = [_RunBuilder(parameters, run, values, region, options) for run in runs]
    polynomial = replace(options.accuracy, tolerance=POLYNOMIAL_SHARE * options.accuracy.tolerance)
    refine([b.pilot for b in builders], polynomial, FIRST_SHARE, best_effort=True)
    report = _reduce(builders, options.accuracy.tolerance)
    pools = {b.run.name: b.build() for b in builders}
    return EventPool(parameters, tuple(runs), values, region, pools, report)


def _reduce(builders: Sequence[_RunBuilder], tolerance: float) -> ExpansionReport:
    """Choose the functions of all sources so that the error on fresh events is within the tolerance, if possible."""
    going = {(b, name): FIRST_TAIL for b in builders for name in b.pilot.fits}
    for b, name in going:
        b.reduce(name, FIRST_TAIL)
    while sum(b.error() for b in builders) > tolerance and going:
        b, name = worst = max(going, key=lambda key: key[0].effect(key[1]))
        before, effect = b.state(name), b.effect(name)
        going[worst] *= SHRINK
        b.reduce(name, going[worst])
        if b.effect(name) > USELESS * effect:
            # what remains is the error of the polynomials
            b.restore(name, before)
            del going[worst]
        elif b.effect(name) < ENOUGH * tolerance:
            del going[worst]
    sources = tuple(b.source_report(name) for b in builders for name in b.fits)
    error = sum(b.error() for b in builders)
    return ExpansionReport(sources, error, tolerance, sum(b.n_densities for b in builders))


class _RunBuilder:
    """Draws and expands the events of one run."""

    def __init__(
        self, parameters: ParameterSet, run: ScienceRun, values: Tensor, region: Region, options: PoolOptions
    ) -> None:
        self.run, self._options = run, options
        self._theta = {c.name: theta_of(parameters, c, values.unsqueeze(0))[0] for c in run.sources}
        self._sources = {c.name: c for c in run.sources}
        self._expected = expected_counts(parameters, run, values.unsqueeze(0))[0]
        points = measuring_points(region, parameters, values, options.accuracy.held_out, as_estimates=True)
        pilot, self.check = (
            ExactDensities(parameters, run, self._sample(purpose), points) for purpose in ("pilot", "check")
        )
        self.pilot = RunExpansion(pilot, region, central_nodes)
        self.fits: dict[str, NodalFit] = {}
        self._differences: dict[str, Tensor] = {}
        self._n_check = 0

    def _draw(self, source: RunSource, n: int, purpose: str) -> Tensor:
        key = stream_of("pool", purpose, self.run.name, source.name) + (self._options.seed << 32)
        generator = torch.Generator().manual_seed(key % 2**63)
        return source.source.sample(n, self._theta[source.name], generator).to(torch.float64)

    def _sample(self, purpose: str) -> EventSet:
        """Return events that stand for a toy of expected size."""
        x = torch.cat([self._draw(c, PILOT, purpose) for c in self.run.sources])
        weights = (self._expected / PILOT).repeat_interleave(PILOT)
        return EventSet(x, weights, torch.zeros(len(weights), dtype=torch.long), 1)

    def reduce(self, name: str, tail: float) -> None:
        """Cut the functions of a source down to those that matter."""
        polynomial, exact = self.pilot.fits[name], self.pilot.exact
        importance = exact.events.weights.sqrt() * exact.shares[name].amax(dim=0).clamp_min(LEAST_SHARE)
        basis = principal_modes(polynomial.basis, polynomial.coefficients, importance, tail)
        fit = self.fits[name] = NodalFit.of(self._sources[name], basis)
        x = self.check.events.x
        self._n_check += len(x) * len(fit.nodes)
        predicted = basis.values(self.check.theta[name]) @ fit.coefficients(x).T
        self._differences[name] = predicted - self.check.log_f[name]

    def state(self, name: str) -> tuple[NodalFit, Tensor]:
        """Return what :meth:`reduce` made."""
        return self.fits[name], self._differences[name]

    def restore(self, name: str, state: tuple[NodalFit, Tensor]) -> None:
        """Go back to what it made before."""
        self.fits[name], self._differences[name] = state

    def error(self) -> float:
        """Return the error of -2 ln Lambda at the second sample."""
        return self.check.error(self._differences)

    def effect(self, name: str) -> float:
        """Return what one source contributes to it."""
        return self.check.effect(name, self._differences[name])

    @property
    def n_densities(self) -> int:
        """Evaluations for the choice of the functions."""
        return self.pilot.n_densities + self.check.n_densities + self._n_check

    def source_report(self, name: str) -> SourceReport:
        """Return how a source is expanded."""
        degrees, fit = self.pilot.fits[name].degrees, self.fits[name]
        largest = float((self.check.shares[name] * self._differences[name]).abs().max())
        effect = self.effect(name)
        return SourceReport(self.run.name, name, True, degrees, len(fit.basis), len(fit.nodes), largest, effect)

    def build(self) -> RunPool:
        """Return the pool."""
        wanted = (self._options.oversampling * self._expected).ceil().clamp_min(self._options.least)
        terms = sum(len(fit.basis) for fit in self.fits.values()) + len(self.run.sources)
        scale = min(1.0, self._options.most_bytes / (8 * terms * float(wanted.sum())))
        counts = (scale * wanted).ceil().long()
        x = torch.cat([self._draw(c, int(n), "events") for c, n in zip(self.run.sources, counts, strict=True)])
        tables = {
            name: PoolTable(fit.basis, torch.cat([fit.coefficients(some) for some in x.split(CHUNK)]))
            for name, fit in self.fits.items()
        }
        constants = {
            c.name: c.source.log_prob(x, self._theta[c.name]).unsqueeze(-1)
            for c in self.run.sources
            if not any(isinstance(d, str) for d in c.drivers)
        }
        return RunPool(x, counts, tables, constants)
