"""Data sets drawn from samples of events: what a simulator makes, at the cost of toys.

A simulator gives, at one true theta, a large sample of the events of every source, and how many of them a data set has
on average. Data sets have Poisson counts and events picked from the samples with replacement; their ancillary centres
are thrown as for any toy. A part of every sample is expanded in theta (:mod:`inference.pools.given_events`), so that a
data set costs no evaluation of a network.

The n events that are picked from stand for the density of the simulator with the scatter of n events, which would move
the best fits of all data sets together, by sqrt(N / n) of the errors that fits to N events have. So the events have
weights, tilted as those of a pool are (:mod:`inference.pools.weights`), by which their mean score at the truth,
d ln lambda / d p, is that of the whole sample. Only first derivatives are evaluated for the whole, at one theta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.data.dataset import DataBatch
from inference.expansion.build import expandable
from inference.expansion.density import ScoreDensity
from inference.likelihood.event_density import EventDensity
from inference.likelihood.extended import Likelihood
from inference.likelihood.run_term import RunTerm
from inference.parameters import ParameterSet
from inference.pools.event_pool import EventPool, RunPool, laid_out
from inference.pools.given_events import CHUNK, expanded_events
from inference.pools.weights import calibrated
from inference.rows import row_and_place
from inference.science_run import ScienceRun
from inference.toys.draws import throw_centres
from inference.toys.philox import poisson_counts, stream_of, uniforms
from surrogate.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False)
class EventSample:
    """Events of one source at the truth, from anywhere.

    Attributes
    ----------
    x
        (n, D) inside the region of interest.
    expected
        Their mean number in a data set.
    """

    x: Tensor
    expected: float


#: Run name -> a sample for each of its sources, in their order.
Samples = Mapping[str, Sequence[EventSample]]


@dataclass(frozen=True, eq=False)
class SampledSets:
    """Data sets to be drawn from samples.

    Attributes
    ----------
    pool
        Of the model that is fitted; on the CPU.
    events
        Run name -> the events that are picked from.
    expected
        Run name -> (C,) mean numbers of events.
    weights
        Run name -> (E,) how probable each event is among those of its source.
    excess
        (P,) what the samples leave of the mean gradient of ln L at the truth; zero if the model is right.
    """

    pool: EventPool
    events: Mapping[str, RunPool]
    expected: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    excess: Tensor

    def draw(self, values: Tensor, index: Tensor, seed: int) -> Likelihood:
        """Draw data sets and return their likelihood on expansions.

        Parameters
        ----------
        values
            (P,) true parameters, at which the samples were made.
        index
            (T,) number of each data set.
        seed
            Of the study.
        """
        x, weights, densities = {}, {}, {}
        for run in self.pool.runs:
            position, weights[run.name] = self._lay_out(run, index, seed)
            x[run.name] = self.events[run.name].x[position]
            densities[run.name] = self.events[run.name].densities(position)
        centres = throw_centres(self.pool.parameters, values.expand(len(index), -1), index, seed)
        return Likelihood(self.pool.parameters, self.pool.runs, DataBatch(x, weights, centres), densities)

    def _lay_out(self, run: ScienceRun, index: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return which events make up the data sets (T, N), and their weights, zero on the padding."""
        events, chosen, rows = self.events[run.name], [], []
        for c, name in enumerate(run.source_names):
            u = uniforms(seed, index, stream_of("sample counts", run.name, name), 0)[:, 0]
            counts = poisson_counts(u, self.expected[run.name][c].expand(len(index)))
            row, number = row_and_place(counts)
            u = uniforms(seed, index[row], stream_of("sample", run.name, name), number)[:, 0]
            part = events.part(c)
            cumulative = self.weights[run.name][part].cumsum(0)
            place = torch.searchsorted(cumulative, u * cumulative[-1]) if len(row) else row
            chosen.append(part.start + place.clamp(max=part.stop - part.start - 1))
            rows.append(row)
        return laid_out(chosen, rows, len(index))


def sampled_sets(pool: EventPool, samples: Samples, values: Tensor, most: float, least: int = 2000) -> SampledSets:
    """Prepare data sets from samples.

    Parameters
    ----------
    pool
        Of the model that is to be fitted, around the truth.
    samples
        The events.
    values
        (P,) the truth.
    most
        How many events of a source are expanded, per event that a data set has on average.
    least
        Fewest of a source, where its sample has them.

    Raises
    ------
    ConfigError
        If there is not one sample for each source of each run.
    DataError
        If a sample is empty although events are expected of it, or has events outside the region of interest.
    """
    free = torch.tensor([p.fittable for p in pool.parameters.parameters])
    events, expected, weights = {}, {}, {}
    excess = torch.zeros(len(pool.parameters), dtype=torch.float64)
    for run in pool.runs:
        given = samples.get(run.name, ())
        _check(run, given)
        rates = torch.tensor([s.expected for s in given], dtype=torch.float64)
        goal = torch.zeros_like(excess)
        for s in given:
            if len(s.x):
                goal += s.expected * _scores(pool.parameters, run, s.x, values)[0].mean(dim=0)
        parts = [s.x[: max(least, int(most * s.expected))] for s in given]
        counts = torch.tensor([len(part) for part in parts])
        x = torch.cat(parts)
        scores, slope = _scores(pool.parameters, run, x, values)
        events[run.name], expected[run.name] = expanded_events(pool, run, x, counts), rates
        even = torch.ones(len(x), dtype=torch.float64)
        weights[run.name] = calibrated(even, counts, rates, scores[:, free], goal[free])
        excess += goal - slope
    return SampledSets(pool, events, expected, weights, excess)


def _check(run: ScienceRun, given: Sequence[EventSample]) -> None:
    if len(given) != len(run.sources):
        raise ConfigError(f"samples of run '{run.name}': {len(given)} for {len(run.sources)} sources; give one of each")
    for name, s in zip(run.source_names, given, strict=True):
        if not len(s.x) and s.expected > 0:
            raise DataError(
                f"sample of '{name}' in run '{run.name}': is empty, but {s.expected:.3g} events are expected"
            )
        if not bool(run.observables.contains(s.x).all()):
            raise DataError(
                f"sample of '{name}' in run '{run.name}': events lie outside the region of interest; cut them"
            )


def _scores(parameters: ParameterSet, run: ScienceRun, x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of ln lambda (E, P) at events x (E, D), and that of mu_tot (P,)."""
    scores, slope, row = [], torch.zeros_like(values), torch.zeros(1, dtype=torch.long)
    for some in x.split(CHUNK):
        densities: dict[str, EventDensity] = {
            c.name: ScoreDensity(c.source, some.unsqueeze(0)) for c in run.sources if expandable(c)
        }
        term = RunTerm(parameters, run, some.unsqueeze(0), torch.ones(1, len(some), dtype=torch.float64), densities)
        found, expected = term.scores(values.unsqueeze(0), row)
        scores.append(found[0])
        slope = expected[0]
    return torch.cat(scores), slope
