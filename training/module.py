"""The training step: negative log-likelihood in the unit cube, weight averaging, learning-rate schedule."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from surrogate.errors import XeflowError
from surrogate.flow import ConditionalFlow
from training.averaging import AveragedModule
from training.event_set import UnitEvents
from training.optimisers import build_optimiser
from training.schedule import learning_rate_factor
from training.settings import OptimiserConfig


class FlowModule(LightningModule):
    """Fits a conditional flow to events in the unit cube.

    The loss of a batch is the weighted mean -sum_i w_i ln p(u_i | theta_i) / (B <w>): its expectation is the
    cross-entropy between the simulator and the flow, whose minimum over all densities is the simulator's own. It
    differs from the NLL in physical units by the mean of ln|det du/dx|, which no weight of the network changes.

    Parameters
    ----------
    flow
        The flow to train.
    optimiser
        Optimiser settings.
    total_steps
        Length of the training, which the schedule needs.
    mean_weight
        Mean weight <w> of the events.
    teachers
        Frozen flows p_k. If there are any, their mean density is learned at the places of the events instead of the
        density of the events: the loss is sum_i w_i [ln p(u_i | theta_i) - ln mean_k p_k(u_i | theta_i)]^2 / (B <w>),
        which has no noise from the number of events.

    Attributes
    ----------
    averaged
        The flow with averaged weights, which is validated.
    best
        Copy of ``averaged`` at its lowest held-out NLL so far.
    """

    def __init__(
        self,
        flow: ConditionalFlow,
        optimiser: OptimiserConfig,
        total_steps: int,
        mean_weight: float,
        teachers: Sequence[ConditionalFlow] = (),
    ) -> None:
        super().__init__()
        self.flow = flow
        self.averaged = AveragedModule(flow, optimiser.ema_decay)
        self.best = copy.deepcopy(flow).requires_grad_(False)
        self._optimiser, self._total_steps, self._mean_weight = optimiser, total_steps, mean_weight
        self._train_sum, self._train_steps = torch.zeros((), dtype=torch.float64), 0
        self._teachers = tuple(teachers)  # in a tuple they are no part of the state
        self._held_out_sums: list[Tensor] = []
        self.train_nll, self.held_out_nll, self.held_out_error = float("nan"), float("nan"), float("nan")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimiser and its schedule, stepped after each batch."""
        optimiser = build_optimiser(self.flow, self._optimiser)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(self._optimiser, step, self._total_steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Begin a new mean of the training NLL."""
        for teacher in self._teachers:
            teacher.to(self.device)
        self._train_sum, self._train_steps = torch.zeros((), dtype=torch.float64, device=self.device), 0

    def training_step(self, batch: UnitEvents, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        log_p = self.flow.log_prob_unit(batch.u, batch.theta)
        nll = -(batch.weight * log_p).mean() / self._mean_weight
        if not bool(torch.isfinite(nll)):
            raise XeflowError(
                f"training diverged: the loss of step {self.global_step} is {nll.item()}; "
                "lower optimiser.learning_rate or optimiser.gradient_clip, or look at the events"
            )
        self._train_sum += nll.detach()
        self._train_steps += 1
        if not self._teachers:
            return nll
        return (batch.weight * (log_p - self._taught(batch)).square()).mean() / self._mean_weight

    @torch.no_grad()
    def _taught(self, batch: UnitEvents) -> Tensor:
        """Return ln of the mean density (B,) of the teachers."""
        log_p = torch.stack([teacher.log_prob_unit(batch.u, batch.theta) for teacher in self._teachers])
        return torch.logsumexp(log_p, dim=0) - math.log(len(self._teachers))

    def on_train_batch_end(self, outputs: Any, batch: UnitEvents, batch_idx: int) -> None:
        """Move the averaged weights."""
        self.averaged.follow(self.flow)

    def on_validation_epoch_start(self) -> None:
        """Begin a new mean of the held-out NLL."""
        self._held_out_sums = []

    def validation_step(self, batch: UnitEvents, batch_idx: int) -> None:
        """Add the held-out events of one batch under the averaged weights."""
        log_p = self.averaged.module.log_prob_unit(batch.u, batch.theta).double()
        w = batch.weight.double()
        wl, ww = w * log_p, w * w
        self._held_out_sums.append(torch.stack([w.sum(), wl.sum(), ww.sum(), (w * wl).sum(), (wl * wl).sum()]))

    def on_validation_epoch_end(self) -> None:
        """Combine the sums of all batches and processes to the held-out NLL and its standard error."""
        sums = torch.stack(self._held_out_sums).sum(dim=0)
        w, wl, ww, wwl, wwll = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        mean = wl / w
        self.held_out_nll = -mean
        self.held_out_error = max(wwll - 2 * mean * wwl + mean * mean * ww, 0.0) ** 0.5 / w
        train_sum = float(self.trainer.strategy.reduce(self._train_sum, reduce_op="mean"))
        self.train_nll = train_sum / max(self._train_steps, 1)

    def keep_best(self) -> None:
        """Remember the present averaged weights as the best."""
        self.best.load_state_dict(self.averaged.module.state_dict())
