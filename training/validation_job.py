"""A validation job: fresh events, measurements, certificate, figures."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surrogate.checkpoint import read_record
from surrogate.errors import ConfigError, DataError
from surrogate.observables import ObservableSpace
from training.criteria import Thresholds
from training.event_set import EventSet
from training.plots import save_figure, validation_figures
from training.simulation_plan import SimulationPlan
from training.simulator_config import SimulationFile
from training.template_events import drawn_events
from training.template_set import TemplateDraw
from training.threads import torch_threads
from training.validation import Effort, ValidationRecord, validate
from training.validation_sample import FreshSample

logger = logging.getLogger(__name__)

GENERATED_PER_EVENT = 1000
"""Generated events, per event asked for, after which a simulation ends however few are accepted."""


def validate_checkpoint(
    checkpoint: Path,
    events: Sequence[Path],
    n_events: int,
    seed: int,
    thresholds: Thresholds | None = None,
    figures: Path | None = None,
    threads: int = 1,
) -> ValidationRecord:
    """Validate a surrogate on fresh events, certify it and draw the figures.

    Parameters
    ----------
    checkpoint
        Directory of the surrogate.
    events
        Event files that were not trained on; if none, the simulation that the surrogate was trained on is run with
        another seed, or events are drawn anew from its templates.
    n_events
        Accepted events to simulate, or to read at most.
    seed
        Seed of the simulation and of all random choices.
    thresholds
        What is allowed.
    figures
        Directory of the figures; None for none.
    threads
        Threads of torch.

    Raises
    ------
    ConfigError
        If there are no event files and the surrogate was trained neither on a simulation nor on templates, or the seed
        is that of the training.
    DataError
        If the events are those of the training.
    """
    with torch_threads(threads):
        sample = _sample(checkpoint, events, n_events, seed)
        record, measured = validate(checkpoint, sample, thresholds, Effort(seed=seed))
    if figures is not None:
        content = read_record(checkpoint)
        space, names = ObservableSpace.from_dict(content["observables"]), [n["name"] for n in content["nuisances"]]
        allowed = (thresholds or Thresholds()).score_bias
        for name, figure in validation_figures(measured, space, tuple(names), allowed).items():
            logger.info("%s", save_figure(figure, figures / f"{name}.png"))
    return record


def _sample(checkpoint: Path, events: Sequence[Path], n_events: int, seed: int) -> FreshSample:
    """Return fresh events from files, or from the training's simulation or templates with another seed."""
    record = read_record(checkpoint)
    templates = record["metadata"].get("config", {}).get("data", {}).get("templates")
    if not events and templates is not None:
        rate = record["members"][0]["generated_rate"]
        return FreshSample(*drawn_events(TemplateDraw.model_validate(templates), n_events, seed, rate))
    if not events:
        plan = fresh_plan(checkpoint, seed, GENERATED_PER_EVENT * n_events)
        _check_rate(checkpoint, record, plan.source.generated_rate)
        return FreshSample.simulate(plan, n_events)
    with EventSet.open(list(events)) as opened:
        for what, key in ((opened.observables, "observables"), (opened.nuisances, "nuisances")):
            if what.to_dict() != record[key]:
                raise DataError(f"event files: their {key} differ from those of {checkpoint}")
        known = data_hashes(record["metadata"])
        for path, digest in zip(events, opened.file_hashes, strict=True):
            if digest in known:
                raise DataError(f"event file {path}: {checkpoint} was trained on it; give fresh ones")
        if opened.known_rate is not None:
            _check_rate(checkpoint, record, opened.known_rate)
        return FreshSample.read(opened, n_events)


def data_hashes(metadata: Mapping[str, Any]) -> list[str]:
    """Return the SHA-256 of the event files of a training; older checkpoints have one, of all files."""
    older = metadata.get("data_hash")
    return list(metadata.get("data_hashes") or ([older] if older else []))


def _check_rate(checkpoint: Path, record: Mapping[str, Any], rate: float) -> None:
    """Raise unless fresh events refer to the generated rate of the surrogate: a validation sees only their ratio."""
    for member in record["members"]:
        if not math.isclose(member["generated_rate"], rate, rel_tol=1e-9):
            raise DataError(
                f"fresh events: {rate:g} are generated per tonne-year, and {member['generated_rate']:g} in "
                f"{checkpoint}; give events of the same source, or train it again"
            )


def fresh_plan(checkpoint: Path, seed: int, n_generated: int) -> SimulationPlan:
    """Return the simulation that a surrogate was trained on, with another seed and length.

    Raises
    ------
    ConfigError
        If it was not trained on a simulation, or on one with this seed.
    """
    block = read_record(checkpoint)["metadata"].get("config", {}).get("data", {}).get("simulate")
    if block is None:
        raise ConfigError(
            f"{checkpoint}: was trained neither on a simulation of this package nor on templates; give fresh events by "
            "--events"
        )
    if block["seed"] == seed:
        raise ConfigError(f"seed = {seed} is that of the training; choose another")
    plan = SimulationFile.model_validate(block).build(Path())
    return dataclasses.replace(plan, seed=seed, n_generated=n_generated)
