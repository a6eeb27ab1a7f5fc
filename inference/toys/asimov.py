"""Asimov data: the data set in which every estimate is the true value (arXiv:1007.1727, section 3.5).

Expected events take the place of random ones, as weighted events: a histogram contributes one event per bin with the
expected content as weight, exactly; a smooth source n events with weight mu_c/n each, spread evenly by a Sobol sequence
where the source maps noise to events, so that averages over its density converge faster than with random events.
Ancillary centres are the true values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from inference.data.dataset import Dataset, EventData
from inference.parameters import ParameterSet
from inference.science_run import RunSource, ScienceRun, expected_counts, theta_of
from inference.toys.draws import HistogramSampler, NoiseSampler
from surrogate.errors import ConfigError

#: Events by which a smooth source is represented: a power of two keeps a Sobol sequence balanced.
SMOOTH_EVENTS = 4096


def asimov_data(
    parameters: ParameterSet,
    runs: Sequence[ScienceRun],
    values: Mapping[str, float] | None = None,
    n: int = SMOOTH_EVENTS,
    seed: int = 0,
) -> Dataset:
    """Return the Asimov data set.

    Parameters
    ----------
    parameters, runs
        The model.
    values
        True parameters; nominal where not given.
    n
        Events by which each smooth source of an unbinned run is represented.
    seed
        Of the events of smooth sources.

    Returns
    -------
    Dataset
        Weighted events, and ancillary centres at the true values.

    Raises
    ------
    ConfigError
        If n is not positive, or a parameter is unknown.
    RangeError
        If a value is outside its bounds.
    """
    if n < 1:
        raise ConfigError(f"n = {n} events must be at least 1")
    truth = parameters.vector(values)
    events = {run.name: _run_events(parameters, run, truth, n, seed) for run in runs}
    centres = {name: float(truth[parameters.index(name)]) for name in parameters.ancillary_names}
    return Dataset(events, centres)


def _run_events(parameters: ParameterSet, run: ScienceRun, truth: Tensor, n: int, seed: int) -> EventData:
    """Return the weighted events of one run; events without weight are left out."""
    counts = expected_counts(parameters, run, truth[None])[0]
    x, weights = [], []
    for source, mean in zip(run.sources, counts, strict=True):
        points, share = _spread(source, theta_of(parameters, source, truth[None])[0], n, seed)
        x.append(points)
        weights.append(mean * share)
    weight = torch.cat(weights)
    kept = weight > 0
    return EventData(torch.cat(x)[kept], weight[kept])


def _spread(source: RunSource, theta: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return points (M, D) and the share (M,) of the source's events that each stands for."""
    if isinstance(source.source, HistogramSampler):
        return source.source.binning.centres, source.source.pmf(theta)
    if isinstance(source.source, NoiseSampler):
        shape = source.source.noise_shape
        engine = torch.quasirandom.SobolEngine(int(torch.tensor(shape).prod()), scramble=True, seed=seed)
        # Scrambled points can lie on the faces of the unit cube, where maps of noise are infinite.
        noise = engine.draw(n, dtype=torch.float64).clamp(1e-12, 1 - 1e-12).reshape(n, *shape)
        points = source.source.sample_from_noise(noise, theta.expand(n, -1))
    else:
        points = source.source.sample(n, theta, torch.Generator().manual_seed(seed))
    return points.to(torch.float64), torch.full((n,), 1 / n, dtype=torch.float64)
