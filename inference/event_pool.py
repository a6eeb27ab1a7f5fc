"""Pools of events for toys: drawn once from the sources' own densities, expanded once, used over and over.

A toy of the model is made of events drawn from f_c(x | theta) of each source. Drawn from a pool of many such events
whose densities are expanded in theta already, a toy costs no evaluation of a network at all. The pool is drawn at one
theta_0; for toys at another theta its events are picked with probabilities proportional to f_c(x | theta) / f_c(x |
theta_0), which the expansion itself provides.

A pool of n_c events of a source stands for its density with the scatter of n_c events: fits to toys with N_c of them
scatter about the truth of the pool, which is off by sqrt(N_c / n_c) of their own scatter. With the default of a hundred
times as many events as in a toy that is a tenth, and adds a half percent in quadrature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from inference.data import DataBatch, padded
from inference.event_density import EventDensity, bind
from inference.expanded_density import Chart, ConstantDensity, EventTable, ExpandedDensity
from inference.expansion import ExpansionReport
from inference.likelihood import Likelihood
from inference.parameters import ParameterSet
from inference.philox import stream_of, uniforms
from inference.polynomial import PolynomialBasis
from inference.region import Region
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.toys import draw_counts, throw_centres
from surrogate.errors import DataError

#: Memory of the coefficients of the toys that are fitted at a time.
FIT_BYTES = 2**28
#: Smallest ratio of the effective to the actual number of events in a pool from which toys are drawn.
LEAST_EFFECTIVE = 0.2


@dataclass(frozen=True, eq=False)
class PoolTable:
    """ln f of one source at all events of a run's pool, as polynomials.

    Attributes
    ----------
    chart, basis
        The region and the monomials.
    coefficients
        (E, M).
    """

    chart: Chart
    basis: PolynomialBasis
    coefficients: Tensor


@dataclass(frozen=True, eq=False)
class RunPool:
    """The pool of one run.

    Attributes
    ----------
    x
        (E, D), source after source.
    counts
        (C,) how many events are of each source.
    tables
        Source -> ln f at all of them; a source that could not be expanded is missing.
    constants
        Source -> ln f (E, 1), for sources that do not move.
    """

    x: Tensor
    counts: Tensor
    tables: Mapping[str, PoolTable]
    constants: Mapping[str, Tensor]

    def part(self, c: int) -> slice:
        """Return which events are of one source."""
        start = int(self.counts[:c].sum())
        return slice(start, start + int(self.counts[c]))

    def densities(self, run: ScienceRun, position: Tensor, x: Tensor) -> dict[str, EventDensity]:
        """Return what stands for the densities at events ``position`` (T, N) of the pool, which are x (T, N, D)."""
        densities: dict[str, EventDensity] = {}
        for c in run.sources:
            if c.name in self.tables:
                table = self.tables[c.name]
                rows = EventTable(table.coefficients, position)
                densities[c.name] = ExpandedDensity(table.chart, table.basis, rows, bind(c.source, x))
            elif c.name in self.constants:
                densities[c.name] = ConstantDensity(EventTable(self.constants[c.name], position))
        return densities


@dataclass(frozen=True, eq=False)
class EventPool:
    """Events with expanded densities, for toys of a model.

    Attributes
    ----------
    parameters, runs
        The model.
    values
        (P,) where the events were drawn.
    region
        Where densities are expanded.
    pools
        Run name -> its pool; binned runs have none.
    report
        Accuracy of the expansion, for a toy of expected size.
    """

    parameters: ParameterSet
    runs: tuple[ScienceRun, ...]
    values: Tensor
    region: Region
    pools: Mapping[str, RunPool]
    report: ExpansionReport

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the events, which the toys drawn from them depend on."""
        digest = hashlib.sha256(json.dumps(self.values.tolist()).encode())
        for name, pool in sorted(self.pools.items()):
            digest.update(name.encode())
            digest.update(pool.x.numpy().tobytes())
        return digest.hexdigest()

    @property
    def portion(self) -> int:
        """How many toys can be fitted at a time within :data:`FIT_BYTES`."""
        rates = {run.name: expected_counts(self.parameters, run, self.values.unsqueeze(0)).sum() for run in self.runs}
        terms = {name: sum(len(t.basis) for t in pool.tables.values()) for name, pool in self.pools.items()}
        per_toy = 8 * sum(float(n + 5 * n.sqrt()) * (terms[name] + 100) for name, n in rates.items())
        return max(1, int(FIT_BYTES / max(per_toy, 1.0)))

    def draw(self, values: Tensor, index: Tensor, seed: int) -> Likelihood:
        """Draw toys and return their likelihood.

        Parameters
        ----------
        values
            (P,) true parameters of all toys.
        index
            (T,) number of each toy; equal numbers at equal values and seeds are equal toys.
        seed
            Of the study.

        Raises
        ------
        DataError
            If the events of the pool do not represent these parameters.
        """
        points = values.expand(len(index), -1)
        x, weights, densities = {}, {}, {}
        for run in self.runs:
            pool = self.pools[run.name]
            counts = draw_counts(self.parameters, run, points, index, seed)
            position, weights[run.name] = self._lay_out(run, values, index, counts, seed)
            x[run.name] = pool.x[position]
            densities[run.name] = pool.densities(run, position, x[run.name])
        data = DataBatch(x, weights, throw_centres(self.parameters, points, index, seed))
        return Likelihood(self.parameters, self.runs, data, densities)

    def _lay_out(
        self, run: ScienceRun, values: Tensor, index: Tensor, counts: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return which events of the pool make up the toys (T, N), and their weights, zero on the padding."""
        rows = [torch.repeat_interleave(torch.arange(len(index)), n) for n in counts.T]
        chosen = [self._choose(run, c, values, index, row, seed) for c, row in enumerate(rows)]
        order = torch.argsort(torch.cat(rows), stable=True)
        position, weights = padded(torch.cat(chosen)[order].unsqueeze(-1), counts.sum(dim=-1), torch.zeros(1))
        return position[..., 0], weights.to(torch.float64)

    def _choose(self, run: ScienceRun, c: int, values: Tensor, index: Tensor, row: Tensor, seed: int) -> Tensor:
        """Return an event of source c from the pool for each entry of ``row`` (n,), the toys that they belong to."""
        part, source = self.pools[run.name].part(c), run.sources[c]
        if not len(row):
            return row
        weight = self._importance(run, source, part, values)
        effective = float(weight.sum().square() / weight.square().sum())
        if effective < LEAST_EFFECTIVE * len(weight):
            raise DataError(
                f"event pool of '{source.name}': {len(weight)} events count for {effective:.0f} at the parameters of "
                "these toys; build a pool closer to them"
            )
        first = torch.searchsorted(row, torch.arange(len(index)))
        number = torch.arange(len(row)) - first[row]
        u = uniforms(seed, index[row], stream_of("pool", run.name, source.name), number)[:, 0]
        cumulative = weight.cumsum(0)
        return part.start + torch.searchsorted(cumulative, u * cumulative[-1]).clamp(max=len(weight) - 1)

    def _importance(self, run: ScienceRun, source: RunSource, part: slice, values: Tensor) -> Tensor:
        """Return f(x | theta) / f(x | theta_0) of the events that are of the source itself."""
        pool = self.pools[run.name]
        if source.name in pool.constants or torch.equal(values, self.values):
            return torch.ones(part.stop - part.start, dtype=torch.float64)
        theta, table = (
            theta_of(self.parameters, source, torch.stack([values, self.values])),
            pool.tables.get(source.name),
        )
        if table is not None and bool((table.chart.to_ball(theta).norm(dim=-1) <= 1.0).all()):
            log_f = table.basis.values(table.chart.to_ball(theta)) @ table.coefficients[part].T
        else:
            log_f = source.source.log_prob(pool.x[part].unsqueeze(0), theta.unsqueeze(1))
        return (log_f[0] - log_f[1]).exp()
