"""Batches for Lightning: whole batches by number, with no loader processes and no work per event in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from training.batches import TrainingBatches
from training.event_set import EventSet, UnitEvents
from training.settings import TrainConfig
from training.supply import Supply
from training.symmetries import DriftLifetimeSymmetry

HELD_OUT_BATCH = 16_384


class IntervalLoader:
    """The batches of one interval between two validations, wherever the training stands.

    Parameters
    ----------
    batches
        Batches by step number.
    length
        Steps in an interval.
    position
        Returns the step number at which the interval begins; asked when its first batch is due.
    """

    def __init__(self, batches: TrainingBatches, length: int, position: Callable[[], int]) -> None:
        self._batches, self._length, self._position = batches, length, position

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[UnitEvents]:
        first = self._position()
        for step in range(first, first + self._length):
            yield self._batches.batch(step)


class HeldOutLoader:
    """The held-out events in batches; process r of R gets every R-th event.

    Parameters
    ----------
    events
        Held-out events.
    rank, world
        This process and their number.
    """

    def __init__(self, events: UnitEvents, rank: int, world: int) -> None:
        share = events.take(torch.arange(rank, events.size, world))
        self._batches = [
            UnitEvents(*(column[k : k + HELD_OUT_BATCH] for column in share))
            for k in range(0, share.size, HELD_OUT_BATCH)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[UnitEvents]:
        return iter(self._batches)


class EventDataModule(LightningDataModule):
    """Training and held-out batches of an event set.

    Parameters
    ----------
    events
        Open event set.
    supply
        Training events made of it.
    config
        Training configuration.

    Attributes
    ----------
    held_out
        The held-out events.
    interval
        Steps between two validations.
    total_steps
        Steps of the whole training, a multiple of ``interval``.
    """

    def __init__(self, events: EventSet, supply: Supply, config: TrainConfig) -> None:
        super().__init__()
        self._config = config
        self._symmetries = [
            DriftLifetimeSymmetry(events.observables, events.nuisances, s.drift, s.lifetime, s.drawn)
            for s in config.data.symmetries
        ]
        self.supply = supply
        self._batches = self._make_batches(0, 1)
        self.held_out = supply.held_out_events()
        optimiser = config.optimiser
        steps = optimiser.steps or max(round(optimiser.passes * self._batches.steps_per_pass), 1)
        self.interval = min(config.stopping.check_every or min(self._batches.steps_per_pass, 500), steps)
        self.total_steps = -(-steps // self.interval) * self.interval

    @property
    def mean_weight(self) -> float:
        """Mean weight of the held-out events."""
        return float(self.held_out.weight.double().mean())

    @property
    def steps_per_pass(self) -> int:
        """Steps in one pass over the training events."""
        return self._batches.steps_per_pass

    def setup(self, stage: str) -> None:
        """Take this process's share of the batches, once it is known."""
        if self.trainer is not None and self.trainer.world_size > 1:
            self._batches = self._make_batches(self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> IntervalLoader:
        """Return the batches of the next interval."""
        trainer = self.trainer
        return IntervalLoader(self._batches, self.interval, lambda: 0 if trainer is None else trainer.global_step)

    def val_dataloader(self) -> HeldOutLoader:
        """Return the held-out events."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return HeldOutLoader(self.held_out, rank, world)

    def state_dict(self) -> dict[str, Any]:
        """Return what of the supply has to survive an interruption."""
        return self.supply.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the supply's state."""
        self.supply.restore(state_dict)

    def _make_batches(self, rank: int, world: int) -> TrainingBatches:
        config = self._config
        return TrainingBatches(self.supply, config.optimiser.batch_size, config.seed, self._symmetries, rank, world)
