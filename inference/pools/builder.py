"""How a pool of events is made: how many of each source, and their densities expanded to a measured accuracy.

Polynomials are fitted to a pilot sample and cut down to the few functions that matter
(:mod:`inference.pools.reduced_basis`); on a second sample the error is measured, with the very procedure that then
gives the coefficients of all events. Where a source makes up much of the intensity fits end on its exact density
(:mod:`inference.pools.partly_exact`): the error says above which part, for each source. A source of most events needs
functions enough to do without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.expansion.build import RunExpansion, refine
from inference.expansion.error import EventSet, ExactDensities, measuring_points
from inference.expansion.region import Region
from inference.expansion.report import ExpansionOptions, ExpansionReport, SourceReport
from inference.expansion.source_fit import central_nodes
from inference.expansion.theta_basis import ThetaBasis
from inference.parameters import ParameterSet
from inference.pools.event_pool import EventPool, PoolTable, RunPool
from inference.pools.reduced_basis import NodalFit, principal_modes
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.toys.philox import stream_of
from surrogate.errors import ConfigError, RangeError

#: Distance of the streams of successive seeds: odd, so that all seeds below 2^32 differ.
SEED_STRIDE = 0x9E3779B1
#: Events expanded at a time.
CHUNK = 8192
#: Events of each source in a pilot sample.
PILOT = 250
#: What polynomials may leave out along an axis at first, relative to the tolerance: estimates are rarely at its end.
FIRST_SHARE = 1.0
#: Remainders of the functions that may be left out, in ln L.
TAILS = (0.006, 0.0015, 0.0004)
#: Part of the intensity at an event that a source is taken to have at least: where it has none, a wild function of
#: theta could still make it rise above the others.
LEAST_SHARE = 0.03
#: Parts of the intensity above which a source may be wanted exactly, and what one source may contribute to the error
#: where it is not, relative to the tolerance.
SHARES, NEGLECTED = (1.0, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0), 0.2
#: Work of an exact density at the ends of the fits to a toy, in functions of all events throughout these.
DENSITY = 0.5


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
    radius: float = 6.0
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
    refine([b.pilot for b in builders], options.accuracy, FIRST_SHARE, best_effort=True)
    for b in builders:
        b.choose()
    pools = {b.run.name: b.build() for b in builders}
    return EventPool(parameters, tuple(runs), values, region, pools, _report(builders, options.accuracy.tolerance))


def _report(builders: Sequence[_RunBuilder], tolerance: float) -> ExpansionReport:
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
        # generators of torch take up the last 32 bits of a seed
        key = stream_of("pool", purpose, self.run.name, source.name) + SEED_STRIDE * self._options.seed
        generator = torch.Generator().manual_seed(key % 2**32)
        return source.source.sample(n, self._theta[source.name], generator).to(torch.float64)

    def _sample(self, purpose: str) -> EventSet:
        """Return events that stand for a toy of expected size."""
        x = torch.cat([self._draw(c, PILOT, purpose) for c in self.run.sources])
        weights = (self._expected / PILOT).repeat_interleave(PILOT)
        return EventSet(x, weights, torch.zeros(len(weights), dtype=torch.long), 1)

    def choose(self) -> None:
        """Choose the functions that make a toy cheapest: the fewer of them, the more exact densities are needed."""
        for name in self.pilot.fits:
            least = math.inf
            for tail in TAILS:
                basis = self._cut(name, tail)
                if len(basis) >= least:
                    break
                fit = NodalFit.of(self._sources[name], basis)
                difference = self._difference(name, fit)
                work = len(basis) + DENSITY * self._n_exact(name, difference)
                if work < least:
                    least, self.fits[name], self._differences[name] = work, fit, difference

    def _cut(self, name: str, tail: float) -> ThetaBasis:
        """Return the functions of a source that matter, but for a remainder."""
        polynomial, exact = self.pilot.fits[name], self.pilot.exact
        importance = exact.events.weights.sqrt() * exact.shares[name].amax(dim=0).clamp_min(LEAST_SHARE)
        return principal_modes(polynomial.basis, polynomial.coefficients, importance, tail)

    def _difference(self, name: str, fit: NodalFit) -> Tensor:
        """Return what ln f is off at the second sample (1 + H, E)."""
        x = self.check.events.x
        self._n_check += len(x) * len(fit.nodes)
        return fit.basis.values(self.check.theta[name]) @ fit.coefficients(x).T - self.check.log_f[name]

    def _exact_above(self, name: str, difference: Tensor) -> float:
        """Return the part of the intensity above which a source must be exact for the others to be exact enough."""
        enough = NEGLECTED * self._options.accuracy.tolerance
        return next(s for s in SHARES if not s or self.check.spread(name, difference, s) <= enough)

    def _n_exact(self, name: str, difference: Tensor) -> float:
        """Return at how many events of a toy that is, on average."""
        above = self.check.shares[name] > self._exact_above(name, difference)
        return float((above.to(torch.float64) @ self.check.events.weights).mean())

    def error(self) -> float:
        """Return the error of -2 ln Lambda at the second sample, with these exact densities."""
        return self.check.error(
            {n: d * (self.check.shares[n] <= self._exact_above(n, d)) for n, d in self._differences.items()}
        )

    @property
    def n_densities(self) -> int:
        """Evaluations for the choice of the functions."""
        return self.pilot.n_densities + self.check.n_densities + self._n_check

    def source_report(self, name: str) -> SourceReport:
        """Return how a source is expanded."""
        degrees, fit = self.pilot.fits[name].degrees, self.fits[name]
        difference = self._differences[name]
        largest = float((self.check.shares[name] * difference).abs().max())
        effect, exact = self.check.effect(name, difference), self._exact_above(name, difference)
        return SourceReport(self.run.name, name, True, degrees, len(fit.basis), len(fit.nodes), largest, effect, exact)

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
