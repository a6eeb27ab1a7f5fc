"""Measures of validation: right where a closed form is known, content with the truth, alarmed by a wrong density."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from scipy import stats

from surrogate.acceptance import fit_acceptance
from surrogate.certificate import read_certificate
from surrogate.checkpoint import save_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.errors import CheckpointError, ConfigError, DataError
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_source import FlowSource
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from training.advice import CURES, advice
from training.criteria import Criterion, Thresholds, rms_beyond_noise
from training.event_set import BlockCounts, UnitEvents
from training.history import Check, History
from training.plots import plot_training, validation_figures
from training.validation import Effort, validate
from training.validation_comparison import area_under_curve, projection_tests
from training.validation_density import integral_transforms, mean_nll, normalisation, score_bias
from training.validation_rate import rate_residuals
from training.validation_sample import FreshSample, theta_cells
from training.validation_target import MeanDensity, UnitDensity

SPACE = ObservableSpace(
    (Observable("cs1", "PE", 3.0, 70.0, scale="log", offset=2.0), Observable("z", "cm", -80.0, 0.0))
)
NUISANCES = NuisanceSpace((Nuisance("elife", "us", 300.0, 600.0, 450.0), Nuisance("g1", "", 0.10, 0.14, 0.12)))
EFFORT = Effort(compared=20_000, score_cells=8, rate_cells=8, projection_cells=4, integrals=1, seed=1)
FEW = Thresholds(score_bias=0.2, score_bias_worst=0.6, projection=0.06, rate=0.01)
"""What 40,000 fresh events can tell; the score bias is that of a fit to some 60 events."""


def flow(seed: int, strength: float = 4.0) -> ConditionalFlow:
    """A small flow whose weights make a density with structure that depends on theta."""
    made = ConditionalFlow(FlowConfig(SPACE, NUISANCES, components=4, hidden=16, blocks=1), seed=seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "final_layer.weight" in name:
                parameter.mul_(strength)
    return made.requires_grad_(False)


def counts(n_blocks: int, seed: int, shift: float = 0.0) -> BlockCounts:
    """Blocks of 1000 generated events with acceptance s(0.5 t_1 - 0.3 t_2 + shift)."""
    generator = torch.Generator().manual_seed(seed)
    low, high = NUISANCES.bounds(torch.zeros(0, dtype=torch.float64))
    theta = low + (high - low) * torch.rand(n_blocks, 2, generator=generator, dtype=torch.float64)
    t = NUISANCES.standardise(theta)
    eps = torch.sigmoid(0.5 * t[:, 0] - 0.3 * t[:, 1] + shift)
    generated = torch.full((n_blocks,), 1000)
    return BlockCounts(theta, generated, torch.binomial(generated.double(), eps, generator=generator).long())


def sample_of(truth: UnitDensity, n: int, seed: int) -> FreshSample:
    """Events drawn from a flow, which is then the truth."""
    generator = torch.Generator().manual_seed(seed)
    low, high = NUISANCES.bounds(torch.zeros(0))
    theta = low + (high - low) * torch.rand(n, 2, generator=generator)
    u, _ = SPACE.to_unit(truth.sample(n, theta, generator).double())
    return FreshSample(UnitEvents(u.float(), theta, torch.ones(n)), counts(400, seed))


@pytest.fixture(scope="module")
def truth():
    return flow(seed=1)


@pytest.fixture(scope="module")
def sample(truth):
    return sample_of(truth, 40_000, seed=7)


def checkpoint(path, surrogate: ConditionalFlow, shift: float = 0.0, held_out: dict[str, float] | None = None):
    blocks = counts(2000, seed=3, shift=shift)
    acceptance = fit_acceptance(NUISANCES, blocks.theta, blocks.n_generated, blocks.n_accepted, degree=1)
    save_checkpoint(path, FlowSource(surrogate, acceptance, 1000.0), {"name": "toy", "metrics": held_out or {}})
    return path


def test_the_true_density_passes_and_is_certified(tmp_path, truth, sample):
    path = checkpoint(tmp_path / "good", truth)
    record, measured = validate(path, sample, FEW, EFFORT)
    assert record.passed, [c for c in record.criteria if not c.passed]
    assert record.advice == ()
    names = {c.name for c in record.criteria}
    assert names >= {"normalisation", "score_bias", "score_bias_worst", "auc", "auc_slice", "projection", "rate", "pit"}
    certificate = read_certificate(path)
    assert certificate is not None
    assert certificate.passed
    assert certificate.metrics["auc"] == measured.classifier.auc
    figures = validation_figures(measured, SPACE, NUISANCES.names, FEW.score_bias)
    assert set(figures) >= {"marginals", "projections", "bands", "score_bias", "rate", "integral_transforms"}


def test_a_wrong_density_fails_where_it_is_wrong(tmp_path, truth, sample):
    wrong = flow(seed=1)
    with torch.no_grad():
        for name, parameter in wrong.named_parameters():
            if "final_layer.bias" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    path = checkpoint(tmp_path / "wrong", wrong)
    record, _ = validate(path, sample, FEW, EFFORT)
    failed = {c.name for c in record.criteria if c.verdict == "fails"}
    assert not record.passed
    assert {line.split(":")[0] for line in record.advice} >= {"auc", "pit", "projection"}
    assert failed >= {"auc", "pit", "projection"}
    assert "normalisation" not in failed
    assert "rate" not in failed
    certificate = read_certificate(path)
    assert certificate is not None
    assert not certificate.passed


def test_a_wrong_rate_fails_alone(tmp_path, truth, sample):
    record, _ = validate(checkpoint(tmp_path / "rate", truth, shift=0.05), sample, FEW, EFFORT)
    assert [line for line in record.advice if line.startswith("rate: mu(theta) is off; generate more")]
    assert {c.name for c in record.criteria if not c.passed} == {"rate"}


def ensemble(surrogates: list[ConditionalFlow]) -> EnsembleSource:
    blocks = counts(2000, seed=3)
    acceptance = fit_acceptance(NUISANCES, blocks.theta, blocks.n_generated, blocks.n_accepted, degree=1)
    return EnsembleSource(tuple(FlowSource(f, acceptance, 1000.0) for f in surrogates))


def test_an_ensemble_is_certified_by_its_mean(tmp_path):
    """Events of a mixture of two flows: their mean passes, one of them does not."""
    pair = [flow(seed=1), flow(seed=2)]
    mixture = MeanDensity(ensemble(pair))
    sample = sample_of(mixture, 40_000, seed=20)
    save_checkpoint(tmp_path / "pair", ensemble(pair), {"metrics": {"held_out_nll": None}})
    record, measured = validate(tmp_path / "pair", sample, FEW, EFFORT)
    assert record.passed, [c for c in record.criteria if not c.passed]
    assert measured.integrals[0] == pytest.approx(1.0, abs=1e-5)
    one, _ = validate(checkpoint(tmp_path / "one", pair[0]), sample, FEW, EFFORT)
    assert "fails" in {c.verdict for c in one.criteria}


def test_too_few_events_are_refused(tmp_path, truth, sample):
    few = FreshSample(sample.events.take(torch.arange(100)), sample.blocks)
    with pytest.raises(DataError, match="100 fresh events are too few"):
        validate(checkpoint(tmp_path / "few", truth), few)
    with pytest.raises(CheckpointError):
        validate(tmp_path / "none", sample)


def test_nll_is_the_mean_and_its_error_the_standard_error(truth, sample):
    events = sample.events.take(torch.arange(2000))
    log_p = truth.log_prob_unit(events.u, events.theta).double()
    result = mean_nll(truth, events)
    assert result.value == pytest.approx(-float(log_p.mean()), rel=1e-6)
    assert result.error == pytest.approx(float(log_p.std(correction=0)) / math.sqrt(2000), rel=1e-4)
    weighted = UnitEvents(events.u, events.theta, torch.arange(2000) % 2 + 1.0)
    w = weighted.weight.double()
    assert mean_nll(truth, weighted).value == pytest.approx(-float((w * log_p).sum() / w.sum()), rel=1e-6)


def test_a_normalised_density_integrates_to_one_and_another_does_not(truth):
    theta = torch.tensor([400.0, 0.13], dtype=torch.float64)
    assert normalisation(truth, theta) == pytest.approx(1.0, abs=1e-5)

    class Doubled(ConditionalFlow):
        def log_prob_unit(self, u, theta):
            return super().log_prob_unit(u, theta) + math.log(2.0)

    doubled = Doubled(truth.config)
    doubled.load_state_dict(truth.state_dict())
    assert normalisation(doubled, theta) == pytest.approx(2.0, abs=2e-5)


def test_score_bias_of_the_truth_is_noise_and_of_a_shift_is_the_shift(truth, sample):
    cells = torch.zeros(sample.events.size, dtype=torch.int64)
    own = score_bias(truth, sample.events, cells, n_reference=1000)
    assert own.error[0, 0] == pytest.approx(math.sqrt(1000 / sample.events.size))
    assert bool((own.bias.abs() < 4.5 * own.error).all())
    # evaluated at theta + delta the mean score is -I delta, so the bias is -sqrt(N I) delta
    delta = torch.tensor([3.0, 0.0])
    inside = sample.events.take(sample.events.theta[:, 0] < 590)
    moved = UnitEvents(inside.u, inside.theta + delta, inside.weight)
    shifted = score_bias(truth, moved, torch.zeros(inside.size, dtype=torch.int64))
    leaf = inside.theta.clone().requires_grad_(True)
    (scores,) = torch.autograd.grad(truth.log_prob_unit(inside.u, leaf).sum(), leaf)
    information = float(scores[:, 0].double().square().mean())
    expected = -math.sqrt(1000 * information) * 3.0
    assert float(shifted.bias[0, 0]) == pytest.approx(expected, abs=5 * float(own.error[0, 0]) + 0.1 * abs(expected))


def test_integral_transforms_of_the_truth_are_uniform(truth, sample):
    pit = integral_transforms(truth, sample.events)
    assert pit.names == ("z", "cs1")
    for distance in pit.distance:
        assert stats.kstwo.sf(distance, sample.events.size) > 1e-3


def test_area_under_curve_against_its_definition():
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, generator=generator) + 0.5, torch.randn(200, generator=generator)
    direct = (a[:, None] > b[None]).double().mean() + 0.5 * (a[:, None] == b[None]).double().mean()
    area, error = area_under_curve(a, b)
    assert area == pytest.approx(float(direct))
    assert error == pytest.approx(math.sqrt(501 / (12 * 300 * 200)))


def test_chi2_of_equal_densities_is_uniform_and_ignores_sample_sizes(truth):
    generator = torch.Generator().manual_seed(5)
    p_values = []
    for _ in range(20):
        theta = torch.tensor([[450.0, 0.12]]).expand(12_000, -1)
        u, _ = SPACE.to_unit(truth.sample(12_000, theta, generator).double())
        events = UnitEvents(u.float(), theta, torch.ones(12_000))
        parts = events.take(torch.arange(3000)), events.take(torch.arange(3000, 12_000))
        zeros = tuple(torch.zeros(p.size, dtype=torch.int64) for p in parts)
        p_values += [p.p_value for p in projection_tests(truth, *parts, zeros, bins=10)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_rate_residuals_of_a_shift(truth):
    blocks = counts(2000, seed=3)
    acceptance = fit_acceptance(NUISANCES, blocks.theta, blocks.n_generated, blocks.n_accepted, degree=1)
    source = FlowSource(truth, acceptance, 1.0)
    fresh = counts(2000, seed=4)
    residual = rate_residuals(source, fresh, 8)
    assert len(residual.deviation) == 8
    chi2 = sum((d / e) ** 2 for d, e in zip(residual.deviation, residual.error, strict=True))
    assert stats.chi2.sf(chi2, 8) > 1e-3
    halved = BlockCounts(fresh.theta, 2 * fresh.n_generated, fresh.n_accepted)
    assert all(d == pytest.approx(-0.5, abs=0.02) for d in rate_residuals(source, halved, 8).deviation)


def test_cells_of_theta_are_distinct_values_or_equal_shares():
    few = torch.tensor([[300.0, 0.10], [400.0, 0.12], [300.0, 0.10]])
    assert theta_cells(NUISANCES, few, 4).tolist() == [0, 1, 0]
    low, high = NUISANCES.bounds(torch.zeros(0))
    many = low + (high - low) * torch.rand(6400, 2, generator=torch.Generator().manual_seed(1))
    cell = theta_cells(NUISANCES, many, 64)
    sizes = torch.bincount(cell)
    assert len(sizes) == 64
    assert int(sizes.min()) >= 90
    assert bool((theta_cells(NuisanceSpace(), torch.zeros(5, 0), 4) == 0).all())


def test_rms_beyond_noise_removes_the_noise():
    generator = torch.Generator().manual_seed(2)
    noise = (0.3 * torch.randn(4000, generator=generator)).tolist()
    value, error = rms_beyond_noise(noise, [0.3] * 4000)
    assert error == pytest.approx(math.sqrt(0.09 * math.sqrt(2 / 4000)))
    assert value < 2 * error
    moved, _ = rms_beyond_noise([d + 0.2 for d in noise], [0.3] * 4000)
    assert moved == pytest.approx(0.2, abs=0.02)


def test_criteria_pass_at_the_threshold_and_fail_far_above():
    assert Criterion("auc", 0.505, 0.001, 0.505).passed
    assert not Criterion("auc", 0.505 + 0.0032, 0.001, 0.505).passed
    assert Criterion("auc_slice", 0.505 + 0.0032, 0.001, 0.505, trials=20).passed
    assert not Criterion("rate", math.nan, 0.001, 0.003).passed
    assert Criterion("score_bias", 0.08, 0.05, 0.05, quadratic=True).limit == pytest.approx(
        math.sqrt(0.05**2 + stats.norm.isf(1e-3) * 0.05**2)
    )


def test_few_fresh_events_decide_nothing(tmp_path, truth, sample):
    """The true density is not certified by so few that a wrong one would pass too, and is told how many it needs."""
    path = checkpoint(tmp_path / "few", truth)
    record, _ = validate(path, FreshSample(sample.events.take(torch.arange(4000)), sample.blocks), effort=EFFORT)
    assert not record.passed
    undecided = {c.name for c in record.criteria if c.verdict == "undecided"}
    assert undecided >= {"score_bias", "score_bias_worst", "projection"}
    assert "fails" not in {c.verdict for c in record.criteria}
    assert read_certificate(path).verdict.startswith("score_bias undecided, score_bias_worst undecided")
    told = re.search(r"4,000 fresh events decide nothing; give about ([\d,]+)", " ".join(record.advice))
    # the worst score bias of 8 cells has the error sqrt(1000/(N/8)), which must not exceed 1.5 x 0.15
    assert int(told[1].replace(",", "")) >= 8000 / 0.225**2
    assert re.match(r"if a search expects at most \d+ events of this source", record.advice[-1])
    thresholds = dict(re.findall(r"--threshold (\w+)=([\d.]+)", record.advice[-1]))
    assert set(thresholds) == {"score_bias", "score_bias_worst"}
    for criterion in record.criteria:
        if criterion.name in thresholds:
            assert dataclasses.replace(criterion, threshold=float(thresholds[criterion.name])).passed


def test_a_criterion_is_undecided_where_its_error_is_large():
    blunt = Criterion("rate", 0.004, 0.0046, 0.003, quadratic=True)
    assert (blunt.verdict, blunt.passed) == ("undecided", False)
    assert dataclasses.replace(blunt, error=0.0044).verdict == "ok"
    assert dataclasses.replace(blunt, value=0.5).verdict == "fails"
    assert Criterion("auc", 0.5, 0.006, 0.505).bluntness == pytest.approx(1.2)
    assert Criterion("auc", 0.5, 0.008, 0.505).verdict == "undecided"
    assert Criterion("auc", 0.5, 0.001, 0.4999).bluntness == math.inf
    assert Criterion.from_dict(blunt.to_dict()) == blunt


def test_overfitting_is_judged_by_the_errors_of_both_samples(tmp_path, truth, sample):
    """The held-out NLL of a training fluctuates by its own error, however many fresh events there are."""
    right, few = mean_nll(truth, sample.events).value, 0.05
    path = checkpoint(tmp_path / "few_held_out", truth, held_out={"held_out_nll": right - few, "held_out_error": few})
    record, measured = validate(path, sample, FEW, EFFORT)
    criterion = record.criteria[0]
    assert (criterion.name, criterion.verdict) == ("overfit", "undecided")
    assert criterion.error == pytest.approx(math.hypot(measured.nll.error, few))
    assert "held out too few events (error 0.05)" in record.advice[0]
    raised = re.search(r"--threshold overfit=([\d.]+)", record.advice[0])
    assert dataclasses.replace(criterion, threshold=float(raised[1])).passed


def test_advice_counts_only_the_error_that_fresh_events_lower():
    criterion = Criterion("overfit", 0.0, math.hypot(0.03, 0.01), 0.01)
    # 0.03^2 n / N + 0.01^2 = 0.015^2
    assert "give about 720" in advice([criterion], 100, held_out_error=0.01)[0]


def test_every_criterion_has_a_cure():
    assert {f.name.removesuffix("_worst") for f in dataclasses.fields(Thresholds)} == set(CURES)


def test_thresholds_by_name():
    assert Thresholds.from_mapping({"auc": 0.51}).auc == 0.51
    with pytest.raises(ConfigError, match="did you mean 'score_bias'"):
        Thresholds.from_mapping({"score_bas": 1.0})
    with pytest.raises(ConfigError, match="must be > 0"):
        Thresholds(auc=-1.0)


def test_training_curve_is_drawn():
    history = History([Check(k, 1.0 / k, 1.1 / k, 0.01, 1e-3, k) for k in range(1, 5)], "finished")
    figure = plot_training(history, "toy")
    assert "toy: finished" in figure.axes[0].get_title()
