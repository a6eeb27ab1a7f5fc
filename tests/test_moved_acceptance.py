"""Acceptance from events that theta moves: closed forms, errors, what it gains, and that wrong guides do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from training_cases import SIMULATION, config, event_file

from surrogate import moved_acceptance
from surrogate.acceptance import AcceptanceModel, fit_acceptance
from surrogate.errors import ConfigError, DataError
from surrogate.guides import ElectronLifetimeGuide, PhotonGainGuide
from surrogate.moved_acceptance import KeptChunk, Motion, fit_moved_acceptance, moved_shares
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.ray_acceptance import KeptEvents, fit_ray_acceptance
from training.acceptance_fit import fit_acceptances, motion_of
from training.event_set import EventSet
from training.simulation import simulate_to_file
from training.simulator_config import SimulationFile
from training.train import train

SPACE = NuisanceSpace((Nuisance("elife", "us", 250.0, 900.0, 450.0, "log"), Nuisance("g1", "", 0.08, 0.14, 0.1)))
DRIFT = 700.0
OBSERVABLES = ObservableSpace(
    (
        Observable("s1", "PE", 5.0, 70.0, "log"),
        Observable("s2", "PE", 100.0, 6000.0, "log"),
        Observable("drift_time", "us", 0.0, DRIFT, "linear"),
    )
)
GUIDES = (ElectronLifetimeGuide("s2"), PhotonGainGuide("s1"))


class Sample(NamedTuple):
    theta: Tensor
    generated: Tensor
    accepted: Tensor
    events: list[KeptChunk]

    @property
    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.theta, self.generated, self.accepted


def simulated(seed: int, gain: float = 1.0, still_below: float = 0.0, n_blocks: int = 60, n: int = 2000) -> Sample:
    """Log-normal signals; S1 goes as g1^gain, but where it is small it stays where it is."""
    generator = torch.Generator().manual_seed(seed)
    low, high = SPACE.bounds(torch.zeros(0, dtype=torch.float64))
    theta = low + (high - low) * torch.rand(n_blocks, 2, generator=generator, dtype=torch.float64)
    normal = torch.randn(2, n_blocks, n, generator=generator, dtype=torch.float64)
    time = DRIFT * torch.rand(n_blocks, n, generator=generator, dtype=torch.float64)
    elife, g1 = theta[:, :1], theta[:, 1:]
    signal = 40.0 * torch.exp(0.8 * normal[0])
    s1 = torch.where(signal < still_below, signal, signal * (g1 / 0.1) ** gain)
    s2 = 3000.0 * torch.exp(0.9 * normal[1] - time / elife)
    x = torch.stack([s1, s2, time], dim=-1)
    inside = OBSERVABLES.contains(x)
    block = torch.arange(n_blocks).unsqueeze(1).expand(-1, n)[inside]
    events = [KeptChunk(*part) for part in zip(x[inside].split(10_000), block.split(10_000), strict=True)]
    return Sample(theta, torch.full((n_blocks,), n), inside.sum(dim=1), events)


def exact(theta: Tensor) -> Tensor:
    """Return the acceptance of :func:`simulated` events with gain 1, all of which move."""

    def between(low: Tensor, high: Tensor, width: float) -> Tensor:
        return torch.special.ndtr(high / width) - torch.special.ndtr(low / width)

    elife, g1 = theta[:, :1], theta[:, 1:]
    time = DRIFT * (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    light, charge = (40.0 * g1 / 0.1).log(), torch.log(torch.tensor(3000.0)).double() - time / elife
    first = between(np.log(5.0) - light, np.log(70.0) - light, 0.8)
    second = between(np.log(100.0) - charge, np.log(6000.0) - charge, 0.9)
    return first.squeeze(-1) * second.mean(dim=-1)


def moved_fit(sample: Sample, above: dict[str, float] | None = None) -> AcceptanceModel:
    motion = Motion(GUIDES, OBSERVABLES, SPACE, above or {})
    shares = moved_shares(motion, sample.theta, sample.generated, sample.events)
    counted = None
    if above:
        rest = sample.accepted.clone()
        for chunk in sample.events:
            rest -= torch.bincount(chunk.block[motion.moving(chunk.x)], minlength=len(rest))
        counted = fit_acceptance(SPACE, sample.theta, sample.generated, rest, max_degree=3)
    return fit_moved_acceptance(SPACE, *sample.counts, shares, counted, max_degree=4)


def test_the_share_of_moving_events_and_its_covariance_are_right():
    theta = simulated(0).theta
    truth, pulls, slopes = exact(theta), [], []
    for seed in range(40):
        sample = simulated(seed)
        shares = moved_shares(Motion(GUIDES, OBSERVABLES, SPACE, {}), *sample[:2], sample.events)
        off = shares.eps - exact(sample.theta)
        pulls.append(off[0] / shares.covariance[0, 0].sqrt())
        difference = torch.zeros_like(off)
        difference[0], difference[1] = 1.0, -1.0
        slopes.append((difference @ off) / (difference @ shares.covariance @ difference).sqrt())
    assert len(truth) == len(shares.eps)
    for found in (torch.stack(pulls), torch.stack(slopes)):  # 40 standard normal numbers: width 1 +- 0.11, mean +- 0.16
        assert 0.65 < float(found.square().mean().sqrt()) < 1.4
        assert abs(float(found.mean())) < 0.5


def test_in_one_block_the_share_is_the_count():
    sample = simulated(3, n_blocks=1)
    shares = moved_shares(Motion(GUIDES, OBSERVABLES, SPACE, {}), *sample[:2], sample.events)
    share = float(sample.accepted[0]) / 2000
    assert float(shares.eps[0]) == pytest.approx(share, rel=1e-12)
    assert float(shares.covariance[0, 0]) == pytest.approx(share * (1 - share) / 2000, rel=1e-10)


def test_how_events_are_cut_into_pieces_changes_nothing(monkeypatch):
    sample = simulated(4, n_blocks=10)
    motion = Motion(GUIDES, OBSERVABLES, SPACE, {})
    whole = moved_shares(motion, *sample[:2], sample.events)
    monkeypatch.setattr(moved_acceptance, "PAIRS", 700)
    pieces = moved_shares(motion, *sample[:2], sample.events)
    assert torch.allclose(pieces.eps, whole.eps, rtol=1e-13)
    assert torch.allclose(pieces.covariance, whole.covariance, rtol=1e-9, atol=1e-18)


def test_with_many_blocks_it_is_evaluated_at_some(monkeypatch):
    sample = simulated(4, n_blocks=10)
    motion = Motion(GUIDES, OBSERVABLES, SPACE, {})
    whole = moved_shares(motion, *sample[:2], sample.events)
    monkeypatch.setattr(moved_acceptance, "POINTS", 4)
    some = moved_shares(motion, *sample[:2], sample.events)
    assert torch.equal(some.theta, sample.theta[::3])
    assert torch.allclose(some.eps, whole.eps[::3], rtol=1e-13)


def errors_and_pulls(samples: list[Sample], fits: list[AcceptanceModel], truth: Tensor, grid: Tensor):
    off = torch.stack([fit.acceptance(grid) / truth - 1 for fit in fits])
    error = torch.stack([fit.std(grid) / fit.acceptance(grid) for fit in fits])
    return off, float((off / error).square().mean().sqrt())


def test_it_is_right_within_its_errors_and_better_than_counts():
    grid = simulated(99, n_blocks=200, n=1).theta
    samples = [simulated(seed) for seed in range(16)]
    moved, width = errors_and_pulls(samples, [moved_fit(sample) for sample in samples], exact(grid), grid)
    counts = [fit_acceptance(SPACE, *sample.counts, max_degree=3) for sample in samples]
    counted, _ = errors_and_pulls(samples, counts, exact(grid), grid)
    assert 0.65 < width < 1.5
    shape = [float((off - off.mean(dim=1, keepdim=True)).square().mean()) for off in (moved, counted)]
    assert shape[0] < 0.35 * shape[1]  # of the dependence on theta a third of the variance at most
    assert float(moved.square().mean()) < 0.7 * float(counted.square().mean())


def test_events_that_do_not_move_are_counted():
    """Signals below 15 PE do not know of g1, as a counting threshold does not."""
    grid = simulated(99, n_blocks=200, n=1).theta
    truth = fit_acceptance(SPACE, *simulated(77, still_below=15.0, n_blocks=400, n=20_000).counts).acceptance(grid)
    samples = [simulated(seed, still_below=15.0) for seed in range(8)]
    fits = [moved_fit(sample, {"s1": 15.0 * 0.14 / 0.1}) for sample in samples]
    _, width = errors_and_pulls(samples, fits, truth, grid)
    assert 0.6 < width < 1.6


def test_where_guides_are_wrong_the_counts_decide():
    """S1 goes as g1^3: a fit that believed the guide would be off by a tenth at the edges."""
    grid = simulated(99, n_blocks=200, n=1).theta
    truth = fit_acceptance(SPACE, *simulated(77, gain=3.0, n_blocks=400, n=20_000).counts).acceptance(grid)
    samples = [simulated(seed, gain=3.0) for seed in range(8)]
    motion = Motion(GUIDES, OBSERVABLES, SPACE, {})
    believed = moved_shares(motion, *samples[0][:2], samples[0].events).eps
    counts = samples[0].accepted / samples[0].generated
    assert float((believed / counts - 1).abs().max()) > 0.08
    off, width = errors_and_pulls(samples, [moved_fit(sample) for sample in samples], truth, grid)
    assert 0.6 < width < 1.6
    assert float(off.square().mean().sqrt()) < 0.02


@pytest.mark.parametrize(
    ("guides", "above", "message"),
    [
        (GUIDES[:1], {}, "no guide of the flow says how events move with 'g1'; leave moving_above out"),
        (GUIDES, {"s11": 10.0}, "moving_above: unknown guided observable 's11'; did you mean 's1'"),
        (GUIDES, {"s1": 80.0}, "s1 = 80 must lie in its window, from 5 to 70"),
        (GUIDES, {"drift_time": 80.0}, "unknown guided observable 'drift_time'"),
    ],
)
def test_motions_that_make_no_sense_are_refused(guides, above, message):
    with pytest.raises(ConfigError, match=message):
        Motion(guides, OBSERVABLES, SPACE, above)


def test_no_event_that_moves_is_an_error():
    sample = simulated(1, n_blocks=3, n=50)
    dark = [chunk._replace(x=chunk.x * torch.tensor([0.0, 1.0, 1.0]) + 6.0) for chunk in sample.events]
    with pytest.raises(DataError, match=r"no event moves into theta = .*; lower the values"):
        moved_shares(Motion(GUIDES, OBSERVABLES, SPACE, {"s1": 60.0}), *sample[:2], dark)


def test_configurations_that_cannot_be_fitted_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="allow neither kinks nor fine"):
        config(tmp_path, acceptance={"moving_above": {}, "kinks": ["g1"]})
    data = {"fresh": True, "simulate": SIMULATION}
    with pytest.raises(ValidationError, match="fresh events are counted only; leave moving_above out"):
        config(tmp_path, data=data, acceptance={"moving_above": {}})


def test_a_training_moves_the_events_of_all_its_files(tmp_path):
    """Electronic recoils of the built-in detector in (cs1, cs2, r, z): the lifetime and g1 move what is seen."""
    paths = [tmp_path / f"{seed}.h5" for seed in (5, 6)]
    for path, seed in zip(paths, (5, 6), strict=True):
        block = SIMULATION | {"space": "A", "seed": seed, "n_generated": 100_000}
        simulate_to_file(SimulationFile.model_validate(block).build(tmp_path), path, workers=1)
    guides = [
        {"kind": "photon_gain", "observable": "cs1"},
        {"kind": "electron_lifetime", "observable": "cs2", "drift": "z", "velocity": 0.134},
    ]
    flow = {"guides": guides, "ordering": ["r", "z", "cs1", "cs2"]}
    moving = config(tmp_path, flow=flow, acceptance={"moving_above": {"cs1": 15.0}})
    with EventSet.open(paths) as events:
        moved, counted = (fit_acceptances(each, events, [events.blocks()])[0] for each in (moving, config(tmp_path)))
        theta = events.blocks().theta
        lost = config(tmp_path, flow={"guides": guides[:1]}, acceptance={"moving_above": {}})
        with pytest.raises(ConfigError, match="no guide of the flow says how events move with 'elife'"):
            fit_acceptances(lost, events, [events.blocks()])
    assert (moved.n_generated, moved.n_accepted) == (counted.n_generated, counted.n_accepted)
    pull = (moved.acceptance(theta) - counted.acceptance(theta)) / counted.std(theta)
    assert float(pull.abs().max()) < 3.0


def test_events_of_several_files_are_numbered_through(tmp_path):
    paths = [event_file(tmp_path / f"{seed}.h5", seed) for seed in (5, 6)]
    with EventSet.open(paths) as events:
        blocks = events.blocks()
        numbers = torch.cat([torch.from_numpy(chunk.block) for chunk in events.chunks()])
        assert torch.equal(torch.bincount(numbers, minlength=len(blocks.theta)), blocks.n_accepted)
        some, every = events.histogram(0, 5, lambda x: x[:, 1] > 2000.0), events.histogram(0, 5)
        assert bool((some <= every).all())
        assert 0 < int(some.sum()) < int(every.sum())


def test_what_cannot_be_fitted_is_refused_before_the_training(tmp_path, monkeypatch):
    event_file(tmp_path / "events.h5")
    settings = config(tmp_path, acceptance={"moving_above": {}})
    with pytest.raises(ConfigError, match="no guide of the flow says how events move with 'elife'"):
        train(settings, shown=False)
    assert not (tmp_path / "runs").exists()
    with EventSet.open([tmp_path / "events.h5"]) as events:
        assert not events.weighted
        monkeypatch.setattr(EventSet, "weighted", True)
        with pytest.raises(DataError, match="events with weights cannot be moved; leave moving_above out"):
            motion_of(settings, events)


def test_a_fit_of_degree_zero_is_the_share_of_all_events():
    sample = simulated(5)
    shares = moved_shares(Motion(GUIDES, OBSERVABLES, SPACE, {}), *sample[:2], sample.events)
    model = fit_moved_acceptance(SPACE, *sample.counts, shares, max_degree=0)
    share = float(sample.accepted.sum() / sample.generated.sum())
    assert float(model.acceptance(sample.theta[0])) == pytest.approx(share, rel=1e-4)


def test_events_of_which_none_is_lost_are_refused():
    sample = simulated(6, n_blocks=4)
    kept = sample._replace(generated=sample.accepted)
    shares = moved_shares(Motion(GUIDES, OBSERVABLES, SPACE, {}), *kept[:2], kept.events)
    with pytest.raises(DataError, match="no event is lost at some theta"):
        fit_moved_acceptance(SPACE, *kept.counts, shares._replace(eps=shares.eps.clamp(min=1.0)))


@pytest.mark.shared
def test_on_nuclear_recoils_of_flamedisx(shared: Path):
    """r.m.s. of mu/mu_exact - 1 at the 400 points of the events (flamedisx 2.1.0, arXiv:2003.12483)."""
    with h5py.File(shared / "data" / "flamedisx" / "nr_events.h5") as file:
        theta = torch.from_numpy(file["theta"][:] * [1e-3, 1.0])
        generated, accepted = (torch.from_numpy(file[name][:]) for name in ("n_simulated", "n_accepted"))
        truth = torch.from_numpy(file["mu_exact"][:] / file.attrs["mu_before_efficiencies"])
        columns = file["s1"][:], file["s2"][:], 1e-3 * file["drift_time"][:]
        x, block = torch.from_numpy(np.stack(columns, axis=-1)), torch.from_numpy(file["theta_index"][:].astype(int))
    windows = ((2.0, 70.0), (2.0, 6000.0), (0.0, 731.087))
    space = ObservableSpace(
        tuple(
            Observable(o.name, o.unit, *window, o.scale)
            for o, window in zip(OBSERVABLES.observables, windows, strict=True)
        )
    )
    motion = Motion(GUIDES, space, SPACE, {"s1": 10.0})
    low = ~motion.moving(x)
    kept = torch.zeros(400, 64, dtype=torch.long)
    cell = (x[low, 2].double() / 731.087 * 64).long().clamp(0, 63)
    kept.view(-1).index_add_(0, block[low] * 64 + cell, torch.ones(int(low.sum()), dtype=torch.long))
    counted = fit_ray_acceptance(SPACE, KeptEvents(theta, generated, kept, "elife", windows[2]))
    shares = moved_shares(motion, theta, generated, [KeptChunk(x, block)])
    model = fit_moved_acceptance(SPACE, theta, generated, accepted, shares, counted)
    ratio = model.acceptance(theta) / truth - 1
    assert float(ratio.square().mean().sqrt()) < 0.0020
    assert float((ratio / (model.std(theta) / model.acceptance(theta))).square().mean().sqrt()) < 1.6
