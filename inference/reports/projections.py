"""Data and expectation in one observable or two at a time: the tables behind figures, and results like any other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from inference.data.dataset import Dataset
from inference.parameters import ParameterSet
from inference.record import Record
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.toys.draws import HistogramSampler, NoiseSampler
from surrogate.observables import Observable
from surrogate.source import Source

#: Points of the quasi-random sequence that projects a flow: each of 30 bins is then good to about 3 %.
SEQUENCE = 2**14
#: Events drawn from a source that offers nothing but samples.
SAMPLES = 50_000
#: Bins of an observable that has no binning of its own.
BINS = 30
#: Bins of each axis of a plane, and the width in bins of the Gaussian that smooths it where it is filled with events.
PLANE_BINS, SMOOTHING = 50, 1.0


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
    raised
        Source -> expected events (n,) with a rate raised, such as to its upper limit, the shape being that of
        ``expected``; only the sources that this changes.
    """

    run: str
    observable: str
    unit: str
    logarithmic: bool
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    expected: dict[str, tuple[float, ...]]
    raised: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Plane(Record):
    """Events of one run, and where its sources expect them, over its first two observables.

    Attributes
    ----------
    run, observables, units
        What is shown, x and y.
    logarithmic
        Whether x and y are best drawn on logarithmic axes.
    edges
        Bin edges of x (n + 1,) and of y (m + 1,).
    events
        x and y of every event of positive weight.
    expected, raised
        Source -> expected events; see :class:`Projection`.
    probability
        Source -> probability of every bin (n, m).
    """

    run: str
    observables: tuple[str, str]
    units: tuple[str, str]
    logarithmic: tuple[bool, bool]
    edges: tuple[tuple[float, ...], tuple[float, ...]]
    events: tuple[tuple[float, ...], tuple[float, ...]]
    expected: dict[str, float]
    raised: dict[str, float]
    probability: dict[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class Views:
    """Every run in each of its observables, and in the plane of its first two if it has as many."""

    projections: tuple[Projection, ...]
    planes: tuple[Plane, ...]


class _Shape(Protocol):
    """The density of a source at one theta."""

    def share(self, bins: Mapping[int, Tensor]) -> Tensor:
        """Return the probability of bins over some axes, axis -> edges, the others integrated."""
        ...


@dataclass(frozen=True, eq=False)
class _Histogram:
    """Contents over the grid of ``edges``, constant in each bin."""

    edges: tuple[Tensor, ...]
    content: Tensor

    def share(self, bins: Mapping[int, Tensor]) -> Tensor:
        content = self.content
        for axis in reversed(range(content.ndim)):
            content = content if axis in bins else content.sum(dim=axis)
        # Each contraction takes the first axis left and puts its bins last; in the end the order is the given one.
        for axis, target in bins.items():
            content = torch.tensordot(content, _overlap(self.edges[axis], target), dims=([0], [1]))
        return content


@dataclass(frozen=True, eq=False)
class _Filled:
    """Events (n, D) that fill the density."""

    x: Tensor

    def share(self, bins: Mapping[int, Tensor]) -> Tensor:
        counts, _ = np.histogramdd(self.x[:, list(bins)].numpy(), [edges.numpy() for edges in bins.values()])
        share = counts / len(self.x)
        return torch.from_numpy(share if share.ndim == 1 else gaussian_filter(share, SMOOTHING, mode="reflect"))


def _overlap(edges: Tensor, target: Tensor) -> Tensor:
    """Return the fraction (m, n) of each of n bins that lies in each of m others."""
    fractions = (target.unsqueeze(-1) - edges[:-1]) / edges.diff()
    return fractions.clamp(0, 1).diff(dim=0)


def _shape(source: RunSource, theta: Tensor, seed: int) -> _Shape:
    exact = source.source
    if isinstance(exact, HistogramSampler):
        grid = exact.binning
        return _Histogram(grid.edges, exact.pmf(theta).reshape(grid.shape))
    return _Filled(_events(exact, theta, seed))


def _edges(run: ScienceRun, axis: int, bins: int) -> Tensor:
    """Return the run's own bins, or equal ones on the scale of the observable."""
    if run.binning is not None:
        return run.binning[axis]
    o: Observable = run.observables.observables[axis]
    return o.from_unit(torch.linspace(0, 1, bins + 1, dtype=torch.float64))


def _events(source: Source, theta: Tensor, seed: int) -> Tensor:
    """Return events (n, D) at theta (K,) that fill the density as evenly as the source allows."""
    if not isinstance(source, NoiseSampler):
        return source.sample(SAMPLES, theta, torch.Generator().manual_seed(seed)).to(torch.float64)
    shape = source.noise_shape
    sequence = torch.quasirandom.SobolEngine(math.prod(shape), scramble=True, seed=seed)
    # The sequence may hold 0 and 1, whose images under a quantile function are infinite.
    noise = sequence.draw(SEQUENCE, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    return source.sample_from_noise(noise.reshape(-1, *shape), theta.expand(SEQUENCE, -1)).to(torch.float64)


def project(
    parameters: ParameterSet,
    runs: Sequence[ScienceRun],
    data: Dataset,
    values: Mapping[str, float],
    raised: Mapping[str, float] | None = None,
    seed: int = 0,
    at: Mapping[str, float] | None = None,
) -> Views:
    """Project every run on each of its observables, and on the plane of the first two.

    Parameters
    ----------
    parameters, runs, data
        The model and its data.
    values
        All parameters, such as a best fit.
    raised
        Rates that are shown at other values as well, such as the upper limit on a signal.
    seed
        Of the events drawn from sources that are no histograms.
    at
        All parameters at which the sources of raised rates are counted, such as the conditional fit at the upper
        limit; by default ``values`` with ``raised``.

    Raises
    ------
    RangeError
        If a value is outside its bounds.
    """
    point = parameters.vector(values)[None]
    other = parameters.vector({**values, **(raised or {})})[None]
    counted = other if at is None else parameters.vector(at)[None]
    found: list[Projection] = []
    planes = []
    for run in runs:
        shapes = {c.name: _shape(c, theta_of(parameters, c, point)[0], seed) for c in run.sources}
        mean, high, shown = (
            dict(zip(shapes, expected_counts(parameters, run, p)[0].tolist(), strict=True))
            for p in (point, other, counted)
        )
        moved = {name: shown[name] for name in shapes if high[name] != mean[name]}
        found += [_projection(run, axis, data, shapes, mean, moved) for axis in range(run.observables.dim)]
        if run.observables.dim > 1:
            planes.append(_plane(run, data, shapes, mean, moved))
    return Views(tuple(found), tuple(planes))


def _projection(
    run: ScienceRun,
    axis: int,
    data: Dataset,
    shapes: Mapping[str, _Shape],
    mean: Mapping[str, float],
    moved: Mapping[str, float],
) -> Projection:
    o, edges, events = run.observables.observables[axis], _edges(run, axis, BINS), data.events[run.name]
    counts, _ = np.histogram(events.x[:, axis].numpy(), edges.numpy(), weights=events.weight().numpy())
    share = {name: shape.share({axis: edges}) for name, shape in shapes.items()}
    expected, raised = ({n: tuple((v * share[n]).tolist()) for n, v in m.items()} for m in (mean, moved))
    table = tuple(edges.tolist()), tuple(counts.tolist()), expected, raised
    return Projection(run.name, o.name, o.unit, o.scale == "log", *table)


def _plane(
    run: ScienceRun, data: Dataset, shapes: Mapping[str, _Shape], mean: dict[str, float], moved: dict[str, float]
) -> Plane:
    x, y = run.observables.observables[:2]
    bins = {axis: _edges(run, axis, PLANE_BINS) for axis in (0, 1)}
    events = data.events[run.name]
    shown = events.x[events.weight() > 0, :2].T.tolist()
    return Plane(
        run=run.name,
        observables=(x.name, y.name),
        units=(x.unit, y.unit),
        logarithmic=(x.scale == "log", y.scale == "log"),
        edges=(tuple(bins[0].tolist()), tuple(bins[1].tolist())),
        events=(tuple(shown[0]), tuple(shown[1])),
        expected=mean,
        raised=moved,
        probability={name: tuple(map(tuple, shape.share(bins).tolist())) for name, shape in shapes.items()},
    )
