"""Training a source: events, flows, acceptance, checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from surrogate.checkpoint import save_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.flow import ConditionalFlow
from surrogate.flow_source import FlowSource
from training.acceptance_fit import fit_acceptances, motion_of
from training.event_set import BlockCounts, EventSet
from training.fit import FittedFlow, fit_flow
from training.jobs import TrainingJob, distillation_job, member_job, sharing_of, training_jobs
from training.plots import plot_training, save_figure
from training.prepare import open_events, simulation_plan
from training.run_files import CURVE_FILE, drop_run
from training.settings import TrainConfig
from training.supply import FileSupply, SimulatedSupply, Supply
from training.template_events import TemplateSupply
from training.threads import torch_threads
from training.train_record import FlowRecord, TrainRecord


def train(config: TrainConfig, folder: Path = Path(), restart: bool = False, shown: bool = True) -> TrainRecord:
    """Train the surrogate of one source, a flow or an ensemble of flows, and write its checkpoint.

    The same call after an interruption continues where the last validation left off; members that are finished are
    kept, whoever trained them. After the end it only writes the checkpoint anew.

    Parameters
    ----------
    config
        Training configuration.
    folder
        Folder of relative paths inside a simulate block: that of the configuration file.
    restart
        Drop what an earlier run of this name left; other files in its run directory stay.
    shown
        Whether to show progress.

    Raises
    ------
    ConfigError
        If configuration and events do not fit, or an earlier run of this name had another configuration.
    DataError
        If the events cannot be used.
    """
    if restart:
        drop_run(config.run_directory)
    jobs = training_jobs(config)
    with torch_threads(config.threads), open_events(config, folder, shown) as events:
        trained = [_train_flow(job, events, folder, shown) for job in jobs]
        distilled = _distilled(config, trained, events, folder, shown) if config.ensemble.distil else None
        final = [distilled] if distilled else trained
        rate, hashes, origin = events.generated_rate, list(events.file_hashes), dict(events.metadata)
        acceptances = fit_acceptances(config, events, [each.counts for each in final])
    flows = [
        FlowSource(each.fitted.flow, acceptance, rate, dtype=torch.float32)
        for each, acceptance in zip(final, acceptances, strict=True)
    ]
    source = flows[0] if len(flows) == 1 else EnsembleSource(tuple(flows), sharing_of(config))
    members = [each.record for each in trained]
    one = distilled.record if distilled else None
    record = TrainRecord.of(config.name, config.checkpoint, members, one, acceptances[0], config.data.fresh)
    metadata = {
        "name": config.name,
        "data_hashes": hashes,
        "events": origin,
        "config": config.model_dump(mode="json"),
        "seeds": {"training": config.seed, "members": [member.seed for member in members]},
        "metrics": {k: v for k, v in record.to_dict().items() if k not in ("name", "checkpoint")},
    }
    if trained[0].fitted.primary:
        save_checkpoint(Path(config.checkpoint), source, metadata)
    return record


def train_member(
    config: TrainConfig, member: int, folder: Path = Path(), restart: bool = False, shown: bool = True
) -> FlowRecord:
    """Train one member of an ensemble: a job of its own on a cluster.

    :func:`train` finds what finished members left in the run directory and makes the checkpoint of them.

    Parameters
    ----------
    config, folder, restart, shown
        As for :func:`train`; ``restart`` drops what an earlier run of this member left.
    member
        Its number, from 0.

    Raises
    ------
    ConfigError, DataError
        As for :func:`train`, and if the ensemble has no such member.
    """
    job = member_job(config, member)
    if restart:
        drop_run(job.config.run_directory)
    with torch_threads(config.threads), open_events(config, folder, shown) as events:
        return _train_flow(job, events, folder, shown).record


@dataclass(frozen=True)
class _TrainedFlow:
    """A fitted flow, the counts of its events, and its record."""

    fitted: FittedFlow
    counts: BlockCounts
    record: FlowRecord


def _train_flow(
    job: TrainingJob, events: EventSet, folder: Path, shown: bool, teachers: Sequence[ConditionalFlow] = ()
) -> _TrainedFlow:
    """Train one flow, or read what an earlier call left.

    If it learns the mean density of teachers, it starts as the first that has its architecture.
    """
    config, fingerprint = job.config, job.fingerprint(events.content_hash())
    flow = ConditionalFlow(config.flow.build(events.observables, events.nuisances), seed=config.seed)
    if teachers:
        start = next((teacher for teacher in teachers if teacher.config == flow.config), flow)
        flow.load_state_dict(start.state_dict())
        fingerprint["teachers"] = _weights_hash(teachers)
    supply = _supply(job, events, folder)
    motion_of(config, events)  # what allows no rate is refused before hours are spent on the density
    supply.counts()
    fitted = fit_flow(config, flow, events, supply, fingerprint, shown, teachers)
    if fitted.primary:
        save_figure(plot_training(fitted.history, config.name), config.run_directory / CURVE_FILE)
    return _TrainedFlow(fitted, supply.counts(), FlowRecord.of(config.name, config.seed, fitted))


def _distilled(
    config: TrainConfig, members: Sequence[_TrainedFlow], events: EventSet, folder: Path, shown: bool
) -> _TrainedFlow:
    """Make one flow of the members of an ensemble."""
    return _train_flow(distillation_job(config), events, folder, shown, [each.fitted.flow for each in members])


def _weights_hash(flows: Sequence[ConditionalFlow]) -> str:
    """Return the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for flow in flows:
        for weight in flow.state_dict().values():
            digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def _supply(job: TrainingJob, events: EventSet, folder: Path) -> Supply:
    """Return the training events: simulated or drawn as they are needed, or those of the files."""
    config = job.config
    plan = simulation_plan(config, folder)
    if config.data.fresh and plan is not None:
        return SimulatedSupply(events, plan, config.seed)
    if config.data.fresh and config.data.templates is not None:
        return TemplateSupply(events, config.data.templates, config.seed)
    return FileSupply(events, config.seed, job.split, config.data.memory_mb)
