"""The likelihood: closed forms, derivatives against autograd, batching, binned as a product of Poissons, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from analytic_sources import (
    LIVETIME,
    UNIT,
    AnalyticSource,
    constant_rate,
    counting_model,
    exponential_source,
    flat_source,
    gaussian_source,
    rate_parameter,
)
from scipy import stats
from torch import Tensor

from inference.constraints.gaussian import GaussianConstraint, LogNormalConstraint
from inference.data.dataset import Dataset, EventData, data_batch, event_data
from inference.likelihood.extended import Likelihood
from inference.parameters import Parameter, ParameterSet
from inference.science_run import RunSource, ScienceRun, expected_counts
from surrogate.binning import Binning
from surrogate.errors import ConfigError, DataError, RangeError
from surrogate.template import TemplateSource


def rich_model() -> tuple[ParameterSet, tuple[ScienceRun, ...]]:
    """Two runs, five sources; shared, renamed and held nuisances, efficiencies, a parameter used twice."""
    parameters = ParameterSet(
        (
            rate_parameter("mu"),
            rate_parameter("er_rate"),
            Parameter("slope", "shape", 0.0, -5, 5),
            Parameter("size", "shape", 0.0, -5, 5),
            Parameter("shift", "shape", 0.0, -5, 5),
            Parameter("efficiency", "efficiency", 0.9, 0.0, 1.2),
            LIVETIME,
            Parameter("mass", "livetime", 2.0, 0.0, fittable=False),
        ),
        (
            GaussianConstraint("er_rate", 0.2, 1.0),
            GaussianConstraint("slope", 1.0, 0.0),
            GaussianConstraint("size", 1.0, 0.0),
            LogNormalConstraint("efficiency", 0.1, 0.9),
        ),
    )
    first = ScienceRun(
        "first",
        UNIT,
        (
            RunSource("wimp", gaussian_source(0.3, 0.1, 5.0, "shift"), "mu", {"shift": "shift"}, ("efficiency",)),
            RunSource("er", exponential_source(20.0), "er_rate", {"slope": "slope", "size": "size"}),
            RunSource("ac", flat_source(3.0), "er_rate", {}, ("efficiency", "efficiency"), scale=0.5),
        ),
        ("livetime", "mass"),
    )
    second = ScienceRun(
        "second",
        UNIT,
        (
            RunSource("wimp", exponential_source(4.0), "mu", {"slope": "shift", "size": "shift"}),
            RunSource("er", exponential_source(10.0), "er_rate", {"slope": 1.5, "size": "size"}, ("efficiency",)),
        ),
        ("livetime",),
    )
    return parameters, (first, second)


def events(n: int, seed: int) -> EventData:
    return event_data(UNIT, torch.rand(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def points(parameters: ParameterSet, n: int, seed: int = 1) -> Tensor:
    noise = torch.randn(n, len(parameters), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = parameters.nominal() + 0.2 * noise
    return values.maximum(torch.tensor(0.05) * (parameters.lower == 0))


def test_counting_experiment_is_poisson() -> None:
    parameters, runs = counting_model(2.0, 3.0)
    for n in (0, 1, 7):
        likelihood = Likelihood(parameters, runs, Dataset({"run": events(n, n)}, {}))
        mu = torch.tensor([0.0, 0.4, 5.0], dtype=torch.float64)
        values = torch.stack([mu, torch.ones(3), torch.ones(3)], dim=-1)
        expected = stats.poisson.logpmf(n, 2 * mu + 3) + math.lgamma(n + 1)
        assert torch.allclose(likelihood.log_likelihood(values), torch.as_tensor(expected), rtol=0, atol=1e-12)


def test_value_is_the_written_formula() -> None:
    parameters, runs = rich_model()
    data = Dataset({"first": events(7, 1), "second": events(4, 2)}, {"er_rate": 1.1})
    likelihood = Likelihood(parameters, runs, data)
    values = points(parameters, 3)
    got = likelihood.log_likelihood(values)
    for b in range(3):
        v = parameters.mapping(values[b])
        total = (
            stats.norm.logpdf(1.1, v["er_rate"], 0.2)
            + stats.norm.logpdf(0, v["slope"])
            + stats.norm.logpdf(0, v["size"])
        )
        total += stats.lognorm.logpdf(0.9, 0.1, scale=v["efficiency"])
        for run in runs:
            mu = expected_counts(parameters, run, values[b : b + 1])[0]
            total -= float(mu.sum())
            for x in data.events[run.name].x:
                theta = [
                    torch.tensor([v[d] if isinstance(d, str) else d for d in c.drivers], dtype=torch.float64)
                    for c in run.sources
                ]
                f = [c.source.log_prob(x, t).exp() for c, t in zip(run.sources, theta, strict=True)]
                total += math.log(sum(float(m * g) for m, g in zip(mu, f, strict=True)))
        assert float(got[b]) == pytest.approx(float(total), abs=1e-10)


def test_expected_counts_multiply_all_factors() -> None:
    parameters, runs = rich_model()
    counts = expected_counts(parameters, runs[0], parameters.vector({"mu": 3.0, "efficiency": 0.5}).unsqueeze(0))
    assert counts[0].tolist() == pytest.approx([3 * 5 * 0.5 * 2, 20 * 2, 3 * 0.5 * 0.25 * 2])


@pytest.mark.parametrize("seed", range(3))
def test_derivatives_equal_double_backward(seed: int) -> None:
    parameters, runs = rich_model()
    data = Dataset({"first": events(12, seed), "second": events(5, seed + 50)}, {})
    likelihood = Likelihood(parameters, runs, data)
    values = points(parameters, 4, seed)
    value, gradient, hessian = likelihood.derivatives(values)
    leaf = values.clone().requires_grad_(True)
    log_l = likelihood.log_likelihood(leaf)
    (first,) = torch.autograd.grad(log_l.sum(), leaf, create_graph=True)
    second = torch.stack([torch.autograd.grad(first[:, j].sum(), leaf, retain_graph=True)[0] for j in range(8)], dim=1)
    assert torch.allclose(value, log_l.detach(), rtol=0, atol=1e-12)
    assert torch.allclose(gradient, first.detach(), rtol=1e-10, atol=1e-10)
    assert torch.allclose(hessian, second, rtol=1e-10, atol=1e-10)


def test_derivatives_are_defined_at_zero_rates() -> None:
    """At mu = 0 and er_rate = 0 values vanish where their derivatives do not."""
    parameters, runs = rich_model()
    likelihood = Likelihood(parameters, runs, Dataset({"first": events(3, 1), "second": events(3, 2)}, {}))
    at = {"mu": 0.0}
    value, gradient, hessian = likelihood.derivatives(parameters.vector(at).unsqueeze(0))
    step = 1e-6
    up = likelihood.derivatives(parameters.vector({"mu": step}).unsqueeze(0))
    assert float((up[0] - value) / step) == pytest.approx(float(gradient[0, 0]), abs=1e-3)
    assert ((up[1] - gradient) / step)[0].tolist() == pytest.approx(hessian[0, 0].tolist(), abs=1e-2)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    parameters, runs = rich_model()
    sets = [Dataset({"first": events(n, n), "second": events(2 * n, n + 9)}, {"slope": 0.1 * n}) for n in (0, 3, 11)]
    batch = Likelihood(parameters, runs, data_batch(parameters, runs, sets))
    values = points(parameters, 6)
    rows = torch.tensor([2, 0, 1, 1, 2, 0])
    together = batch.derivatives(values, rows)
    plain = batch.log_likelihood(values, rows)
    for b in range(6):
        alone = Likelihood(parameters, runs, sets[int(rows[b])])
        single = alone.derivatives(values[b : b + 1])
        for a, s in zip(together, single, strict=True):
            assert torch.allclose(a[b : b + 1], s, rtol=1e-12, atol=1e-11)
        assert float(plain[b]) == pytest.approx(float(alone.log_likelihood(values[b : b + 1])), abs=1e-11)


def test_chunking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, runs = rich_model()
    likelihood = Likelihood(parameters, runs, Dataset({"first": events(9, 1), "second": events(9, 2)}, {}))
    values = points(parameters, 7)
    whole = likelihood.derivatives(values)
    monkeypatch.setattr("inference.likelihood.extended.CHUNK_ENTRIES", 1200)
    assert len(list(likelihood._chunks(7))) > 1
    for a, b in zip(whole, likelihood.derivatives(values), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_weights_repeat_events() -> None:
    parameters, runs = rich_model()
    twice = events(5, 3)
    repeated = EventData(torch.cat([twice.x, twice.x]))
    weighted = EventData(twice.x, torch.full((5,), 2.0, dtype=torch.float64))
    values = points(parameters, 2)
    a = Likelihood(parameters, runs, Dataset({"first": repeated, "second": events(0, 0)}, {})).derivatives(values)
    b = Likelihood(parameters, runs, Dataset({"first": weighted, "second": events(0, 0)}, {})).derivatives(values)
    for x, y in zip(a, b, strict=True):
        assert torch.allclose(x, y, rtol=1e-12, atol=1e-12)


def binned_model(n_bins: int = 6) -> tuple[ParameterSet, ScienceRun, TemplateSource, TemplateSource]:
    generator = torch.Generator().manual_seed(4)
    binning = Binning(("x",), (torch.linspace(0, 1, n_bins + 1) ** 1.5,))
    anchors = {"t": (-2.0, -1.0, 0.0, 1.0, 2.0)}
    moving = TemplateSource(binning, anchors, torch.rand(5, n_bins, generator=generator, dtype=torch.float64))
    still = TemplateSource(binning, {}, torch.rand(n_bins, generator=generator, dtype=torch.float64))
    parameters = ParameterSet(
        (rate_parameter("mu"), rate_parameter("b"), Parameter("t", "shape", 0.0, -3, 3), LIVETIME),
        (GaussianConstraint("t", 1.0, 0.0),),
    )
    space = binning.space()
    sources = (RunSource("signal", moving, "mu", {"t": "t"}), RunSource("background", still, "b", {}))
    return parameters, ScienceRun("run", space, sources, ("livetime",), binning.edges), moving, still


def test_binned_run_is_a_product_of_poissons() -> None:
    parameters, run, moving, still = binned_model()
    data = events(13, 5)
    likelihood = Likelihood(parameters, (run,), Dataset({"run": data}, {}))
    values = parameters.vector({"mu": 4.0, "b": 2.5, "t": 0.3}).unsqueeze(0)
    theta = torch.tensor([0.3], dtype=torch.float64)
    mean = 4 * moving.expected_events(theta) * moving.pmf(theta) + 2.5 * still.expected_events(theta[:0]) * still.pmf(
        theta[:0]
    )
    counts = torch.bincount(moving.binning.index(data.x), minlength=6)
    expected = stats.poisson.logpmf(counts, mean).sum() + stats.norm.logpdf(0.3)
    assert float(likelihood.log_likelihood(values)) == pytest.approx(float(expected), abs=1e-12)
    assert float(likelihood.derivatives(values)[0]) == pytest.approx(float(expected), abs=1e-12)


def test_derivatives_pick_the_side_of_a_breakpoint() -> None:
    parameters, run, _, _ = binned_model()
    likelihood = Likelihood(parameters, (run,), Dataset({"run": events(9, 6)}, {}))
    assert likelihood.breakpoints == {2: (-2.0, -1.0, 0.0, 1.0, 2.0)}
    assert (float(likelihood.lower[2]), float(likelihood.upper[2])) == (-2.0, 2.0)
    at = parameters.vector({"mu": 4.0, "t": 1.0}).unsqueeze(0)
    step = 1e-6
    for side in (-1, 1):
        moved = at.clone()
        moved[0, 2] += side * step
        centre = at.clone()
        centre[0, 2] += 0.5 * side
        slope = side * (likelihood.log_likelihood(moved) - likelihood.log_likelihood(at)) / step
        assert float(likelihood.derivatives(at, centre=centre)[1][0, 2]) == pytest.approx(float(slope), abs=1e-4)


def test_fine_bins_approach_the_unbinned_likelihood() -> None:
    """ln L differences between parameter points agree when bins resolve the densities."""
    fine = Binning(("x",), (torch.linspace(0, 1, 4001),))
    centres = fine.centres
    sources = [gaussian_source(0.4, 0.1, 5.0), flat_source(7.0)]
    none = torch.zeros(4000, 0, dtype=torch.float64)
    templates = [
        TemplateSource(fine, {}, s.log_prob(centres, none).exp() * fine.volumes * s.expected_events(none[:1]))
        for s in sources
    ]
    parameters = ParameterSet((rate_parameter("mu"), rate_parameter("b"), LIVETIME))
    data = Dataset({"run": events(20, 8)}, {})
    values = torch.tensor([[1.0, 1.0, 1.0], [0.2, 1.5, 1.0]], dtype=torch.float64)
    difference = []
    for kind, binning in ((sources, None), (templates, fine.edges)):
        pair = tuple(RunSource(n, s, p, {}) for n, s, p in zip(("s", "b"), kind, ("mu", "b"), strict=True))
        run = ScienceRun("run", UNIT, pair, ("livetime",), binning)
        log_l = Likelihood(parameters, (run,), data).log_likelihood(values)
        difference.append(float(log_l[1] - log_l[0]))
    assert difference[0] == pytest.approx(difference[1], abs=2e-3)


def test_one_source_alone_may_explain_an_event() -> None:
    """An event at ln f = -2000 under one source and -inf under the other: finite, with finite derivatives."""
    far = AnalyticSource(lambda x, t: torch.full_like(x + t.sum(-1), -2000.0), constant_rate(1.0), label="far")
    nowhere = AnalyticSource(lambda x, t: torch.full_like(x + t.sum(-1), -math.inf), constant_rate(1.0), label="none")
    parameters = ParameterSet((rate_parameter("mu"), rate_parameter("b"), LIVETIME))
    sources = (RunSource("far", far, "mu", {}), RunSource("none", nowhere, "b", {}))
    run = ScienceRun("run", UNIT, sources, ("livetime",))
    likelihood = Likelihood(parameters, (run,), Dataset({"run": events(1, 1)}, {}))
    values = torch.tensor([[2.0, 1.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    value, gradient, hessian = likelihood.derivatives(values)
    assert float(value[0]) == pytest.approx(-2000 + math.log(2) - 3, abs=1e-9)
    assert gradient[0].tolist() == pytest.approx([1 / 2 - 1, -1, 1 - 3])
    assert float(hessian[0, 0, 0]) == pytest.approx(-0.25)
    assert float(value[1]) == -math.inf
    assert bool(torch.isfinite(gradient).all())
    assert bool(torch.isfinite(hessian).all())
    assert likelihood.log_likelihood(values).tolist() == pytest.approx(value.tolist())


def test_zero_rate_and_empty_data_are_legal() -> None:
    parameters, runs = counting_model(0.0, 0.0)
    likelihood = Likelihood(parameters, runs, Dataset({"run": events(0, 0)}, {}))
    value, gradient, hessian = likelihood.derivatives(parameters.nominal().unsqueeze(0))
    assert float(value) == 0.0
    assert float(gradient.abs().max()) == 0.0
    assert float(hessian.abs().max()) == 0.0


def test_a_density_may_be_replaced() -> None:
    """Anything that gives jets at the events can stand for a source, such as an expansion."""
    parameters, runs = rich_model()
    data = Dataset({"first": events(4, 1), "second": events(4, 2)}, {})

    class Halved:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def log_prob(self, theta: Tensor, rows: Tensor) -> Tensor:
            return self.inner.log_prob(theta, rows) - math.log(2)

        def density_jet(self, theta: Tensor, rows: Tensor, centre: Tensor | None = None) -> object:
            return self.inner.density_jet(theta, rows, centre)

    exact = Likelihood(parameters, runs, data)
    densities = {
        r.name: {c.name: Halved(d) for c, d in zip(r.sources, t._densities, strict=True)}
        for r, t in zip(runs, exact._terms, strict=True)
    }
    halved = Likelihood(parameters, runs, data, densities)
    values = points(parameters, 2)
    shift = halved.log_likelihood(values) - exact.log_likelihood(values)
    assert shift.tolist() == pytest.approx([-8 * math.log(2)] * 2)


def test_bad_input_is_refused() -> None:
    parameters, runs = rich_model()
    data = Dataset({"first": events(1, 1), "second": events(1, 2)}, {})
    likelihood = Likelihood(parameters, runs, data)
    with pytest.raises(DataError, match="no events given for run second"):
        Likelihood(parameters, runs, Dataset({"first": events(1, 1)}, {}))
    with pytest.raises(DataError, match="did you mean 'second'"):
        Likelihood(parameters, runs, Dataset({"first": events(1, 1), "secnd": events(1, 1)}, {}))
    with pytest.raises(DataError, match="unknown ancillary 'mu'"):
        Likelihood(parameters, runs, Dataset(data.events, {"mu": 1.0}))
    with pytest.raises(DataError, match="impossible"):
        Likelihood(parameters, runs, Dataset(data.events, {"efficiency": -1.0}))
    with pytest.raises(ConfigError, match="unknown parameter"):
        Likelihood(ParameterSet(parameters.parameters[1:]), runs, data)
    with pytest.raises(RangeError, match="outside the range"):
        likelihood.log_likelihood(torch.full((1, 8), 7.0, dtype=torch.float64))
    with pytest.raises(DataError, match="rows"):
        likelihood.log_likelihood(points(parameters, 2), torch.tensor([0, 1]))
    outside = ParameterSet(
        tuple(Parameter("slope", "shape", 6.0, -9, 9) if p.name == "slope" else p for p in parameters.parameters)
    )
    with pytest.raises(ConfigError, match=r"nominal 6\.0 is outside"):
        Likelihood(outside, runs, data)
