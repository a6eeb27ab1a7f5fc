"""Toy data sets, counter-based: toy k of a study is the same in any batch, in any order, on any number of workers.

For every run and source a Poisson count with mean mu_c(theta), that many events from the source's density at the toy's
parameters, and for every ancillary term a new centre a ~ p(a | theta), kept inside the bounds of its parameter as alea
does. All random numbers come from :mod:`inference.toys.philox`, addressed by (seed, toy, what is drawn, number of the
draw): nothing depends on what else is drawn in the same call.

How events become of random numbers depends on the source: a histogram picks a bin by its pmf and a point uniformly in
it; a :class:`NoiseSampler` (a flow) maps uniform noise; any other source is sampled toy by toy with a generator seeded
for that toy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.constraints.ancillary import AncillaryTerm
from inference.data.dataset import DataBatch, centre_of, padded
from inference.parameters import ParameterSet
from inference.rows import row_and_place
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.toys.philox import check_seed, poisson_counts, stream_of, uniforms
from surrogate.binning import Binning
from surrogate.errors import ConfigError, RangeError

#: The largest expected count of one source in one toy; more is a mistake in units and would fill the memory.
MAX_EVENTS = 1e7

#: Most bin probabilities held at a time.
PMF_ENTRIES = 2**24

POINT_BITS = 32


@runtime_checkable
class HistogramSampler(Protocol):
    """A source that is constant in bins: templates and binned flows."""

    @property
    def binning(self) -> Binning:
        """The bins."""
        ...

    def pmf(self, theta: Tensor) -> Tensor:
        """Return the probability of every bin (*, n_bins) at theta (*, K)."""
        ...


@runtime_checkable
class NoiseSampler(Protocol):
    """A source whose events are a function of uniform noise."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the uniform numbers that one event needs."""
        ...

    def sample_from_noise(self, noise: Tensor, theta: Tensor) -> Tensor:
        """Return events (n, D) for uniform noise (n, *noise_shape) at theta (n, K)."""
        ...


@dataclass(frozen=True, eq=False)
class ToyBatch:
    """Toys with their truth.

    Attributes
    ----------
    data
        Events and ancillary centres of T toys.
    labels
        Run name -> (T, N) int64: position in ``run.sources`` of the source that made the event; -1 on the padding.
    values
        (T, P) the parameter values at which each was drawn.
    index
        (T,) int64 the number of each toy.
    """

    data: DataBatch
    labels: Mapping[str, Tensor]
    values: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


def toy_index(point: Tensor | int, toy: Tensor | int) -> Tensor:
    """Return the 64-bit number of toy ``toy`` at point ``point`` of a study: point x 2^32 + toy.

    Distinct points of one study thereby have independent toys.
    """
    return torch.as_tensor(point, dtype=torch.int64) * 2**POINT_BITS + torch.as_tensor(toy, dtype=torch.int64)


def draw_toys(
    parameters: ParameterSet, runs: Sequence[ScienceRun], values: Tensor, index: Tensor, seed: int
) -> ToyBatch:
    """Draw toys.

    Parameters
    ----------
    parameters
        Names, bounds and ancillary terms.
    runs
        The runs of the model.
    values
        (P,) for all toys or (T, P), one row per toy: the true parameters.
    index
        (T,) int64 >= 0, the number of each toy; equal numbers at equal values are equal toys.
    seed
        The seed of the study, below 2^64.

    Returns
    -------
    ToyBatch
        Row t depends on (seed, index[t], values[t]) alone.

    Raises
    ------
    ConfigError
        If the shapes do not fit.
    RangeError
        If a value is outside its bounds, the seed out of range, or the expected counts beyond reason.
    """
    check_seed(seed)
    index = torch.as_tensor(index, dtype=torch.int64)
    if index.ndim != 1 or values.shape not in ((len(parameters),), (len(index), len(parameters))):
        raise ConfigError(
            f"values: shape {tuple(values.shape)} must be ({len(parameters)},) or ({len(index)}, {len(parameters)}), "
            f"for {len(index)} toys of {len(parameters)} parameters"
        )
    values = values.detach().to(torch.float64).expand(len(index), -1)
    _check_values(parameters, values)
    x, weights, labels = {}, {}, {}
    for run in runs:
        x[run.name], weights[run.name], labels[run.name] = _draw_run(parameters, run, values, index, seed)
    centres = throw_centres(parameters, values, index, seed)
    return ToyBatch(DataBatch(x, weights, centres), labels, values, index)


def _check_values(parameters: ParameterSet, values: Tensor) -> None:
    """Raise RangeError at the first value outside its bounds."""
    lower, upper = parameters.lower.to(values), parameters.upper.to(values)
    wrong = ~(torch.isfinite(values) & (values >= lower) & (values <= upper))
    if bool(wrong.any()):
        row = int(wrong.any(dim=-1).nonzero()[0, 0])
        parameters.check(parameters.mapping(values[row]))


def throw_centres(parameters: ParameterSet, values: Tensor, index: Tensor, seed: int) -> Tensor:
    """Return ancillary centres (T, m) thrown at values (T, P) and clipped to the bounds of their parameters."""
    names = parameters.ancillary_names
    if not names:
        return values.new_zeros(len(values), 0)
    streams = torch.tensor([stream_of("ancillary", name) for name in names])
    normal = torch.special.ndtri(uniforms(seed, index[:, None].cpu(), streams, 0)[..., 0]).to(values)
    columns = [parameters.index(name) for name in names]
    centres = AncillaryTerm(parameters.names, parameters.constraints, values.device).throw(values, normal)
    lower, upper = parameters.lower.to(values)[columns], parameters.upper.to(values)[columns]
    return torch.minimum(torch.maximum(centres, lower), upper)


def draw_counts(parameters: ParameterSet, run: ScienceRun, values: Tensor, index: Tensor, seed: int) -> Tensor:
    """Return the Poisson counts (T, C) of every source of a run at values (T, P)."""
    mean = expected_counts(parameters, run, values)
    if not bool((mean <= MAX_EVENTS).all()):
        worst = int(mean.max(dim=0).values.argmax())
        raise RangeError(
            f"run '{run.name}', source '{run.source_names[worst]}': {float(mean.max()):.4g} events are expected in a "
            f"toy, at most {MAX_EVENTS:.0e} can be drawn; check the rate multiplier and the exposure"
        )
    streams = torch.tensor([stream_of("counts", run.name, name) for name in run.source_names])
    return poisson_counts(uniforms(seed, index[:, None].cpu(), streams, 0)[..., 0], mean).to(values.device)


def _draw_run(
    parameters: ParameterSet, run: ScienceRun, values: Tensor, index: Tensor, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return events (T, N, D), weights (T, N) and labels (T, N) of one run."""
    counts = draw_counts(parameters, run, values, index, seed)
    events, rows, labels = [], [], []
    for c, source in enumerate(run.sources):
        row, number = row_and_place(counts[:, c])
        events.append(_draw_events(run, source, theta_of(parameters, source, values), index, row, number, seed))
        rows.append(row)
        labels.append(torch.full_like(row, c))
    order = torch.argsort(torch.cat(rows), stable=True)
    totals = counts.sum(dim=-1)
    x, weights = padded(torch.cat(events)[order], totals, centre_of(run.observables))
    label, _ = padded(torch.cat(labels)[order].unsqueeze(-1), totals, torch.tensor([-1]))
    return x, weights, label[..., 0]


def _draw_events(
    run: ScienceRun, source: RunSource, theta: Tensor, index: Tensor, row: Tensor, number: Tensor, seed: int
) -> Tensor:
    """Return one event (E, D) for each (toy row, number of the event); theta (T, K) and index (T,) are per toy."""
    words = ("events", run.name, source.name)
    if len(row) == 0:
        return theta.new_zeros(0, run.observables.dim)
    if isinstance(source.source, HistogramSampler):
        u = uniforms(seed, index[row], stream_of(*words), number, 1 + run.observables.dim)
        return _from_histogram(source.source, theta, row, u)
    if isinstance(source.source, NoiseSampler):
        shape = source.source.noise_shape
        u = uniforms(seed, index[row], stream_of(*words), number, int(torch.tensor(shape).prod()))
        events = source.source.sample_from_noise(u.reshape(-1, *shape), theta[row])
        # Batched matrix products differ in the last bits with the size of the batch; single precision hides them.
        low, high = run.observables.bounds(theta)
        return events.to(torch.float32).to(torch.float64).clamp(low, high)
    return _toy_by_toy(source, theta, index, row, seed, words)


def _from_histogram(source: HistogramSampler, theta: Tensor, row: Tensor, u: Tensor) -> Tensor:
    """Return events (E, D): the bin by the pmf of the toy's theta, a point uniform in it, for u (E, 1 + D)."""
    distinct, which = _distinct_rows(theta)
    group = which[row]
    bins = torch.empty_like(row)
    for start in range(0, len(distinct), step := max(1, PMF_ENTRIES // source.binning.n_bins)):
        cumulative = source.pmf(distinct[start : start + step]).cumsum(dim=-1)
        mine = ((group >= start) & (group < start + step)).nonzero()[:, 0]
        bins[mine] = _search(cumulative, group[mine] - start, u[mine, 0])
    low, high = (corner.to(u)[bins] for corner in source.binning.corners)
    return torch.minimum(low + u[:, 1:] * (high - low), torch.nextafter(high, low))


def _distinct_rows(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows of theta (T, K), and which of them each row is (T,)."""
    if theta.shape[-1] == 0:
        return theta[:1], torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
    distinct, which = torch.unique(theta, dim=0, return_inverse=True)
    return distinct, which


def _search(cumulative: Tensor, group: Tensor, u: Tensor) -> Tensor:
    """Return for each of E numbers the first bin of row ``group`` whose cumulative weight exceeds u x total.

    A bisection over all events together: it reads one number per event and step, however many bins there are.
    """
    n_bins = cumulative.shape[-1]
    total = cumulative[group, -1]
    target = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    low = torch.zeros_like(group)
    high = torch.full_like(group, n_bins - 1)
    for _ in range(max(1, (n_bins - 1).bit_length())):
        middle = (low + high) // 2
        beyond = cumulative[group, middle] > target
        low, high = torch.where(beyond, low, middle + 1), torch.where(beyond, middle, high)
        low = torch.minimum(low, high)
    return high


def _toy_by_toy(
    source: RunSource, theta: Tensor, index: Tensor, row: Tensor, seed: int, words: tuple[str, ...]
) -> Tensor:
    """Return events (E, D) of a source that only knows how to sample with a generator, one toy after the other."""
    counts = torch.bincount(row, minlength=len(theta)).tolist()
    keys = uniforms(seed, index.cpu(), stream_of("generator", *words), 0)[:, 0]
    parts = []
    for t, n in enumerate(counts):
        if n:
            generator = torch.Generator(theta.device).manual_seed(int(keys[t] * 2**52))
            parts.append(source.source.sample(n, theta[t], generator).to(torch.float64))
    return torch.cat(parts)
