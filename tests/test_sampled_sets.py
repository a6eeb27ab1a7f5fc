"""Data sets from elsewhere on the expansions of a pool, and data sets drawn from samples of events."""

from __future__ import annotations

import pytest
import torch
from test_event_pool import ACCURACY
from test_expansion import flow_model, inside, some_region
from torch import Tensor

from inference.fits.batch_fit import fit_batch
from inference.likelihood.extended import Likelihood
from inference.likelihood.run_term import RunTerm
from inference.parameters import ParameterSet
from inference.pools.builder import PoolOptions, build_pool
from inference.pools.event_pool import EventPool
from inference.pools.given_events import expanded_data
from inference.pools.sampled_sets import EventSample, SampledSets, sampled_sets
from inference.science_run import ScienceRun, expected_counts, theta_of
from inference.studies.coverage import coverage_of_data
from inference.toys.draws import draw_toys
from surrogate.errors import ConfigError, DataError

Model = tuple[ParameterSet, tuple[ScienceRun, ...]]
RATE, N_SAMPLE = 1.1, 12_000


@pytest.fixture(scope="module")
def model() -> Model:
    return flow_model()


@pytest.fixture(scope="module")
def pool(model: Model) -> EventPool:
    parameters, runs = model
    options = PoolOptions(oversampling=8.0, least=800, seed=4, accuracy=ACCURACY)
    return build_pool(parameters, runs, parameters.nominal(), some_region(model, 6.0), options)


def samples_of(model: Model, rate: float = 1.0, n: int = N_SAMPLE) -> list[EventSample]:
    """Events of the flows themselves, more of them than the model expects."""
    parameters, (run,) = model
    values = parameters.nominal()
    expected = rate * expected_counts(parameters, run, values.unsqueeze(0))[0]
    samples = []
    for k, c in enumerate(run.sources):
        theta = theta_of(parameters, c, values.unsqueeze(0))[0]
        x = c.source.sample(n, theta, torch.Generator().manual_seed(30 + k)).to(torch.float64)
        samples.append(EventSample(x, float(expected[k])))
    return samples


@pytest.fixture(scope="module")
def sets(model: Model, pool: EventPool) -> SampledSets:
    return sampled_sets(pool, {"run": samples_of(model, RATE)}, model[0].nominal(), 8.0, 800)


def mean_scores(parameters: ParameterSet, run: ScienceRun, x: Tensor) -> Tensor:
    """Gradient of ln lambda (E, P) at nominal parameters, from exact densities."""
    term = RunTerm(parameters, run, x.unsqueeze(0), torch.ones(1, len(x), dtype=torch.float64))
    return term.scores(parameters.nominal().unsqueeze(0), torch.zeros(1, dtype=torch.long))[0][0]


def covariance(model: Model, values: Tensor) -> Tensor:
    parameters, runs = model
    toys = draw_toys(parameters, runs, values, torch.arange(20), 3)
    hessian = Likelihood(parameters, runs, toys.data).derivatives(values.expand(20, -1), torch.arange(20))[2]
    free = torch.tensor([p.fittable for p in parameters.parameters])
    wide = torch.zeros_like(hessian[0])
    wide[free.nonzero(), free.nonzero().T] = torch.linalg.inv(-hessian.mean(dim=0)[free][:, free])
    return wide


def test_the_likelihood_of_given_data_is_the_exact_one(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    data = draw_toys(parameters, runs, parameters.nominal(), torch.arange(3), 9).data
    rows = torch.arange(3).repeat_interleave(5)
    values = inside(parameters, some_region(model, 3.0), 15)
    found, expected = (lk.derivatives(values, rows) for lk in (expanded_data(pool, data), Likelihood(*model, data)))
    assert float((found[0] - expected[0]).abs().max()) < 0.05
    assert bool(((found[1] - expected[1]).abs().amax(dim=0) <= 0.03 * expected[1].abs().amax(dim=0) + 1e-9).all())


def test_coverage_of_given_data_with_a_pool_is_that_without(model: Model, pool: EventPool) -> None:
    parameters, runs = model
    data = draw_toys(parameters, runs, parameters.nominal(), torch.arange(24), 9).data
    truth, median = {"mu": float(parameters.nominal()[parameters.index("mu")])}, 0.455
    slow = coverage_of_data(parameters, runs, [data], "mu", truth, median)
    fast = coverage_of_data(parameters, runs, [data], "mu", truth, median, pool=pool)
    assert fast.coverage == slow.coverage
    assert fast.n_failed == 0


def test_data_sets_do_not_depend_on_the_batch(model: Model, sets: SampledSets) -> None:
    nominal = model[0].nominal()
    together, alone = (sets.draw(nominal, torch.tensor(k), 3).data for k in ([5, 6, 7], [7]))
    n = int(alone.weights["run"].sum())
    assert int(together.weights["run"][2].sum()) == n
    assert torch.equal(together.x["run"][2, :n], alone.x["run"][0, :n])
    assert torch.equal(together.centres[2], alone.centres[0])


def test_counts_are_those_of_the_samples_not_of_the_model(model: Model, sets: SampledSets) -> None:
    parameters, (run,) = model
    expected = RATE * float(expected_counts(parameters, run, parameters.nominal().unsqueeze(0)).sum())
    counts = sets.draw(parameters.nominal(), torch.arange(400), 3).data.weights["run"].sum(dim=-1)
    assert float(counts.mean()) == pytest.approx(expected, abs=4 * (expected / 400) ** 0.5)


def test_events_that_are_picked_from_have_the_mean_score_of_the_whole_sample(model: Model, sets: SampledSets) -> None:
    parameters, (run,) = model
    given, events = samples_of(model, RATE), sets.events["run"]

    def total(parts: list[Tensor], weights: list[Tensor]) -> Tensor:
        scores = [w @ mean_scores(parameters, run, x) for x, w in zip(parts, weights, strict=True)]
        return (sets.expected["run"].unsqueeze(-1) * torch.stack(scores)).sum(dim=0)

    whole = total([s.x for s in given], [torch.full((len(s.x),), 1.0 / len(s.x), dtype=torch.float64) for s in given])
    picked = [events.x[events.part(c)] for c in range(2)]
    tilted = total(picked, [sets.weights["run"][events.part(c)] for c in range(2)])
    even = total(picked, [torch.full((len(x),), 1.0 / len(x), dtype=torch.float64) for x in picked])
    error = covariance(model, parameters.nominal()).diagonal().sqrt()
    assert bool(((tilted - whole).abs() * error < 1e-4).all())
    assert float(((even - whole).abs() * error).max()) > 1e-2
    assert all(float(sets.weights["run"][events.part(c)].sum()) == pytest.approx(1.0) for c in range(2))


def test_events_of_the_model_leave_no_excess_and_others_what_fits_then_find(model: Model, pool: EventPool) -> None:
    parameters, _ = model
    nominal = parameters.nominal()
    inverse = covariance(model, nominal)
    error = inverse.diagonal().sqrt()
    found = {}
    for name, rate in (("right", 1.0), ("more", 1.3)):
        made = sampled_sets(pool, {"run": samples_of(model, rate)}, nominal, 8.0, 800)
        predicted = inverse @ made.excess
        likelihood = made.draw(nominal, torch.arange(160), 5)
        fits = fit_batch(likelihood).values
        found[name] = predicted, fits.mean(dim=0) - nominal, fits.std(dim=0) / 160**0.5
    free = torch.tensor([p.fittable for p in parameters.parameters])
    number = float(expected_counts(parameters, model[1][0], nominal.unsqueeze(0)).sum())
    assert float((found["right"][0] / error)[free].abs().max()) < 3 * (number / N_SAMPLE) ** 0.5
    for predicted, shift, scatter in found.values():
        assert bool(((shift - predicted)[free].abs() < 4 * scatter[free] + 0.1 * error[free]).all())
    rates = [parameters.index(name) for name in ("mu", "b")]
    more = found["more"][0][rates] - found["right"][0][rates]
    assert bool(((more - 0.3 * nominal[rates]).abs() < 0.15 * error[rates]).all())
    assert float((0.3 * nominal / error)[rates].max()) > 0.5


def test_samples_that_do_not_fit_are_refused(model: Model, pool: EventPool) -> None:
    nominal, (first, second) = model[0].nominal(), samples_of(model, n=50)
    with pytest.raises(ConfigError, match="1 for 2 sources"):
        sampled_sets(pool, {"run": [first]}, nominal, 1.0)
    with pytest.raises(DataError, match="'wimp' in run 'run': is empty"):
        sampled_sets(pool, {"run": [EventSample(first.x[:0], 1.0), second]}, nominal, 1.0)
    with pytest.raises(DataError, match="outside the region of interest"):
        sampled_sets(pool, {"run": [EventSample(first.x - 1e6, 1.0), second]}, nominal, 1.0)
