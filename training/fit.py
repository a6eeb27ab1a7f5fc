"""Fitting a flow with Lightning: the training loop, its resumable state, its ending."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from surrogate.atomic import replacing_file
from surrogate.errors import CheckpointError, ConfigError
from surrogate.flow import ConditionalFlow
from training.datamodule import EventDataModule
from training.event_set import EventSet
from training.history import Check, History
from training.module import FlowModule
from training.progress import TrainingProgress
from training.run_files import HISTORY_FILE, STATE_FILE
from training.settings import TrainConfig
from training.supply import Supply

logger = logging.getLogger(__name__)

_STATE_KEY = "xeflow"


@dataclass(frozen=True)
class FittedFlow:
    """A fitted flow and how it came about.

    Attributes
    ----------
    flow
        The flow with the averaged weights of the best validation.
    history
        All validations.
    steps_per_pass
        Steps in one pass over the training events.
    primary
        Whether this is the process of a distributed training that writes the results.
    """

    flow: ConditionalFlow
    history: History
    steps_per_pass: int
    primary: bool = True


def fit_flow(
    config: TrainConfig,
    flow: ConditionalFlow,
    events: EventSet,
    supply: Supply,
    fingerprint: Mapping[str, Any],
    shown: bool = True,
    teachers: Sequence[ConditionalFlow] = (),
) -> FittedFlow:
    """Fit a flow to events, from the start or from where an earlier call was stopped.

    After each validation the whole state (weights, averages, optimiser, schedule, position in the data) is written
    atomically to ``<runs>/<name>/last.ckpt``. A call that finds it there continues, and ends with bit for bit the
    weights of a training that was never stopped, on the same kind of machine with the same number of threads.

    Parameters
    ----------
    config
        Training configuration.
    flow
        Flow with its initial weights, float32.
    events
        Open event set.
    supply
        Training events made of it.
    fingerprint
        What must not have changed for a training to be continued, by name.
    shown
        Whether to show progress.
    teachers
        Flows whose mean density is learned instead of the density of the events.

    Raises
    ------
    ConfigError
        If the state found belongs to another configuration or other events.
    CheckpointError
        If the state found cannot be read.
    KeyboardInterrupt
        If interrupted; the last state stays.
    """
    data = EventDataModule(events, supply, config)
    module = FlowModule(flow, config.optimiser, data.total_steps, data.mean_weight, teachers)
    path = config.run_directory / STATE_FILE
    history = History(latest=bool(teachers))
    if path.exists():
        state = _load_state(path, fingerprint)
        history = History.from_dict(state[_STATE_KEY]["history"], history.latest)
        if history.stopped:
            module.load_state_dict(state["state_dict"])
            supply.restore(state.get(EventDataModule.__name__, {}))
            return FittedFlow(module.best, history, data.steps_per_pass, _first_process())
        logger.info("%s: continued from step %d of %d", config.name, history.checks[-1].step, data.total_steps)
    with TrainingProgress(config.name, data.total_steps, shown) as progress:
        keeper = _Keeper(config, data.total_steps, history, dict(fingerprint), progress)
        _run(config, module, data, keeper, path if path.exists() else None)
    return FittedFlow(module.best, keeper.history, data.steps_per_pass, _first_process())


class _Keeper(Callback):
    """After each validation: records it, keeps the best weights, ends the training, writes the state."""

    def __init__(
        self,
        config: TrainConfig,
        total_steps: int,
        history: History,
        fingerprint: dict[str, Any],
        progress: TrainingProgress,
    ) -> None:
        self.history = history
        self.interrupted = False
        self._config, self._total_steps, self._fingerprint, self._progress = config, total_steps, fingerprint, progress
        spent = history.checks[-1].cpu_seconds if history.checks else 0.0
        self._start = time.process_time() - spent

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._progress.step(trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, FlowModule):
            raise TypeError(f"module must be a FlowModule, not {type(pl_module).__name__}")
        if self.history.checks and self.history.checks[-1].step == trainer.global_step:
            return  # a continued training first closes the interval that was complete
        limit = self._config.optimiser.cpu_minutes
        check = Check(
            trainer.global_step,
            pl_module.train_nll,
            pl_module.held_out_nll,
            pl_module.held_out_error,
            trainer.optimizers[0].param_groups[0]["lr"],
            time.process_time() - self._start,
        )
        patience = self._config.stopping.patience
        if self.history.add(check, self._total_steps, patience, None if limit is None else 60 * limit):
            pl_module.keep_best()
        self._progress.validated(check.step, check.train_nll, check.held_out_nll)
        # the decision is shared, or processes with different clocks would wait for each other for ever
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(bool(self.history.stopped), all=False)
        if trainer.should_stop and not self.history.stopped:
            self.history.stopped = "time limit"  # of another process: all else is equal in all of them
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_STATE_KEY] = {"history": self.history.to_dict(), "fingerprint": self._fingerprint}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def _write(self, trainer: Trainer) -> None:
        """Write the state, optimiser included (hence False); every process takes part, the first one has the file."""
        path = self._config.run_directory / STATE_FILE
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path, False)
            return
        with replacing_file(path) as temporary:
            trainer.save_checkpoint(temporary, False)
        self.history.write_csv(self._config.run_directory / HISTORY_FILE)


def _first_process() -> bool:
    """Return whether this process writes the results of a distributed training: known without a trainer as well."""
    return getattr(rank_zero_only, "rank", 0) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0


def _run(config: TrainConfig, module: FlowModule, data: EventDataModule, keeper: _Keeper, state: Path | None) -> None:
    """Run the trainer; an interruption leaves as KeyboardInterrupt, with the signal's handler restored."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = Trainer(
        accelerator=found if config.device == "auto" else config.device,
        devices=config.devices,
        max_steps=data.total_steps,
        gradient_clip_val=config.optimiser.gradient_clip,
        callbacks=[keeper],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=config.run_directory,
    )
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 itself builds its loaders with a class that torch 2.13 deprecates
            warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated", category=FutureWarning)
            trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
    except SystemExit:
        if not keeper.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        done = keeper.history.checks[-1].step if keeper.history.checks else 0
        logger.warning("%s: interrupted; the same command continues from step %d", config.name, done)
        raise KeyboardInterrupt from None


def _load_state(path: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Read a state and refuse one of another training."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state[_STATE_KEY]["fingerprint"]
    except Exception as error:
        raise CheckpointError(f"{path}: is no readable training state ({error}); remove it to start afresh") from error
    changed = sorted(key for key in {*found, *fingerprint} if found.get(key) != fingerprint.get(key))
    if changed:
        raise ConfigError(
            f"{path}: belongs to a training with another {', '.join(changed)}; "
            "start afresh with --restart, or choose another name"
        )
    return state
