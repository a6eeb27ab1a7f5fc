"""Pools of events for toys: drawn once from the sources' own densities, expanded once, used over and over.

A toy of the model is made of events drawn from f_c(x | theta) of each source. Drawn from a pool of many such events
whose densities are expanded in theta already, a toy costs no evaluation of a network at all. The pool is drawn at one
theta_0; for toys at another theta its events are picked with probabilities proportional to f_c(x | theta) / f_c(x |
theta_0), which the expansion itself provides, and calibrated (:mod:`inference.pools.weights`) so that the truth of the
pool is theta in spite of its finite size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from inference.data.dataset import DataBatch, padded
from inference.expansion.density import ConstantDensity, ExpandedDensity
from inference.expansion.event_table import EventTable
from inference.expansion.region import Region
from inference.expansion.report import ExpansionReport
from inference.expansion.theta_basis import ThetaBasis
from inference.likelihood.event_density import EventDensity
from inference.likelihood.extended import Likelihood
from inference.likelihood.run_term import RunTerm
from inference.parameters import ParameterSet
from inference.pools.weights import calibrated
from inference.science_run import RunSource, ScienceRun, expected_counts, model_hash, theta_of
from inference.toys.draws import draw_counts, throw_centres
from inference.toys.philox import stream_of, uniforms
from surrogate.ensemble import EnsembleSource
from surrogate.errors import ConfigError, DataError
from surrogate.flow_source import FlowSource
from surrogate.spectrum_source import SpectrumSource

CPU = torch.device("cpu")
#: Memory of the coefficients of the toys that are fitted at a time.
FIT_BYTES = 2**28
#: Smallest ratio of the effective to the actual number of events in a pool from which toys are drawn.
LEAST_EFFECTIVE = 0.2


@dataclass(frozen=True, eq=False)
class PoolTable:
    """ln f of one source at all events of a run's pool.

    Attributes
    ----------
    basis
        R functions of theta.
    coefficients
        (E, R).
    """

    basis: ThetaBasis
    coefficients: Tensor

    def to(self, device: torch.device) -> PoolTable:
        """Return the table on a device."""
        return PoolTable(self.basis.to(device), self.coefficients.to(device))


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

    def to(self, device: torch.device) -> RunPool:
        """Return the pool on a device."""
        tables = {name: table.to(device) for name, table in self.tables.items()}
        constants = {name: log_f.to(device) for name, log_f in self.constants.items()}
        return RunPool(self.x.to(device), self.counts.to(device), tables, constants)

    def densities(self, position: Tensor) -> dict[str, EventDensity]:
        """Return what stands for the densities at events ``position`` (T, N) of the pool."""
        densities: dict[str, EventDensity] = {
            name: ExpandedDensity(table.basis, EventTable(table.coefficients, position))
            for name, table in self.tables.items()
        }
        for name, log_f in self.constants.items():
            densities[name] = ConstantDensity(EventTable(log_f, position))
        return densities


def moved_run(run: ScienceRun, device: torch.device) -> ScienceRun:
    """Return a run whose trained sources are on a device; templates follow the tensors they are given."""
    sources = (
        replace(c, source=c.source.on(device))
        if isinstance(c.source, FlowSource | EnsembleSource | SpectrumSource)
        else c
        for c in run.sources
    )
    return replace(run, sources=tuple(sources))


def laid_out(chosen: Sequence[Tensor], rows: Sequence[Tensor], n_rows: int) -> tuple[Tensor, Tensor]:
    """Return which events make up data sets (T, N), and their weights, zero on the padding.

    Parameters
    ----------
    chosen, rows
        For each source the events picked, and the data set of each.
    n_rows
        T.
    """
    row = torch.cat(list(rows))
    order = torch.argsort(row, stable=True)
    counts = torch.bincount(row, minlength=n_rows)
    position, weights = padded(torch.cat(list(chosen))[order].unsqueeze(-1), counts, torch.zeros(1))
    return position[..., 0], weights.to(torch.float64)


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
    device
        Where likelihoods of toys live; see :meth:`on`.
    """

    parameters: ParameterSet
    runs: tuple[ScienceRun, ...]
    values: Tensor
    region: Region
    pools: Mapping[str, RunPool]
    report: ExpansionReport
    device: torch.device = CPU

    def on(self, device: torch.device | str) -> EventPool:
        """Return the pool with the likelihoods of its toys on a device; toys themselves are chosen on the CPU."""
        return replace(self, device=torch.device(device))

    @cached_property
    def _there(self) -> tuple[tuple[ScienceRun, ...], Mapping[str, RunPool]]:
        """The runs and the pools on the device."""
        if self.device == CPU:
            return self.runs, self.pools
        runs = tuple(moved_run(run, self.device) for run in self.runs)
        return runs, {name: pool.to(self.device) for name, pool in self.pools.items()}

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the events, which the toys drawn from them depend on."""
        digest = hashlib.sha256(json.dumps(self.values.tolist()).encode())
        for name, pool in sorted(self.pools.items()):
            digest.update(name.encode())
            digest.update(pool.x.numpy().tobytes())
        return digest.hexdigest()

    def require(self, parameters: ParameterSet, runs: tuple[ScienceRun, ...]) -> None:
        """Raise ConfigError unless the pool is of this model."""
        if model_hash(self.parameters, self.runs) != model_hash(parameters, runs):
            raise ConfigError("the event pool is of another model; build one of this model")

    @property
    def exact_above(self) -> dict[tuple[str, str], float]:
        """Run and source -> the part of the intensity at an event above which fits end on the exact density."""
        return {(s.run, s.source): s.exact_above for s in self.report.sources}

    @property
    def portion(self) -> int:
        """How many toys can be fitted at a time within :data:`FIT_BYTES`."""
        per_toy = 0.0
        for run in self.runs:
            pool = self.pools[run.name]
            n = float(expected_counts(self.parameters, run, self.values.unsqueeze(0)).sum())
            numbers = sum(len(t.basis) + 4 * t.basis.chart.n_parameters for t in pool.tables.values())
            per_toy += 8 * (n + 5 * n**0.5) * (numbers + 4 * len(run.sources) + 2 * len(self.parameters))
        return max(1, int(FIT_BYTES / max(per_toy, 1.0)))

    def covers(self, values: Tensor) -> Tensor:
        """Return whether the expansions hold at parameters (T, P): (T,)."""
        covered = torch.ones(len(values), dtype=torch.bool, device=values.device)
        runs, pools = self._there
        for run in runs:
            tables = pools[run.name].tables
            for c in run.sources:
                if c.name in tables:
                    covered = covered & tables[c.name].basis.inside(theta_of(self.parameters, c, values))
        return covered

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
        runs, pools = self._there
        for run in self.runs:
            counts = draw_counts(self.parameters, run, points, index, seed)
            chosen, weight = self._lay_out(run, values, index, counts, seed)
            position, weights[run.name] = chosen.to(self.device), weight.to(self.device)
            x[run.name] = pools[run.name].x[position]
            densities[run.name] = pools[run.name].densities(position)
        data = DataBatch(x, weights, throw_centres(self.parameters, points, index, seed).to(self.device))
        return Likelihood(self.parameters, runs, data, densities)

    def _lay_out(
        self, run: ScienceRun, values: Tensor, index: Tensor, counts: Tensor, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return which events of the pool make up the toys (T, N), and their weights, zero on the padding."""
        rows = [torch.repeat_interleave(torch.arange(len(index)), n) for n in counts.T]
        probability = self._probabilities(run, values)
        chosen = [self._choose(run, c, probability, index, row, seed) for c, row in enumerate(rows)]
        return laid_out(chosen, rows, len(index))

    def _choose(self, run: ScienceRun, c: int, probability: Tensor, index: Tensor, row: Tensor, seed: int) -> Tensor:
        """Return an event of source c from the pool for each entry of ``row`` (n,), the toys that they belong to."""
        part, name = self.pools[run.name].part(c), run.sources[c].name
        if not len(row):
            return row
        weight = probability[part]
        effective = float(weight.sum().square() / weight.square().sum())
        if effective < LEAST_EFFECTIVE * len(weight):
            raise DataError(
                f"event pool of '{name}': {len(weight)} events count for {effective:.0f} at the parameters of "
                "these toys; build a pool closer to them"
            )
        first = torch.searchsorted(row, torch.arange(len(index)))
        number = torch.arange(len(row)) - first[row]
        u = uniforms(seed, index[row], stream_of("pool", run.name, name), number)[:, 0]
        cumulative = weight.cumsum(0)
        return part.start + torch.searchsorted(cumulative, u * cumulative[-1]).clamp(max=len(weight) - 1)

    def _probabilities(self, run: ScienceRun, values: Tensor) -> Tensor:
        """Return how probable each event of a run's pool is (E,) in toys at values (P,), among those of its source."""
        pool, points = self.pools[run.name], torch.stack([values, self.values])
        ratio = [
            self._log_ratio(pool, c, pool.part(k), theta_of(self.parameters, c, points))
            for k, c in enumerate(run.sources)
        ]
        events = torch.arange(len(pool.x)).unsqueeze(0)
        term = RunTerm(
            self.parameters, run, pool.x[events], torch.ones_like(events, dtype=torch.float64), pool.densities(events)
        )
        scores, expected = term.scores(values.unsqueeze(0), torch.zeros(1, dtype=torch.long))
        free = torch.tensor([p.fittable for p in self.parameters.parameters])
        rates = expected_counts(self.parameters, run, values.unsqueeze(0))[0]
        return calibrated(torch.cat(ratio).exp(), pool.counts, rates, scores[0][:, free], expected[0][free])

    def _log_ratio(self, pool: RunPool, source: RunSource, part: slice, theta: Tensor) -> Tensor:
        """Return ln f(x | theta) - ln f(x | theta_0) at the events that are of the source itself."""
        table = pool.tables.get(source.name)
        if source.name in pool.constants or torch.equal(theta[0], theta[1]):
            return torch.zeros(part.stop - part.start, dtype=torch.float64)
        if table is not None and bool(table.basis.inside(theta).all()):
            log_f = table.basis.values(theta) @ table.coefficients[part].T
        else:
            log_f = source.source.log_prob(pool.x[part].unsqueeze(0), theta.unsqueeze(1))
        return log_f[0] - log_f[1]
