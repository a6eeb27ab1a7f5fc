"""How a pool of events is made: how many of each source, and their densities expanded to a measured accuracy.

Degrees are chosen, and errors measured, on a pilot sample that stands for a toy of expected size; the polynomials of
all events follow in portions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.event_pool import EventPool, PoolTable, RunPool
from inference.expansion import EventSet, ExpansionOptions, RunExpansion, measuring_points, refine
from inference.parameters import ParameterSet
from inference.philox import stream_of
from inference.polynomial import PolynomialBasis
from inference.region import Region
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.source_fit import SourceFit, chart_of
from surrogate.errors import ConfigError, RangeError

#: Events expanded at a time.
CHUNK = 8192
#: Events of each source in the pilot sample.
PILOT = 500


@dataclass(frozen=True)
class PoolOptions:
    """How large a pool is.

    Parameters
    ----------
    oversampling
        Events in the pool per expected event of a toy.
    least
        Fewest events of a source.
    most_bytes
        Memory of the coefficients; pools are cut to it.
    seed
        Of the events.

    Raises
    ------
    RangeError
        If a number is not positive.
    """

    oversampling: float = 100.0
    least: int = 4000
    most_bytes: int = 2**30
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.oversampling > 0 and self.least > 0 and self.most_bytes > 0):
            raise RangeError(
                f"event pool: oversampling = {self.oversampling}, least = {self.least} and most_bytes = "
                f"{self.most_bytes} must be > 0"
            )


def build_pool(
    parameters: ParameterSet,
    runs: Sequence[ScienceRun],
    values: Tensor,
    region: Region,
    pool: PoolOptions | None = None,
    accuracy: ExpansionOptions | None = None,
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
    pool
        Its size.
    accuracy
        Of the expansion.

    Raises
    ------
    ConfigError
        If a run is binned: its toys need no pool.
    """
    pool, accuracy = pool or PoolOptions(), accuracy or ExpansionOptions()
    for run in runs:
        if run.binned:
            raise ConfigError(f"event pool: run '{run.name}' is binned, toys of which are cheap already")
    builders = [_RunBuilder(parameters, run, values, region, pool, accuracy) for run in runs]
    report = refine([b.pilot for b in builders], accuracy)
    pools = {b.run.name: b.build() for b in builders}
    return EventPool(parameters, tuple(runs), values, region, pools, report)


class _RunBuilder:
    """Draws and expands the events of one run."""

    def __init__(
        self,
        parameters: ParameterSet,
        run: ScienceRun,
        values: Tensor,
        region: Region,
        pool: PoolOptions,
        accuracy: ExpansionOptions,
    ) -> None:
        self.run, self.region, self._pool = run, region, pool
        self._theta = {c.name: theta_of(parameters, c, values.unsqueeze(0))[0] for c in run.sources}
        self._expected = expected_counts(parameters, run, values.unsqueeze(0))[0]
        sample = [self._draw(c, PILOT, "pilot") for c in run.sources]
        weights = (self._expected / PILOT).repeat_interleave(PILOT)
        events = EventSet(torch.cat(sample), weights, torch.zeros(len(weights), dtype=torch.long), 1)
        points = measuring_points(region, parameters, values, accuracy.held_out)
        self.pilot = RunExpansion(parameters, run, events, region, points)

    def _draw(self, source: RunSource, n: int, purpose: str) -> Tensor:
        key = stream_of("pool", purpose, self.run.name, source.name) + (self._pool.seed << 32)
        generator = torch.Generator().manual_seed(key % 2**63)
        return source.source.sample(n, self._theta[source.name], generator).to(torch.float64)

    def build(self) -> RunPool:
        """Return the pool with the polynomials that the pilot settled on."""
        fits = {name: fit for name, fit in self.pilot.fits.items() if name not in self.pilot.given_up}
        wanted = (self._pool.oversampling * self._expected).ceil().clamp_min(self._pool.least)
        terms = sum(len(fit.basis) for fit in fits.values()) + len(self.run.sources)
        scale = min(1.0, self._pool.most_bytes / (8 * terms * float(wanted.sum())))
        counts = (scale * wanted).ceil().long()
        x = torch.cat([self._draw(c, int(n), "events") for c, n in zip(self.run.sources, counts, strict=True)])
        tables = {c.name: self._expanded(c, fits[c.name].basis, x) for c in self.run.sources if c.name in fits}
        constants = {
            c.name: c.source.log_prob(x, self._theta[c.name]).unsqueeze(-1)
            for c in self.run.sources
            if not any(isinstance(d, str) for d in c.drivers)
        }
        return RunPool(x, counts, tables, constants)

    def _expanded(self, source: RunSource, basis: PolynomialBasis, x: Tensor) -> PoolTable:
        chart = chart_of(source, self.region)
        parts = []
        for some in x.split(CHUNK):
            fit = SourceFit(source, chart, some)
            fit.fit(basis.degrees)
            parts.append(fit.coefficients)
        return PoolTable(chart, basis, torch.cat(parts))
