"""Who is held out, which events make a batch, and what symmetries and averages do to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from training_cases import event_file, plan

from surrogate.errors import ConfigError, DataError
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from training import supply as supply_module
from training.averaging import AveragedModule
from training.batches import TrainingBatches
from training.event_set import EventSet, UnitEvents, unit_events
from training.events import EventFile
from training.split import EventSplit
from training.supply import FileSupply, SimulatedSupply
from training.symmetries import DriftLifetimeSymmetry

SPLIT = EventSplit(seed=1, fraction=0.1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return event_file(tmp_path_factory.mktemp("events") / "er.h5")


@pytest.fixture
def events(path):
    with EventSet.open([path]) as opened:
        yield opened


def rows(events: UnitEvents) -> set[tuple[float, ...]]:
    return {tuple(row) for row in torch.cat([events.u, events.theta], dim=1).tolist()}


def test_held_out_share_is_the_fraction_and_depends_on_the_seed_only():
    index = torch.arange(400_000)
    chosen = EventSplit(seed=3, fraction=0.05).held_out(index)
    assert abs(int(chosen.sum()) - 20_000) < 5 * (400_000 * 0.05 * 0.95) ** 0.5
    assert torch.equal(EventSplit(3, 0.05).held_out(index[1000:2000]), chosen[1000:2000])
    # another seed makes an independent choice
    both = int((chosen & EventSplit(4, 0.05).held_out(index)).sum())
    assert abs(both - 1000) < 5 * 1000**0.5


@pytest.mark.parametrize(("fraction", "parts"), [(0.05, 20), (0.1, 10), (0.3, 3)])
def test_parts_do_not_overlap_and_begin_again(fraction, parts):
    index = torch.arange(100_000)
    chosen = torch.stack([EventSplit(7, fraction, part).held_out(index) for part in range(parts)])
    assert int(chosen.sum(dim=0).max()) == 1
    assert float(chosen.double().mean(dim=1).sub(fraction).abs().max()) < 5 * (fraction / 1e5) ** 0.5
    assert torch.equal(EventSplit(7, fraction, parts).held_out(index), chosen[0])


def test_bootstrap_copies_are_poisson_and_independent_of_the_division_into_parts():
    index = torch.arange(200_000)
    split = EventSplit(seed=3, fraction=0.1, part=2, bootstrap=11)
    copies, out = split.copies(index), split.held_out(index)
    assert not copies[out].any()
    counts = torch.bincount(copies[~out]).double()
    counts = torch.cat([counts[:6], counts[6:].sum().reshape(1)])
    share = torch.from_numpy(np.append(stats.poisson.pmf(np.arange(6), 1.0), stats.poisson.sf(5, 1.0)))
    assert stats.chisquare(counts.numpy(), (share * counts.sum()).numpy()).pvalue > 1e-3
    assert torch.equal(split.copies(index[5000:6000]), copies[5000:6000])
    other = EventSplit(seed=3, fraction=0.1, part=2, bootstrap=12).copies(index)
    both = torch.stack([copies, other])[:, ~out].double()
    assert abs(float(torch.corrcoef(both)[0, 1])) < 5 / 180_000**0.5
    assert torch.equal(EventSplit(3, 0.1, 2).copies(index), (~out).long())


@pytest.mark.parametrize("bad", [{"fraction": 0.0}, {"fraction": 0.5}, {"fraction": 0.1, "part": -1}])
def test_impossible_splits_are_refused(bad):
    with pytest.raises(ConfigError, match="must be"):
        EventSplit(seed=0, **bad)


def test_a_bootstrap_repeats_events_in_memory_and_streamed(events, monkeypatch):
    split = EventSplit(seed=1, fraction=0.1, part=1, bootstrap=5)
    index = torch.arange(events.n_events)
    expected = events.read(0, events.n_events).take(index.repeat_interleave(split.copies(index)))
    supply = FileSupply(events, 1, split)
    assert torch.equal(supply.load(0, 0).u, expected.u)
    assert supply.group_size == expected.size
    assert not rows(supply.held_out_events()) & rows(expected)
    monkeypatch.setattr(supply_module, "CHUNK", 1000)
    streamed = FileSupply(events, 1, split, 2 * 3000 * 28 / 1e6)
    parts = [streamed.load(3, group) for group in range(streamed.groups)]
    assert len(parts) > 2
    joined = torch.cat([part.u for part in parts])
    order = [torch.from_numpy(np.lexsort(u.T.numpy())) for u in (joined, expected.u)]
    assert torch.equal(joined[order[0]], expected.u[order[1]])


def test_unit_events_are_the_files_events(path, events):
    with EventFile.open(path) as file:
        raw = file.read(100, 200)
    read = events.read(100, 200)
    u, _ = events.observables.to_unit(torch.from_numpy(raw.x).double())
    assert torch.equal(read.u, u.float())
    assert torch.equal(read.theta, torch.from_numpy(raw.theta))
    assert bool((read.weight == 1).all())


def test_events_of_several_files_follow_each_other(path):
    with EventSet.open([path, path]) as twice, EventSet.open([path]) as once:
        n = once.n_events
        assert twice.n_events == 2 * n
        joined = twice.read(n - 5, n + 5)
        assert torch.equal(joined.u, UnitEvents.join([once.read(n - 5, n), once.read(0, 5)]).u)
        assert int(twice.blocks().n_accepted.sum()) == 2 * n


def test_events_outside_or_undefined_are_refused():
    space = ObservableSpace((Observable("s1", "PE", 1.0, 2.0),))
    with pytest.raises(DataError, match="outside the region of interest"):
        unit_events(space, torch.tensor([[1.5], [2.5]]), torch.zeros(2, 1))
    with pytest.raises(DataError, match="not a number"):
        unit_events(space, torch.tensor([[1.5]]), torch.full((1, 1), torch.nan))


def test_a_pass_shows_each_training_event_once_and_no_held_out_one(events):
    supply = FileSupply(events, 1, SPLIT)
    batches = TrainingBatches(supply, batch_size=64, seed=1)
    shown = [rows(batches.batch(step)) for step in range(batches.steps_per_pass)]
    seen = set().union(*shown)
    assert len(seen) == sum(len(s) for s in shown) == 64 * batches.steps_per_pass
    assert not seen & rows(supply.held_out_events())
    assert events.n_events - len(seen) - supply.held_out_events().size < 64
    # the next pass has the same events in another order
    assert rows(batches.batch(batches.steps_per_pass)) != shown[0]


def test_a_batch_depends_on_its_number_alone(events):
    first = TrainingBatches(FileSupply(events, 1, SPLIT), 64, seed=1)
    there = [first.batch(step) for step in range(first.steps_per_pass + 3)]
    again = TrainingBatches(FileSupply(events, 1, SPLIT), 64, seed=1)
    for step in (first.steps_per_pass + 2, 5, 0):
        assert torch.equal(again.batch(step).u, there[step].u)


def test_streaming_in_groups_shows_what_memory_would(events, monkeypatch):
    monkeypatch.setattr(supply_module, "CHUNK", 1000)
    supply = FileSupply(events, 1, SPLIT, 2 * 3000 * 28 / 1e6)
    assert supply.groups > 2
    batches = TrainingBatches(supply, batch_size=50, seed=1)
    shown = [rows(batches.batch(step)) for step in range(batches.steps_per_pass)]
    seen = set().union(*shown)
    assert len(seen) == 50 * batches.steps_per_pass
    assert not seen & rows(supply.held_out_events())
    assert len(seen) > 0.8 * events.n_events
    fresh = TrainingBatches(FileSupply(events, 1, SPLIT, 2 * 3000 * 28 / 1e6), 50, seed=1)
    step = batches.steps_per_pass + 7
    assert torch.equal(fresh.batch(step).u, batches.batch(step).u)


def test_shares_of_all_processes_make_the_batch(events):
    whole = TrainingBatches(FileSupply(events, 1, SPLIT), 64, seed=1).batch(3)
    shares = [TrainingBatches(FileSupply(events, 1, SPLIT), 64, 1, rank=r, world=3).batch(3) for r in range(3)]
    assert rows(whole) == set().union(*(rows(s) for s in shares))
    assert sum(s.size for s in shares) == 64


def test_a_batch_larger_than_the_data_is_refused(events):
    with pytest.raises(DataError, match=r"do not fill a batch .* lower optimiser.batch_size"):
        TrainingBatches(FileSupply(events, 1, SPLIT), 10**6, seed=1)


def test_simulated_events_never_repeat_and_come_back_after_an_interruption(events):
    supply = SimulatedSupply(events, plan(), seed=1)
    batches = TrainingBatches(supply, 64, seed=1)
    first, later = batches.batch(0), batches.batch(batches.steps_per_pass)
    assert not rows(first) & rows(later)
    assert not rows(first) & rows(supply.held_out_events())
    counts = supply.counts()
    again = SimulatedSupply(events, plan(), seed=1)
    again.restore(supply.state())
    assert torch.equal(again.counts().n_accepted, counts.n_accepted)
    assert torch.equal(TrainingBatches(again, 64, seed=1).batch(batches.steps_per_pass).u, later.u)
    # loading a group again does not count it twice
    assert int(again.counts().n_generated.sum()) == int(counts.n_generated.sum())
    share = counts.n_accepted.sum() / counts.n_generated.sum()
    assert 0.3 < float(share) < 0.4


def test_a_simulation_of_another_space_is_refused(events):
    other = plan().__class__(**{**plan().__dict__, "nuisances": NuisanceSpace()})
    with pytest.raises(ConfigError, match="different observables or ranges"):
        SimulatedSupply(events, other, seed=1)


@pytest.mark.parametrize("drawn", ["uniform", "log"])
def test_the_drift_symmetry_keeps_the_distribution(drawn):
    """Events whose acceptance depends on drift_time/elife alone: moved ones follow the same law, jointly with theta."""
    generator = np.random.default_rng(2)
    n = 400_000
    time = generator.uniform(0, 500, n)
    elife = (
        generator.uniform(200, 800, n) if drawn == "uniform" else np.exp(generator.uniform(np.log(200), np.log(800), n))
    )
    kept = generator.random(n) < np.exp(-time / elife)
    space = ObservableSpace((Observable("s1", "PE", 0, 1), Observable("drift_time", "us", 0, 500)))
    nuisances = NuisanceSpace((Nuisance("elife", "us", 200, 800, 450),))
    u = torch.from_numpy(np.stack([generator.random(n), time / 500], axis=1)[kept]).float()
    theta = torch.from_numpy(elife[kept]).float().unsqueeze(-1)
    events = UnitEvents(u, theta, torch.ones(len(u)))
    moved = DriftLifetimeSymmetry(space, nuisances, drawn=drawn).move(events, torch.Generator().manual_seed(1))
    ratio = events.u[:, 1] / events.theta[:, 0]
    assert torch.allclose(moved.u[:, 1] / moved.theta[:, 0], ratio, rtol=1e-4, atol=1e-8)
    assert torch.equal(moved.u[:, 0], events.u[:, 0])
    assert float((moved.theta - events.theta).abs().mean()) > 50
    bins = [np.linspace(0, 1, 13), np.linspace(200, 800, 9)]
    # an independent sample to compare with: the second half unmoved, the first half moved
    half = len(u) // 2
    a = np.histogram2d(moved.u[:half, 1], moved.theta[:half, 0], bins)[0].ravel()
    b = np.histogram2d(events.u[half:, 1], events.theta[half:, 0], bins)[0].ravel()
    assert stats.chi2_contingency(np.stack([a, b])).pvalue > 1e-3


def test_symmetry_of_unknown_names_is_refused():
    space = ObservableSpace((Observable("drift_time", "us", 0, 500),))
    nuisances = NuisanceSpace((Nuisance("elife", "us", 200, 800, 450),))
    with pytest.raises(ConfigError, match="did you mean 'drift_time'"):
        DriftLifetimeSymmetry(space, nuisances, drift="drift_tim")
    with pytest.raises(ConfigError, match="did you mean 'elife'"):
        DriftLifetimeSymmetry(space, nuisances, lifetime="elif")


def test_average_follows_its_recursion():
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(2.0)
    averaged = AveragedModule(module, decay=0.5)
    expected = 2.0
    for t in range(1, 40):
        with torch.no_grad():
            module.weight.fill_(float(t))
        averaged.follow(module)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * t
    assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert not averaged.module.weight.requires_grad
