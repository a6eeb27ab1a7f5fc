"""A training job: events, flow, acceptance, checkpoint."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from surrogate.acceptance import AcceptanceModel, fit_acceptance
from surrogate.checkpoint import save_checkpoint
from surrogate.flow import ConditionalFlow
from surrogate.flow_source import FlowSource
from training.event_set import BlockCounts, EventSet
from training.fit import FittedFlow, fit_flow
from training.history import History
from training.plots import plot_training, save_figure
from training.prepare import prepare_events, simulation_plan
from training.settings import AcceptanceConfig, TrainConfig
from training.supply import FileSupply, SimulatedSupply, Supply
from training.threads import torch_threads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainRecord:
    """What a training did.

    Attributes
    ----------
    name, checkpoint
        Name of the source, and the directory of its surrogate.
    stopped
        Why the training ended: ``finished``, ``no improvement`` or ``time limit``.
    steps, best_step, passes
        Steps done, step of the weights that were kept, and passes over the events.
    train_nll, held_out_nll, held_out_error
        NLL per event in the unit cube: mean loss before the best validation; held-out events at the weights kept, and
        its standard error.
    n_events
        Accepted events behind the acceptance: those of the files, and those simulated on the way.
    acceptance_degree, acceptance_chi2, acceptance_n_dof
        Degree and goodness of fit of mu(theta).
    cpu_seconds
        CPU time of the fit, interruptions included.
    """

    name: str
    checkpoint: str
    stopped: str
    steps: int
    best_step: int
    passes: float
    train_nll: float
    held_out_nll: float
    held_out_error: float
    n_events: int
    acceptance_degree: int
    acceptance_chi2: float
    acceptance_n_dof: int
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self)


def train(config: TrainConfig, folder: Path = Path(), restart: bool = False, shown: bool = True) -> TrainRecord:
    """Train the surrogate of one source and write its checkpoint.

    The same call after an interruption continues where the last validation left off; after the end it only writes the
    checkpoint anew.

    Parameters
    ----------
    config
        Training configuration.
    folder
        Folder of relative paths inside a simulate block: that of the configuration file.
    restart
        Drop what an earlier run of this name left.
    shown
        Whether to show progress.

    Raises
    ------
    ConfigError
        If configuration and events do not fit, or an earlier run of this name had another configuration.
    DataError
        If the events cannot be used.
    """
    if restart and config.run_directory.exists():
        shutil.rmtree(config.run_directory)
    paths = prepare_events(config, folder, shown)
    with torch_threads(config.threads), EventSet.open(paths) as events:
        flow = ConditionalFlow(config.flow.build(events.observables, events.nuisances), seed=config.seed)
        supply = _supply(config, events, folder)
        supply.counts()  # refuses events without counts before hours are spent on them
        rate, data_hash = events.generated_rate, events.content_hash()
        fitted = fit_flow(config, flow, events, supply, _fingerprint(config, data_hash), shown)
        counts = supply.counts()
        origin = dict(events.metadata)
    acceptance = _acceptance(config.acceptance, flow, counts)
    record = _record(config, fitted, acceptance, int(counts.n_accepted.sum()))
    source = FlowSource(fitted.flow, acceptance, rate, dtype=torch.float32)
    metadata = {
        "name": config.name,
        "data_hash": data_hash,
        "events": origin,
        "config": config.model_dump(mode="json"),
        "seeds": {"training": config.seed},
        "metrics": {k: v for k, v in record.to_dict().items() if k not in ("name", "checkpoint")},
    }
    if fitted.primary:
        save_checkpoint(Path(config.checkpoint), source, metadata)
        save_figure(plot_training(fitted.history, config.name), config.run_directory / "training.png")
    return record


def _supply(config: TrainConfig, events: EventSet, folder: Path) -> Supply:
    """Return the training events: simulated as they are needed, or those of the files."""
    plan = simulation_plan(config, folder)
    if config.data.fresh and plan is not None:
        return SimulatedSupply(events, plan, config.seed)
    return FileSupply(events, config.seed, config.data.validation_fraction, config.data.memory_mb)


def _acceptance(config: AcceptanceConfig, flow: ConditionalFlow, counts: BlockCounts) -> AcceptanceModel:
    """Fit eps(theta) to the counts."""
    start = time.process_time()
    acceptance = fit_acceptance(
        flow.config.nuisances,
        counts.theta,
        counts.n_generated,
        counts.n_accepted,
        degree=None if config.degree == "auto" else config.degree,
        kinks=config.kinks,
        max_degree=config.max_degree,
    )
    logger.info(
        "acceptance: degree %d, chi2 %.1f for %d degrees of freedom, %.1f CPU s",
        acceptance.basis.degree,
        acceptance.chi2,
        acceptance.n_dof,
        time.process_time() - start,
    )
    return acceptance


def _record(config: TrainConfig, fitted: FittedFlow, acceptance: AcceptanceModel, n_events: int) -> TrainRecord:
    history: History = fitted.history
    best, last = history.best, history.checks[-1]
    return TrainRecord(
        name=config.name,
        checkpoint=config.checkpoint,
        stopped=history.stopped,
        steps=last.step,
        best_step=best.step,
        passes=last.step / fitted.steps_per_pass,
        train_nll=best.train_nll,
        held_out_nll=best.held_out_nll,
        held_out_error=best.held_out_error,
        n_events=n_events,
        acceptance_degree=acceptance.basis.degree,
        acceptance_chi2=acceptance.chi2,
        acceptance_n_dof=acceptance.n_dof,
        cpu_seconds=last.cpu_seconds,
    )


def _fingerprint(config: TrainConfig, data_hash: str) -> dict[str, str]:
    """Return what must be equal for a training to be continued: all that its result depends on, by block."""
    content = config.model_dump(mode="json", exclude={"name", "checkpoint", "runs", "threads", "device", "acceptance"})
    content["optimiser"].pop("cpu_minutes")
    content["data"] = {key: content["data"][key] for key in ("symmetries", "fresh", "validation_fraction", "memory_mb")}
    blocks = {key: hashlib.sha256(json.dumps(value).encode()).hexdigest() for key, value in content.items()}
    return blocks | {"events": data_hash}
