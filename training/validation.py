"""Validation of a surrogate against fresh events, and its certificate.

Everything is measured on events that the surrogate has never seen: simulated anew, or from a file. The verdict goes
into the checkpoint; limits set with a surrogate that failed, or was never validated, are refused unless asked for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surrogate.certificate import write_certificate
from surrogate.checkpoint import load_checkpoint, read_record
from surrogate.ensemble import EnsembleSource
from surrogate.errors import DataError
from surrogate.flow_source import FlowSource
from training.advice import advice
from training.criteria import Criterion, Thresholds, rms_beyond_noise
from training.event_set import UnitEvents
from training.validation_comparison import (
    ClassifierTest,
    Projection,
    classifier_test,
    projection_tests,
    surrogate_events,
)
from training.validation_density import (
    NllResult,
    PitResult,
    ScoreBias,
    integral_transforms,
    mean_nll,
    normalisation,
    score_bias,
)
from training.validation_rate import RateResidual, rate_residuals
from training.validation_sample import FreshSample, theta_cells
from training.validation_target import unit_density

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    compared
        Events for NLL, classifier, projections and integral transforms; the score bias takes all there are.
    score_cells, rate_cells, projection_cells
        Cells of theta in which the score bias, the rate and the projections are measured.
    integrals
        Thetas at which the density is integrated.
    seed
        Of all random choices.
    """

    compared: int = 400_000
    score_cells: int = 64
    rate_cells: int = 32
    projection_cells: int = 10
    integrals: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Measurements:
    """What was measured, as the figures need it."""

    fresh: UnitEvents
    drawn: UnitEvents
    cells: tuple[Tensor, Tensor]
    nll: NllResult
    integrals: list[float]
    score: ScoreBias
    classifier: ClassifierTest
    projections: list[Projection]
    rate: RateResidual
    pit: PitResult


@dataclass(frozen=True)
class ValidationRecord:
    """Outcome of a validation.

    Attributes
    ----------
    checkpoint
        Directory of the surrogate.
    passed
        Whether all criteria are met.
    criteria
        The criteria in order.
    n_events, n_generated
        Fresh accepted events that were used, and generated ones behind the rate.
    advice
        What to do about criteria that are not met.
    metrics
        Everything measured, as plain data.
    """

    checkpoint: str
    passed: bool
    criteria: tuple[Criterion, ...]
    n_events: int
    n_generated: int
    advice: tuple[str, ...]
    metrics: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self) | {"criteria": [c.to_dict() for c in self.criteria]}


def validate(
    checkpoint: Path, sample: FreshSample, thresholds: Thresholds | None = None, effort: Effort | None = None
) -> tuple[ValidationRecord, Measurements]:
    """Measure a surrogate against fresh events and write the certificate into its checkpoint.

    Parameters
    ----------
    checkpoint
        Directory of the surrogate.
    sample
        Fresh events over its ranges of theta.
    thresholds
        What is allowed; the defaults of :class:`~training.criteria.Thresholds`.
    effort
        How much is measured.

    Returns
    -------
    ValidationRecord, Measurements
        Verdict, and what the figures show.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged.
    DataError
        If there are too few fresh events.
    """
    thresholds, effort = thresholds or Thresholds(), effort or Effort()
    record = read_record(checkpoint)
    # float32: the statistics of a validation never tell it from float64
    source = load_checkpoint(checkpoint, dtype=torch.float32)
    measured = measure(source, sample, effort)
    held_out = held_out_result(record["metadata"].get("metrics", {}))
    criteria = judge(measured, thresholds, held_out)
    passed = all(c.passed for c in criteria)
    outcome = ValidationRecord(
        str(checkpoint),
        passed,
        tuple(criteria),
        sample.events.size,
        int(sample.blocks.n_generated.sum()),
        tuple(advice(criteria, sample.events.size, held_out.error if held_out else 0.0)),
        _metrics(measured, held_out),
    )
    metrics = outcome.metrics | {
        "criteria": [c.to_dict() for c in criteria],
        "n_events": outcome.n_events,
        "n_generated": outcome.n_generated,
    }
    write_certificate(checkpoint, passed, metrics, asdict(thresholds), record["identity"])
    return outcome, measured


def measure(source: FlowSource | EnsembleSource, sample: FreshSample, effort: Effort) -> Measurements:
    """Measure everything."""
    flow, events = unit_density(source), sample.events
    if events.size < 2000:
        raise DataError(f"validation: {events.size} fresh events are too few; give at least 2000")
    step = max(events.size // effort.compared, 1)
    fresh = events.take(torch.arange(0, events.size, step))
    generator = torch.Generator().manual_seed(effort.seed)
    logger.info("drawing events from the surrogate")
    drawn = surrogate_events(flow, fresh, 3, generator)
    cell = theta_cells(source.nuisances, fresh.theta, effort.projection_cells)
    first = drawn.take(torch.arange(fresh.size))
    logger.info("training the classifier")
    classifier = classifier_test(flow, fresh, first, effort.seed)
    logger.info("score bias")
    score = score_bias(flow, events, theta_cells(source.nuisances, events.theta, effort.score_cells))
    low, high = source.nuisances.bounds(torch.zeros(0, dtype=torch.float64))
    points = torch.quasirandom.SobolEngine(max(source.nuisances.dim, 1), scramble=True, seed=effort.seed)
    unit = points.draw(effort.integrals, dtype=torch.float64)[:, : source.nuisances.dim]
    return Measurements(
        fresh=fresh,
        drawn=drawn,
        cells=(cell, cell.repeat(3)),
        nll=mean_nll(flow, fresh),
        integrals=[normalisation(flow, theta) for theta in low + (high - low) * unit],
        score=score,
        classifier=classifier,
        projections=projection_tests(flow, fresh, drawn, (cell, cell.repeat(3))),
        rate=rate_residuals(source, sample.blocks, effort.rate_cells),
        pit=integral_transforms(flow, fresh),
    )


def held_out_result(metrics: Mapping[str, Any]) -> NllResult | None:
    """Return the held-out NLL that a training recorded, with its error; None if it recorded none."""
    value, error = metrics.get("held_out_nll"), metrics.get("held_out_error")
    return None if value is None or error is None else NllResult(value, error)


def judge(measured: Measurements, thresholds: Thresholds, held_out: NllResult | None) -> list[Criterion]:
    """Hold the measurements against the thresholds."""
    t, score, worst = thresholds, measured.score, max(measured.classifier.slices, key=lambda s: s[1] - 3 * s[2])
    criteria = []
    if held_out is not None:
        gap, gap_error = measured.nll.value - held_out.value, math.hypot(measured.nll.error, held_out.error)
        criteria.append(Criterion("overfit", gap, gap_error, t.overfit))
    worst_integral = max(abs(integral - 1) for integral in measured.integrals)
    criteria.append(Criterion("normalisation", worst_integral, 0.0, t.normalisation))
    if score.bias.shape[-1]:
        bias, error = score.bias.flatten().tolist(), score.error.flatten().tolist()
        rms, rms_error = rms_beyond_noise(bias, error)
        criteria.append(Criterion("score_bias", rms, rms_error, t.score_bias, quadratic=True))
        k = max(range(len(bias)), key=lambda i: abs(bias[i]) / error[i])
        criteria.append(Criterion("score_bias_worst", abs(bias[k]), error[k], t.score_bias_worst, trials=2 * len(bias)))
    criteria.append(Criterion("auc", measured.classifier.auc, measured.classifier.error, t.auc))
    criteria.append(Criterion("auc_slice", worst[1], worst[2], t.auc_slice, trials=len(measured.classifier.slices)))
    plane = max(measured.projections, key=lambda p: p.deviation2 / p.error2)
    deviation, noise, planes = max(plane.deviation2, 0.0) ** 0.5, plane.error2**0.5, len(measured.projections)
    criteria.append(Criterion("projection", deviation, noise, t.projection, trials=planes, quadratic=True))
    rms, rms_error = rms_beyond_noise(measured.rate.deviation, measured.rate.error)
    criteria.append(Criterion("rate", rms, rms_error, t.rate, quadratic=True))
    pit = measured.pit
    criteria.append(Criterion("pit", max(pit.distance), pit.error, t.pit, trials=len(pit.distance)))
    return criteria


def _metrics(measured: Measurements, held_out: NllResult | None) -> dict[str, Any]:
    """Return everything measured as plain data, arrays summarised."""
    smallest = min(measured.projections, key=lambda p: p.p_value)
    rate = measured.rate
    return {
        "nll": measured.nll._asdict(),
        "nll_held_out_in_training": None if held_out is None else held_out._asdict(),
        "integrals": measured.integrals,
        "score_bias": measured.score.bias.tolist(),
        "score_bias_error": measured.score.error.tolist(),
        "score_theta": measured.score.theta.tolist(),
        "auc": measured.classifier.auc,
        "auc_error": measured.classifier.error,
        "auc_slices": {name: [value, error] for name, value, error in measured.classifier.slices},
        "projections": len(measured.projections),
        "projection_smallest_p": smallest.p_value,
        "projection_smallest_p_at": {"cell": smallest.cell, "names": list(smallest.names)},
        "projection_chi2": sum(p.chi2 for p in measured.projections),
        "projection_n_dof": sum(p.n_dof for p in measured.projections),
        "rate_pulls": [d / e for d, e in zip(rate.deviation, rate.error, strict=True)],
        "rate_deviation": rate.deviation,
        "pit_distance": dict(zip(measured.pit.names, measured.pit.distance, strict=True)),
    }
