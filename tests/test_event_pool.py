"""Pools of expanded events: toys from them are toys of the model, whatever the batch, and their likelihood is exact."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from test_expansion import flow_model, inside, smooth_model, some_region
from torch import Tensor

from inference.expansion.build import ExpansionOptions
from inference.fits.batch_fit import fit_batch
from inference.intervals.confidence import interval_batch
from inference.likelihood.extended import Likelihood
from inference.parameters import ParameterSet
from inference.pools import pairs
from inference.pools.builder import PoolOptions, _RunBuilder, build_pool
from inference.pools.choice import PoolChoice, default_folder
from inference.pools.event_pool import EventPool, moved_run
from inference.pools.partly_exact import partly_exact
from inference.pools.region import expected_covariance, toy_region
from inference.pools.store import cached_pool, pool_key
from inference.science_run import ScienceRun, expected_counts
from inference.studies.limit_work import LimitWork
from inference.studies.sensitivity import toy_limits
from inference.studies.study import StudyPlan
from inference.studies.study_record import Chunk
from inference.studies.toy_pairs import run_pairs
from inference.toys.draws import draw_toys, toy_index
from inference.toys.toy_fits import fit_likelihood_pairs
from surrogate.errors import ConfigError, DataError, RangeError

ACCURACY = ExpansionOptions(tolerance=0.02, held_out=16)
OPTIONS = PoolOptions(oversampling=8.0, least=1500, accuracy=ACCURACY)

Model = tuple[ParameterSet, tuple[ScienceRun, ...]]


@pytest.fixture(scope="module")
def model() -> Model:
    return flow_model()


@pytest.fixture(scope="module")
def pool(model: Model) -> EventPool:
    parameters, runs = model
    return build_pool(parameters, runs, parameters.nominal(), some_region(model, 6.0), OPTIONS)


def numbers(*toys: int) -> Tensor:
    return torch.tensor(toys)


def test_the_likelihood_of_toys_is_that_of_their_events(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    assert pool.report.error <= 0.02
    toys = pool.draw(parameters.nominal(), numbers(0, 1, 2, 3), 7)
    exact = Likelihood(parameters, runs, toys.data)
    nowhere = torch.zeros(4, dtype=torch.bool)
    for values in inside(parameters, replace(pool.region, radius=3.0), 20).reshape(5, 4, -1):
        finished = partly_exact(pool, toys, [values], nowhere)
        found, expected = finished.derivatives(values), exact.derivatives(values)
        assert float((found[0] - expected[0]).abs().max()) < 0.02
        for a, b in zip(found[1:], expected[1:], strict=True):
            assert bool(((a - b).abs().amax(dim=0) <= 0.03 * b.abs().amax(dim=0) + 1e-9).all())


def test_exact_densities_are_those_of_the_sources(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    toys = pool.draw(parameters.nominal(), numbers(0, 1), 7)
    exact, values = Likelihood(parameters, runs, toys.data), inside(parameters, pool.region, 2)
    curved, straight = (
        partly_exact(pool, toys, [values], torch.ones(2, dtype=torch.bool), curved=c) for c in (True, False)
    )
    for found, expected in zip(curved.derivatives(values), exact.derivatives(values), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for found, expected in list(zip(straight.derivatives(values), exact.derivatives(values), strict=True))[:2]:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_toys_do_not_depend_on_the_batch(model: Model, pool: EventPool) -> None:
    parameters, _ = model
    together = pool.draw(parameters.nominal(), numbers(5, 6, 7), 3).data
    alone = pool.draw(parameters.nominal(), numbers(7), 3).data
    n = int(alone.weights["run"].sum())
    assert int(together.weights["run"][2].sum()) == n
    assert torch.equal(together.x["run"][2, :n], alone.x["run"][0, :n])
    assert torch.equal(together.centres[2], alone.centres[0])
    other = pool.draw(parameters.nominal(), numbers(7), 4).data
    assert not torch.equal(other.centres, alone.centres)


def test_counts_are_those_of_the_model(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    values = parameters.vector({"mu": 3.0})
    expected = expected_counts(parameters, runs[0], values.unsqueeze(0)).sum()
    counts = pool.draw(values, torch.arange(300), 3).data.weights["run"].sum(dim=-1)
    assert float(counts.mean()) == pytest.approx(float(expected), abs=4 * float((expected / 300).sqrt()))


def test_events_follow_the_density_at_other_parameters_than_those_of_the_pool(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    values = parameters.vector({"mu": 1.0, "b": 0.0, "elife": 700.0, "t_ly": 2.5, "g1": 0.12})
    wimp, theta = runs[0].sources[0], values[[parameters.index(n) for n in ("t_ly", "elife", "g1")]]
    data = pool.draw(values, torch.arange(40), 3).data
    events = data.x["run"][data.weights["run"] > 0]
    nominal = torch.tensor([0.0, 450.0, 0.1], dtype=torch.float64)
    # the most powerful statistic: the ratio of the densities at the two parameter points
    ratio = lambda x: (wimp.source.log_prob(x, theta) - wimp.source.log_prob(x, nominal)).numpy()  # noqa: E731
    here, there = (
        wimp.source.sample(8000, t, torch.Generator().manual_seed(k)) for k, t in enumerate((theta, nominal))
    )
    assert stats.ks_2samp(ratio(events), ratio(here)).pvalue > 1e-3
    assert stats.ks_2samp(ratio(events), ratio(there)).pvalue < 1e-6


def test_toys_far_from_the_pool_are_refused(model: Model, pool: EventPool, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, _ = model
    monkeypatch.setattr("inference.pools.event_pool.LEAST_EFFECTIVE", 0.99)
    with pytest.raises(DataError, match="build a pool closer to them"):
        pool.draw(parameters.vector({"elife": 890.0, "g1": 0.139, "t_ly": 2.9}), numbers(0), 1)


def test_pairs_of_fits_from_a_pool_are_distributed_as_without(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    points = parameters.nominal().unsqueeze(0)
    plan = StudyPlan(chunk_size=30)
    pooled = run_pairs(parameters, runs, "mu", points, 90, 5, plan=plan, pool=pool)
    fresh = run_pairs(parameters, runs, "mu", points, 30, 6, plan=plan)
    assert pooled.n_failed == 0
    assert stats.ks_2samp(pooled.statistics()[0], fresh.statistics()[0]).pvalue > 1e-3
    split = run_pairs(parameters, runs, "mu", points, 4, 5, plan=StudyPlan(chunk_size=3), pool=pool)
    assert np.allclose(split.fits.ll_free, pooled.fits.ll_free[:4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("good", [9, 1, 0])
def test_fits_that_cannot_be_finished_are_made_anew(
    model: Model, pool: EventPool, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    # all that finishes fits works, only the first time, or never: that of the toys that are examined is the second
    hopeless = replace(pairs.FINISH, newton=replace(pairs.FINISH.newton, max_evaluations=1, tolerance=1e-30))
    calls, continued = itertools.count(), pairs._continued
    monkeypatch.setattr(
        pairs, "_continued", lambda *given: continued(*given[:-1], given[-1] if next(calls) < good else hopeless)
    )
    parameters, runs = model
    truth = parameters.nominal()
    toys = pool.draw(truth, torch.arange(8), 7)
    held = torch.zeros(8, dtype=torch.float64)
    exact = fit_likelihood_pairs(Likelihood(parameters, runs, toys.data), "mu", held, truth)
    begun = fit_likelihood_pairs(toys, "mu", held, truth, pairs.QUICK)
    ended, kept = pairs.exact_where_needed(pool, toys, "mu", begun, truth, torch.arange(8) % 2 == 0)
    np.testing.assert_array_equal(kept.valid, True)
    np.testing.assert_array_equal(kept.expanded[::2], 0)
    np.testing.assert_allclose(kept.mu_hat, ended.free.values[:, parameters.index("mu")])
    t, expected = (2 * (f.ll_free - f.ll_conditional) for f in (kept, exact.record()))
    np.testing.assert_allclose(t, expected, atol=0.02 if good else 1e-6)
    np.testing.assert_allclose(t[::2], expected[::2], atol=4e-3 if good > 1 else 1e-6)


def test_a_pool_of_another_model_is_refused(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    other = parameters.with_nominal({"mu": 0.3})
    with pytest.raises(ConfigError, match="another model"):
        run_pairs(other, runs, "mu", other.nominal().unsqueeze(0), 1, 1, pool=pool)
    with pytest.raises(RangeError, match="oversampling = 0"):
        PoolOptions(oversampling=0)


def test_a_pool_is_stored_under_the_hash_of_what_it_is_made_of(model: Model, tmp_path: Path) -> None:
    parameters, runs = model
    small = PoolOptions(oversampling=0.1, least=20, accuracy=ACCURACY)
    make = lambda values: cached_pool(tmp_path, parameters, runs, values, some_region(model), small)  # noqa: E731
    first = make(parameters.nominal())
    files = list(tmp_path.glob("pool-*.npz"))
    assert len(files) == 1
    stamp = files[0].stat().st_mtime_ns
    again = make(parameters.nominal())
    assert files[0].stat().st_mtime_ns == stamp
    assert again.identity == first.identity
    assert again.report == first.report
    values = inside(parameters, first.region, 3)
    a, b = (p.draw(parameters.nominal(), numbers(1), 2).derivatives(values) for p in (first, again))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    make(parameters.vector({"b": 1.1}))
    assert len(list(tmp_path.glob("pool-*.npz"))) == 2
    files[0].write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        make(parameters.nominal())
    keys = {pool_key(parameters, runs, parameters.nominal(), some_region(model), PoolOptions(seed=k)) for k in (0, 1)}
    assert len(keys) == 2


def test_the_memory_of_a_pool_is_bounded(model: Model) -> None:
    parameters, runs = model
    options = PoolOptions(oversampling=50.0, most_bytes=300_000, accuracy=ACCURACY)
    pool = build_pool(parameters, runs, parameters.nominal(), some_region(model), options).pools["run"]
    held = sum(table.coefficients.numel() * 8 for table in pool.tables.values())
    assert held < 320_000
    assert len(pool.x) == int(pool.counts.sum())


def test_the_seed_of_a_pool_is_that_of_its_events(model: Model) -> None:
    parameters, runs = model
    drawn = []
    for seed in (0, 5, 2**31):
        options = replace(OPTIONS, oversampling=1.0, least=50, seed=seed)
        builder = _RunBuilder(parameters, runs[0], parameters.nominal(), some_region(model), options)
        drawn.append(builder._draw(runs[0].sources[0], 20, "events"))
        assert torch.equal(drawn[-1], builder._draw(runs[0].sources[0], 20, "events"))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_pools_are_made_where_they_pay(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, runs = model
    points = parameters.nominal().expand(2, -1)
    small = PoolOptions(oversampling=0.1, least=50, accuracy=ACCURACY)
    choice = PoolChoice(tmp_path / "kept", small)
    assert choice.pool(parameters, runs, points, 20) is None
    made = choice.pool(parameters, runs, points, 100)
    assert made is not None
    assert len(list((tmp_path / "kept").iterdir())) == 1
    again = choice.pool(parameters, runs, points, 200)
    assert again is not None
    assert again.identity == made.identity
    analytic, plain = smooth_model()
    assert PoolChoice().pool(analytic, plain, analytic.nominal().expand(2, -1), 1000) is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "xeflow"


def test_the_region_of_toys_holds_their_points_and_estimates(model: Model) -> None:
    parameters, runs = model
    points = torch.stack([parameters.vector({"mu": v, "elife": e}) for v, e in ((0.0, 440.0), (0.5, 460.0))])
    region, values = toy_region(parameters, runs, points, 4.0)
    index = [parameters.index(name) for name in region.names]
    assert bool(region.contains(points[:, index]).all())
    mu = parameters.index("mu")
    found = expected_covariance(parameters, runs, parameters.vector({"mu": 0.5}))[mu, mu].sqrt()
    assert float(values[mu]) == pytest.approx(max(0.5, 2 * float(found)), rel=0.1)
    assert float(values[parameters.index("elife")]) == 450.0
    toys = draw_toys(parameters, runs, points[0], torch.arange(40), 2)
    ends = fit_batch(Likelihood(parameters, runs, toys.data)).values[:, index]
    spread = (ends - ends.mean(dim=0)).T @ (ends - ends.mean(dim=0)) / 39
    ratio = (spread.diagonal() / region.covariance.diagonal()).sqrt()
    assert bool((ratio > 0.6).all())
    assert bool((ratio < 1.5).all())
    assert bool(region.contains(ends).all())


def test_a_pool_for_toys_without_signal_knows_the_signal_that_fits_find(model: Model) -> None:
    parameters, runs = model
    point = parameters.vector({"mu": 0.0})
    region, values = toy_region(parameters, runs, point[None], 6.0)
    pool = build_pool(parameters, runs, values, region, OPTIONS)
    toys = pool.draw(point, torch.arange(24), 7)
    exact = Likelihood(parameters, runs, toys.data)
    found, expected = (
        fit_likelihood_pairs(lk, "mu", torch.zeros(24, dtype=torch.float64), point) for lk in (toys, exact)
    )
    t, t_exact = (2 * (p.free.log_likelihood - p.conditional.log_likelihood) for p in (found, expected))
    assert float(t_exact.max()) > 2.0
    assert bool(pool.covers(found.free.values).all())
    assert float((t - t_exact).abs().max()) < 0.05


def test_limits_of_toys_from_a_pool_are_distributed_as_without(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    points = parameters.vector({"mu": 0.0})[None]
    pooled = toy_limits(parameters, runs, "mu", points, 60, 5, 2.7, 0.9, pool=pool)
    fresh = toy_limits(parameters, runs, "mu", points, 20, 6, 2.7, 0.9)
    assert stats.ks_2samp(pooled.ends(), fresh.ends()).pvalue > 1e-3
    assert pooled.expansion_error == pool.report.error
    assert fresh.expansion_error is None


def test_limits_of_toys_from_a_pool_are_those_of_exact_densities(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    truth, toys = parameters.vector({"mu": 0.0}), Chunk(0, 0, 6)
    work = LimitWork(parameters, runs, "mu", truth[None], 2.7, "central", 5, pool)
    found = work(toys)
    drawn = pool.draw(truth, toy_index(0, toys.toys), 5)
    likelihood = Likelihood(parameters, runs, drawn.data)
    best = fit_batch(likelihood, None, torch.arange(6), truth)
    exact = interval_batch(likelihood, "mu", 2.7, "central", best=best)
    np.testing.assert_allclose(found["upper"], exact.upper.value, rtol=2e-3)


def test_a_pool_is_moved_to_a_device_as_a_whole(model: Model, pool: EventPool) -> None:
    parameters, _ = model
    there = replace(pool.on("cpu"), pools={name: run.to(torch.device("cpu")) for name, run in pool.pools.items()})
    values = inside(parameters, pool.region, 3)
    a, b = (p.draw(parameters.nominal(), numbers(0, 1, 2), 7).derivatives(values) for p in (pool, there))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    moved = moved_run(pool.runs[0], torch.device("meta"))
    assert all(next(c.source.flow.parameters()).device.type == "meta" for c in moved.sources)
