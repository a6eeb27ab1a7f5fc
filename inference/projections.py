"""Data and expectation in one observable at a time: the table behind a figure, and a result like any other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.data import Dataset
from inference.parameters import ParameterSet
from inference.results import Record
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.toys import HistogramSampler, NoiseSampler
from surrogate.observables import Observable
from surrogate.source import Source

#: Points of the quasi-random sequence that projects a flow: each of 30 bins is then good to about 2 %.
SEQUENCE = 2**15
#: Events drawn from a source that offers nothing but samples.
SAMPLES = 50_000
#: Bins of an observable that has no binning of its own.
BINS = 30


@dataclass(frozen=True)
class Projection(Record):
    """Counts and expectations of one run over the bins of one observable.

    Attributes
    ----------
    run, observable, unit
        What is shown.
    logarithmic
        Whether the observable is best drawn on a logarithmic axis.
    edges
        Bin edges (n + 1,).
    counts
        Events (n,), weighted where the data are.
    expected
        Source -> expected events (n,).
    """

    run: str
    observable: str
    unit: str
    logarithmic: bool
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    expected: dict[str, tuple[float, ...]]


def _edges(run: ScienceRun, axis: int) -> Tensor:
    """Return the run's own bins, or equal ones on the scale of the observable."""
    if run.binning is not None:
        return run.binning[axis]
    o: Observable = run.observables.observables[axis]
    return o.from_unit(torch.linspace(0, 1, BINS + 1, dtype=torch.float64))


def _fractions(source: RunSource, theta: Tensor, edges: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return the probability of each bin of each observable for one source at theta (K,)."""
    exact = source.source
    if isinstance(exact, HistogramSampler):
        grid = exact.binning
        pmf = exact.pmf(theta).reshape(grid.shape)
        own = [pmf.sum(dim=[k for k in range(grid.dim) if k != d]) for d in range(grid.dim)]
        return [_rebinned(p, e, target) for p, e, target in zip(own, grid.edges, edges, strict=True)]
    x = _events(exact, theta, seed)
    return [torch.from_numpy(np.histogram(x[:, d].numpy(), e.numpy())[0] / len(x)) for d, e in enumerate(edges)]


def _events(source: Source, theta: Tensor, seed: int) -> Tensor:
    """Return events (n, D) at theta (K,) that fill the density as evenly as the source allows."""
    if not isinstance(source, NoiseSampler):
        return source.sample(SAMPLES, theta, torch.Generator().manual_seed(seed)).to(torch.float64)
    shape = source.noise_shape
    sequence = torch.quasirandom.SobolEngine(math.prod(shape), scramble=True, seed=seed)
    # The sequence may hold 0 and 1, whose images under a quantile function are infinite.
    noise = sequence.draw(SEQUENCE, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    return source.sample_from_noise(noise.reshape(-1, *shape), theta.expand(SEQUENCE, -1)).to(torch.float64)


def _rebinned(pmf: Tensor, edges: Tensor, target: Tensor) -> Tensor:
    """Return the probability of other bins, the density being constant in each bin of its own."""
    cumulative = np.concatenate([[0.0], pmf.cumsum(dim=0).numpy()])
    return torch.from_numpy(np.diff(np.interp(target.numpy(), edges.numpy(), cumulative)))


def projections(
    parameters: ParameterSet, runs: Sequence[ScienceRun], data: Dataset, values: Mapping[str, float], seed: int = 0
) -> tuple[Projection, ...]:
    """Project every run on each of its observables.

    Parameters
    ----------
    parameters, runs, data
        The model and its data.
    values
        All parameters, such as a best fit.
    seed
        Of the events drawn from sources that are no histograms.

    Raises
    ------
    RangeError
        If a value is outside its bounds.
    """
    point = parameters.vector(values)[None]
    found = []
    for run in runs:
        edges = [_edges(run, d) for d in range(run.observables.dim)]
        mean = expected_counts(parameters, run, point)[0]
        shapes = {c.name: _fractions(c, theta_of(parameters, c, point)[0], edges, seed) for c in run.sources}
        events = data.events[run.name]
        for d, o in enumerate(run.observables.observables):
            counts, _ = np.histogram(events.x[:, d].numpy(), edges[d].numpy(), weights=events.weight().numpy())
            expected = {c.name: tuple((float(mean[k]) * shapes[c.name][d]).tolist()) for k, c in enumerate(run.sources)}
            table = tuple(edges[d].tolist()), tuple(counts.tolist()), expected
            found.append(Projection(run.name, o.name, o.unit, o.scale == "log", *table))
    return tuple(found)
