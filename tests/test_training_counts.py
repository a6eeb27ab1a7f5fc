"""A surrogate of events with counts, trained from a file, against the exact law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from training_cases import config

from surrogate.checkpoint import load_checkpoint
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.source import Source
from training.event_set import EventSet
from training.event_writer import EventWriter, Segment
from training.events import Blocks, EventSchema
from training.train import train

LAST = 12
SPACE = ObservableSpace(
    (Observable("hits", "", 0.5, LAST + 0.5, "counts"), Observable("area", "PE", -2.0, LAST + 3.0)),
)
NUISANCES = NuisanceSpace((Nuisance("g1", "", 0.7, 1.3, 1.0),))
MEAN, RESOLUTION, RATE = 4.0, 0.6, 100.0
"""Hits ~ Poisson(4 g1), of which 1 to 12 are kept; area ~ Normal(hits, 0.6)."""


def exact(x: Tensor, theta: Tensor) -> Tensor:
    """Return ln f per unit of area, the probability of the number of hits included."""
    mean, hits = MEAN * theta[..., 0].numpy(), x[..., 0].numpy()
    kept = stats.poisson.cdf(LAST, mean) - stats.poisson.cdf(0, mean)
    window = stats.norm.cdf(SPACE.observables[1].high, hits, RESOLUTION) - stats.norm.cdf(-2.0, hits, RESOLUTION)
    log_area = stats.norm.logpdf(x[..., 1].numpy(), hits, RESOLUTION) - np.log(window)
    return torch.from_numpy(stats.poisson.logpmf(hits, mean) - np.log(kept) + log_area)


def event_file(path: Path, n_blocks: int, seed: int) -> Path:
    """Write blocks of 256 generated events each."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0.7, 1.3, (n_blocks, 1))
    block = np.repeat(np.arange(n_blocks, dtype=np.int32), 256)
    hits = rng.poisson(MEAN * theta[block, 0])
    x = np.stack([hits, hits + RESOLUTION * rng.standard_normal(len(hits))], axis=-1).astype(np.float32)
    kept = SPACE.contains(torch.from_numpy(x)).numpy()
    counts = Blocks(theta, np.full(n_blocks, 256), np.bincount(block[kept], minlength=n_blocks))
    writer = EventWriter(path, EventSchema(SPACE, NUISANCES, RATE, {"seed": seed}), {"seed": seed})
    writer.write(0, Segment(counts, x[kept], block[kept]))
    return writer.finish(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("counts")
    event_file(folder / "events.h5", 1200, seed=1)
    flow = {"hidden": 20, "components": 8, "blocks": 1, "ordering": ["hits", "area"]}
    optimiser = {"batch_size": 2048, "steps": 600, "learning_rate": 0.01}
    train(config(folder, flow=flow, optimiser=optimiser, stopping={"check_every": 150}), shown=False)
    source = load_checkpoint(folder / "checkpoint")
    assert isinstance(source, Source)
    return source


def test_values_are_spread_over_their_cells_by_the_number_of_the_event(tmp_path: Path) -> None:
    with EventSet.open([event_file(tmp_path / "events.h5", 20, seed=3)]) as events:
        whole, part = events.read(0, 1000), events.read(400, 600)
        assert torch.equal(whole.u[400:600], part.u)
        place = whole.u[:, 0] * LAST % 1.0
        assert stats.kstest(place.numpy(), "uniform").pvalue > 1e-3
        hits = 0.5 + whole.u[:, 0] * LAST
        area = SPACE.from_unit(whole.u)[:, 1]
        assert float((area - hits.round()).std()) == pytest.approx(RESOLUTION, rel=0.1)


def test_the_density_is_that_of_the_counts(trained: Source) -> None:
    """Mean of ln(exact/learned) over events of the exact law, and P(hits), at several values of the parameter."""
    rng = np.random.default_rng(5)
    for g1 in (0.75, 1.0, 1.25):
        theta = torch.tensor([g1], dtype=torch.float64)
        hits = rng.poisson(MEAN * g1, 40_000)
        x = torch.from_numpy(np.stack([hits, hits + RESOLUTION * rng.standard_normal(len(hits))], axis=-1))
        x = x[SPACE.contains(x)]
        difference = exact(x, theta.expand(len(x), 1)) - trained.log_prob(x, theta)
        assert float(difference.mean()) == pytest.approx(0.0, abs=0.01)
        learned = torch.stack([probability(trained, n, theta) for n in range(1, LAST + 1)])
        pmf = stats.poisson.pmf(np.arange(1, LAST + 1), MEAN * g1)
        assert float(learned.sum()) == pytest.approx(1.0, abs=1e-3)
        assert np.abs(learned.numpy() - pmf / pmf.sum()).max() < 0.015


def probability(source: Source, hits: int, theta: Tensor) -> Tensor:
    """Return P(hits): the integral of f over the area; a cell is one hit wide."""
    roots, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
    area = SPACE.observables[1]
    y = area.low + (area.high - area.low) * (roots + 1) / 2
    x = torch.stack([torch.full_like(y, hits), y], dim=-1)
    return source.log_prob(x, theta).exp() @ weights * (area.high - area.low) / 2


def test_the_likelihood_is_that_of_the_counts(trained: Source) -> None:
    """Extended likelihood of one data set against the exact one: the same estimate, and the same information."""
    rng = np.random.default_rng(8)
    hits = rng.poisson(MEAN * 1.1, 400)
    x = torch.from_numpy(np.stack([hits, hits + RESOLUTION * rng.standard_normal(400)], axis=-1))
    x = x[SPACE.contains(x)]
    grid = torch.linspace(0.9, 1.29, 80, dtype=torch.float64).unsqueeze(-1)
    learned = trained.log_prob(x, grid.unsqueeze(1)).sum(dim=-1)
    truth = torch.stack([exact(x, theta.expand(len(x), 1)).sum() for theta in grid])
    at, error = moments(grid[:, 0], truth)
    here, learned_error = moments(grid[:, 0], learned)
    assert here == pytest.approx(at, abs=0.25 * error)
    assert learned_error == pytest.approx(error, rel=0.15)


def moments(grid: Tensor, log_likelihood: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of the normalised likelihood."""
    weight = torch.softmax(log_likelihood, dim=0)
    mean = float(weight @ grid)
    return mean, float((weight @ (grid - mean).square()).sqrt())
